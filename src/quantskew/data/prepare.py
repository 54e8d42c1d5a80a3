"""From a published data set to its table of samples: decode, judge, split, thin, measure."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from quantskew.data import quality, splits
from quantskew.data.decoding import decode_all, resize_and_crop
from quantskew.data.groups import GroupError, group_codes, in_order
from quantskew.data.source import Source, height_and_width
from quantskew.data.sources import Raw, SourceError, read
from quantskew.data.sources.layout import SPLITS
from quantskew.data.sources.registry import RESERVED, as_text, need
from quantskew.data.storing import Prepared
from quantskew.errors import named

_MANY = 100  # groups of an attribute: one of more names samples instead of dividing them
_AT = "\0at"  # place of the pixels, while rows are moved about: no name a table has


def prepare(name: str, source: Source, root: str | Path, *, draw: bool = True) -> Prepared:
    """Read a data set, the entry ``name`` of ``sources:``, and make its table of samples.

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

    ``root`` is the folder of downloads, and of a temporary file while images are decoded. Without
    ``draw`` no split is drawn: published parts are taken as they are, and without them all samples
    are of test.

    Raises
    ------
    SourceError
        When the set cannot be read, has no legal split, more than ``source.max_rejects`` of it is
        unusable, or the imbalance does not fit its classes.
    """
    raw = read(name, source, root)
    label, draw = raw.label, draw and not raw.imageless
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
    size = height_and_width(source.size or raw.size)
    channels, positions = source.channels or raw.channels, np.flatnonzero(wanted)
    total = len(positions)
    if raw.imageless:  # no two samples have the same pixels
        size = (0, 0)
        pixels, digests = np.zeros((total, channels, *size), np.uint8), np.arange(total)
        unusable: Mapping[int, str] = {}
    else:
        images = (image for image, want in zip(raw.images, wanted, strict=True) if want)
        middle = source.resize and partial(
            resize_and_crop,
            resize=source.resize,
            crop=size,
            interpolation=source.interpolation,
        )
        pixels, digests, unusable = decode_all(
            images, total, size=size, channels=channels, native=raw.native, fit=middle or None,
            folder=root, title=name,
        )  # fmt: skip
    for position, reason in unusable.items():
        reasons[positions[position]] = reason
    rejects = _rejects(name, source, raw, rows["id"], reasons)
    everyone, left_by = rows[~left_out], pd.Series(reasons, rows["id"])[~left_out]
    rows.loc[wanted, _AT] = np.arange(len(positions))
    rows = rows[pd.isna(reasons) & ~left_out].astype({_AT: int})
    rows = rows.sort_values(["split", "id"], ignore_index=True)  # a first twin is one of test
    further = [str(c) for c in rows if c not in (*RESERVED, label, raw.together, _AT)]
    checked = {label: rows["label"], **{name: rows[name] for name in further}}
    twins = quality.find_twins(digests[rows[_AT]], checked)
    keep = _without_twins(rows["split"], twins, label, source.duplicates)
    found = quality.findings(twins, rows, keep)

    left_by[rows["id"][~keep]] = "same pixels"
    rows = rows[keep].reset_index(drop=True)
    if rows.empty:
        raise SourceError(
            f"{name}: no sample is left: {len(rejects)} are unusable, {left_out.sum()} are for "
            f"validation, and duplicates: {source.duplicates} leaves out {(~keep).sum()}"
        )
    group = twins.group[keep] if source.duplicates == "together" else np.arange(len(rows))
    if draw:
        rows, how = _split(name, rows, group, source, raw, classes)
    elif "split" in raw.rows:
        how = {"by": "published"}
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
    rows = rows.drop(columns=_AT)
    if raw.measure:
        with named(f"sources.{name}: what its reader measures", SourceError):
            measured = _measured(raw.measure, pixels, where)
            if both := {*measured} & {*rows}:
                raise SourceError(f"{name}: its reader measures {both.pop()!r}, which is known")
            rows = rows.assign(**measured)
    metadata = {
        "dataset": name,
        "source": source.reader or name,
        "page": raw.terms.page,
        "licence": raw.terms.licence,
        "citation": raw.terms.citation,
        "classes": classes,
        "label": label,
        "shape": (channels, *size),
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
        "left_out": _left_out(everyone, left_by.to_numpy(), [label, *further], classes),
        "absent": raw.absent,
    }
    notes = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    return Prepared(rows, pixels, where, pd.concat([rejects, found], ignore_index=True), notes)


def _judged(raw: Raw, name: str, label: str) -> tuple[pd.DataFrame, tuple[str, ...], np.ndarray]:
    """Labels as indices, splits in the words of the table, and what is wrong with a row."""
    rows = raw.rows.reset_index(drop=True).copy()
    if rows.empty:
        raise SourceError(f"{name}: no samples")
    for column in rows:
        with named(f"{name}: telling the values of {column!r} apart", SourceError):
            rows[column].nunique()
    rows["id"] = rows["id"].map(as_text).astype(object)
    unnamed = rows["id"].isna().to_numpy()
    rows.loc[unnamed, "id"] = [f"row {row + 1}" for row in np.flatnonzero(unnamed)]
    times = rows["id"].value_counts()
    if times.iloc[0] > 1:
        raise SourceError(
            f"{name}: {(times > 1).sum()} ids stand more than once, {times.index[0]!r} "
            f"{times.iloc[0]} times; an id names one image. If it is of a person with several "
            "images, call that column otherwise and give it as together"
        )
    reasons = np.full(len(rows), None, object)
    reasons[unnamed] = "no id"
    given = rows["label"].map(as_text)
    classes = raw.classes or tuple(in_order(given.dropna().unique().tolist()))
    if len(classes) < 2:
        raise SourceError(f"{name}: the label {label!r} is {''.join(classes) or None!r} for all")
    codes = given.map({text: code for code, text in enumerate(classes)})
    legal = ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
    for row in np.flatnonzero(codes.isna()):
        text = given.iloc[row]
        reasons[row] = "no label" if pd.isna(text) else f"label {text!r} is none of {legal}"
    rows["label"] = codes.fillna(-1).astype(np.int32)
    if "split" not in rows:
        return rows.assign(split=""), classes, reasons
    words = rows["split"]
    rows["split"] = words.map(lambda word: SPLITS.get(str(word).strip().lower()))
    for row in np.flatnonzero(rows["split"].isna()):
        reasons[row] = f"split {words.iloc[row]!r} is none of {', '.join(sorted(SPLITS))}"
    return rows, classes, reasons


def _left_out(
    rows: pd.DataFrame, reasons: np.ndarray, attributes: list[str], classes: tuple[str, ...]
) -> dict[str, dict[str, dict[str, int]]]:
    """Count by attribute, group and kind of reason what is left out; ``of`` counts the group."""
    kinds = pd.Series(reasons, dtype=object).str.partition(":")[0]
    table = rows.assign(**{attributes[0]: rows["label"].map(dict(enumerate(classes)))})
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for attribute in dict.fromkeys(attributes):
        try:
            codes, groups = group_codes(table, attribute)
        except GroupError:  # not one to divide people by as it stands
            continue
        for code in np.unique(codes[kinds.notna()]) if len(groups) <= _MANY else ():
            of = {"of": int((codes == code).sum())}
            lost = kinds[codes == code].value_counts().sort_index()
            counts.setdefault(attribute, {})[groups[code]] = of | lost.to_dict()
    return counts


def _rejects(
    name: str, source: Source, raw: Raw, ids: "pd.Series[str]", reasons: np.ndarray
) -> pd.DataFrame:
    bad = pd.notna(reasons)
    pairs = [*raw.rejects, *zip(ids[bad], reasons[bad], strict=True)]
    rejects = pd.DataFrame(pairs, columns=["id", "reason"]).assign(kept=False)
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
    """Which of the samples stay, those of test being first."""
    sides = split.to_numpy()
    stays: dict[str, np.ndarray] = {
        "drop": (twins.first == np.arange(len(sides))) & ~twins.conflicts[label],
        "together": (sides != "train") | (sides[twins.first] != "test"),
        "keep": np.ones(len(sides), bool),
    }
    return stays[policy]


def _split(
    name: str,
    rows: pd.DataFrame,
    group: np.ndarray,
    source: Source,
    raw: Raw,
    classes: tuple[str, ...],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    parts = {*rows["split"]}
    if parts == {"train", "test"}:
        if source.test_fraction:
            raise SourceError(f"sources.{name}.test_fraction: a split is published, none is drawn")
        sides = rows.groupby(raw.together)["split"].nunique() if raw.together else pd.Series()
        if (sides > 1).any():
            raise SourceError(
                f"{name}: {raw.together} {sides.idxmax()!r} is in training and in test, and so are "
                f"{(sides > 1).sum() - 1} more; mend the split column, or leave out together"
            )
        return rows, {"by": "published"}
    if "split" in raw.rows and not source.test_fraction:
        raise SourceError(
            f"{name}: its published split has no {({'train', 'test'} - parts).pop()} sample; get "
            "the rest of it, give validation: test if validation samples are to test, or "
            "test_fraction to draw a split of what is there"
        )
    fraction = source.test_fraction or raw.test_fraction
    keys = [group]
    how: dict[str, Any] = {"by": "stratified", "test_fraction": fraction, "seed": source.split_seed}
    if raw.together:
        codes = pd.factorize(rows[raw.together])[0]
        keys.append(np.where(codes < 0, len(rows) + np.arange(len(rows)), codes))
        sizes = np.unique(keys[1], return_counts=True)[1]
        how["together"] = {"by": raw.together, "units": len(sizes), "largest": int(sizes.max())}
    units = splits.units(*keys)
    labels = rows["label"].to_numpy()
    test = splits.stratified(labels, units, fraction, source.split_seed)
    for label in np.unique(labels):
        if test[labels == label].all() or not test[labels == label].any():
            of = "one sample" if not raw.together else f"samples of too few {raw.together}"
            raise SourceError(
                f"{name}: class {classes[label]!r} has {of} and cannot be in training and in test; "
                "leave the class out, try another split_seed, or give a split column"
            )
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
    codes = pd.Categorical.from_codes(rows["label"], pd.Index(classes))
    return dict(pd.crosstab(rows["split"].to_numpy(), codes, dropna=False).to_dict("index"))


def _measured(
    measure: Callable[[np.ndarray], Mapping[str, Any]], pixels: np.ndarray, where: np.ndarray
) -> dict[str, Any]:
    parts = [measure(pixels[where[at : at + 4096]]) for at in range(0, len(where), 4096)]
    return {name: union_categoricals([part[name] for part in parts]) for name in parts[0]}
