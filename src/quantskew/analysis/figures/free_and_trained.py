"""Worst group against accuracy, of what takes no training and of what does."""

import pandas as pd

from quantskew.analysis.figures.drawing import Points
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings
from quantskew.names import BASELINE, WHOLE


@figure(
    order=35,
    section="results",
    title="Worst group against accuracy: free remedies and trained ones",
    alternative=(
        "Points of accuracy against that of the worst group, a field for each width, one point for "
        "each remedy, marked as free or trained."
    ),
    caption=(
        "Better is further right and higher. Free remedies train nothing: they are the bar for the "
        "trained ones. Whiskers: other test samples, not other seeds."
    ),
    drawing=Points(x_label="accuracy", y_label="accuracy of the worst group"),
)
def free_and_trained(study: Study, levels: pd.DataFrame) -> pd.DataFrame:
    """Accuracy overall and of the worst group: fp32, the reference and remedies at each width."""
    rows = first_groupings(levels[levels["group"] == WHOLE], study)
    marks = {BASELINE: BASELINE, study.reference: f"plain: {study.reference}"}
    marks |= {name: f"free: {name}" for name in study.free_remedies()}
    marks |= {n: f"trained: {n}" for n in study.all_methods() if study.retrained(n)}
    rows = rows.assign(series=rows["method"].map(marks)).dropna(subset="series")
    key = ["panel", "width", "bits", "series"]
    overall, worst = (
        rows[rows["metric"] == name].set_index(key) for name in ("overall", "worst_group")
    )
    shown = (
        worst[["value", "low", "high"]].rename(columns={"value": "y"}).assign(x=overall["value"])
    )
    shown = shown.reset_index().sort_values(["panel", "bits"], ascending=[True, False])
    widths = shown.loc[shown["bits"].isin(study.bits), ["panel", "width"]].drop_duplicates()
    full = shown[shown["series"] == BASELINE].drop(columns="width").merge(widths, on="panel")
    parts = pd.concat([full, shown[shown["bits"].isin(study.bits)]])
    order = {mark: place for place, mark in enumerate(marks.values())}
    parts = parts.sort_values("series", key=lambda names: names.map(order), kind="stable")
    parts = parts.sort_values("panel", kind="stable").rename(columns={"width": "drawing"})
    return parts[["panel", "drawing", "series", "x", "y", "low", "high"]]
