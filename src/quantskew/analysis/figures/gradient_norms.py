"""Gradient norm against group size and accuracy."""

import pandas as pd

from quantskew.analysis.figures.drawing import Points
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, plain, scattered, surfaces


@figure(
    order=150,
    section="flow",
    title="Gradient norm against group size and accuracy",
    alternative=(
        "Points, one for each group, at int4 or at the narrowest width of a study without it."
    ),
    caption=(
        "Plain quantization. At equal n every group counts as many test samples as the smallest, "
        "because a mean over fewer is longer by chance alone. Whiskers, of the plain norm: other "
        "test samples. After Figure 8 of Bellam & Kim."
    ),
    drawing=Points(y_label="gradient norm"),
)
def gradient_norms(study: Study, curvature: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Gradient norm of each group beside its size and its accuracy, at one width."""
    rows = plain(first_groupings(surfaces(curvature, groups), study), study)
    rows = rows[rows["bits"] == (4 if (rows["bits"] == 4).any() else rows["bits"].min())]
    error = rows["gradient_unbiased_square_error"] / (2 * rows["gradient_plain"])
    fields = {
        "norm against training samples": ("n_train", "gradient_plain"),
        "at equal n, against training samples": ("n_train", "gradient_equal_n"),
        "norm against accuracy": ("accuracy", "gradient_plain"),
    }
    return scattered(rows.assign(gradient_plain_error=error), fields, study.statistics.alpha)
