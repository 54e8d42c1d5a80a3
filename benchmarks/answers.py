"""Time and memory of ``quantskew compare`` by the number of rows, and beside other tools.

Two Parquet files of ten groups and ten classes, 0.1, 1 and 10 million rows, the second in another
order; each command runs as a process of its own on one core. CPU time is that of the process with
its imports: on a busy machine it says more than the wall clock. Then the same two tables in memory
through fairlearn's ``MetricFrame`` and statsmodels' McNemar test, which must find the same numbers,
and how often the decision is wrong where the truth is known.

    python benchmarks/answers.py [most rows, in millions]
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from quantskew.analysis.study import Statistics
from quantskew.answers.judging import compare_answers

GROUPS, CLASSES = 10, 10
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS"), "1")
RUNS = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from quantskew.cli import main
main(["compare", "before.parquet", "after.parquet", "--by", "race"])
"""
CAPABILITIES = pd.DataFrame(
    {
        "joins two files by id, names what does not fit": ["yes", "no", "no"],
        "paired change of each group with limits": ["yes", "no", "no"],
        "test of a change": ["yes, adjusted for all", "no", "yes, one at a time"],
        "several images of one person": ["yes", "no", "no"],
        "equivalent, or cannot tell and how many would": ["yes", "no", "no"],
        "exit status, JUnit, evidence": ["yes", "no", "no"],
        "any metric of one table by group": ["its catalogue", "yes", "no"],
    },
    index=["quantskew compare", "fairlearn", "statsmodels"],
)


def tables(rows: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    labels, groups = (rng.integers(n, size=rows, dtype=np.int64) for n in (CLASSES, GROUPS))

    def answered() -> np.ndarray:
        return np.where(rng.random(rows) < 0.9, labels, rng.integers(CLASSES, size=rows))

    # what is answered anew is as often right as before, so that p-values tell something
    before, again = answered(), answered()
    after = np.where(rng.random(rows) < 0.98, before, again)
    ids = pd.Series(np.arange(rows)).astype("string[pyarrow]").str.zfill(9)
    races = np.array([f"group {g}" for g in range(GROUPS)])[groups]
    frame = pd.DataFrame({"id": ids, "label": labels, "race": races, "prediction": before})
    order = rng.permutation(rows)
    return frame, pd.DataFrame({"id": ids, "prediction": after}).iloc[order]


def run(folder: Path, code: str) -> tuple[float, float, float, int]:
    """Wall time, CPU time, peak memory in GB and exit status of a program."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, **ONE_CORE},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    return (
        wall,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss / 1e6,
        os.waitstatus_to_exitcode(status),
    )


def by_rows(most: float) -> None:
    wall, cpu, _, _ = run(Path(), "from quantskew.cli import main; main(['compare', '--help'])")
    print(f"quantskew compare --help: {wall:.2f} s, CPU {cpu:.2f} s")
    for millions in (m for m in (0.1, 1, 10) if m <= most):
        rows = int(1e6 * millions)
        with tempfile.TemporaryDirectory() as folder:
            for name, frame in zip(("before", "after"), tables(rows), strict=True):
                frame.to_parquet(Path(folder, f"{name}.parquet"), index=False)
            wall, cpu, memory, status = run(Path(folder), RUNS)
        print(
            f"{rows:>10,} rows × 2 tables × {GROUPS} groups: {wall:.1f} s, CPU {cpu:.1f} s "
            f"({1e6 * cpu / rows:.2f} µs a row), {memory:.2f} GB, status {status}"
        )


def seconds(act: Callable[[], object]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def beside_others(rows: int = 1_000_000) -> None:
    from fairlearn.metrics import MetricFrame
    from statsmodels.stats.contingency_tables import mcnemar

    before, after = tables(rows)
    both = before.merge(after, on="id", suffixes=("", "_after"))
    found: dict[str, Mapping[str, float]] = {}

    def ours() -> None:
        groups = compare_answers(before, after, by="race").decisions[0].groups.set_index("group")
        found.update(ours=groups["change"].to_dict(), test=groups["p_value"].to_dict())

    def fairlearns() -> None:
        sides = [
            MetricFrame(
                metrics=lambda labels, answers: (labels == answers).mean(),
                y_true=both["label"], y_pred=both[name], sensitive_features=both["race"],
            ).by_group
            for name in ("prediction", "prediction_after")
        ]  # fmt: skip
        found["fairlearn"] = (sides[1] - sides[0]).to_dict()

    def statsmodels() -> None:
        right = both[["prediction", "prediction_after"]].eq(both["label"], axis=0)
        counts = right.groupby(both["race"]).value_counts().unstack([1, 2], fill_value=0)
        found["statsmodels"] = {
            race: mcnemar(row.to_numpy().reshape(2, 2), exact=True).pvalue
            for race, row in counts.sort_index(axis=1).iterrows()
        }

    times = [seconds(act) for act in (ours, fairlearns, statsmodels)]
    names = ("everything of quantskew, join included", "fairlearn, accuracy alone",
             "statsmodels, McNemar alone")  # fmt: skip
    for name, spent in zip(names, times, strict=True):
        print(f"{rows:,} rows in memory, {name}: CPU {spent:.1f} s")
    one, other = (pd.Series(found[name]) for name in ("ours", "fairlearn"))
    print(f"largest difference of a group's change to fairlearn: {(one - other).abs().max():.1e}")
    one, other = (pd.Series(found[name]) for name in ("test", "statsmodels"))
    print(f"largest difference of a p-value to statsmodels: {(one - other).abs().max():.1e}")


def decisions(studies: int = 400, n: int = 1500) -> None:
    """How often a table that harms nobody fails, and one that harms by the margin passes."""
    quick = Statistics(draws=100)
    for text, harm, wrong in (("networks exchanged at random", 0.0, "fail"),
                              ("group 0 loses 2 points, the margin", 0.02, "pass")):  # fmt: skip
        count = 0
        for seed in range(studies):
            rng = np.random.default_rng(seed)
            labels, groups = rng.integers(3, size=n), np.arange(n) % 3
            right = rng.random(n) < 0.9
            flipped = rng.random((2, n)) < 0.01
            sides = (
                right & ~flipped[0],
                right & ~flipped[1] & ~((groups == 0) & (rng.random(n) < harm / 0.9)),
            )
            frames = [
                pd.DataFrame({"id": np.arange(n), "label": labels, "group": groups,
                              "prediction": np.where(side, labels, (labels + 1) % 3)})
                for side in sides
            ]  # fmt: skip
            count += compare_answers(*frames, by="group", statistics=quick).verdict == wrong
        share = count / studies
        error = np.sqrt(share * (1 - share) / studies)
        print(
            f"{text}: {wrong} in {100 * share:.1f} % ± {100 * error:.1f} of {studies} comparisons"
        )


if __name__ == "__main__":
    by_rows(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
    beside_others()
    print(CAPABILITIES.T.to_string())
    decisions()
