"""Weights: how far they move, how many become zero."""

import pandas as pd

from quantskew.analysis.figures.drawing import Bars
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import panel


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
    rows = rows[rows["bits"] < 16]
    rows = panel(rows.sort_values(["bits", "method"], ascending=[False, True], kind="stable"))
    rows = rows.assign(change=rows["absolute_change"] / rows["weights"])
    fields = {"change": "mean |change| of a weight", "sparsity": "share of weights that are 0"}
    return pd.concat(
        rows.groupby(["panel", "width", "method"], sort=False, as_index=False)
        .agg(value=(column, "mean"), low=(column, "min"), high=(column, "max"))
        .assign(drawing=title)
        for column, title in fields.items()
    ).rename(columns={"width": "x", "method": "series"})
