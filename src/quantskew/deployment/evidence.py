"""What the gate judges: variants of a study, or a pair of files on labelled images."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from quantskew import tables
from quantskew.analysis.gate import Evidence, Policy
from quantskew.data.groups import Groups, groupings, unit_codes
from quantskew.data.loading import load
from quantskew.deployment.answers import answered, check_finite, class_names, label_codes
from quantskew.deployment.feeding import (
    EvidenceError,
    Feed,
    answers_of,
    read_labelled,
    stated_layout,
)
from quantskew.deployment.runtimes import MINIMUM_INTEGER, inventory, open_file
from quantskew.engine.fingerprint import file_hash
from quantskew.errors import close_names, one_of
from quantskew.layout import folder_of, predictions_path, samples_path, stored_variants
from quantskew.names import FULL_PRECISION, Variant
from quantskew.sections import checked

if TYPE_CHECKING:
    from quantskew.params import Params

_LIBRARIES = ("quantskew", "onnx", "onnxruntime", "numpy", "scipy")


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
    UserError
        When there is no such data set, model or variant, with those there are.
    """
    dataset = one_of("dataset", dataset, study.datasets)
    model = one_of("model", model, study.models)
    known = {}
    evaluated = folder_of("evaluate", dataset, model)
    stored = stored_variants(dataset, model)
    for one, (file, base) in stored.items():
        known[one.stem] = (one, base, file, stored[base].file, evaluated)
    deployed = folder_of("deploy", dataset, model)
    for row in tables.read("deployed", deployed / "deployed.parquet").to_pylist():
        one = Variant(*(row[column] for column in Variant._fields))
        base = one._replace(method=row["base"], bits=FULL_PRECISION)
        files = (deployed / row["file"], deployed / f"{base.stem}.onnx")
        known[one.stem] = (one, base, *files, deployed)
    if variant not in known:
        raise EvidenceError(
            f"no variant {variant!r} of {model} on {dataset}{close_names(variant, known)}; "
            f"there are {', '.join(known)}"
        )
    used = {"bins", "preprocess", "output", "threshold"} & policy.model_fields_set
    if used:
        raise EvidenceError(
            f"{', '.join(sorted(used))} in the policy is for a pair of files (--fp32, --int8); the "
            f"answers of {variant} are stored"
        )
    found, base, file, base_file, folder = known[variant]
    simulated = folder == evaluated and found.bits != FULL_PRECISION
    note = f"{variant} is simulated in PyTorch; no runtime executes this file"
    test = load(samples_path(dataset)).test
    groups = study.groups.model_copy(update={"minimum": policy.minimum})
    unit = policy.unit or groups.unit.get(dataset)
    units = unit_codes(test.attributes, unit)
    return Evidence(
        name=f"{dataset} {model} {found.stem}",
        reference=base.stem,
        labels=test.labels.numpy(),
        before=_answers(folder, base, test.ids),
        after=_answers(folder, found, test.ids),
        n_classes=len(test.classes),
        divisions=groupings(
            test.attributes, policy.groups or study.groups_of(dataset), groups, units
        ),
        bytes=file.stat().st_size,
        classes=test.classes,
        warnings=(note,) if simulated else (),
        provenance=_provenance(network=[file], reference=[base_file], data=[samples_path(dataset)]),
        units=units,
        unit=unit or "",
    )


def _answers(folder: Path, variant: Variant, ids: np.ndarray) -> np.ndarray:
    path = predictions_path(folder, variant)
    rows = tables.read("predictions", path, ["id", "prediction", "logits"]).to_pandas()
    rows = rows.set_index("id").loc[ids]
    check_finite({str(path): np.stack([*rows["logits"]])}, ids)
    answers: np.ndarray = rows["prediction"].to_numpy()
    return answers


def _provenance(*libraries: str, **files: list[Path]) -> dict[str, Any]:
    """Hash what a verdict rests on, and note the versions of the libraries."""
    hashes = {
        what if part == parts[0] else f"{what} {part.name}": file_hash(part)
        for what, parts in files.items()
        for part in parts
    }
    return {
        "sha256": hashes,
        "versions": {name: version(name) for name in (*_LIBRARIES, *libraries)},
    }


def from_files(
    fp32: Path,
    int8: Path,
    data: Path,
    policy: Policy,
    *,
    label: str = "label",
    classes: tuple[str, ...] = (),
) -> Evidence:
    """Run a pair of files on labelled images, each on the runtime of its suffix.

    Parameters
    ----------
    fp32, int8
        The reference and the file to judge.
    data
        A Parquet file with the columns ``image`` (bytes of a picture, or arrays), ``label`` and
        attributes; or the table ``samples`` of a study. Of data with a split, the test part is
        taken.
    policy
        Its ``groups`` are columns, or their intersections; the label unless given. Its ``unit``
        is one. Its
        ``preprocess`` says how images are fed to files that quantskew did not write.
    label
        Name of the column of the label: indices of the outputs, or names of classes.
    classes
        Names of the classes in the order of the outputs, for files that do not know them.

    Raises
    ------
    FileError
        When a file cannot be run.
    EvidenceError
        When the files differ in their images or classes, labels are no classes of theirs, it is not
        known how images are fed, too many images are unusable, or answers are not finite.
    """
    layout = stated_layout(policy.preprocess)
    pair = [open_file(path, output=policy.output, layout=layout) for path in (fp32, int8)]
    images = read_labelled(data, label)
    names = class_names(
        {
            "--classes": classes,
            **{f"the metadata of {network.path}": network.classes for network in pair},
            str(data): images.classes,
        }
    )
    feed = Feed(images, pair, policy.preprocess, max_rejects=policy.max_rejects)
    usable, scores = answers_of(feed, pair)
    rows = images.rows.iloc[usable].reset_index(drop=True)
    check_finite(dict(zip(map(str, (fp32, int8)), scores, strict=True)), rows["id"].to_numpy())
    before, after = (
        answered(network, given, policy.threshold, names)
        for network, given in zip(pair, scores, strict=True)
    )
    if before.n != after.n:
        raise EvidenceError(f"{fp32} has {before.n} outputs, {int8} has {after.n}; give a pair")
    labels = label_codes(rows["label"], names, after.n, data, int8)
    names = names or tuple(map(str, range(after.n)))
    rows["label"] = pd.Categorical.from_codes(labels, pd.Index(names))
    units = unit_codes(rows, policy.unit)
    files = {"network": pair[1].parts(), "reference": pair[0].parts()}
    integers = inventory(pair[1].weights())
    libraries = {network.library for network in pair}
    return Evidence(
        name=str(int8),
        reference=str(fp32),
        labels=labels,
        before=before.classes,
        after=after.classes,
        n_classes=after.n,
        divisions=groupings(
            rows.drop(columns=["id", "split"], errors="ignore"),
            policy.groups or ("label",),
            checked(Groups, {"minimum": policy.minimum, "bins": policy.bins}, "the policy"),
            units,
        ),
        bytes=sum(file.stat().st_size for file in files["network"]),
        classes=names,
        input=feed.steps,
        warnings=(*feed.warnings, *_doubts(files, integers)),
        provenance=_provenance(*libraries, **files, data=[data])
        | {"rejects": feed.rejects, "integers": integers},
        units=units,
        unit=policy.unit or "",
    )


def _doubts(files: Mapping[str, list[Path]], integers: Mapping[str, Any]) -> Iterator[str]:
    """Say where the file to judge is the reference itself, or hardly quantized."""
    if len({tuple(map(file_hash, parts)) for parts in files.values()}) == 1:
        yield "both files are the same, byte for byte"
    share = integers["integer_bytes"]
    if share < MINIMUM_INTEGER:
        yield (
            f"{files['network'][0]} is no integer network: {integers['integer_layers']} of "
            f"{integers['layers']} layers have integer weights, {100 * share:.1f} % of the bytes "
            "of all weights"
        )
