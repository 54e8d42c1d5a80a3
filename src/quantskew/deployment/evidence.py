"""What the gate judges: variants of a study, or files on labelled images."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from quantskew import tables
from quantskew.analysis.gate import Evidence, Policy
from quantskew.analysis.scored import read_logits
from quantskew.answers.reading import AnswersError, read
from quantskew.data.groups import groupings, unit_codes
from quantskew.data.people import read_people
from quantskew.deployment.answers import answered, check_finite, class_names, divided
from quantskew.deployment.feeding import (
    EvidenceError,
    Feed,
    answers_of,
    opened,
    read_labelled,
)
from quantskew.deployment.runtimes import MINIMUM_INTEGER, inventory
from quantskew.engine.fingerprint import file_hash
from quantskew.errors import close_names, one_of
from quantskew.layout import folder_of, origin, predictions_path, samples_path, stored_variants
from quantskew.names import FULL_PRECISION, Variant

if TYPE_CHECKING:
    from quantskew.params import Params

_LIBRARIES = ("quantskew", "onnx", "onnxruntime", "numpy", "scipy")


def from_study(
    study: "Params", policy: Policy, variant: str, *, dataset: str | None, model: str | None
) -> Evidence:
    """Read what a variant answered, and the fp32 network it was made from.

    Parameters
    ----------
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
    model = one_of("model", model, (*study.models, *study.answers))
    given = study.answers.get(model)
    dataset = one_of("dataset", dataset if given is None else given.dataset, study.datasets)
    stages, answering = origin(model, study.answers)
    evaluated = folder_of(answering, dataset, model)
    stored = stored_variants(dataset, model, stages)
    known = {
        one.stem: (one, base, file, stored[base].file, evaluated)
        for one, (file, base) in stored.items()
    }
    deployed = folder_of("deploy", dataset, model) if given is None else evaluated
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
    used = {"bins", "preprocess", "preprocess_of", "output", "threshold"} & policy.model_fields_set
    if given:  # of which there is no file
        used |= {"bytes"} & policy.model_fields_set
    if used:
        raise EvidenceError(
            f"{', '.join(sorted(used))} in the policy is for a pair of files (--fp32, --int8); the "
            f"answers of {variant} are stored"
        )
    found, base, file, base_file, folder = known[variant]
    simulated = given is None and folder == evaluated and found.bits != FULL_PRECISION
    note = f"{variant} is simulated in PyTorch; no runtime executes this file"
    test = read_people(samples_path(dataset)).test
    paths = [predictions_path(folder, one) for one in (base, found)]
    said = read_logits(paths)
    if said.logits is not None:
        check_finite(dict(zip(map(str, paths), said.logits, strict=True)), said.ids)
    order = pd.Series(np.arange(len(test.ids)), test.ids).loc[said.ids].to_numpy()
    attributes = test.attributes.iloc[order].reset_index(drop=True)
    groups = study.groups.model_copy(update={"minimum": policy.minimum})
    unit = policy.unit or groups.unit.get(dataset)
    units = unit_codes(attributes, unit)
    return Evidence(
        name=f"{dataset} {model} {found.stem}",
        reference=base.stem,
        labels=said.labels,
        before=said.answers[0],
        after=said.answers[1],
        n_classes=len(test.classes),
        divisions=groupings(attributes, policy.groups or study.groups_of(dataset), groups, units),
        bytes=0 if given else file.stat().st_size,
        classes=test.classes,
        warnings=(note,) if simulated else (),
        provenance=_provenance(network=[file], reference=[base_file], data=[samples_path(dataset)]),
        units=units,
        unit=unit or "",
    )


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
    reference: Path,
    network: Path,
    data: Path,
    policy: Policy,
    *,
    label: str = "label",
    classes: tuple[str, ...] = (),
) -> Evidence:
    """Run a pair of files on labelled images; see :func:`from_several`.

    It is said where the second is the reference itself, or hardly quantized.
    """
    (pair,) = from_several([reference, network], data, policy, label=label, classes=classes)
    return pair._replace(warnings=(*pair.warnings, *_doubts(pair)))


def from_several(
    files: Sequence[Path],
    data: Path,
    policy: Policy,
    *,
    label: str = "label",
    classes: tuple[str, ...] = (),
) -> list[Evidence]:
    """Run files on labelled images, each on the runtime of its suffix.

    Parameters
    ----------
    files
        The reference, and those to judge. Of these, a ``.parquet`` file is a table of answers, such
        as those of a simulation (:mod:`quantskew.answers.reading`), joined by ``id``.
    data
        A Parquet file with the columns ``image`` (bytes of a picture, or arrays), ``label`` and
        attributes; or the table ``samples`` of a study. Of data with a split, the test part is
        taken.
    policy
        Its ``groups`` are columns, or their intersections; the label unless given. Its ``unit`` is
        a column. Its ``preprocess`` and ``preprocess_of`` say how images are fed to files that
        quantskew did not write.
    label
        Name of the column of the label: indices of the outputs, or names of classes.
    classes
        Names of the classes in the order of the outputs, for files that do not know them.

    Returns
    -------
    list
        Of each file but the reference.

    Raises
    ------
    FileError
        When a file cannot be run.
    EvidenceError
        When the files differ in their images or classes, labels are no classes of theirs, it is not
        known how images are fed, too many images are unusable, or answers are not finite.
    AnswersError
        When a table of answers cannot be read, or lacks samples.
    """
    tables_of = [path for path in files[1:] if path.suffix == ".parquet"]
    networks = opened([path for path in files if path not in tables_of], policy)
    images = read_labelled(data, label)
    names = class_names(
        {
            "--classes": classes,
            **{f"the metadata of {network.path}": network.classes for network in networks},
            str(data): images.classes,
        }
    )
    feed = Feed(images, networks, policy)
    usable, scores = answers_of(feed, networks)
    rows = images.rows.iloc[usable].reset_index(drop=True)
    check_finite(
        {str(one.path): given for one, given in zip(networks, scores, strict=True)},
        rows["id"].to_numpy(),
    )
    found = [
        answered(network, given, policy.threshold, names)
        for network, given in zip(networks, scores, strict=True)
    ]
    before, reference = found[0], networks[0]
    for network, one in zip(networks, found, strict=True):
        if one.n != before.n:
            raise EvidenceError(
                f"{reference.path} has {before.n} outputs, {network.path} has {one.n}; give files "
                "of one network"
            )
    labels, names, units, divisions = divided(rows, names, before.n, policy, data, reference.path)
    common = Evidence(
        name="",
        reference=str(reference.path),
        labels=labels,
        before=before.classes,
        after=before.classes,
        n_classes=before.n,
        divisions=divisions,
        bytes=0,
        classes=names,
        units=units,
        unit=policy.unit or "",
    )
    made = {}
    for place, (network, one) in enumerate(zip(networks, found, strict=True)):
        parts = {"network": network.parts(), "reference": reference.parts()}
        made[network.path] = common._replace(
            name=str(network.path),
            after=one.classes,
            bytes=sum(file.stat().st_size for file in parts["network"]),
            input=feed.steps(place, 0),
            warnings=(*dict.fromkeys([*reference.remarks, *network.remarks]), *feed.warnings),
            provenance=_provenance(network.library, reference.library, **parts, data=[data])
            | {"rejects": feed.rejects, "integers": inventory(network.weights())},
        )  # fmt: skip
    for path in tables_of:
        made[path] = common._replace(
            name=str(path),
            after=_of_table(path, rows["id"], names, policy.threshold),
            input=feed.steps(0),
            warnings=(*reference.remarks, *feed.warnings),
            provenance=_provenance(
                reference.library, network=[path], reference=reference.parts(), data=[data]
            ),
        )
    return [made[path] for path in files[1:]]


def _of_table(
    path: Path, ids: "pd.Series[str]", names: Sequence[str], threshold: float | None
) -> np.ndarray:
    """Answers of a table to samples, as indices of the classes."""
    table = read(path, str(path), threshold=threshold)
    known = pd.Index(table.ids.to_pylist()).astype(str)
    if not known.is_unique:
        raise AnswersError(
            f"{path} has {known[known.duplicated()][0]!r} twice; an id is of one row"
        )
    rows = known.get_indexer(ids.astype(str))
    if (rows < 0).any():
        lacking = ids[rows < 0]
        raise AnswersError(
            f"{path} lacks {len(lacking):,} of {len(ids):,} samples, first {lacking.iloc[0]!r}"
        )
    if table.answers is None:
        raise AnswersError(f"{path} holds no answers")
    said, indices = table.answers.names, [*map(str, range(len(names)))]
    by_place = table.by_place or not {*said} <= {*names}
    places = pd.Index(indices if by_place else names).get_indexer(pd.Index(said))
    answers: np.ndarray = places[table.answers.codes][rows]
    if (answers < 0).any():
        wrong = said[table.answers.codes[rows[answers < 0][0]]]
        raise AnswersError(f"{path} answers {wrong!r}, and the classes are {', '.join(names[:12])}")
    return answers


def _doubts(pair: Evidence) -> Iterator[str]:
    hashes, integers = pair.provenance["sha256"], pair.provenance["integers"]
    network, reference = (
        [digest for what, digest in hashes.items() if what.partition(" ")[0] == part]
        for part in ("network", "reference")
    )
    if network == reference:
        yield "both files are the same, byte for byte"
    share = integers["integer_bytes"]
    if share < MINIMUM_INTEGER:
        yield (
            f"{pair.name} is no integer network: {integers['integer_layers']} of "
            f"{integers['layers']} layers have integer weights, {100 * share:.1f} % of the bytes "
            "of all weights"
        )
