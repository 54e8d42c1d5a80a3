"""What the gate judges: variants of a study, or a pair of ONNX files on labelled images."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew import tables
from quantskew.analysis.gate import Evidence, Policy
from quantskew.data.groups import Groups, groupings
from quantskew.data.loading import load
from quantskew.data.source import Source
from quantskew.errors import UserError, close_names
from quantskew.layout import folder_of, predictions_path, samples_path, stored_variants
from quantskew.names import FULL_PRECISION, Variant

if TYPE_CHECKING:
    from quantskew.params import Params


class EvidenceError(UserError, ValueError):
    """A network of the study that is not there, or files and images that do not fit together."""


def from_study(
    study: "Params", policy: Policy, variant: str, *, dataset: str | None, model: str | None
) -> Evidence:
    """Read what a variant answered, and the fp32 network it was made from.

    Parameters
    ----------
    study
        All parameters.
    policy
        Its ``groups`` replace those of the study.
    variant
        Name of its file without the suffix: ``int8_random-8bit-seed0`` of the stage ``deploy``,
        ``ptq-4bit-seed0`` of ``quantize``.
    dataset, model
        May be left out of a study that has only one.

    Raises
    ------
    EvidenceError
        When there is no such variant, with those there are.
    """
    dataset = _one("dataset", dataset, study.datasets)
    model = _one("model", model, study.models)
    known = {}
    evaluated = folder_of("evaluate", dataset, model)
    for one, (file, base) in stored_variants(dataset, model).items():
        known[one.stem] = (one, base, file.stat().st_size, evaluated)
    deployed = folder_of("deploy", dataset, model)
    for row in tables.read("deployed", deployed / "deployed.parquet").to_pylist():
        one = Variant(*(row[column] for column in Variant._fields))
        base = one._replace(method=row["base"], bits=FULL_PRECISION)
        known[one.stem] = (one, base, row["bytes"], deployed)
    if variant not in known:
        raise EvidenceError(
            f"no variant {variant!r} of {model} on {dataset}{close_names(variant, known)}; "
            f"there are {', '.join(known)}"
        )
    found, base, size, folder = known[variant]
    test = load(samples_path(dataset)).test
    groups = study.groups.model_copy(update={"minimum": policy.minimum})
    return Evidence(
        name=f"{dataset} {model} {found.stem}",
        reference=base.stem,
        labels=test.labels.numpy(),
        before=_answers(folder, base, test.ids),
        after=_answers(folder, found, test.ids),
        n_classes=len(test.classes),
        divisions=groupings(test.attributes, policy.groups or study.groups_of(dataset), groups),
        bytes=size,
    )


def _answers(folder: Path, variant: Variant, ids: np.ndarray) -> np.ndarray:
    path = predictions_path(folder, variant)
    rows = tables.read("predictions", path, ["id", "prediction"]).to_pandas()
    answers: np.ndarray = rows.set_index("id").loc[ids, "prediction"].to_numpy()
    return answers


def _one(what: str, given: str | None, known: tuple[str, ...]) -> str:
    if given is None and len(known) == 1:
        return known[0]
    if given not in known:
        problem = f"no {what} {given!r}" if given else f"several {what}s; give --{what}"
        raise EvidenceError(
            f"{problem}: there are {', '.join(known)}{close_names(given or '', known)}"
        )
    return given


def from_files(
    fp32: Path, int8: Path, data: Path, policy: Policy, *, label: str = "label"
) -> Evidence:
    """Run a pair of ONNX files on labelled images.

    Parameters
    ----------
    fp32, int8
        The reference and the file to judge.
    data
        A Parquet file with the columns ``image`` (bytes of a picture), ``label`` and attributes; or
        the table ``samples`` of a study, of which the test part is taken.
    policy
        Its ``groups`` are columns, or their intersections; the label unless given.
    label
        Name of the column of the label: indices, or names that the files know.

    Raises
    ------
    FileError
        When a file cannot be run.
    EvidenceError
        When the files differ in their images or classes, or labels are no classes of theirs.
    """
    from quantskew import inputs, models
    from quantskew.deployment.onnx_files import OnnxNetwork, stored_bytes

    reference, network = OnnxNetwork(fp32), OnnxNetwork(int8)
    for what in ("shape", "classes"):
        first, second = getattr(reference, what), getattr(network, what)
        if first != second:
            raise EvidenceError(f"{fp32} has {what} {first}, {int8} has {second}; give a pair")
    if _is_samples(data):
        test = inputs.samples(data, network, split="test")
        if network.classes and network.classes != test.classes:
            raise EvidenceError(
                f"{data} has classes {', '.join(test.classes)}, {int8} was made for "
                f"{', '.join(network.classes)}"
            )
    else:
        test = inputs.samples(_labelled(data, network, label), network, split="test")
        if network.classes:
            named = test.attributes["label"].cat.rename_categories([*network.classes])
            test = replace(test, attributes=test.attributes.assign(label=named))
    inputs.classes_of(reference, test.images)
    answers = [models.logits(each, test.images).argmax(1).numpy() for each in (reference, network)]
    return Evidence(
        name=str(int8),
        reference=str(fp32),
        labels=test.labels.numpy(),
        before=answers[0],
        after=answers[1],
        n_classes=len(test.classes),
        divisions=groupings(
            test.attributes, policy.groups or ("label",), Groups(minimum=policy.minimum)
        ),
        bytes=stored_bytes(int8),
    )


def _is_samples(path: Path) -> bool:
    try:
        notes = pq.read_schema(path).metadata or {}
    except FileNotFoundError:
        raise EvidenceError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise EvidenceError(f"{path} is not a whole Parquet file: {error}") from None
    return notes.get(b"table") == b"samples"


def _labelled(path: Path, network: Any, label: str) -> tuple[Any, np.ndarray, pd.DataFrame]:
    """Images at the size of the network, labels as indices of its classes, and attributes."""
    from quantskew.data.decoding import decode_all
    from quantskew.data.sources import read

    channels, height, width = network.shape
    if height != width:
        raise EvidenceError(f"{network.path} wants images of {height}×{width}; squares are read")
    raw = read("data", Source(reader="parquet", path=str(path), label=label), path.parent)
    with tempfile.TemporaryDirectory() as folder:
        pixels, _, unusable = decode_all(
            raw.images,
            len(raw.rows),
            size=height or raw.size,
            channels=channels or raw.channels,
            folder=folder,
        )
    for row, reason in unusable.items():
        raise EvidenceError(f"{path}: image {raw.rows['id'].iloc[row]!r}: {reason}")
    names = raw.rows["label"].astype(str)
    place = {name: code for code, name in enumerate(network.classes)}
    if not place:
        place = {name: int(name) for name in names.unique() if name.isdigit()}
    for name in names.unique():
        if name not in place:
            raise EvidenceError(
                f"{path}: label {name!r} is no class of {network.path}, which has "
                f"{', '.join(network.classes) or 'numbered ones'}{close_names(name, [*place])}"
            )
    attributes = raw.rows.drop(columns=["id", "label", "split"], errors="ignore")
    return np.asarray(pixels), names.map(place).to_numpy(np.int64, copy=True), attributes
