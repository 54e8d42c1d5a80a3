"""Weights and distances to the decision boundary."""

import pandas as pd

from quantskew.analysis.figures.drawing import Histograms
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import panel, plain


@figure(
    order=130,
    section="flow",
    title="Weights and distances to the decision boundary",
    alternative=(
        "Histograms as lines, one for each width: of all weights, and of the probability of the "
        "true class."
    ),
    caption="One seed, plain quantization. After Figures 4 and 6 of Bellam & Kim.",
    drawing=Histograms(y_label="share"),
)
def distributions(
    study: Study, weight_histograms: pd.DataFrame, boundaries: pd.DataFrame
) -> pd.DataFrame:
    """Share of the weights, and of the test samples, in each bin of their histograms."""
    parts = []
    for title, rows in (
        ("weight", weight_histograms),
        ("probability of the true class", boundaries),
    ):
        rows = panel(plain(rows, study))
        rows = rows.assign(x=(rows["low"] + rows["high"]) / 2)
        # the bins of another seed have other edges
        rows = rows[rows["seed"] == rows.groupby("panel")["seed"].transform("min")]
        counts = rows.groupby(["panel", "width", "x"], sort=False, as_index=False)["count"].sum()
        whole = counts.groupby(["panel", "width"])["count"].transform("sum")
        parts.append(counts.assign(y=counts["count"] / whole, drawing=title))
    rows = pd.concat(parts).rename(columns={"width": "series"})
    return rows[["panel", "drawing", "series", "x", "y"]]
