"""Who is compared: attributes, bins of numbers, the label, and intersections of them."""

import re
from collections.abc import Iterable
from functools import reduce
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from pydantic import AfterValidator, Field, field_validator

from quantskew.errors import UserError, close_names
from quantskew.names import WHOLE
from quantskew.sections import Count, Section
from quantskew.units import numbered, units_by_group

UNKNOWN = "unknown"
_MANY = 20
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")


def _rising(bins: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    for attribute, edges in bins.items():
        if not edges or not all(a < b for a, b in pairwise((-np.inf, *edges))):
            raise ValueError(f"the bin edges of {attribute!r} must be rising numbers")
    return bins


def _named_once(specs: tuple[str, ...]) -> tuple[str, ...]:
    if len({*specs}) < len(specs):
        raise ValueError("a grouping is given more than once")
    return specs


Bins = Annotated[dict[str, tuple[float, ...]], AfterValidator(_rising)]
"""Lower edges of the groups of numeric attributes."""
Specs = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1),
    AfterValidator(_named_once),
]
"""Ways of dividing samples, such as ``race`` and ``race*gender``."""


class Groups(Section):
    """Who is compared (``groups:``)."""

    minimum: Count = 30
    unknown: Literal["group", "leave_out"] = "group"
    by: dict[str, Specs] = {}
    unit: dict[str, str] = {}
    bins: Bins = {}

    @field_validator("bins")
    @classmethod
    def _ages_have_bins(cls, bins: Bins) -> Bins:
        return {"age": (0, 19, 40, 60), **bins}

    def edges(self, *groupings: str) -> dict[str, tuple[float, ...]]:
        """Bins that some groupings need; others may change, and nothing is computed anew."""
        named = {name.strip() for grouping in groupings for name in grouping.split("*")}
        return {name: edges for name, edges in self.bins.items() if name in named}

    def needed_by(self, *groupings: str) -> "Groups":
        """Return what some groupings depend on, without the other groupings and bins."""
        return self.model_copy(update={"by": {}, "unit": {}, "bins": self.edges(*groupings)})


class GroupError(UserError, ValueError):
    """A grouping that the samples cannot be divided by."""


class ByGroup(Section):
    """A setting that acts on groups of the samples; ``by`` names the grouping."""

    by: str = "label"

    def codes(self, attributes: pd.DataFrame) -> np.ndarray:
        """Group of each row of a table of attributes, (n,); see :func:`group_codes`."""
        return group_codes(attributes, self.by)[0]


def group_codes(
    table: pd.DataFrame, spec: str, groups: Groups | None = None
) -> tuple[np.ndarray, list[str]]:
    """Divide samples into groups.

    The ``table`` has a row a sample and a column an attribute; ``label`` is the class. ``spec`` is
    an attribute (``"race"``), or several joined by ``*``, which are intersected
    (``"race*gender"``). Of ``groups``, ``bins`` gives the lower edges of the groups of a numeric
    attribute, whose values may be written as texts: (0, 19, 40, 60) makes 0-18, 19-39, 40-59, 60+.
    ``unknown`` says whether samples without a value are a group named ``unknown`` or are left out.

    Returns codes, (n,), of which −1 is left out, and their names, in the order of the categories,
    numbers or letters; every group has a sample.

    Raises
    ------
    GroupError
        When there is no such attribute, it is a number of many values without bins, a value of
        one with bins is no number, or a group bears the name that the tables give to everyone.

    Examples
    --------
    >>> people = pd.DataFrame({"age": [3, 71, 20], "sex": ["f", None, "f"]})
    >>> group_codes(people, "age*sex")
    (array([0, 2, 1]), ['0-18*f', '19-39*f', '60+*unknown'])
    """
    groups = groups or Groups()
    return crossed(spec, [attribute(table, name.strip(), groups) for name in spec.split("*")])


def crossed(spec: str, parts: list[tuple[np.ndarray, list[str]]]) -> tuple[np.ndarray, list[str]]:
    """Intersect divisions of the same samples; see :func:`group_codes`."""
    codes, names = reduce(_crossed, parts)
    inside = codes >= 0
    present = np.flatnonzero(np.bincount(codes[inside], minlength=len(names)))
    places = np.full(len(names) + 1, -1)  # of no group, which is code −1, the last
    places[present] = np.arange(len(present))
    names = [names[code] for code in present]
    if WHOLE in names:
        raise GroupError(f"{spec!r} has the value {WHOLE!r}, which is everyone here; rename it")
    return places[codes], names


class Grouping(NamedTuple):
    """A way of dividing the test samples."""

    attribute: str
    codes: np.ndarray
    names: list[str]
    counted: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Samples of each group, (G,)."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))


def groupings(
    attributes: pd.DataFrame, specs: Iterable[str], groups: Groups, units: np.ndarray | None = None
) -> list[Grouping]:
    """Divide samples, one row of ``attributes`` each, in every way asked for (``specs``).

    With ``units``, (n,) codes of :func:`unit_codes`, a group needs ``groups.minimum`` units and not
    samples to be counted.
    """
    return [divided(spec, *group_codes(attributes, spec, groups), groups, units) for spec in specs]


def divided(
    spec: str, codes: np.ndarray, names: list[str], groups: Groups, units: np.ndarray | None
) -> Grouping:
    """Say which groups of a division are ``counted``; others are shown, but in no maximum."""
    if len(codes) and not names:
        raise GroupError(f"no sample has a value of {spec!r}, and those without are left out")
    counted = units_by_group(codes, len(names), units) >= groups.minimum
    return Grouping(spec, codes, names, counted)


def unit_codes(attributes: pd.DataFrame, column: str | None) -> np.ndarray | None:
    """Number the units (persons, videos) that samples come from, as ``column`` names them, (n,).

    A sample without a unit is one of its own. The result is ``None`` where ``column`` is; a column
    that is not there is a :class:`GroupError`.

    Examples
    --------
    >>> unit_codes(pd.DataFrame({"person": ["a", "b", None, "a"]}), "person")
    array([0, 1, 2, 0])
    """
    if column is None:
        return None
    if column not in attributes:
        known = [str(name) for name in attributes]
        raise GroupError(
            f"unit: the samples have no column {column!r}{close_names(column, known)}; there are "
            f"{', '.join(known)}"
        )
    return numbered(attributes[column])


def attribute(table: pd.DataFrame, name: str, groups: Groups) -> tuple[np.ndarray, list[str]]:
    """Divide samples by one attribute; see :func:`group_codes`. Not every group has a sample."""
    if name not in table:
        known = [str(column) for column in table if column not in ("id", "split", "image")]
        raise GroupError(
            f"no attribute is named {name!r}{close_names(name, known)}; there are "
            f"{', '.join(known)}, and intersections such as {'*'.join(known[:2])!r}"
        )
    values = table[name]
    numbers = _as_numbers(table, name, groups) if name in groups.bins else None
    if numbers is not None:
        codes, names = _binned(numbers, groups.bins[name])
    elif isinstance(values.dtype, pd.CategoricalDtype):
        codes, names = values.cat.codes.to_numpy(), [str(v) for v in values.cat.categories]
    else:
        codes, uniques = pd.factorize(values, sort=True)
        names = [_written(v) if isinstance(v, float) else str(v) for v in uniques]
        if name != "label" and len(names) > _MANY and all(map(_NUMBER.fullmatch, names)):
            raise GroupError(
                f"attribute {name!r} is a number of {len(names)} different values; give the "
                f"lower edges of its groups, e.g. bins: {{{name}: [0, 19, 40, 60]}}"
            )
        if not is_numeric_dtype(values):
            places = {name: place for place, name in enumerate(in_order([*dict.fromkeys(names)]))}
            codes, names = np.array([*map(places.get, names), -1])[codes], [*places]
    codes = codes.astype(np.int64)
    if groups.unknown == "group" and (codes < 0).any():
        if UNKNOWN not in names:
            names = [*names, UNKNOWN]
        codes = np.where(codes < 0, names.index(UNKNOWN), codes)
    return codes, names


def in_order(texts: list[str]) -> list[str]:
    """Sort texts by number if each is written as one, without leading zeros; else by letter."""
    return sorted(texts, key=float if all(map(_NUMBER.fullmatch, texts)) else str)


def _as_numbers(table: pd.DataFrame, name: str, groups: Groups) -> "pd.Series[float] | None":
    """Numbers of an attribute that bins divide; None where the edges given by default fit none."""
    values = table[name]
    if is_numeric_dtype(values) and not is_bool_dtype(values):
        return values
    numbers = pd.to_numeric(values.astype(object), errors="coerce")
    wrong = np.flatnonzero(numbers.isna() & values.notna())
    if len(wrong) == values.notna().sum() and groups.bins[name] == Groups().bins.get(name):
        return None
    if len(wrong):
        row = f"sample {table['id'].iloc[wrong[0]]!r}" if "id" in table else f"row {wrong[0] + 1}"
        raise GroupError(
            f"attribute {name!r} has bins, and {values.iloc[wrong[0]]!r} of {row} (and of "
            f"{len(wrong) - 1} more) is no number; leave empty what is not known"
        )
    return numbers


def _binned(values: "pd.Series[float]", edges: tuple[float, ...]) -> tuple[np.ndarray, list[str]]:
    numbers = values.to_numpy(float, na_value=np.nan)
    codes = np.where(np.isnan(numbers), -1, np.digitize(numbers, edges))
    known = numbers[~np.isnan(numbers)]
    whole = bool((known == np.floor(known)).all()) and all(float(e).is_integer() for e in edges)
    names = [f"below {_written(edges[0])}"]
    for low, high in pairwise(edges):
        last = f"-{_written(high - 1)}" if whole else f" to {_written(high)}"
        names.append(f"{_written(low)}{last}")
    return codes, [*names, f"{_written(edges[-1])}+"]


def _written(number: float) -> str:
    """Write a number with all digits that tell it from others."""
    return np.format_float_positional(number, trim="-")


def _crossed(
    left: tuple[np.ndarray, list[str]], right: tuple[np.ndarray, list[str]]
) -> tuple[np.ndarray, list[str]]:
    codes = left[0] * len(right[1]) + right[0]
    names = [f"{a}*{b}" for a in left[1] for b in right[1]]
    return np.where((left[0] < 0) | (right[0] < 0), -1, codes), names
