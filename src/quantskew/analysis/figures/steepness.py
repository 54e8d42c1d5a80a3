"""Largest eigenvalue against accuracy, confidence and gradient norm."""

import pandas as pd

from quantskew.analysis.figures.drawing import LogPoints
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, plain, scattered, surfaces


@figure(
    order=170,
    section="flow",
    title="Largest eigenvalue against errors, doubt and gradient norm",
    alternative="Points, one for each group and width.",
    caption=(
        "Doubt is one less the highest probability. Both axes are logarithmic. Whiskers: other "
        "test samples, where the study asks for errors of the eigenvalues. After Figure 9 of "
        "Bellam & Kim."
    ),
    drawing=LogPoints(y_label="largest eigenvalue", scale="log"),
)
def steepness(study: Study, curvature: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Largest eigenvalue beside the share of errors, the doubt and the gradient norm."""
    rows = plain(first_groupings(surfaces(curvature, groups), study), study)
    rows = rows.assign(errors=1 - rows["accuracy"], doubt=1 - rows["top_probability"])
    fields = {
        "eigenvalue against share of errors": ("errors", "largest_eigenvalue"),
        "against doubt": ("doubt", "largest_eigenvalue"),
        "against gradient norm": ("gradient_plain", "largest_eigenvalue"),
    }
    return scattered(rows, fields, study.statistics.alpha)
