"""Tables of the page: rows of cells, each a text, what it sorts by, and a colour."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from quantskew.analysis.report.words import TONES
from quantskew.analysis.study import Study
from quantskew.analysis.typeset import interval, number, p_value, percent, points, size
from quantskew.fairness.verdicts import BETTER, CANNOT_TELL, EQUIVALENT, WORSE

LONGEST = 300
"""Most rows of a table on the page, which shows those of a longer one that matter most."""
MATTERS = {
    "probability": "largest", "p_holm": "smallest", "p_chance": "smallest", "fdr": "smallest",
    "taxicab": "largest", "bound": "largest", "change": "smallest", "value": "smallest",
}  # fmt: skip
"""What matters most: the first of these columns that a table has."""
MARKS = {WORSE: "▼", BETTER: "▲", EQUIVALENT: "=", CANNOT_TELL: "?"}
"""A sign beside each change, so that colours are not needed."""
UNBROKEN = "\N{NO-BREAK SPACE}"
"""Holds together what must not be parted where a cell wraps."""


class Cell(NamedTuple):
    """What a cell shows, the number it sorts by, the colour of its verdict, and how strong it is.

    ``shade`` runs from −1 (a large loss) to 1 (a large gain).
    """

    text: str
    value: float | None = None
    tone: str = ""
    shade: float | None = None


class Table(NamedTuple):
    """Rows of cells under their heads, and what to know for reading them.

    A table that is not ``open`` is folded, and does not print.
    """

    title: str
    heads: list[str]
    rows: list[list[Cell]]
    note: str = ""
    open: bool = False


Show = Callable[[dict[str, Any]], Cell]
"""How a column shows a row of a frame."""


def table(
    title: str,
    rows: pd.DataFrame,
    columns: Mapping[str, Show],
    note: str = "",
    *,
    open: bool = False,
) -> Table:
    """Lay out the rows of a frame; of a long one those that matter most, and their number is named.

    Columns that are empty in every row are left out.
    """
    kept, told = shortened(rows)
    cells = [[show(row) for show in columns.values()] for row in kept.to_dict("records")]
    used = [i for i in range(len(columns)) if any(line[i].text for line in cells)]
    heads = [*columns]
    return Table(
        title, [heads[i] for i in used], [[line[i] for i in used] for line in cells],
        f"{note} {told}".strip(), open,
    )  # fmt: skip


def shortened(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Keep the rows of a long frame that matter most, in their order, and say how many they are."""
    if len(rows) <= LONGEST:
        return rows, ""
    rows = rows.reset_index(drop=True)
    column = next((name for name in MATTERS if name in rows), None)
    ranked, which = rows.index, "the first"
    if column is not None:
        which = f"those of the {MATTERS[column]} {column.replace('_', ' ')}"
        smallest = MATTERS[column] == "smallest"
        ranked = rows[column].sort_values(ascending=smallest, kind="stable").index
    told = f"{LONGEST} of {len(rows):,} rows, {which}; all are in the tables of the study."
    return rows.loc[ranked[:LONGEST].sort_values()], told


def text(column: str) -> Show:
    """Show a text as it is."""
    return lambda row: Cell(str(row[column]))


def _of(write: Callable[[float], str], column: str) -> Show:
    def show(row: dict[str, Any]) -> Cell:
        value = row[column]
        known = value is not None and not pd.isna(value)
        return Cell(write(float(value)), float(value)) if known else Cell("")

    return show


def share(column: str) -> Show:
    """Show a share in percent."""
    return _of(percent, column)


def change(column: str) -> Show:
    """Show a change of a share in points."""
    return _of(points, column)


def count(column: str) -> Show:
    """Show a number, thousands separated."""
    return _of(number, column)


def p(column: str) -> Show:
    """Show a p-value."""
    return _of(p_value, column)


def size_of(column: str) -> Show:
    """Show a size in bytes."""
    return _of(size, column)


def share_with_limits(value: str, low: str, high: str) -> Show:
    """Show a share in percent and its limits."""

    def show(row: dict[str, Any]) -> Cell:
        ends = [row[value], row[low], row[high]]
        if pd.isna(ends[0]):
            return Cell("")
        told = percent(ends[0])
        if not pd.isna(ends[1]):
            told += f" [{100 * ends[1]:.1f}, {100 * ends[2]:.1f}]"
        return Cell(told, float(ends[0]))

    return show


def change_with_limits(value: str, low: str, high: str, word: str = "") -> Show:
    """Show a change in points and its limits, and what the verdict of the column ``word`` is."""

    def show(row: dict[str, Any]) -> Cell:
        if pd.isna(row[value]):
            return Cell("")
        told = row[word] or "" if word else ""
        change = interval(row[value], row[low], row[high]).replace(" ", UNBROKEN)
        return Cell(f"{change} {told}".strip(), float(row[value]), TONES.get(told, ""))

    return show


def of_seeds(what: str, rows: pd.DataFrame, study: Study, of_several: str = "mean") -> str:
    """Add to the name of a network, in a study of several seeds, of which its numbers are."""
    seeds = [*rows["seed"].unique()]
    if len(study.seeds) == 1 or not seeds:
        return what
    of = f"{of_several} of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    return f"{what}, {of}".removeprefix(", ")


def price(row: Mapping[str, Any]) -> list[str]:
    """Say what a remedy takes: training, as a multiple of that of fp32, and images and labels."""
    trained = row.get("training", np.nan)
    told = ["no training"] if row.get("free") else []
    if trained > 0:
        told = [f"{number(trained)} × training"]
    elif np.isnan(trained) and row.get("images_trained", 0) > 0:
        told = [f"training on {number(row['images_trained'])} images"]
    images, labels = row.get("images", 0), row.get("labels", 0)
    needed = [(images, "images"), (labels, "labels")]
    if labels == images:
        needed = [(images, "labelled images")]
    return told + [f"{number(many)} {name}" for many, name in needed if many > 0]


def verdict(column: str) -> Show:
    """Show a verdict in words and colour."""
    return lambda row: Cell(row[column] or "", tone=TONES.get(row[column], ""))


def heat(value: str, word: str) -> Show:
    """Show a change of accuracy, shaded by its size, with the sign of its verdict."""

    def show(row: dict[str, Any]) -> Cell:
        if pd.isna(row[value]):
            return Cell("")
        shade = float(np.sign(row[value]) * min(1.0, abs(row[value]) / 0.5) ** 0.5)
        told = f"{points(row[value])} {MARKS.get(row[word], '')}"
        return Cell(told.strip(), float(row[value]), "", shade)

    return show
