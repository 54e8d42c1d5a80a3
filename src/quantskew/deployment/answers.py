"""What a file of a network answers, read as classes, and a table of it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew.data.groups import Grouping, Groups, groupings, unit_codes
from quantskew.deployment.feeding import EvidenceError, Feed, opened, read_labelled
from quantskew.deployment.runtimes import Network
from quantskew.engine.fingerprint import file_hash
from quantskew.errors import close_names
from quantskew.files import replacing
from quantskew.sections import checked

if TYPE_CHECKING:
    from quantskew.analysis.gate import Policy

_TOGETHER = 4096  # rows that are written at once


class Answered(NamedTuple):
    """What a file gives for each image, its class, and how many classes there are."""

    scores: np.ndarray
    classes: np.ndarray
    n: int


def class_names(given: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names of the classes, on which all that name them (the keys) must agree."""
    named = {where: names for where, names in given.items() if names}
    if len({*named.values()}) > 1:
        lists = "; ".join(f"{where}: {', '.join(names)}" for where, names in named.items())
        raise EvidenceError(f"the classes or their order differ: {lists}")
    return next(iter(named.values()), ())


def answered(
    network: Network, scores: np.ndarray, threshold: float | None, names: Sequence[str]
) -> Answered:
    """Read what a file gives: labels, a single score by its threshold, or the highest score.

    ``scores`` are (N, scores); ``names`` are of the classes, if known.

    Raises
    ------
    EvidenceError
        When a threshold is missing or has no meaning, or the names do not fit.
    """
    n = scores.shape[1]
    if network.gives_labels:
        what = "the index of a class"
        if not names:
            raise EvidenceError(
                f"{network.path} gives {what} for each image; name all classes in their order "
                "(--classes)"
            )
        if scores.min() < 0 or scores.max() >= len(names):
            raise EvidenceError(
                f"{network.path} answers {scores.min()} to {scores.max()}, and there are "
                f"{len(names)} classes: {', '.join(names[:12])}"
            )
    else:
        what = f"{n} scores"
    if threshold is not None and (n != 1 or network.gives_labels):
        raise EvidenceError(
            f"the policy states a threshold, and {network.path} gives {what} for each "
            "image: leave it out, the highest score answers"
        )
    if n == 1 and threshold is None and not network.gives_labels:
        raise EvidenceError(
            f"{network.path} gives one score for each image; state in the policy from which on it "
            "means class 1: threshold: 0.5 for probabilities, threshold: 0 for logits"
        )
    if network.gives_labels:
        found = Answered(scores, scores[:, 0], len(names))
    elif n == 1:
        found = Answered(scores, (scores[:, 0] >= threshold).astype(np.int64), 2)
    else:
        found = Answered(scores, scores.argmax(1), n)
    if names and len(names) != found.n:
        raise EvidenceError(
            f"there are {len(names)} names of classes ({', '.join(names[:12])}), and "
            f"{network.path} tells {found.n} classes apart"
        )
    return found


def label_codes(
    labels: "pd.Series[Any]", names: Sequence[str], n: int, data: Path, network: Path
) -> np.ndarray:
    """Labels as indices of the outputs.

    Raises
    ------
    EvidenceError
        With the first label that is no class.
    """
    place = {name: code for code, name in enumerate(names or map(str, range(n)))}
    for name in labels.unique():
        if name not in place:
            legal = ", ".join(names) if names else f"0 to {n - 1}, or texts with --classes"
            raise EvidenceError(
                f"{data}: label {name!r} is no class of {network}, which has {legal}"
                f"{close_names(name, [*place]) if names else ''}"
            )
    codes: np.ndarray = labels.astype(str).map(place).to_numpy(np.int64, copy=True)
    return codes


class Divided(NamedTuple):
    """Rows of labelled images as a file answers them.

    Attributes
    ----------
    labels
        (N,) indices of the outputs.
    names
        Of the classes; their indices where no one names them.
    units
        (N,) codes of the column ``unit`` of the policy; ``None`` where each image is its own.
    divisions
        The groupings of the policy; by label unless it names any.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    units: np.ndarray | None
    divisions: list[Grouping]


def divided(
    rows: pd.DataFrame, names: tuple[str, ...], n: int, policy: "Policy", data: Path, network: Path
) -> Divided:
    """Read the labels of some rows, and divide these into groups; see :func:`label_codes`."""
    labels = label_codes(rows["label"], names, n, data, network)
    names = names or tuple(map(str, range(n)))
    attributes = rows.drop(columns=["id", "split"], errors="ignore")
    attributes["label"] = pd.Categorical.from_codes(labels, pd.Index(names))
    groups = checked(Groups, {"minimum": policy.minimum, "bins": policy.bins}, "the policy")
    units = unit_codes(rows, policy.unit)
    by = policy.groups or ("label",)
    return Divided(labels, names, units, groupings(attributes, by, groups, units))


def check_finite(scores: Mapping[str, np.ndarray], ids: Sequence[Any] | np.ndarray) -> None:
    """Refuse scores of files, by their names, that are not finite for each of some images."""
    problems = []
    for name, numbers in scores.items():
        wrong = np.flatnonzero(~np.isfinite(numbers).all(1))
        if len(wrong):
            problems.append(
                f"{name} answers NaN or infinity for {len(wrong):,} of {len(numbers):,} images, "
                f"first for {ids[wrong[0]]}"
            )
    if problems:
        raise EvidenceError("; ".join(problems))


class Written(NamedTuple):
    """What :func:`write_answers` wrote."""

    images: int
    accuracy: float
    input: str
    warnings: list[str]


def write_answers(
    file: Path,
    data: Path,
    target: Path,
    policy: "Policy",
    *,
    label: str = "label",
    classes: tuple[str, ...] = (),
) -> Written:
    """Run a file on labelled images, and write a table of its answers, a few in memory at a time.

    The table has a row an image: ``id``, ``label``, all other columns of the data but the images,
    ``prediction``, and what the file gives: ``probabilities`` or else ``logits``, lists of a number
    a class, or a single ``score``; nothing if it gives labels. Label and prediction are names where
    the names of the classes are known, else indices of the outputs.

    Parameters
    ----------
    file
        Of any runtime of :mod:`quantskew.deployment.runtimes`.
    data, label, classes
        As in :func:`quantskew.deployment.evidence.from_files`.
    target
        A Parquet file, replaced whole or not at all.
    policy
        Its ``preprocess``, ``output``, ``threshold`` and ``max_rejects``.

    Raises
    ------
    FileError
        When the file cannot be run.
    EvidenceError
        When labels are no classes of the file, it is not known how images are fed or scores are
        read, too many images are unusable, or answers are not finite.
    """
    if target.suffix != ".parquet":
        raise EvidenceError(f"{target}: answers are written as Parquet; name it *.parquet")
    (network,) = opened([file], policy)
    images = read_labelled(data, label)
    names = class_names(
        {
            "--classes": classes,
            f"the metadata of {file}": network.classes,
            str(data): images.classes,
        }
    )
    feed = Feed(images, [network], policy)
    attributes = _plain(images.rows.drop(columns=["id", "label", "split"], errors="ignore"))
    taken = {"prediction", "logits", "probabilities", "score"} & {*attributes}
    if taken:
        raise EvidenceError(
            f"{data} has a column {min(taken)!r}, which the answers have too; rename it"
        )
    kind, schema, waiting = "", pa.schema([]), list[pa.Table]()
    n = right = 0
    with replacing(target) as temporary:
        writer = None
        for rows, (values,) in feed:
            scores, ids = network(values), images.rows["id"].iloc[rows].to_numpy()
            check_finite({str(file): scores}, ids)
            found = answered(network, scores, policy.threshold, names)
            labels = label_codes(images.rows["label"].iloc[rows], names, found.n, data, file)
            if writer is None:
                kind = _kind(network, scores)
                notes = {"network": str(file), "sha256": file_hash(file), "input": feed.steps(0)}
                schema = _schema(attributes, kind, names, notes)
                writer = pq.ParquetWriter(temporary, schema, compression="zstd")
            elif kind == "probabilities" and _kind(network, scores) != kind:
                raise EvidenceError(
                    f"{file} gave probabilities for the images before {ids[0]}, and gives others "
                    "from there on"
                )
            shown = [np.asarray(names)[c] if names else c for c in (labels, found.classes)]
            part = {"id": ids, "label": shown[0], "prediction": shown[1]}
            part |= {name: attributes[name].iloc[rows] for name in attributes}
            if kind:
                part[kind] = scores[:, 0] if kind == "score" else [*scores]
            waiting.append(pa.table([pa.array(part[f.name], f.type) for f in schema], schema))
            if sum(map(len, waiting)) >= _TOGETHER:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()
            n, right = n + len(rows), right + int((labels == found.classes).sum())
        if writer is not None:
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
            writer.close()
    return Written(n, right / n, feed.steps(0), [*network.remarks, *feed.warnings])


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Attributes without categories, which have another type in every table."""
    categories = rows.select_dtypes("category")
    return rows.astype({name: categories[name].cat.categories.dtype for name in categories})


def _kind(network: Network, scores: np.ndarray) -> str:
    """Which column holds the scores; the sum of rounded probabilities is a little off 1."""
    n = scores.shape[1]
    if network.gives_labels or n == 1:
        return "" if network.gives_labels else "score"
    off = 1e-2 + n * network.output.scale / 2
    sums = (scores >= 0).all() and (np.abs(scores.sum(1) - 1) <= off).all()
    return "probabilities" if sums else "logits"


def _schema(
    attributes: pd.DataFrame, kind: str, names: Iterable[str], notes: Mapping[str, str]
) -> pa.Schema:
    answer = pa.string() if names else pa.int64()
    scores = pa.float32() if kind == "score" else pa.list_(pa.float32())
    fields = [("id", pa.string()), ("label", answer)]
    fields += [(f.name, f.type) for f in pa.Schema.from_pandas(attributes, preserve_index=False)]
    fields += [("prediction", answer), *([(kind, scores)] if kind else [])]
    return pa.schema(fields, {**notes, "classes": "\n".join(names)})
