"""Logits: how far they turn, how much they vary."""

import pandas as pd

from quantskew.analysis.figures.drawing import HeatMap
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import by_group, first_groupings, plain


@figure(
    order=140,
    section="flow",
    title="Logits: how far they turn, how much they vary",
    alternative=(
        "Heat maps of group by width: cosine distance to the fp32 logits, and their variance."
    ),
    caption="Plain quantization; means over samples and seeds. After Figure 5 of Bellam & Kim.",
    drawing=HeatMap(x_label="width", y_label="group"),
)
def logits(study: Study, groups: pd.DataFrame) -> pd.DataFrame:
    """Turn and variance of the logits of each group at each width."""
    fields = {
        "cosine_distance": "cosine distance of logits to fp32",
        "logit_variance": "variance of logits",
    }
    return by_group(plain(first_groupings(groups, study), study), fields)
