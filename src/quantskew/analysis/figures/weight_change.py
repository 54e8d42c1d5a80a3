"""Weights: how far they move, how many become zero."""

from dataclasses import dataclass

import matplotlib.figure
import numpy as np
import pandas as pd

from quantskew.analysis.figures.drawing import Drawing, legend_below, looks, whiskers
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import panel


@dataclass(frozen=True)
class Bars(Drawing):
    """Bars of ``value`` at every ``x``, one for each ``series`` side by side, with limits."""

    template = "bars"
    methods = "series"
    y = "value"

    def _draw(self, figure: matplotlib.figure.Figure, rows: pd.DataFrame) -> None:
        styles, entries = looks(rows["series"]), {}
        for ax, part in self.fields(figure, rows, 3.2):
            names, series = part["x"].unique(), part["series"].unique()
            step = 0.8 / len(series)
            for number, one in enumerate(series):
                at = part[part["series"] == one].set_index("x").reindex(names)
                entries[one] = ax.bar(
                    np.arange(len(names)) - 0.4 + step * (number + 0.5), at["value"], step,
                    yerr=whiskers(at), color=styles[one][0], error_kw={"lw": 0.7},
                )  # fmt: skip
            ax.set_xticks(range(len(names)), names)
            ax.grid(False, axis="x")
        legend_below(figure, entries)


@figure(
    order=110,
    section="flow",
    title="Weights: how far they move, how many become zero",
    alternative=(
        "Bars by width and method of the mean change of a weight, and of the share of zeros."
    ),
    caption=(
        "Means over seeds; whiskers run from the lowest to the highest. After Figure 3 of Bellam & "
        "Kim."
    ),
    drawing=Bars(x_label="width"),
)
def weight_change(study: Study, layers: pd.DataFrame) -> pd.DataFrame:
    """Change and sparsity of all weights together, by width and method."""
    rows = layers[(layers["layer"] == "all") & layers["method"].isin(study.methods)]
    rows = panel(rows[rows["bits"] < 16])
    order = ["panel", "bits", "method"]
    rows = rows.sort_values(order, ascending=[True, False, True], kind="stable")
    rows = rows.assign(change=rows["absolute_change"] / rows["weights"])
    fields = {"change": "mean |change| of a weight", "sparsity": "share of weights that are 0"}
    return pd.concat(
        rows.groupby(["panel", "width", "method"], sort=False, as_index=False)
        .agg(value=(column, "mean"), low=(column, "min"), high=(column, "max"))
        .assign(drawing=title)
        for column, title in fields.items()
    ).rename(columns={"width": "x", "method": "series"})
