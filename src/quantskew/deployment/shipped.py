"""The files that ship of a study: which they are, and the tables of their answers."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import safetensors.numpy
from scipy.stats import binomtest

from quantskew import tables
from quantskew.data.groups import Grouping, groupings
from quantskew.data.loading import Samples, load
from quantskew.description import predictions
from quantskew.engine.cells import Cell, attempt
from quantskew.fairness.certificate import certificate
from quantskew.fairness.metrics import group_accuracy
from quantskew.fairness.paired import flips
from quantskew.layout import empty, folder_of, predictions_path, samples_path, stored_variants
from quantskew.names import BASELINE, FULL_PRECISION, Variant
from quantskew.quantization.calibration import Calibration
from quantskew.variants import subject_of, write_failures

if TYPE_CHECKING:
    from quantskew.params import Params

RUNTIME = ("onnx", "onnxruntime")


class Deployed(NamedTuple):
    """Tables of the files of a data set and a model, by their names in :mod:`quantskew.schemas`."""

    deployed: pd.DataFrame
    deployed_groups: pd.DataFrame


def ship_all(study: "Params", dataset: str, model: str) -> Deployed:
    """Make every file that ships of a data set and a model; write files, answers and tables.

    Parameters
    ----------
    study
        All parameters.
    dataset, model
        Which part of it.
    """
    stored = stored_variants(dataset, model, ["train", "mitigate"])
    cells, references, failures = {}, {}, {}
    for variant, base, calibration in _files(study, dataset, model):
        references[variant] = base
        if base in stored:
            cells[variant] = _cell(study, variant, stored[base].file, calibration)
        else:
            failures[variant, "deploy"] = f"the fp32 network {base.stem} could not be trained"
    done = attempt([*cells.values()], title=f"deploy {dataset} {model}", compute=study.compute)
    folders = {v: done.folders[cell.name] for v, cell in cells.items() if cell.name in done.folders}
    for variant, cell in cells.items():
        if cell.name in done.failures:
            failures[variant, "deploy"] = done.failures[cell.name]
        elif references[variant] not in folders:
            del folders[variant]
            failures[variant, "deploy"] = "the fp32 file to compare it with could not be made"
    target = folder_of("deploy", dataset, model)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for variant, folder in folders.items():
        shutil.copyfile(folder / "network.onnx", target / f"{variant.stem}.onnx")
    made = described(folders, references, load(samples_path(dataset)).test, study, target)
    for table, frame in made._asdict().items():
        tables.write(table, frame, target / f"{table}.parquet")
    write_failures(target, failures)
    return made


def _files(
    study: "Params", dataset: str, model: str
) -> Iterator[tuple[Variant, Variant, Calibration | None]]:
    """Every file that ships, with the fp32 network behind it and the calibration of an int8 one."""
    for network in study.deploy.networks:
        prefix = "" if network == BASELINE else f"{network}_"
        for seed in study.seeds[: study.deploy.seeds]:
            base = Variant(dataset, model, seed, network, FULL_PRECISION)
            yield base, base, None
            for name, calibration in study.deploy.calibrations.items():
                yield base._replace(method=f"{prefix}int8_{name}", bits=8), base, calibration


def _cell(study: "Params", variant: Variant, base: Path, calibration: Calibration | None) -> Cell:
    notes = {"variant": variant.stem, "dataset": variant.dataset, "model": variant.model}
    return Cell(
        f"{variant.stem}.onnx",
        "quantskew.deployment.shipping:ship",
        subject=subject_of(study, variant._replace(bits=FULL_PRECISION), base),
        seed=variant.seed,
        calibration=calibration,
        bins=study.groups.edges(calibration.by) if calibration else {},
        ranges=study.deploy.range,
        reduce_range=study.deploy.reduce_range,
        notes=notes | {name: version(name) for name in RUNTIME},
    )


def described(
    folders: Mapping[Variant, Path],
    references: Mapping[Variant, Variant],
    test: Samples,
    study: "Params",
    target: Path,
) -> Deployed:
    """Say what each file answers, for each group, beside its fp32 file and its simulation."""
    if not folders:
        return Deployed(empty("deployed"), empty("deployed_groups"))
    dataset = next(iter(folders)).dataset
    divisions = groupings(test.attributes, study.groups_of(dataset), study.groups)
    outputs = {
        variant: safetensors.numpy.load_file(folder / "logits.safetensors")
        for variant, folder in folders.items()
    }
    files, groups = [], []
    for variant, folder in folders.items():
        base, given = references[variant], outputs[variant]
        facts = json.loads((folder / "facts.json").read_text())
        row = {
            "base": base.method,
            "file": f"{variant.stem}.onnx",
            "bytes": (folder / "network.onnx").stat().st_size,
            **facts,
            "operators": ", ".join(facts["operators"]),
            "calibration": ", ".join(f"{g}: {n}" for g, n in facts["calibration"].items()),
            "accuracy": (given["logits"].argmax(1) == test.labels.numpy()).mean(),
            **_agreement(given["logits"], outputs[base]["logits"], "fp32"),
            **_agreement(given["logits"], given["pytorch"], "pytorch"),
        }
        files.append(variant.name(pd.DataFrame([row])))
        three = (given["logits"], outputs[base]["logits"], given["pytorch"])
        groups += [variant.name(_by_group(*three, test, d, study)) for d in divisions]
        answers = variant.name(predictions(given["logits"], test.ids, test.labels.numpy()))
        tables.write("predictions", answers, predictions_path(target, variant))
    return Deployed(*(pd.concat(parts, ignore_index=True) for parts in (files, groups)))


def _agreement(found: np.ndarray, other: np.ndarray, name: str) -> dict[str, Any]:
    return {
        f"agreement_{name}": (found.argmax(1) == other.argmax(1)).mean(),
        f"difference_{name}": float(np.abs(found - other).max()),
    }


def _by_group(
    found: np.ndarray,
    reference: np.ndarray,
    pytorch: np.ndarray,
    test: Samples,
    division: Grouping,
    study: "Params",
) -> pd.DataFrame:
    labels, alpha = test.labels.numpy(), study.statistics.alpha
    answers = np.stack([logits.argmax(1) for logits in (found, reference, pytorch)])
    codes, n_groups = division.codes, len(division.names)
    counts = group_accuracy(answers == labels, codes, n_groups)
    changed = flips(labels, answers[1], answers[0], codes, n_groups)
    lost, gained = changed.right_to_wrong, changed.wrong_to_right
    limits = [
        binomtest(hits, n).proportion_ci(1 - alpha, "wilson") if n else (math.nan, math.nan)
        for hits, n in zip(counts.hits[0], counts.sizes, strict=True)
    ]
    bounds = certificate(lost, gained, counts.sizes, counted=division.counted, alpha=alpha)
    return pd.DataFrame(
        {
            "attribute": division.attribute,
            "group": division.names,
            "n": counts.sizes,
            "counted": division.counted,
            "fp32": counts.accuracy[1],
            "accuracy": counts.accuracy[0],
            "low": [low for low, _ in limits],
            "high": [high for _, high in limits],
            "pytorch": counts.accuracy[2],
            "lost": lost,
            "gained": gained,
            "bound": bounds.groups,
        }
    )
