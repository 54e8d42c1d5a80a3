"""What a figure is: the rows behind it, how they are drawn, and what a reader must know.

A figure is a function that selects rows from tables, registered under its own name. A file in this
folder is found without being named anywhere else:

    @figure(
        order=20,
        section="results",
        title="Largest gap between two groups by width and method",
        alternative="Lines of FVO against width, one for each method.",
        caption="Whiskers show what other test samples would give.",
        drawing=LinesByWidth(),
    )
    def fvo_by_width(study: Study, levels: pd.DataFrame) -> pd.DataFrame: ...

The parameters after ``study`` are names of tables in :data:`quantskew.TABLES`. The report, the
stage ``analyze``, ``Result.plot`` and the pages of results loop over :data:`FIGURES`;
:func:`dvc_plots` gives the section ``plots`` of ``dvc.yaml``.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import pandas as pd

from quantskew.analysis.figures.drawing import Drawing
from quantskew.analysis.study import Study

Select = Callable[..., pd.DataFrame]


@dataclass(frozen=True)
class Figure:
    """A figure of a study.

    Attributes
    ----------
    name
        Names its files and its entry in ``dvc.yaml``.
    tables
        The tables that its rows come from.
    select
        Takes the study and these tables, and returns the rows.
    order
        Its place among the figures of a page.
    section
        Where on the page it stands: ``decision``, the first screen; ``results``, who is harmed;
        ``remedies``, what helps; ``flow``, why.
    title, alternative, caption
        What it is called, what it shows in words, and what to know for reading it.
    drawing
        How the rows are drawn, by matplotlib and by the DVC template of that name.
    prints
        Whether it is on the printed page too; the others are on the screen alone.
    """

    name: str
    tables: tuple[str, ...]
    select: Select
    order: int
    section: Literal["decision", "results", "remedies", "flow"]
    title: str
    alternative: str
    caption: str
    drawing: Drawing
    prints: bool = False

    def rows(self, tables: Mapping[str, pd.DataFrame], study: Study) -> pd.DataFrame:
        """Select the rows that the figure shows."""
        return self.select(study, *(tables[name] for name in self.tables))


FIGURES: dict[str, Figure] = {}
"""All figures by name, in the order of reading."""


def figure(**facts: Any) -> Callable[[Select], Select]:
    """Register a function as a figure of its name; parameters are those of :class:`Figure`."""

    def register(select: Select) -> Select:
        name = select.__name__
        if name in FIGURES:
            raise ValueError(f"there is a figure {name!r} already")
        tables = tuple(inspect.signature(select).parameters)[1:]
        FIGURES[name] = Figure(name=name, tables=tables, select=select, **facts)
        for other in sorted(FIGURES.values(), key=attrgetter("order")):
            FIGURES[other.name] = FIGURES.pop(other.name)
        return select

    return register


def dvc_plots() -> list[dict[str, dict[str, str]]]:
    """Return the section ``plots`` of ``dvc.yaml``."""
    return [
        {f"plots/rows/{one.name}.json": {"template": one.drawing.template, "title": one.title}
         | one.drawing.axes()}
        for one in FIGURES.values()
    ]  # fmt: skip
