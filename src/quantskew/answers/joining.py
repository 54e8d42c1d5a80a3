"""Tables of answers to the same samples, joined by id; whatever does not fit is named."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from quantskew.answers.reading import (
    AnswersError,
    Codes,
    Numbers,
    Source,
    Table,
    describing,
    listed,
    read,
)
from quantskew.data.groups import (
    Grouping,
    Groups,
    attribute,
    crossed,
    divided,
    in_order,
    unit_codes,
)
from quantskew.errors import close_names
from quantskew.names import BASELINE

MOST_CLASSES, MOST_GROUPS = 10_000, 5_000


class Joined(NamedTuple):
    """Answers to the same n samples.

    ``labels`` (n,) and each of ``answers`` (n,), by the name of its table, are indices of
    ``classes``, or numbers where there are none; ``attributes`` are texts by name, ``units`` (n,)
    codes, or None. ``numbers`` are those of the tables that have any, and ``features`` the
    attributes that describe samples, where they were asked for.
    """

    ids: pa.Array
    labels: np.ndarray
    answers: dict[str, np.ndarray]
    classes: tuple[str, ...]
    attributes: dict[str, Codes]
    units: np.ndarray | None
    warnings: tuple[str, ...]
    numbers: dict[str, Numbers]
    features: tuple[str, ...]

    def divisions(self, by: Iterable[str], groups: Groups) -> list[Grouping]:
        """Divide the samples in every way asked for."""
        return [self._division(spec, groups) for spec in by]

    def _division(self, spec: str, groups: Groups) -> Grouping:
        parts = [self._attribute(name.strip(), groups) for name in spec.split("*")]
        many = math.prod(len(names) for _, names in parts)
        if many > MOST_GROUPS:
            raise AnswersError(
                f"{spec!r} has {many:,} different values, and no more than {MOST_GROUPS:,} groups "
                "are compared"
            )
        codes, named = crossed(spec, parts)
        if not named:
            raise AnswersError(f"{spec!r} is known of no sample")
        for name in named:
            if named.count(name) > 1:
                raise AnswersError(f"{spec!r}: two groups are called {name!r}; rename their values")
        return divided(spec, codes, named, groups, self.units)

    def _attribute(self, name: str, groups: Groups) -> tuple[np.ndarray, list[str]]:
        """Divide the samples by an attribute, of which only the distinct values are looked at."""
        own = self.attributes[name]
        places, present = pd.factorize(own.codes)
        # the first sample of each value, which errors name
        first = np.flatnonzero(np.diff(np.maximum.accumulate(places), prepend=-1))
        ids = self.ids.take(pa.array(first)).to_pylist()
        values = [own.names[code] if code >= 0 else None for code in present]
        distinct = pd.DataFrame({"id": ids, name: np.array(values, object)})
        codes, names = attribute(distinct, name, groups)
        return codes[places], names


def needed(by: Iterable[str], unit: str | None) -> list[str]:
    """Columns that groupings and units take, and the label."""
    parts = [part.strip() for spec in by for part in spec.split("*")]
    return list(dict.fromkeys(["label", *parts, *([unit] if unit else [])]))


def join(
    tables: Mapping[str, Source],
    *,
    by: Sequence[str],
    unit: str | None = None,
    labels: Source | None = None,
    classes: Sequence[str] = (),
    threshold: float | None = None,
    missing: float = 0.0,
    numbers: bool = False,
    features: bool = False,
    span: tuple[float, float] | None = None,
) -> Joined:
    """Read tables of answers and join them by id, in the order of the first.

    Parameters
    ----------
    tables
        By name, the reference first; label and groups may stand in any of them.
    by, unit
        Groupings (``race``, ``race*gender``), and the column of who a sample comes from.
    labels
        A table of labels and groups without answers; it may hold more samples.
    classes
        Names of the classes in the order of the outputs, where predictions, labels or lists of
        numbers go by index.
    threshold
        From which ``score`` on the second class answers.
    missing
        Largest share of the samples, 0..1, that a table may lack; they are left out and counted.
    numbers
        Whether to keep the numbers behind the answers, of the tables that have any.
    features
        Whether to read all other columns that may describe samples. One on which tables disagree
        is left out, with a warning.
    span
        Lowest and highest label, where labels and predictions are numbers and not classes.

    Raises
    ------
    AnswersError
        When a table cannot be read, or they do not fit together.
    """
    columns = needed(by, unit)
    if "id" in columns:
        raise AnswersError("id names single samples; groups and units are other columns")
    others = {} if labels is None else {_label_name(labels): labels}
    for name in [*tables, *others]:
        if name in (BASELINE, "id", "label") or (name in tables and name in others):
            raise AnswersError(f"a table is called {name!r}, which another is; rename one of them")
    if threshold is not None and not math.isfinite(threshold):
        raise AnswersError(f"--threshold {threshold}: a number from which on a score answers")
    if not 0 <= missing < 1:
        raise AnswersError(f"--missing {missing:g}: a share from 0 to below 1")
    more = _describing({**tables, **others}, columns, unit) if features else []
    texts = [*columns, *(column for column in more if column not in columns)]
    found = [
        read(source, name, texts, threshold=threshold, numbers=numbers)
        for name, source in tables.items()
    ]
    found += [read(source, name, texts, answers=False) for name, source in others.items()]
    if span is not None:
        found = [_in_one_form(one) for one in found]
    rows, warnings = _matched(found, len(tables), missing)
    values = {column: _agreed(found, rows, column) for column in columns}
    described = [*more]
    for column in texts[len(columns) :]:
        try:
            values[column] = _agreed(found, rows, column)
        except AnswersError as error:
            described.remove(column)
            warnings.append(f"{error}; it describes no slice")
    given = [one._replace(answers=one.answers.rows(r)) for one, r in zip(found, rows, strict=True)
             if one.answers is not None]  # fmt: skip
    ids = found[0].ids.take(pa.array(rows[0]))
    if (values["label"].codes < 0).any():
        row = int((values["label"].codes < 0).argmax())
        raise AnswersError(f"the label of id {ids[row].as_py()!r} is missing")
    names: tuple[str, ...] = ()
    if span is None:
        names, label, answers = _classes(given, values["label"], tuple(classes), ids)
        values["label"] = Codes(label, list(names))
    else:
        label, answers, outside = _numbers(given, values["label"], span, ids)
        warnings += outside
    units = None
    if unit is not None:
        units = unit_codes(pd.DataFrame({unit: values[unit].categorical()}), unit)
    answered = {one.name: codes for one, codes in zip(given, answers, strict=True)}
    kept = {
        one.name: one.numbers._replace(values=one.numbers.values[place])
        for one, place in zip(found, rows, strict=True)
        if one.numbers is not None
    }
    return Joined(
        ids, label, answered, names, values, units, tuple(warnings), kept, tuple(described)
    )


def _describing(sources: Mapping[str, Source], columns: list[str], unit: str | None) -> list[str]:
    """Columns of any table that may describe samples, those of groups among them."""
    known = (describing(source, name) for name, source in sources.items())
    found = [column for own in known for column in own]
    return [one for one in dict.fromkeys([*columns[1:], *found]) if one != unit]


def _label_name(labels: Source) -> str:
    return labels.name if isinstance(labels, Path) else "labels"


def _matched(
    found: list[Table], answering: int, missing: float
) -> tuple[list[np.ndarray], list[str]]:
    """Rows of each table that hold the common samples, in the order of the first table.

    Tables of answers must have the same samples, but for a share; one of labels may have more.
    """
    if len({one.ids.type for one in found}) > 1:
        found[:] = [one._replace(ids=one.ids.cast(pa.large_string())) for one in found]
    first, *others = found
    n = len(first.ids)
    everyone = np.arange(n)
    _refuse_twice(first, everyone)
    rows = [everyone]
    for one in others:
        if one.ids.equals(first.ids):
            rows.append(everyone)
            continue
        where = pc.fill_null(pc.index_in(one.ids, value_set=first.ids), -1).to_numpy()
        place = np.full(n + 1, -1)  # those that the first table lacks go to the end
        place[where] = np.arange(len(where))
        place = place[:-1]
        if ((where >= 0) & (place[where] != np.arange(len(where)))).any():
            _refuse_twice(one, np.arange(len(where)))
        _refuse_twice(one, np.flatnonzero(where < 0))
        rows.append(place)
    warnings = []
    for position, (one, place) in enumerate(zip(found, rows, strict=True)):
        lacking = np.flatnonzero(place < 0)
        more = len(one.ids) - (len(place) - len(lacking))
        for count, who, whose, samples in (
            (len(lacking), one, first, first.ids.take(pa.array(lacking[:3]))),
            (more, first, one, _first_absent(one, first, more)),
        ):
            if not count:
                continue
            said = (
                f"{who.name} lacks {count:,} of the {len(whose.ids):,} samples of {whose.name}, "
                f"such as {listed(map(repr, samples.to_pylist()), 3)}"
            )
            spare = position >= answering and who is first
            if not spare and count > missing * len(whose.ids):
                raise AnswersError(f"{said}; {100 * missing:g} % may be missing (--missing)")
            warnings.append(f"{said}; they are left out")
    common = reduce(np.logical_and, [place >= 0 for place in rows])
    if not common.any():
        raise AnswersError(f"{listed(one.name for one in found)} have no sample in common")
    return [place[common] for place in rows], warnings


def _first_absent(one: Table, first: Table, more: int) -> pa.Array:
    if not more:
        return one.ids.slice(0, 0)
    absent = pc.invert(pc.is_in(one.ids, value_set=first.ids))
    return one.ids.filter(absent).slice(0, 3)


def _refuse_twice(one: Table, rows: np.ndarray) -> None:
    """Refuse ids that stand more than once among some rows."""
    ids = one.ids.take(pa.array(rows)) if len(rows) < len(one.ids) else one.ids
    twice = rows[pc.index_in(ids, value_set=ids).to_numpy() != np.arange(len(rows))]
    if len(twice):
        raise AnswersError(
            f"{one.name}: {len(twice):,} rows have an id that another row has, such as "
            f"{listed(map(one.row, twice[:3]), 3)}"
        )


def _agreed(found: list[Table], rows: list[np.ndarray], column: str) -> Codes:
    """Values of a column, on which all tables that have it must agree."""
    have = [pair for pair in zip(found, rows, strict=True) if column in pair[0].columns]
    if not have:
        known = dict.fromkeys(name for one in found for name in one.header if name != "id")
        raise AnswersError(
            f"no table has the column {column!r}{close_names(column, known)}; there are "
            f"{listed(known)}"
        )
    first, values = have[0][0], have[0][0].columns[column].rows(have[0][1])
    for one, place in have[1:]:
        own = one.columns[column].rows(place)
        at = {name: code for code, name in enumerate(values.names)}
        same = np.array([at.get(name, -2) for name in own.names] + [-1])[own.codes]
        differ = np.flatnonzero(same != values.codes)
        if len(differ):
            row = int(differ[0])
            said = [
                repr(codes.names[codes.codes[row]]) if codes.codes[row] >= 0 else "nothing"
                for codes in (values, own)
            ]
            raise AnswersError(
                f"{column} differs in {len(differ):,} of {len(same):,} samples: "
                f"{first.name} says {said[0]}, {one.name} says {said[1]} in "
                f"{one.row(int(place[row]))}"
            )
    return values


def _classes(
    given: list[Table],
    label: Codes,
    declared: tuple[str, ...],
    ids: pa.Array,
) -> tuple[tuple[str, ...], np.ndarray, list[np.ndarray]]:
    """Names of the classes, and the label and all answers as their indices."""
    if len({*declared}) < len(declared):
        raise AnswersError(f"the classes name one twice: {listed(declared)}")
    lists = {one.name: tuple(one.answers.names) for one in given if one.answers and one.by_place}
    lists |= {one.name: tuple(one.numbers.names) for one in given if one.numbers}
    if declared:
        lists = {"--classes": declared, **lists}
    unnamed = {name for name, own in lists.items() if own == tuple(map(str, range(len(own))))}
    different = {own for name, own in lists.items() if name not in unnamed}
    if len(different) > 1 or len({*map(len, lists.values())}) > 1:
        said = "; ".join(f"{name} has {len(own)}: {listed(own)}" for name, own in lists.items())
        raise AnswersError(f"the classes or their order differ: {said}")
    named = next(iter(different), None) or next(iter(lists.values()), None)
    named = named or tuple(_of_texts(given, label))
    if len(named) < 2 or len(named) > MOST_CLASSES:
        raise AnswersError(
            f"labels and answers have {len(named):,} different values, such as {listed(named, 5)}; "
            f"they are to be classes, 2 to {MOST_CLASSES:,}"
        )
    codes = _placed(label, named, {*label.names}, "the label", ids)
    by_name = [one.answers.names for one in given if one.answers and not one.by_place]
    answers = []
    for one in given:
        assert one.answers is not None
        if one.by_place:
            answers.append(one.answers.codes)
        else:
            what = f"the prediction of {one.name}"
            answers.append(_placed(one.answers, named, {*chain(*by_name)}, what, ids))
    return named, codes, answers


def _in_one_form(table: Table) -> Table:
    """Write a label that is a number in one way, so that 31 and 31.0 agree."""
    if "label" not in table.columns:
        return table
    codes, names = table.columns["label"]
    values = pd.to_numeric(pd.Series(names, dtype=object), errors="coerce").to_numpy(float)
    if np.isnan(values).any():
        return table  # which _numbers refuses
    unique, places = np.unique(values, return_inverse=True)
    label = Codes(np.append(places, -1)[codes], [*map(str, unique.tolist())])
    return table._replace(columns={**table.columns, "label": label})


def _numbers(
    given: list[Table], label: Codes, span: tuple[float, float], ids: pa.Array
) -> tuple[np.ndarray, list[np.ndarray], list[str]]:
    """True numbers, those of each table, and which of these lie outside of the legal ones."""

    def values(codes: Codes, what: str) -> np.ndarray:
        numbers = pd.to_numeric(pd.Series(codes.names, dtype=object), errors="coerce")
        own = np.asarray(numbers.to_numpy(float)[codes.codes])
        if not np.isfinite(own).all():
            row = int((~np.isfinite(own)).argmax())
            text = codes.names[codes.codes[row]]
            raise AnswersError(f"{what} of id {ids[row].as_py()!r} is {text!r}, which is no number")
        return own

    low, high = span
    truth = values(label, "the label")
    if ((truth < low) | (truth > high)).any():
        row = int(((truth < low) | (truth > high)).argmax())
        raise AnswersError(
            f"the label of id {ids[row].as_py()!r} is {truth[row]:g}, outside of {low:g} to "
            f"{high:g}; state the range of all labels that there may be"
        )
    answers, outside = [], []
    for one in given:
        assert one.answers is not None
        if one.by_place:
            raise AnswersError(
                f"{one.name}: a predicted number stands in the column prediction; it has classes"
            )
        answers.append(values(one.answers, f"the prediction of {one.name}"))
        if count := int(((answers[-1] < low) | (answers[-1] > high)).sum()):
            outside.append(
                f"{count:,} predictions of {one.name} lie outside of {low:g} to {high:g}; an error "
                f"counts as at most {high - low:g}"
            )
    return truth, answers, outside


def _of_texts(given: list[Table], label: Codes) -> list[str]:
    """Names of classes, where only labels and answers say them.

    What one table alone answers and nothing is labelled with is a class that was written otherwise
    as often as a rare one, and refused; so is a reference that mostly answers what no label is.
    """
    known = {*label.names}
    said = [{*one.answers.names} for one in given if one.answers is not None]
    for one in given:
        assert one.answers is not None
        odd = [name for name in one.answers.names if name not in known]
        alone = [name for name in odd if len(given) > 1 and sum(name in s for s in said) == 1]
        share = np.isin(one.answers.codes, [one.answers.names.index(name) for name in odd]).mean()
        if alone or share > 0.1:
            raise AnswersError(
                f"{one.name} answers {listed(map(repr, alone or odd), 5)} "
                f"({100 * share:.1f} % of its answers are no label), and the labels are "
                f"{listed(map(repr, in_order(label.names)), 12)}"
                f"{close_names((alone or odd)[0], known)}. If these are classes, name all of them "
                "in the order of the outputs: --classes a,b,c"
            )
    return in_order([*known.union(*said)])


def _placed(
    codes: Codes, classes: tuple[str, ...], said: set[str], what: str, ids: pa.Array
) -> np.ndarray:
    """Indices of classes, of names of classes or of indices written as texts.

    What all tables ``said`` together tells which of both these are, where a class is called 1.
    """
    place = {name: index for index, name in enumerate(classes)}
    indices = {str(index): index for index in range(len(classes))}
    for texts in (said, {*codes.names}):
        if texts <= {*place}:
            break
        if texts <= {*indices}:
            place = indices
            break
    for code, name in enumerate(codes.names):
        if name not in place:
            row = int((codes.codes == code).argmax())
            unnamed = classes == tuple(map(str, range(len(classes))))
            hint = "; name them in the order of the outputs: --classes a,b,c" if unnamed else ""
            raise AnswersError(
                f"{what} of id {ids[row].as_py()!r} is {name!r}, which is none of the classes "
                f"{listed(classes)}, nor an index of them{close_names(name, classes)}{hint}"
            )
    return np.asarray(np.array([place[name] for name in codes.names])[codes.codes])
