"""Which steps of the flow go with the accuracy lost."""

import pandas as pd

from quantskew.analysis.attribution import EVERY, STEPS
from quantskew.analysis.figures.drawing import SignedHeatMap
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study


@figure(
    order=210,
    section="flow",
    title="Which steps of the flow go with the accuracy lost",
    alternative=(
        "Heat maps of rank correlations: step by width, over groups, and step by group, over "
        "widths."
    ),
    caption=(
        "Spearman correlation of the change of each step from fp32 with the accuracy lost. Empty "
        "where fewer than three can be compared or all are equal. Association, not cause."
    ),
    drawing=SignedHeatMap(),
)
def attribution(study: Study, attribution: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations over groups, at a width, and over widths, in a group."""
    order = {step: place for place, step in enumerate(STEPS)}
    attribution = attribution.assign(
        place=attribution["step"].map(order), own=attribution["group"] != EVERY,
        bits=-attribution["width"].str.extract(r"(\d+)", expand=False).astype(float),
    ).sort_values(["place", "own", "bits"], na_position="first", kind="stable")  # fmt: skip
    over = attribution["group"].where(attribution["group"] != EVERY, attribution["width"])
    fields = {True: "over groups, at a width", False: "over widths, in a group"}
    return pd.DataFrame(
        {
            "panel": attribution["dataset"] + " · " + attribution["model"],
            "drawing": (attribution["group"] == EVERY).map(fields),
            "x": over,
            "y": attribution["step"],
            "value": attribution["spearman"],
        }
    )
