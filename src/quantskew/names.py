"""How tables name the networks of a study.

A *variant* is a network in a state that one could ship: a method at a width, for a seed. A *point*
is all seeds of it together.
"""

from typing import NamedTuple

import pandas as pd

BASELINE = "fp32"
"""Name of the method of networks before any method."""
FULL_PRECISION = 32
UNKNOWN_WIDTH = 0
"""Width of a network of which only the answers are known."""
WHOLE = "all"
"""Name of the group of all samples together."""


class Variant(NamedTuple):
    """The columns that name a network in every table."""

    dataset: str
    model: str
    seed: int
    method: str
    bits: int

    @property
    def stem(self) -> str:
        """Name of its files."""
        width = "" if self.bits == UNKNOWN_WIDTH else f"-{self.bits}bit"
        return f"{self.method}{width}-seed{self.seed}"

    def name(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Add the columns of the variant to rows of a table."""
        return rows.assign(**self._asdict())


class Point(NamedTuple):
    """A method at a width on a data set and a model: all its seeds together."""

    dataset: str
    model: str
    method: str
    bits: int


def width_name(bits: int) -> str:
    """Name of a width as people say it.

    Examples
    --------
    >>> [width_name(bits) for bits in (32, 16, 4, UNKNOWN_WIDTH)]
    ['fp32', 'fp16', 'int4', 'as given']
    """
    if bits == UNKNOWN_WIDTH:
        return "as given"
    return f"fp{bits}" if bits >= 16 else f"int{bits}"


def state_name(method: str, bits: int) -> str:
    """Name of a state of the one method that is spoken of: its width, or else what made it.

    Answers of other programs have a width that is not known.

    Examples
    --------
    >>> state_name("ptq", 4), state_name("phone", UNKNOWN_WIDTH), state_name("fp32", 32)
    ('int4', 'phone', 'fp32')
    """
    return method if bits in (UNKNOWN_WIDTH, FULL_PRECISION) else width_name(bits)
