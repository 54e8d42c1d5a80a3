"""Time and peak memory of comparing all variants, at 0.1, 1 and 10 million predictions.

Made-up answers of 4 methods at 6 widths, 5 seeds: 125 networks with fp32. What grows is the test
set. Measured are the comparisons of every variant with its references as the stage ``analyze`` runs
them, in cells of their own processes, with as many draws as the default study takes; and how many
times as long they took as if time were linear in rows from the size before.

    python benchmarks/analysis.py [millions ...]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew import tables
from quantskew.analysis.run import Paths, compare_all
from quantskew.analysis.study import Statistics, Study
from quantskew.data.groups import Groups
from quantskew.engine import costs
from quantskew.engine.compute import Compute
from quantskew.layout import predictions_path, samples_path
from quantskew.names import BASELINE, FULL_PRECISION, Point, Variant
from quantskew.schemas import TABLES

SEEDS, METHODS, WIDTHS, CLASSES, GROUPS = 5, 4, (8, 7, 6, 4, 3, 2), 10, 8
NAMES = [f"m{i:02}" for i in range(METHODS)]
POINTS = [(BASELINE, FULL_PRECISION)] + [(name, bits) for name in NAMES for bits in WIDTHS]


def write_samples(rng: np.random.Generator, samples: int) -> pd.DataFrame:
    """Write a table of test samples without images, and return their ids and labels."""
    rows = pd.DataFrame(
        {
            "id": [f"{i:07}" for i in range(samples)],
            "split": "test",
            "label": rng.integers(CLASSES, size=samples).astype(np.int32),
            "image": b"",
            "site": [f"g{i}" for i in rng.integers(GROUPS, size=samples)],
        }
    )
    fields = [*TABLES["samples"].schema, pa.field("site", pa.string())]
    notes = {"classes": [str(k) for k in range(CLASSES)], "orders": {}}
    metadata = {"table": "samples"} | {key: json.dumps(value) for key, value in notes.items()}
    schema = pa.schema(fields, metadata)
    path = samples_path("d")
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False), path)
    return rows[["id", "label"]]


def write_answers(rng: np.random.Generator, samples: pd.DataFrame) -> Paths:
    """Write the predictions of every network, each in a file of its own."""
    labels, n = samples["label"], len(samples)
    paths: Paths = {}
    for method, bits in POINTS:
        for seed in range(SEEDS):
            variant = Variant("d", "m", seed, method, bits)
            wrong = rng.random(n) < 0.1 + 0.4 / bits
            answers = np.where(wrong, rng.integers(CLASSES, size=n), labels).astype(np.int32)
            logits = [np.zeros(CLASSES, np.float32)] * n
            path = predictions_path(Path("answers"), variant)
            rows = variant.name(samples.assign(prediction=answers, logits=logits))
            tables.write("predictions", rows, path)
            paths.setdefault(Point("d", "m", method, bits), {})[seed] = path
    return paths


def measure(millions: float) -> dict[str, float]:
    """Compare networks whose predictions are so many millions together."""
    samples = int(millions * 1e6 / len(POINTS) / SEEDS)
    costs.SECONDS = 0.1
    study = Study(
        datasets=("d",), models=("m",), bits=WIDTHS, seeds=tuple(range(SEEDS)),
        methods={name: {"policy": {"kind": "uniform"}} for name in NAMES}, reference=NAMES[0],
        groups=Groups(by={"d": ("site",)}), statistics=Statistics(draws=1000),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["QUANTSKEW_CELLS"] = folder  # the log of costs is written there
        rng = np.random.default_rng(0)
        paths = write_answers(rng, write_samples(rng, samples))
        start = time.perf_counter()
        with costs.noted(["analyze"]):
            compare_all(study, {"d": paths}, Compute())
        seconds = time.perf_counter() - start
        noted = json.loads(Path(costs.LOG).read_text(encoding="utf-8"))
        os.chdir("/")
    rows = samples * len(POINTS) * SEEDS
    return {"rows": rows, "seconds": seconds, "peak": noted["peak_bytes"] / 1e6}


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(measure(float(sys.argv[2]))))
        sys.exit()
    print(f"{'predictions':>12} {'seconds':>8} {'peak MB':>8} {'to linear':>9}")
    before = None
    for size in sys.argv[1:] or ("0.1", "1", "10"):  # each in a process, whose peak is its own
        command = [sys.executable, os.path.abspath(__file__), "one", size]
        done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        rate = done["seconds"] / done["rows"]
        before = before or rate
        print(
            f"{done['rows']:12,} {done['seconds']:8.1f} {done['peak']:8,.0f} {rate / before:9.2f}",
            flush=True,
        )
        before = rate
