"""Largest gap between two groups (FVO) by width and method."""

from dataclasses import dataclass

import matplotlib.figure
import pandas as pd

from quantskew.analysis.figures.drawing import Drawing, legend_below, looks, margin_band, whiskers
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings
from quantskew.names import BASELINE

CHANCE = "#88CCEE"


@dataclass(frozen=True)
class LinesByWidth(Drawing):
    """A line for each method from wide to narrow, over what chance shows; in points."""

    template = "lines_by_width"
    methods = "method"
    x, y = "width", "value"

    def _draw(self, figure: matplotlib.figure.Figure, rows: pd.DataFrame) -> None:
        widths = rows.drop_duplicates("bits").sort_values("bits", ascending=False)["width"].tolist()
        styles, entries = looks(rows["method"]), {}
        for ax, part in self.fields(figure, rows, 3):
            margin_band(ax.axhspan, ax.axhline, *part[["margin", "at_fp32"]].iloc[0])
            chance = part.groupby("width")["chance_upper"].max().reindex(widths)
            ax.fill_between(range(len(widths)), 0, chance, color=CHANCE, alpha=0.35, lw=0)
            ax.annotate("within chance", (len(widths) - 1, 0), (0, 2), textcoords="offset points",
                        ha="right", color="#555555", fontsize=8)  # fmt: skip
            methods = part["method"].unique()
            for number, method in enumerate(methods):
                at = part[part["method"] == method]
                colour, marker = styles[method]
                shift = (number - len(methods) / 2) * min(0.05, 0.4 / len(methods))
                entries[method] = ax.errorbar(
                    [widths.index(width) + shift for width in at["width"]], at["value"],
                    yerr=whiskers(at), capsize=2, lw=1.2, marker=marker, ms=4, color=colour,
                )  # fmt: skip
            ax.set_xticks(range(len(widths)), widths)
            ax.set_ylim(0)
        legend_below(figure, entries)


@figure(
    order=20,
    section="remedies",
    title="Largest gap between two groups (FVO) by width and method",
    alternative=(
        "Lines of FVO against width, one for each method; the numbers are in the table of methods."
    ),
    caption=(
        "The grey band is the margin about FVO at fp32. In the blue field lie 95 % of classifiers "
        "that serve all groups alike, on these test samples: FVO is a maximum, so chance alone "
        "makes it positive. Whiskers: other test samples, not other seeds."
    ),
    drawing=LinesByWidth(x_label="width", y_label="FVO, points"),
)
def fvo_by_width(study: Study, levels: pd.DataFrame) -> pd.DataFrame:
    """FVO of every method at each width in points, beside the 95th percentile of chance.

    Where no two groups are large enough there is no FVO, and no panel.
    """
    rows = first_groupings(levels, study)
    rows = rows[rows["metric"] == "fvo"].dropna(subset="value")
    shares = ["value", "low", "high", "chance_upper"]
    rows = rows.assign(**100 * rows[shares], margin=100 * study.statistics.margin)
    base = rows[rows["method"] == BASELINE].set_index("panel")["value"].rename("at_fp32")
    return rows.join(base, on="panel")[
        ["panel", "method", "width", "bits", *shares, "margin", "at_fp32"]
    ]
