"""Largest eigenvalue against accuracy, confidence and gradient norm."""

import pandas as pd

from quantskew.analysis.figures.drawing import Points
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, plain, scattered, surfaces


@figure(
    order=170,
    section="flow",
    title="Largest eigenvalue against accuracy, confidence and gradient norm",
    alternative="Points, one for each group and width.",
    caption=(
        "Whiskers: other test samples, where the study asks for errors of the eigenvalues. After "
        "Figure 9 of Bellam & Kim."
    ),
    drawing=Points(y_label="largest eigenvalue", scale="log"),
)
def steepness(study: Study, curvature: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Largest eigenvalue beside accuracy, probability of the predicted class and gradient norm."""
    rows = plain(first_groupings(surfaces(curvature, groups), study), study)
    fields = {
        "eigenvalue against accuracy": ("accuracy", "largest_eigenvalue"),
        "against top probability": ("top_probability", "largest_eigenvalue"),
        "against gradient norm": ("gradient_plain", "largest_eigenvalue"),
    }
    return scattered(rows, fields, study.statistics.alpha)
