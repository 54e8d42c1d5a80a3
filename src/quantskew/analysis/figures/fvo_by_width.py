"""Largest gap between two groups (FVO) by width and method."""

import pandas as pd

from quantskew.analysis.figures.drawing import LinesByWidth
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings


@figure(
    order=20,
    section="remedies",
    title="Largest gap between two groups (FVO) by width and method",
    alternative=(
        "Lines of FVO against width, one for each method; the numbers are in the table of methods."
    ),
    caption=(
        "The grey field is where 95 % of classifiers without any gap between groups would lie on "
        "these test samples: FVO is a maximum, so chance alone makes it positive. Whiskers: other "
        "test samples, not other seeds."
    ),
    drawing=LinesByWidth(x_label="width", y_label="FVO"),
)
def fvo_by_width(study: Study, levels: pd.DataFrame) -> pd.DataFrame:
    """FVO of every method at each width, beside the 95th percentile of chance."""
    rows = first_groupings(levels, study)
    rows = rows[rows["metric"] == "fvo"]
    return rows[["panel", "method", "width", "bits", "value", "low", "high", "chance_upper"]]
