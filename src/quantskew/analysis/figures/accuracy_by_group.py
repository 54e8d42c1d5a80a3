"""Accuracy of each group as the width falls."""

import pandas as pd

from quantskew.analysis.figures.drawing import BarsByGroup
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, plain
from quantskew.names import BASELINE


@figure(
    order=10,
    section="results",
    title="Accuracy of each group as the width falls",
    alternative=(
        "Bars of accuracy, one for each group and width; the numbers are in the table of groups."
    ),
    caption=(
        "Plain post-training quantization. Bars are means over seeds, dots the networks of each "
        "seed; a bar is hollow where they lie more than 25 points apart. The grey band of each "
        "group is the margin about its accuracy at fp32. Whiskers say how far other test samples "
        "could move the mean, not what another training would give. After Figure 1 of Bellam & Kim."
    ),
    drawing=BarsByGroup(y_label="accuracy, %"),
)
def accuracy_by_group(study: Study, levels: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each group at each width, in percent; ``seeds`` lists that of every network."""
    rows = plain(first_groupings(levels, study), study)
    rows = rows[rows["metric"] == "accuracy"]
    rows = rows.assign(**100 * rows[["value", "low", "high"]])
    key = ["dataset", "model", "method", "bits", "attribute", "group"]
    each = groups.sort_values("seed").groupby(key)["accuracy"]
    rows = rows.join(each.agg(lambda shares: [*100 * shares]).rename("seeds"), on=key)
    base = rows[rows["method"] == BASELINE].set_index(["panel", "group"])["value"]
    margin = 100 * study.statistics.margin
    band = pd.DataFrame({"margin_low": base - margin, "margin_high": base + margin})
    rows = rows.join(band, on=["panel", "group"])
    return rows[["panel", "group", "n", "width", "value", "low", "high", "seeds", *band]]
