"""The deployed files of a study, and the tables of their predictions."""

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import safetensors.numpy

from quantskew import tables
from quantskew.data.groups import Grouping, groupings, unit_codes
from quantskew.data.people import People, read_people
from quantskew.description import predictions
from quantskew.engine.cells import Cell, attempt
from quantskew.fairness.certificate import certified_losses, is_a_basis
from quantskew.fairness.limits import share_limits, shares
from quantskew.fairness.metrics import group_accuracy
from quantskew.fairness.paired import flips
from quantskew.layout import empty, folder_of, predictions_path, samples_path, stored_variants
from quantskew.names import FULL_PRECISION, Variant
from quantskew.quantization.calibration import Calibration
from quantskew.variants import subject_of, write_failures

if TYPE_CHECKING:
    from quantskew.params import Params

RUNTIME = ("onnx", "onnxruntime")


class Deployed(NamedTuple):
    """Tables of the deployed files, by their names in :mod:`quantskew.schemas`."""

    deployed: pd.DataFrame
    deployed_groups: pd.DataFrame


def ship_all(study: "Params", dataset: str, model: str) -> Deployed:
    """Deploy a data set and a model: write its ONNX files, their predictions and tables."""
    stored = stored_variants(dataset, model, ["train", "retrain"])
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
            failures[variant, "deploy"] = "the fp32 file of the same network could not be exported"
    target = folder_of("deploy", dataset, model)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for variant, folder in folders.items():
        shutil.copyfile(folder / "network.onnx", target / f"{variant.stem}.onnx")
    made = described(folders, references, read_people(samples_path(dataset)).test, study, target)
    for table, frame in made._asdict().items():
        tables.write(table, frame, target / f"{table}.parquet")
    write_failures(target, failures)
    return made


def _files(
    study: "Params", dataset: str, model: str
) -> Iterator[tuple[Variant, Variant, Calibration | None]]:
    """Every deployed file, its fp32 network, and its calibration if it has one."""
    for network in study.deploy.networks:
        for seed in study.seeds[: study.deploy.seeds]:
            base = Variant(dataset, model, seed, network, FULL_PRECISION)
            yield base, base, None
            for method, (bits, calibration) in study.deploy.files_of(network).items():
                yield base._replace(method=method, bits=bits), base, calibration


def _cell(study: "Params", variant: Variant, base: Path, calibration: Calibration | None) -> Cell:
    notes = {"variant": variant.stem, "dataset": variant.dataset, "model": variant.model}
    return Cell(
        f"{variant.stem}.onnx",
        "quantskew.deployment.shipping:ship",
        subject=subject_of(study, variant._replace(bits=FULL_PRECISION), base),
        seed=variant.seed,
        bits=variant.bits,
        calibration=calibration,
        bins=study.groups.edges(calibration.by) if calibration else {},
        ranges=study.deploy.range,
        reduce_range=study.deploy.reduce_range,
        notes=notes | {name: version(name) for name in RUNTIME},
    )


def described(
    folders: Mapping[Variant, Path],
    references: Mapping[Variant, Variant],
    test: People[np.ndarray],
    study: "Params",
    target: Path,
) -> Deployed:
    """Compare the predictions of each file with its fp32 file and its simulation, by group."""
    if not folders:
        return Deployed(empty("deployed"), empty("deployed_groups"))
    dataset = next(iter(folders)).dataset
    units = unit_codes(test.attributes, study.groups.unit.get(dataset))
    divisions = groupings(test.attributes, study.groups_of(dataset), study.groups, units)
    outputs = {
        variant: safetensors.numpy.load_file(folder / "logits.safetensors")
        for variant, folder in folders.items()
    }
    files, groups = [], []
    alternatives = len({variant.method for variant in folders if variant.bits < FULL_PRECISION})
    for variant, folder in folders.items():
        base = references[variant]
        logits, pytorch = outputs[variant]["logits"], outputs[variant]["pytorch"]
        fp32 = outputs[base]["logits"]
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        row = {
            "base": base.method,
            "file": f"{variant.stem}.onnx",
            "bytes": (folder / "network.onnx").stat().st_size,
            **facts,
            "operators": ", ".join(facts["operators"]),
            "calibration": ", ".join(f"{g}: {n}" for g, n in facts["calibration"].items()),
            "accuracy": (logits.argmax(1) == test.labels).mean(),
            **_agreement(logits, fp32, "fp32"),
            **_agreement(logits, pytorch, "pytorch"),
        }
        files.append(variant.name(pd.DataFrame([row])))
        groups += [
            variant.name(
                _by_group(
                    logits, fp32, pytorch, test, d, units, study.statistics.alpha, alternatives
                )
            )
            for d in divisions
        ]
        answers = variant.name(predictions(logits, test.ids, test.labels))
        tables.write("predictions", answers, predictions_path(target, variant))
    return Deployed(*(pd.concat(parts, ignore_index=True) for parts in (files, groups)))


def _agreement(logits: np.ndarray, other: np.ndarray, name: str) -> dict[str, Any]:
    return {
        f"agreement_{name}": (logits.argmax(1) == other.argmax(1)).mean(),
        f"difference_{name}": float(np.abs(logits - other).max()),
    }


def _by_group(
    logits: np.ndarray,
    fp32: np.ndarray,
    pytorch: np.ndarray,
    test: People[np.ndarray],
    division: Grouping,
    units: np.ndarray | None,
    alpha: float,
    alternatives: int,
) -> pd.DataFrame:
    labels = test.labels
    answers = np.stack([values.argmax(1) for values in (logits, fp32, pytorch)])
    codes, n_groups = division.codes, len(division.names)
    counts = group_accuracy(answers == labels, codes, n_groups)
    changed = flips(labels, answers[1], answers[0], codes, n_groups)
    lost, gained = changed.right_to_wrong, changed.wrong_to_right
    right = answers[:2] == labels
    limits = share_limits(shares(right[0], codes, n_groups, units=units), alpha / 2)
    bounds = certified_losses(
        right[1], right[0], codes, counted=division.counted, alpha=alpha, units=units,
        alternatives=max(1, alternatives),
    )  # fmt: skip
    if not is_a_basis(labels, answers[1]):
        bounds = np.full_like(bounds, np.nan)
    return pd.DataFrame(
        {
            "attribute": division.attribute,
            "group": division.names,
            "n": counts.sizes,
            "counted": division.counted,
            "fp32": counts.accuracy[1],
            "accuracy": counts.accuracy[0],
            "low": limits.low,
            "high": limits.high,
            "pytorch": counts.accuracy[2],
            "lost": lost,
            "gained": gained,
            "bound": bounds,
        }
    )
