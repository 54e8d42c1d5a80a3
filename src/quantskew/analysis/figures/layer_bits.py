"""Width of each layer by method."""

import re

import pandas as pd

from quantskew.analysis.figures.drawing import HeatMap
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import panel


@figure(
    order=120,
    section="flow",
    title="Width of each layer by method",
    alternative=(
        "Heat maps of layer by method, a field for each width of the study; the number is the bits "
        "of the layer."
    ),
    caption=(
        "Plain quantization beside the methods that give layers different widths; all have the "
        "size of the uniform width but those that widen the first and the last layer."
    ),
    drawing=HeatMap(x_label="method", y_label="layer"),
)
def layer_bits(study: Study, layers: pd.DataFrame) -> pd.DataFrame:
    """Width of each layer, by the methods that give layers different ones and by the reference.

    Layers come in the order of their names, in which numbers count by value. Widths are means over
    seeds, and over the channels of a layer where those differ.
    """
    rows = panel(layers[(layers["layer"] != "all") & (layers["bits"] < 16)])
    place = ["panel", "width", "method"]
    mixed = rows.groupby(place)["layer_bits"].transform("nunique") > 1
    shown = rows["width"].isin(rows.loc[mixed, "width"]) | (not mixed.any())
    rows = rows[mixed | (shown & (rows["method"] == study.reference))]
    rows = rows.sort_values("layer", key=lambda names: names.map(_by_number), kind="stable")
    rows = rows.sort_values(["panel", "bits"], ascending=[True, False], kind="stable")
    rows = rows.groupby([*place, "layer"], sort=False, as_index=False)["layer_bits"].mean()
    return rows.rename(
        columns={"width": "drawing", "method": "x", "layer": "y", "layer_bits": "value"}
    )


def _by_number(name: str) -> tuple[tuple[int, str], ...]:
    parts = re.findall(r"\d+|\D+", name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)
