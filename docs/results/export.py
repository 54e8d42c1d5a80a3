"""Keep what a page of results is made from: ``python docs/results/export.py NAME``.

Run at the root of the project after ``cp studies/NAME.yaml params.yaml && dvc repro``. Writes
``docs/results/NAME``: the parameters, the tables that pages read (their first groupings), the
figures that pages show (all of them, where no page shows this study yet), and ``provenance.json``:
revision of the code, hashes of the data, versions, device, what each stage took. Training is timed
against a plain loop while this runs. Neither images nor networks are kept.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from quantskew import params, tables
from quantskew.analysis.figures import FIGURES
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, plain
from quantskew.engine.command import run
from quantskew.engine.costs import LOG
from quantskew.engine.fingerprint import LIBRARIES, file_hash
from quantskew.engine.store import default_store
from quantskew.errors import UserError
from quantskew.files import write_json
from quantskew.layout import samples_path
from quantskew.schemas import TABLES

ANALYSED = ("levels", "effects", "claims", "frontier", "remedies")
MEASURED = {
    **dict.fromkeys(("groups", "layers", "curvature"), "evaluations"),
    **dict.fromkeys(("deployed", "deployed_groups"), "deployed"),
}
CODE = ("src", "stages", "dvc.yaml")
METRICS = {
    "accuracy", "overall", "fvo", "worst_group", "demographic_parity_worst",
    "equalized_odds_worst", "predictive_equality_worst", "disparate_impact_worst",
}  # fmt: skip


def main(name: str) -> None:
    """Copy tables and figures of the study that was run last, and note how it was run."""
    study = params.load().judged()
    changed = said("git", "status", "--porcelain", *CODE)
    if changed:
        raise UserError(f"commit first, results are kept of a revision; changed are:\n{changed}")
    target = Path("docs/results", name)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copyfile("params.yaml", target / "params.yaml")
    for table in ANALYSED:
        rows = tables.read(table, f"data/analysis/{table}.parquet").to_pandas()
        if table == "effects":
            rows = rows[rows["metric"].isin(METRICS)]
        keep(table, rows, study, target)
    for table, folder in MEASURED.items():
        rows = pd.concat(
            tables.read(table, f"data/{folder}/{d}/{m}/{table}.parquet").to_pandas()
            for d in study.datasets
            for m in study.models
        )
        rows = rows[rows["layer"] == "all"] if table == "layers" else rows
        if table == "groups":  # pages and figures show no others
            rows = plain(first_groupings(rows, study), study)
        keep(table, rows, study, target)
    for figure in shown(name):
        drawn = Path("plots/figures", f"{figure}.svg")
        if drawn.exists():  # a figure without rows is not drawn
            shutil.copyfile(drawn, target / drawn.name)
    latency = {dataset: timed(dataset) for dataset in study.datasets}
    if any(latency.values()):
        write_json(target / "latency.json", latency)
    write_json(target / "provenance.json", provenance(study))


def timed(dataset: str) -> dict[str, object]:
    """What ``quantskew latency`` measured of the files of each model, if it was run."""
    found = sorted(Path("metrics/latency", dataset).glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}


def shown(study: str) -> list[str]:
    """Name the figures of a study that pages show; all of them, where no page shows the study."""
    pages = [path.read_text(encoding="utf-8") for path in Path("docs/results").glob("*.md.j2")]
    variables = [(page, re.findall(rf'set (\w+) = results\("{study}"\)', page)) for page in pages]
    if not any(found for _, found in variables):
        return [*FIGURES]
    return sorted(
        {
            name
            for page, found in variables
            for variable in found
            for name in re.findall(rf'\b{variable}\.figure\("(\w+)"\)', page)
        }
    )


def keep(table: str, rows: pd.DataFrame, study: Study, target: Path) -> None:
    """Write the columns of a table's schema, of the first grouping where there are several."""
    rows = first_groupings(rows, study) if {"attribute", "method"} <= {*rows} else rows
    tables.write(table, rows[TABLES[table].schema.names], target / f"{table}.parquet")


def provenance(study: Study) -> dict[str, object]:
    """What it takes to judge the numbers, and to make them again."""
    timing = said(sys.executable, "benchmarks/training.py", study.datasets[0], study.models[0])
    return {
        "revision": said("git", "rev-parse", "--short=12", "HEAD"),
        "data": {str(samples_path(d)): file_hash(samples_path(d)) for d in study.datasets},
        "versions": {"python": platform.python_version()}
        | {library: version(library) for library in ("quantskew", *LIBRARIES)},
        "device": device(),
        "training": json.loads(timing),
        "stages": costs(study),
    }


def said(*command: str) -> str:
    """Run a command and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def device() -> str:
    """Name what the networks ran on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} processor, {len(os.sched_getaffinity(0))} cores"


def costs(study: Study) -> list[dict[str, object]]:
    """Time and memory of the last run of each stage of the study, in the order of the stages."""
    last = {}
    for line in (default_store() / LOG).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        stage, *of = entry["command"]
        if Path("stages", f"{stage}.py").exists() and (not of or of[0] in study.datasets):
            last[stage, *of] = entry
    return list(last.values())


if __name__ == "__main__":
    run(main)
