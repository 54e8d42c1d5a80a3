"""From the cells of stage ``evaluate`` to its tables."""

import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import safetensors.numpy

from quantskew import tables
from quantskew.data.groups import Grouping, groupings
from quantskew.data.people import People, read_people
from quantskew.description import bounded, describe, history_by_group, predictions
from quantskew.engine.cells import attempt, unfinished
from quantskew.evaluation.plan import Plan, plan
from quantskew.layout import (
    Stored,
    folder_of,
    name_rows,
    predictions_path,
    samples_path,
    stored_variants,
)
from quantskew.names import Variant
from quantskew.variants import write_failures

if TYPE_CHECKING:
    from quantskew.params import Params


DESCRIBED = ("groups", "boundaries", "layers", "weight_histograms", "history")
"""Tables of what every network answers, and of its weights."""


def evaluate_all(study: "Params", dataset: str, model: str) -> None:
    """Run every network of a data set and a model, and write its answers and tables."""
    variants = stored_variants(dataset, model)
    planned = plan(study, variants)
    # the longest first
    steps = {"curvature": planned.surveys, "layers": planned.layers, "evaluate": planned.answers}
    cells = [cell for part in steps.values() for cell in part.values()]
    data = read_people(samples_path(dataset))
    divisions = groupings(data.test.attributes, study.groups_of(dataset), study.groups)
    if waiting := unfinished([*planned.surveys.values()], study.compute):
        price = study.curvature.price(len(waiting), int(divisions[0].counted.sum()))
        print(price, file=sys.stderr)
    done = attempt(cells, title=f"evaluate {dataset} {model}", compute=study.compute)
    target = folder_of("evaluate", dataset, model)
    shutil.rmtree(target, ignore_errors=True)
    described = _described(data, divisions, variants, planned, done.folders, target)
    for name, rows in described.items():
        tables.write(name, rows, target / f"{name}.parquet")
    for name, rows in _surveyed(planned, done.folders).items():
        tables.write(name, rows, target / f"{name}.parquet")
    failures = {
        (variant, step): done.failures[cell.name]
        for step, part in steps.items()
        for variant, cell in part.items()
        if cell.name in done.failures
    }
    for variant, stored in variants.items():
        if (stored.base, "evaluate") in failures:
            why = f"the fp32 network {stored.base.stem} could not be evaluated"
            failures.setdefault((variant, "evaluate"), why)
    write_failures(target, failures)


def _described(
    data: People[np.ndarray],
    divisions: list[Grouping],
    variants: Mapping[Variant, Stored],
    planned: Plan,
    folders: Mapping[str, Path],
    target: Path,
) -> dict[str, pd.DataFrame]:
    """Write the answers of every network, and say what they mean for each group."""
    test = data.test
    ran = {v: folders[cell.name] for v, cell in planned.answers.items() if cell.name in folders}
    at = {variant: folder for variant, folder in ran.items() if variants[variant].base in ran}
    rows: dict[str, dict[Variant, pd.DataFrame]] = defaultdict(dict)
    for variant, folder in at.items():
        logits = _logits(folder)
        described = describe(logits, _logits(at[variants[variant].base]), test.labels, divisions)
        for name in ("layers", "weight_histograms"):
            described[name] = pd.read_parquet(folder / f"{name}.parquet")
        history = variants[variant].file.with_suffix(".history.safetensors")
        if history.exists():
            arrays = safetensors.numpy.load_file(history)
            described["history"] = history_by_group(**arrays, data=data)
        for name, frame in described.items():
            rows[name][variant] = frame
        answers = variant.name(predictions(logits, test.ids, test.labels))
        tables.write("predictions", answers, predictions_path(target, variant))
    return {name: name_rows(rows[name], name) for name in DESCRIBED}


def _logits(folder: Path) -> np.ndarray:
    return safetensors.numpy.load_file(folder / "logits.safetensors")["logits"]


def _surveyed(planned: Plan, folders: Mapping[str, Path]) -> dict[str, pd.DataFrame]:
    """Tables of the surveys that succeeded, of a network and of the one that it was made from."""
    surfaces = {
        variant: rows
        for variant, cell in planned.surveys.items()
        if cell.name in folders
        and len(rows := pd.read_parquet(folders[cell.name] / "curvature.parquet"))
    }
    bases = planned.surveyed
    complete = {
        variant: bounded(rows, surfaces[bases[variant]])
        for variant, rows in surfaces.items()
        if bases[variant] in surfaces
    }
    damage = {
        variant: pd.read_parquet(folders[cell.name] / "layer_damage.parquet")
        for variant, cell in planned.layers.items()
        if cell.name in folders
    }
    return {
        "curvature": name_rows(complete, "curvature"),
        "layer_damage": name_rows(damage, "layer_damage"),
    }
