"""Damage predicted by gradient and curvature at fp32, and measured."""

import pandas as pd

from quantskew.analysis.figures.drawing import LogPoints
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings


@figure(
    order=180,
    section="flow",
    title="Damage predicted by gradient and curvature at fp32, and measured",
    alternative="Points, one for each group and width, about a diagonal.",
    caption=(
        "Predicted by the expansion of Liu et al. to second order, on the same samples. Where "
        "points leave the diagonal, the weights have moved too far for the expansion to tell "
        "anything."
    ),
    drawing=LogPoints("predicted excess loss, nats", "measured, nats", diagonal=True),
)
def predicted_damage(study: Study, curvature: pd.DataFrame) -> pd.DataFrame:
    """Predicted and measured excess loss: a field for each method, a point for each seed."""
    rows = first_groupings(curvature, study).dropna(subset="second_order")
    return rows.rename(
        columns={"method": "drawing", "width": "series", "second_order": "x", "excess_loss": "y"}
    )[["panel", "drawing", "series", "group", "x", "y"]]
