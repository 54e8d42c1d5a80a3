"""What fairness costs in accuracy."""

import pandas as pd

from quantskew.analysis.figures.drawing import TradeOff
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import against_accuracy


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
    """Change of overall accuracy and of FVO, of every method and width."""
    rows = against_accuracy(effects, "fvo", study)
    return rows.assign(series=rows["method"])
