"""Which layers hurt which group."""

import pandas as pd

from quantskew.analysis.figures.drawing import SignedHeatMap
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings


@figure(
    order=190,
    section="flow",
    title="Which layers hurt which group",
    alternative=(
        "Heat maps of layer by group: how far the loss rises when only that layer is quantized."
    ),
    caption=(
        "Nats, over fp32 on the same few samples, from the first layer to the last; means over "
        "seeds."
    ),
    drawing=SignedHeatMap(x_label="group", y_label="layer"),
)
def layer_damage(study: Study, layer_damage: pd.DataFrame) -> pd.DataFrame:
    """Rise of the loss of each group where one layer alone is quantized, by method and width."""
    rows = first_groupings(layer_damage, study).sort_values("position", kind="stable")
    rows = rows.assign(drawing="one layer alone: " + rows["method"] + ", " + rows["width"])
    keys = ["panel", "drawing", "layer", "group"]
    means = rows.groupby(keys, sort=False, as_index=False).agg(value=("rise", "mean"))
    return means.rename(columns={"group": "x", "layer": "y"})
