"""Worst group against accuracy, of what takes no training and of what does."""

import pandas as pd

from quantskew.analysis.figures.drawing import TradeOff
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import against_accuracy


@figure(
    order=35,
    section="remedies",
    title="Worst group against accuracy: free remedies and trained ones",
    alternative=(
        "Points of the change of overall accuracy against that of the worst group, a field for "
        "each width, one point for each remedy, named as free or trained."
    ),
    caption=(
        "Changes against fp32, which is where the lines cross. Better is further right and higher; "
        "within the grey bands lies the margin. Free remedies train nothing: they are the bar for "
        "the trained ones."
    ),
    drawing=TradeOff(
        x_label="change of accuracy, points", y_label="change of the worst group, points"
    ),
)
def free_and_trained(study: Study, effects: pd.DataFrame) -> pd.DataFrame:
    """Change of accuracy, overall and of the worst group: of the reference and of remedies."""
    names = {study.reference: f"plain: {study.reference}"}
    names |= {name: f"free: {name}" for name in study.free_remedies()}
    names |= {name: f"trained: {name}" for name in study.all_methods() if study.retrained(name)}
    rows = against_accuracy(effects, "worst_group", study)
    rows = rows.assign(series=rows["method"].map(names)).dropna(subset="series")
    order = {name: place for place, name in enumerate(names)}
    rows = rows.sort_values("method", key=lambda methods: methods.map(order), kind="stable")
    return rows.sort_values(["panel", "bits"], ascending=[True, False], kind="stable")
