"""Loss of each group as the width falls."""

import pandas as pd

from quantskew.analysis.figures.drawing import BarsByGroup
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, plain


@figure(
    order=40,
    section="results",
    title="Loss of each group as the width falls",
    alternative="Bars of mean cross-entropy, one for each group and width.",
    caption=(
        "Plain post-training quantization. Whiskers run from the lowest to the highest seed. After "
        "Figure 7 of Bellam & Kim."
    ),
    drawing=BarsByGroup(y_label="loss, nats"),
)
def loss_by_group(study: Study, groups: pd.DataFrame) -> pd.DataFrame:
    """Mean loss of each group at each width, with the lowest and the highest seed as limits."""
    rows = plain(first_groupings(groups, study), study)
    return rows.groupby(["panel", "group", "n", "width"], sort=False, as_index=False).agg(
        value=("loss", "mean"), low=("loss", "min"), high=("loss", "max")
    )
