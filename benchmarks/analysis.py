"""Time and peak memory of comparing all variants, at 0.1, 1 and 10 million predictions.

Made-up answers of 4 methods at 6 widths, 5 seeds: 125 networks with fp32. What grows is the test
set. Measured are the reading of the predictions and the tests of every variant against its
references, with as many draws as the default study takes; and how many times as long both took as
if time were linear in rows from the size before.

    python benchmarks/analysis.py [millions ...]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from quantskew import tables
from quantskew.analysis import effects
from quantskew.data.groups import Grouping
from quantskew.engine import costs
from quantskew.names import Variant
from quantskew.params import Params

SEEDS, METHODS, WIDTHS, CLASSES, GROUPS = 5, 4, (8, 7, 6, 4, 3, 2), 10, 8


def variants() -> list[Variant]:
    names = [("fp32", 32)] + [(f"m{i:02}", bits) for i in range(METHODS) for bits in WIDTHS]
    return sorted(Variant("d", "m", s, name, bits) for s in range(SEEDS) for name, bits in names)


def answers(samples: int) -> Iterator[pd.DataFrame]:
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=samples).astype(np.int32)
    ids = [f"{i:07}" for i in range(samples)]
    for variant in variants():
        wrong = rng.random(samples) < 0.1 + 0.4 / variant.bits
        predicted = np.where(wrong, rng.integers(CLASSES, size=samples), labels).astype(np.int32)
        rows = pd.DataFrame({"id": ids, "label": labels, "prediction": predicted})
        yield variant.name(rows.assign(logits=[np.zeros(CLASSES, np.float32)] * samples))


def measure(millions: float) -> dict[str, float]:
    samples = int(millions * 1e6 / len(variants()))
    costs.SECONDS = 0.1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables.write("predictions", answers(samples), folder / "predictions.parquet")
        os.environ["QUANTSKEW_CELLS"] = name  # the log of costs is written there
        codes = np.random.default_rng(1).integers(GROUPS, size=samples)
        names = [f"g{i}" for i in range(GROUPS)]
        division = Grouping("label", codes, names, np.ones(GROUPS, bool))
        methods = {f"m{i:02}": {} for i in range(METHODS)}
        study = Params(
            datasets=["d"], models=["m"], bits=WIDTHS, seeds=list(range(SEEDS)),
            sources={"d": {}}, methods=methods, curvature={"methods": ["m00"]},
            statistics={"draws": 1000},
        )  # fmt: skip
        start = time.perf_counter()
        with costs.noted(["analysis"]):
            given, _ = effects.read_predictions(folder)
            read = time.perf_counter() - start
            effects.analyze(given, [division], study)
        whole = time.perf_counter() - start
        noted = json.loads((folder / costs.LOG).read_text(encoding="utf-8"))
    rows = samples * len(variants())
    return {"rows": rows, "read": read, "seconds": whole, "peak": noted["peak_bytes"] / 1e6}


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(measure(float(sys.argv[2]))))
        sys.exit()
    print(f"{'predictions':>12} {'seconds':>8} {'reading':>8} {'peak MB':>8} {'to linear':>9}")
    before = None
    for size in sys.argv[1:] or ("0.1", "1", "10"):  # each in a process, whose peak is its own
        command = [sys.executable, __file__, "one", size]
        done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        rate = done["seconds"] / done["rows"]
        before = before or rate
        print(f"{done['rows']:12,} {done['seconds']:8.1f} {done['read']:8.1f} "
              f"{done['peak']:8,.0f} {rate / before:9.2f}", flush=True)  # fmt: skip
        before = rate
