"""Difficulty of the classes while fp32 is trained."""

from dataclasses import dataclass

import matplotlib.figure
import pandas as pd
from matplotlib.ticker import MaxNLocator

from quantskew.analysis.figures.drawing import COLOURS, GREY, MARKERS, Drawing, name_points
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import panel
from quantskew.names import BASELINE

NAMED = 3
"""How many classes are coloured and named."""


@dataclass(frozen=True)
class Curves(Drawing):
    """A line for each ``series``: coloured, and named at its end, where it has a ``rank``."""

    template = "curves"

    def _draw(self, figure: matplotlib.figure.Figure, rows: pd.DataFrame) -> None:
        named = []
        for ax, part in self.fields(figure, rows, 3.2):
            for (rank, _), at in part.groupby(["rank", "series"], sort=False):
                strong = rank < NAMED
                ax.plot(
                    at["x"], at["y"], color=_colour(rank), lw=1.8 if strong else 0.9, ms=4,
                    marker=[*MARKERS][rank] if strong else "", zorder=3 if strong else 2,
                )  # fmt: skip
            first, end = part["x"].min(), part["x"].max()
            ax.set_xlim(first, end + 0.12 * (end - first or 1))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            last = part[(part["x"] == end) & (part["rank"] < NAMED)]
            named.append((ax, last.rename(columns={"series": "name"})))
        name_points(figure, named, beyond=True)

    def described(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows as the template needs them."""
        return super().described(rows).assign(colour=rows["rank"].map(_colour).astype(str))


def _colour(rank: int) -> str:
    return COLOURS[rank] if rank < NAMED else GREY


@figure(
    order=200,
    section="flow",
    title="Difficulty of the classes while fp32 is trained",
    alternative=(
        "Lines of accuracy by epoch, one for each class, on training and on test samples; those "
        "that end lowest are coloured."
    ),
    caption=(
        "The three classes that end lowest on the test samples are coloured, the others grey. The "
        "same number of samples of each class is watched; training is not balanced, so classes "
        "differ in their difficulty and in how many samples the network learns from. §4.6 of "
        "Bellam & Kim balances those too."
    ),
    drawing=Curves("epoch", "accuracy"),
)
def example_difficulty(study: Study, history: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each class by epoch of the fp32 training, mean over seeds; ``rank`` from 0."""
    rows = panel(history[history["method"] == BASELINE])
    rows["drawing"] = rows["split"] + ", " + rows["n"].astype(str) + " samples a class"
    keys = ["panel", "split", "drawing", "group", "epoch"]
    rows = rows.groupby(keys, as_index=False)["accuracy"].mean()
    last = rows[rows["epoch"] == rows.groupby("panel")["epoch"].transform("max")]
    last = last.sort_values("split", kind="stable").drop_duplicates(["panel", "group"])
    last["rank"] = last.groupby("panel")["accuracy"].rank("first").astype(int) - 1
    rows = rows.merge(last[["panel", "group", "rank"]], on=["panel", "group"])
    rows = rows.rename(columns={"group": "series", "epoch": "x", "accuracy": "y"})
    order = ["panel", "drawing", "series", "x"]
    rows = rows.sort_values(order, ascending=[True, False, True, True])
    return rows[["panel", "drawing", "series", "rank", "x", "y"]]
