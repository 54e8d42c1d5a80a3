"""Time and memory of ``quantskew compare`` by the number of rows, and beside other tools.

Two Parquet files of ten groups and ten classes, 0.1, 1 and 10 million rows, the second in another
order; each command runs as a process of its own on one core. CPU time is that of the process with
its imports: on a busy machine it says more than the wall clock. Then many groups and networks at
once, and how often the decision is wrong where the truth is known.

Between them the same two tables in memory go through other tools, which must find the same changes.
Those without groups are given one group after the other, and those that know no classes are told
which answers are right. Beside fairlearn and statsmodels these are ``pip install evalsig siggate
modeldiff-ml``, and whichever is missing is left out.

    python benchmarks/answers.py [most rows, in millions]
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from quantskew.analysis.study import Statistics
from quantskew.answers.judging import compare_answers

GROUPS, CLASSES = 10, 10
EVERYONE = "everyone"
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS"), "1")
RUNS = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from quantskew.cli import main
main(["compare", "before.parquet", "after.parquet", "--by", "race"])
"""
CAPABILITIES = pd.DataFrame.from_dict(
    {
        "joins two files by id": ["yes", "yes", "yes", "no", "no", "no"],
        "from classes to right and wrong": ["yes", "no", "no", "of two", "yes", "no"],
        "limits of a paired change": ["by group", "yes", "by task", "by slice", "no", "no"],
        "test of a change": ["exact", "exact or χ²", "normal", "by draws", "no", "exact"],
        "adjusted for the number of tests": ["yes", "by hand", "yes", "yes", "no", "by hand"],
        "several images of one person": ["yes", "yes", "no", "halves", "no", "no"],
        "equivalent within a margin": ["yes", "no", "no", "no", "no", "no"],
        "cannot tell, and how many would": ["yes", "yes", "yes", "no", "no", "no"],
        "finds groups that nobody listed": ["yes", "no", "no", "yes", "no", "no"],
        "any metric of one table by group": ["its own", "no", "no", "no", "yes", "no"],
        "exit status for a build": ["yes", "yes", "yes", "yes", "no", "no"],
        "JUnit": ["yes", "no", "no", "yes", "no", "no"],
        "evidence that can be verified": ["yes", "no", "no", "no", "no", "no"],
    },
    orient="index",
    columns=["quantskew", "evalsig", "siggate", "ModelDiff-ML", "fairlearn", "statsmodels"],
)


def tables(rows: int, many: int = GROUPS, networks: int = 1) -> tuple[pd.DataFrame, ...]:
    rng = np.random.default_rng(0)
    labels, groups = (rng.integers(n, size=rows, dtype=np.int64) for n in (CLASSES, many))

    def answered() -> np.ndarray:
        return np.where(rng.random(rows) < 0.9, labels, rng.integers(CLASSES, size=rows))

    # what is answered anew is as often right as before, so that p-values tell something
    before = answered()
    ids = pd.Series(np.arange(rows)).astype("string[pyarrow]").str.zfill(9)
    races = np.array([f"group {g}" for g in range(many)])[groups]
    others = []
    for _ in range(networks):
        after = np.where(rng.random(rows) < 0.98, before, answered())
        order = rng.permutation(rows)
        others.append(pd.DataFrame({"id": ids, "prediction": after}).iloc[order])
    return pd.DataFrame({"id": ids, "label": labels, "race": races, "prediction": before}), *others


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


def seconds(act: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = act()
    return time.process_time() - start, found


def many_groups(rows: int = 50_000, many: int = 100, networks: int = 5) -> None:
    before, *others = tables(rows, many, networks)
    after = {f"width {at}": other for at, other in enumerate(others)}
    spent, _ = seconds(lambda: compare_answers(before, after, by="race"))
    print(f"{rows:,} rows × {1 + networks} tables × {many} groups in memory: CPU {spent:.1f} s")


class Changes(NamedTuple):
    """Change of accuracy and its p-value of each group, or of everyone."""

    change: Mapping[str, float]
    p_value: Mapping[str, float]


def others(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Callable[[], Changes]]:
    """What other tools make of two tables, by the name of the tool."""
    both = before.merge(after, on="id", suffixes=("", "_after"))
    sides = ["prediction", "prediction_after"]
    right = both[sides].eq(both["label"], axis=0)

    def fairlearn() -> Changes:
        from fairlearn.metrics import MetricFrame

        first, second = (
            MetricFrame(
                metrics=lambda labels, answers: (labels == answers).mean(),
                y_true=both["label"], y_pred=both[name], sensitive_features=both["race"],
            ).by_group
            for name in sides
        )  # fmt: skip
        return Changes((second - first).to_dict(), {})

    def statsmodels() -> Changes:
        from statsmodels.stats.contingency_tables import mcnemar

        counts = right.groupby(both["race"]).value_counts().unstack([1, 2], fill_value=0)
        tests = {
            str(race): mcnemar(row.to_numpy().reshape(2, 2), exact=True).pvalue
            for race, row in counts.sort_index(axis=1).iterrows()
        }
        return Changes({}, tests)

    def by_group(compare: Callable[..., Any]) -> Changes:
        own = {race: compare(both["id"][part.index], *(part[name] for name in sides))
               for race, part in right.groupby(both["race"])}  # fmt: skip
        return Changes(*({r: getattr(one, f) for r, one in own.items()}
                         for f in ("delta", "p_value")))  # fmt: skip

    def evalsig() -> Changes:
        from evalsig.compare import compare
        from evalsig.types import ItemResult, RunFrame

        def as_run(ids: pd.Series, side: pd.Series) -> RunFrame:
            items = [ItemResult(*one) for one in zip(ids, side.astype(float), strict=True)]
            return RunFrame("run", "model", "task", "accuracy", items)

        return by_group(lambda ids, *two: compare(*(as_run(ids, side) for side in two)))

    def siggate() -> Changes:
        from siggate import compare

        return by_group(lambda ids, *two: compare(*(
            dict(zip(ids, side.astype(float), strict=True)) for side in two
        )))  # fmt: skip

    def modeldiff() -> Changes:
        from modeldiff import compare_predictions

        found = compare_predictions(
            *(right[name].astype(float) for name in sides), both[["race"]], np.ones(len(both)),
            "binary_classification", "accuracy",
        )  # fmt: skip
        return Changes({EVERYONE: -found.overall["absolute_delta"]}, {})

    return {
        "fairlearn, accuracy alone": fairlearn,
        "statsmodels, McNemar alone": statsmodels,
        "evalsig, each group": evalsig,
        "siggate, each group": siggate,
        "ModelDiff-ML, slices by race": modeldiff,
    }


def beside_others(rows: int, tools: Container[str]) -> None:
    before, after = tables(rows)
    spent, found = seconds(lambda: compare_answers(before, after, by="race"))
    print(f"{rows:,} rows in memory, everything of quantskew, join included: CPU {spent:.1f} s")
    groups = found.decisions[0].groups.set_index("group")
    everyone = np.average(groups["change"], weights=groups["n"])
    ours = groups.reindex([*groups.index, EVERYONE])[["change", "p_value"]]
    ours.loc[EVERYONE, "change"] = everyone
    apart = []
    for name, act in others(before, after).items():
        tool = name.partition(",")[0]
        if tool not in tools:
            continue
        try:
            spent, theirs = seconds(act)
        except ImportError:
            print(f"{tool} is not installed")
            continue
        print(f"{rows:,} rows in memory, {name}: CPU {spent:.1f} s")
        for what, column in (("a change", "change"), ("a p-value", "p_value")):
            if own := getattr(theirs, column):
                largest = (ours[column] - pd.Series(own)).abs().max()
                apart.append(f"largest difference of {what} to {tool}: {largest:.1e}")
    print(*apart, sep="\n")


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
    many_groups()
    beside_others(1_000_000, ("fairlearn", "statsmodels"))
    # the others hold an object for each row, or draws of all rows
    beside_others(10_000, CAPABILITIES.columns)
    print(CAPABILITIES.to_string())
    decisions()
