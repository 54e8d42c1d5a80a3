"""What fairness costs in accuracy."""

import pandas as pd

from quantskew.analysis.figures.drawing import TradeOff
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings
from quantskew.names import WHOLE


@figure(
    order=30,
    section="remedies",
    title="What fairness costs in accuracy",
    alternative=(
        "Points of overall accuracy against FVO, a field for each width, one point for each method."
    ),
    caption=(
        "Better is further right and lower. Whiskers: other test samples, not other seeds. After "
        "Figures 11 and 12 of Bellam & Kim."
    ),
    drawing=TradeOff(x_label="accuracy", y_label="FVO"),
)
def trade_off(study: Study, levels: pd.DataFrame) -> pd.DataFrame:
    """Overall accuracy and FVO of every method and width, with their limits."""
    rows = first_groupings(levels, study)
    keys = ["panel", "method", "width", "bits"]
    sides = [
        rows[(rows["metric"] == metric) & (rows["group"] == WHOLE)]
        .set_index(keys)[["value", "low", "high"]]
        .rename(columns={"value": name, "low": f"{name}_low", "high": f"{name}_high"})
        for metric, name in (("overall", "accuracy"), ("fvo", "fvo"))
    ]
    return sides[0].join(sides[1]).reset_index()
