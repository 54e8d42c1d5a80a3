"""Largest eigenvalue of the Hessian, and gradient norm."""

import pandas as pd

from quantskew.analysis.figures.drawing import HeatMap
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import by_group, first_groupings, plain


@figure(
    order=160,
    section="flow",
    title="Largest eigenvalue of the Hessian, and gradient norm",
    alternative="Heat maps of group by width.",
    caption=(
        "Batch norms are folded at every width, so that networks compare. n is of the gradient; "
        "the eigenvalue is of as many of these samples as the study names. After Figure 10 of "
        "Bellam & Kim."
    ),
    drawing=HeatMap(x_label="width", y_label="group"),
)
def eigenvalues(study: Study, curvature: pd.DataFrame) -> pd.DataFrame:
    """Largest Hessian eigenvalue and gradient norm of each group at each width."""
    fields = {"largest_eigenvalue": "largest eigenvalue", "gradient_plain": "gradient norm"}
    return by_group(plain(first_groupings(curvature, study), study), fields)
