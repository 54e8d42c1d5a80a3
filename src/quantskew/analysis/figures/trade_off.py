"""What fairness costs in accuracy."""

import pandas as pd

from quantskew.analysis.figures.drawing import TradeOff
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings
from quantskew.names import BASELINE, WHOLE


@figure(
    order=30,
    section="remedies",
    title="What fairness costs in accuracy",
    alternative=(
        "Points of the change of overall accuracy against that of FVO, a field for each width, one "
        "point for each method."
    ),
    caption=(
        "Changes against fp32, which is where the lines cross. Better is further right and lower; "
        "within the grey bands lies the margin. Axes are logarithmic beyond it. After Figures 11 "
        "and 12 of Bellam & Kim."
    ),
    drawing=TradeOff(x_label="change of accuracy, points", y_label="change of FVO, points"),
)
def trade_off(study: Study, effects: pd.DataFrame) -> pd.DataFrame:
    """Change of overall accuracy and FVO of every method and width, in points, with limits."""
    rows = first_groupings(effects, study)
    rows = rows[(rows["reference"] == BASELINE) & (rows["group"] == WHOLE) & (rows["bits"] < 16)]
    keys = ["panel", "method", "width", "bits"]
    sides = [
        100
        * rows[rows["metric"] == metric]
        .set_index(keys)[["change", "low", "high"]]
        .rename(columns={"change": name, "low": f"{name}_low", "high": f"{name}_high"})
        for metric, name in (("overall", "accuracy"), ("fvo", "fvo"))
    ]
    both = sides[0].join(sides[1]).dropna(subset=["accuracy", "fvo"]).reset_index()
    both = both.sort_values(["panel", "bits"], ascending=[True, False], kind="stable")
    return both.assign(margin=100 * study.statistics.margin)
