"""From a published data set to its table of samples: decode, judge, split, thin, measure."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from quantskew.data import quality, splits
from quantskew.data.decoding import decode_all
from quantskew.data.source import Source
from quantskew.data.sources import Raw, SourceError, read
from quantskew.data.sources.own import need
from quantskew.data.sources.registry import RESERVED
from quantskew.data.storing import Prepared

_AT = "\0at"  # place of the pixels, while rows are moved about: no name a table has
_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
}


def prepare(name: str, source: Source, root: str | Path, *, draw: bool = True) -> Prepared:
    """Read a data set and make its table of samples.

    Every image is decoded once to ``source.size``. What cannot be a sample is listed in the rejects
    with its reason. Without a published split, a stratified one is drawn by ``source.split_seed``.
    The training part is then thinned to ``source.imbalance``.

    Samples with equal pixels leak from training into test. ``source.duplicates`` says what is done:

    ============ ===================================================================
    together     a drawn split keeps them on one side; where a published split parts
                 them, the training sample is left out
    drop         the first of them stays (of test, where it has one), or none if they
                 disagree on the label
    keep         nothing
    ============ ===================================================================

    Parameters
    ----------
    name
        Key of ``sources:``.
    source
        Its entry.
    root
        Folder of downloads, and of a temporary file while the images are decoded.
    draw
        Whether to draw a split where none is published; else all samples are of test.

    Raises
    ------
    SourceError
        When the set cannot be read, has no legal split, more than ``source.max_rejects`` of it is
        unusable, or the imbalance does not fit its classes.
    """
    raw = read(name, source, root)
    label = raw.label
    if source.label not in (None, label):
        raise SourceError(f"sources.{name}.label: {source.label!r}; the label is {label!r} here")
    rows, classes, reasons = _judged(raw, name, label)
    if source.attributes is not None:
        need(rows, f"sources.{name}", *source.attributes)
        chosen = {*RESERVED, label, raw.together, *source.attributes}
        rows = rows[[column for column in rows if column in chosen]]
    if source.validation == "leave_out":
        left_out = (rows["split"] == "validation").to_numpy()
    else:
        left_out = np.zeros(len(rows), bool)
        rows["split"] = rows["split"].replace("validation", source.validation)

    wanted = pd.isna(reasons) & ~left_out
    Path(root).mkdir(parents=True, exist_ok=True)
    shape = (source.channels or raw.channels, source.size or raw.size, source.size or raw.size)
    pixels, digests, unusable = decode_all(
        (image for image, want in zip(raw.images, wanted, strict=True) if want),
        int(wanted.sum()),
        size=shape[1],
        channels=shape[0],
        native=raw.native,
        folder=root,
        title=name,
    )
    positions = np.flatnonzero(wanted)
    for position, reason in unusable.items():
        reasons[positions[position]] = reason
    rejects = _rejects(name, source, raw, rows["id"], reasons)

    rows.loc[wanted, _AT] = np.arange(len(positions))
    rows = rows[pd.isna(reasons) & ~left_out].astype({_AT: int})
    rows = rows.sort_values(["split", "id"], ignore_index=True)  # a first twin is one of test
    further = [str(c) for c in rows if c not in (*RESERVED, label, raw.together, _AT)]
    checked = {label: rows["label"], **{name: rows[name] for name in further}}
    twins = quality.find_twins(digests[rows[_AT]], checked)
    keep = _without_twins(rows["split"], twins, label, source.duplicates)
    found = quality.findings(twins, rows, keep)

    rows = rows[keep].reset_index(drop=True)
    group = twins.group[keep] if source.duplicates == "together" else np.arange(len(rows))
    if draw or "split" in raw.rows:
        rows, how = _split(name, rows, group, source, raw, classes)
    else:
        rows, how = rows.assign(split="test"), {"by": "none"}
    fractions = _fractions(name, source, raw, classes)
    before = _counts(rows, classes)
    if fractions:
        train = np.flatnonzero(rows["split"] == "train")
        stay = splits.thin(rows["label"].to_numpy()[train], fractions, source.split_seed)
        rows = rows.drop(index=train[~stay])
    rows = rows.sort_values(["split", "id"], ignore_index=True)
    where = rows[_AT].to_numpy()
    rows = rows.drop(columns=[_AT, *([raw.together] if raw.together else [])])
    if raw.measure:
        rows = rows.assign(**_measured(raw.measure, pixels, where))
    metadata = {
        "dataset": name,
        "source": source.reader or name,
        "page": raw.terms.page,
        "licence": raw.terms.licence,
        "citation": raw.terms.citation,
        "classes": classes,
        "label": label,
        "shape": shape,
        "orders": {
            name: rows[name].cat.categories.tolist()
            for name in rows
            if isinstance(rows[name].dtype, pd.CategoricalDtype)
        },
        "split": how,
        "counts": _counts(rows, classes),
        "imbalance": fractions,
        "counts_before_thinning": before,
        "validation_left_out": int(left_out.sum()),
        "duplicates": {"policy": source.duplicates, **twins.summary()},
        "rejects": len(rejects) + int((~keep).sum()),
    }
    return Prepared(
        rows,
        pixels,
        where,
        pd.concat([rejects, found], ignore_index=True),
        {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()},
    )


def _text(value: Any) -> str | None:
    if pd.isna(value):
        return None
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value) if whole else value)


def _judged(raw: Raw, name: str, label: str) -> tuple[pd.DataFrame, tuple[str, ...], np.ndarray]:
    """Labels as indices, splits in the words of the table, and what is wrong with a row."""
    rows = raw.rows.reset_index(drop=True).copy()
    twice = rows["id"][rows["id"].duplicated()]
    if rows.empty or len(twice):
        problem = f"the id {twice.iloc[0]!r} stands more than once" if len(twice) else "no samples"
        raise SourceError(f"{name}: {problem}")
    reasons = np.full(len(rows), None, object)
    given = rows["label"].map(_text)
    classes = raw.classes or _sorted(given.dropna().unique().tolist())
    if len(classes) < 2:
        raise SourceError(f"{name}: the label {label!r} is {''.join(classes) or None!r} for all")
    codes = given.map({text: code for code, text in enumerate(classes)})
    for row in np.flatnonzero(codes.isna()):
        legal = ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
        text = given.iloc[row]
        reasons[row] = "no label" if pd.isna(text) else f"label {text!r} is none of {legal}"
    rows["label"] = codes.fillna(-1).astype(np.int32)
    if "split" not in rows:
        return rows.assign(split=""), classes, reasons
    words = rows["split"]
    rows["split"] = words.map(lambda word: _SPLITS.get(str(word).strip().lower()))
    for row in np.flatnonzero(rows["split"].isna()):
        legal = ", ".join(sorted(_SPLITS))
        reasons[row] = f"split {words.iloc[row]!r} is none of {legal}"
    return rows, classes, reasons


def _sorted(labels: list[str]) -> tuple[str, ...]:
    try:
        return tuple(sorted(labels, key=float))
    except ValueError:
        return tuple(sorted(labels))


def _rejects(
    name: str, source: Source, raw: Raw, ids: "pd.Series[str]", reasons: np.ndarray
) -> pd.DataFrame:
    bad = pd.notna(reasons)
    rejects = pd.DataFrame(
        [*raw.rejects, *zip(ids[bad], reasons[bad], strict=True)], columns=["id", "reason"]
    ).assign(kept=False)
    total = len(ids) + len(raw.rejects)
    if len(rejects) > source.max_rejects * total or len(rejects) == total:
        first = "\n".join(f"  {id}: {reason}" for id, reason, _ in rejects.head(5).to_numpy())
        raise SourceError(
            f"{name}: {len(rejects)} of {total} samples are unusable, "
            f"more than sources.{name}.max_rejects = {source.max_rejects:g} allows. "
            f"The first are\n{first}"
        )
    return rejects


def _without_twins(
    split: "pd.Series[str]", twins: quality.Twins, label: str, policy: str
) -> np.ndarray:
    """N booleans: what stays of the samples, sorted with those of test first."""
    first = twins.first == np.arange(len(split))
    if policy == "drop":
        return first & ~twins.conflicts[label]
    if policy == "together":
        parted = (split == "train").to_numpy() & (split.to_numpy()[twins.first] == "test")
        return ~parted
    return np.ones(len(split), bool)


def _split(
    name: str,
    rows: pd.DataFrame,
    group: np.ndarray,
    source: Source,
    raw: Raw,
    classes: tuple[str, ...],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    if "split" in raw.rows:
        missing = {"train", "test"} - set(rows["split"])
        if missing:
            raise SourceError(f"{name}: its split column names no {missing.pop()} sample")
        if source.test_fraction:
            raise SourceError(f"sources.{name}.test_fraction: a split is published, none is drawn")
        sides = rows.groupby(raw.together)["split"].nunique() if raw.together else pd.Series()
        if (sides > 1).any():
            raise SourceError(
                f"{name}: {raw.together} {sides.idxmax()!r} is in training and in test, and so are "
                f"{(sides > 1).sum() - 1} more; mend the split column, or leave out together"
            )
        return rows, {"by": "published"}
    fraction = source.test_fraction or raw.test_fraction
    keys = [group]
    if raw.together:
        codes = pd.factorize(rows[raw.together])[0]
        keys.append(np.where(codes < 0, len(rows) + np.arange(len(rows)), codes))
    units = splits.units(*keys)
    labels = rows["label"].to_numpy()
    # as the drawing counts: a unit of several classes is one of the class of its first sample
    first = labels[np.unique(units, return_index=True)[1]]
    for label in np.unique(labels):
        if (first == label).sum() < 2:
            raise SourceError(
                f"{name}: class {classes[label]!r} has one sample (or one set that must stay "
                "together and does not begin with another class), which cannot be in training and "
                "in test; leave the class out or give a split column"
            )
    test = splits.stratified(labels, units, fraction, source.split_seed)
    how = {"by": "stratified", "test_fraction": fraction, "seed": source.split_seed}
    return rows.assign(split=np.where(test, "test", "train")), how


def _fractions(
    name: str, source: Source, raw: Raw, classes: tuple[str, ...]
) -> tuple[float, ...] | None:
    given = source.imbalance or raw.imbalance
    fractions = splits.PAPER_FRACTIONS if isinstance(given, str) else given
    if fractions and len(fractions) != len(classes):
        raise SourceError(
            f"sources.{name}.imbalance: {len(fractions)} fractions for {len(classes)} classes "
            f"({', '.join(classes[:12])}); give one a class"
        )
    return fractions


def _counts(rows: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, dict[str, int]]:
    table = pd.crosstab(rows["split"], rows["label"]).reindex(
        columns=range(len(classes)), fill_value=0
    )
    return {
        str(split): dict(zip(classes, line, strict=True))
        for split, line in zip(table.index, table.to_numpy().tolist(), strict=True)
    }


def _measured(
    measure: Callable[[np.ndarray], Mapping[str, Any]], pixels: np.ndarray, where: np.ndarray
) -> dict[str, Any]:
    parts = [measure(pixels[where[at : at + 4096]]) for at in range(0, len(where), 4096)]
    return {name: union_categoricals([part[name] for part in parts]) for name in parts[0]}
