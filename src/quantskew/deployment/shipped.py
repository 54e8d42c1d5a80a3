"""The files that ship of a study: which they are, and the tables of what they answer."""

import json
import math
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import safetensors.numpy
from scipy.stats import binomtest

from quantskew import tables
from quantskew.data.loading import Samples, load
from quantskew.description import Grouping, groupings, predictions
from quantskew.engine.cells import Cell, run
from quantskew.fairness.certificate import certificate
from quantskew.fairness.metrics import group_accuracy
from quantskew.fairness.paired import flips
from quantskew.names import BASELINE, FULL_PRECISION, Variant
from quantskew.params import Params
from quantskew.quantization.settings import Calibration
from quantskew.variants import bins_of, samples_path, stored_variants

RUNTIME = ("onnx", "onnxruntime")


class Deployed(NamedTuple):
    """Tables of the files of a data set and a model, by their names in :mod:`quantskew.tables`."""

    deployed: pd.DataFrame
    deployed_groups: pd.DataFrame
    predictions: pd.DataFrame


def ship_all(study: Params, dataset: str, model: str, target: Path) -> Deployed:
    """Make every file that ships of a data set and a model, and write files and tables.

    Parameters
    ----------
    study
        All parameters.
    dataset, model
        Which part of it.
    target
        Folder of the files, made anew.
    """
    stored = stored_variants(dataset, model, stages=("train", "mitigate"))
    cells, references = {}, {}
    for network in study.deploy.networks:
        for seed in study.seeds[: study.deploy.seeds]:
            base = Variant(dataset, model, seed, network, FULL_PRECISION)
            file, _ = stored[base]
            calibrations: dict[str, Calibration | None] = {"": None, **study.deploy.calibrations}
            for name, calibration in calibrations.items():
                variant = base
                if calibration is not None:
                    prefix = "" if network == BASELINE else f"{network}_"
                    variant = base._replace(method=f"{prefix}int8_{name}", bits=8)
                references[variant] = base
                cells[variant] = Cell(
                    f"{variant.stem}.onnx",
                    "quantskew.deployment.shipping:ship",
                    samples=samples_path(dataset),
                    base=file,
                    model=model,
                    architecture=study.architectures.get(model),
                    seed=seed,
                    calibration=calibration,
                    bins=bins_of(study, calibration.by) if calibration else {},
                    ranges=study.deploy.range,
                    reduce_range=study.deploy.reduce_range,
                    notes={
                        "variant": variant.stem,
                        "dataset": dataset,
                        "model": model,
                        **{name: version(name) for name in RUNTIME},
                    },
                )
    done = run([*cells.values()], title=f"deploy {dataset} {model}", compute=study.compute)
    folders = {variant: done[cell.name] for variant, cell in cells.items()}
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for variant, folder in folders.items():
        shutil.copyfile(folder / "network.onnx", target / f"{variant.stem}.onnx")
    test = load(samples_path(dataset)).test
    made = described(folders, references, test, study)
    for table, frame in made._asdict().items():
        tables.write(table, frame, target / f"{table}.parquet")
    return made


def described(
    folders: Mapping[Variant, Path],
    references: Mapping[Variant, Variant],
    test: Samples,
    study: Params,
) -> Deployed:
    """Say what each file answers, for each group, beside its fp32 file and its simulation."""
    divisions = groupings(test, study.groups_of(next(iter(folders)).dataset), study.groups)
    outputs = {
        variant: safetensors.numpy.load_file(folder / "logits.safetensors")
        for variant, folder in folders.items()
    }
    files, groups, answers = [], [], []
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
        answers.append(variant.name(predictions(given["logits"], test)))
    return Deployed(*(pd.concat(parts, ignore_index=True) for parts in (files, groups, answers)))


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
    study: Params,
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
