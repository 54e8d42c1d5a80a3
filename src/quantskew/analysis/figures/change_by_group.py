"""What each group lost or gained: the figure of the first screen."""

from dataclasses import dataclass

import matplotlib.figure
import pandas as pd

from quantskew.analysis.figures.drawing import (
    Drawing,
    beyond_margin,
    legend_below,
    margin_band,
    whiskers,
)
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, judged
from quantskew.names import state_name

SHOWN = 15
"""Most groups of a field: those that lose most."""
VERDICTS = {
    "worse": ("#CC6677", "v", ""), "cannot tell": ("#777777", "D", "white"),
    "equivalent": ("#117733", "o", ""), "better": ("#332288", "^", ""),
}  # fmt: skip
"""Colour, marker and filling of each verdict; markers alone are enough in grey."""


@dataclass(frozen=True)
class Ranges(Drawing):
    """A point with limits for each ``y``, marked by its verdict; the ``margin`` is a band.

    All fields have the same axis, which is logarithmic beyond the margin.
    """

    template = "ranges"

    def _draw(self, figure: matplotlib.figure.Figure, rows: pd.DataFrame) -> None:
        entries = {}
        lines = rows.groupby(["panel", "drawing"]).size().max()
        height = 0.75 + 0.14 * lines + 0.6 / rows["panel"].nunique()  # the legend stands there once
        for ax, part in self.fields(figure, rows, height, shared="x"):
            part, margin = part.reset_index(drop=True), part["margin"].iloc[0]
            margin_band(ax.axvspan, ax.axvline, margin)
            beyond_margin(ax, "x", margin)
            for word, at in part.groupby("verdict"):
                colour, marker, fill = VERDICTS[str(word)]
                entries[str(word)] = ax.errorbar(
                    at["x"], at.index, xerr=whiskers(at, "x"), fmt=marker, ms=5, lw=1,
                    color=colour, mfc=fill or colour,
                )  # fmt: skip
            ax.set_yticks(range(len(part)), part["y"])
            ax.set_ylim(len(part) - 0.4, -0.6)
            ax.tick_params(axis="x", labelbottom=True)
            ax.grid(visible=True, axis="x")
            ax.grid(visible=False, axis="y")
        legend_below(figure, {word: entries[word] for word in VERDICTS if word in entries})


@figure(
    order=5,
    section="decision",
    title="Change of the accuracy of each group against fp32",
    alternative=(
        "Points with intervals, one for each group, sorted from the largest loss, a field for each "
        "width; the margin is a band about zero."
    ),
    caption=(
        "Networks, not the files that ship; means over seeds. The band is the margin; an interval "
        "within it is safe, one wholly left of zero a loss. All fields have one axis, logarithmic "
        "beyond the margin. Intervals hold one by one. Of many groups those that lose most are "
        "shown."
    ),
    drawing=Ranges(x_label="change of accuracy, points"),
    prints=True,
)
def change_by_group(study: Study, effects: pd.DataFrame) -> pd.DataFrame:
    """Change of each group that is large enough, in points, from the largest loss on.

    Under the reference method at every width; under every method where there is no reference.
    """
    rows = judged(effects[effects["metric"] == "accuracy"], study)
    rows = first_groupings(rows[rows["counted"].astype(bool)], study)
    states = [
        state if method in (study.reference, state) else f"{method} {state}"
        for method, bits in zip(rows["method"], rows["bits"], strict=True)
        for state in [state_name(method, bits)]
    ]
    rows = rows.assign(drawing=pd.Series(states, rows.index, str), y=rows["group"].astype(str),
                       model=pd.Categorical(rows["model"], study.models))  # fmt: skip
    order = {"dataset": True, "model": True, "bits": False, "change": True}
    rows = rows.sort_values([*order], ascending=[*order.values()], kind="stable")
    rows = rows.groupby(["panel", "drawing"], sort=False).head(SHOWN)
    points = (100 * rows[["change", "low", "high"]]).rename(columns={"change": "x"})
    rows = rows.assign(**points, margin=100 * study.statistics.margin)
    return rows[["panel", "drawing", "y", "x", "low", "high", "margin", "verdict"]]
