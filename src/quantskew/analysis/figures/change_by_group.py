"""What each group lost or gained: the figure of the first screen."""

import pandas as pd

from quantskew.analysis.figures.drawing import Ranges
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings
from quantskew.names import BASELINE, state_name

SHOWN = 15
"""Most groups of a field: those that lose most."""


@figure(
    order=5,
    section="decision",
    title="Change of the accuracy of each group against fp32",
    alternative=(
        "Points with intervals, one for each group, sorted from the largest loss, a field for each "
        "width; the margin is a band about zero."
    ),
    caption=(
        "Networks, not the files that ship; means over seeds. The band is the margin; an interval "
        "within it is safe, one wholly left of zero a loss. Intervals hold one by one. Of many "
        "groups those that lose most are shown."
    ),
    drawing=Ranges(x_label="change of accuracy, points"),
)
def change_by_group(study: Study, effects: pd.DataFrame) -> pd.DataFrame:
    """Change of each group that is large enough, in points, from the largest loss on.

    Under the reference method at every width; under every method where there is no reference.
    """
    rows = effects[(effects["metric"] == "accuracy") & (effects["reference"] == BASELINE)]
    rows = first_groupings(rows[rows["counted"].astype(bool)], study)
    plain = rows["method"] == study.reference
    rows = rows[plain] if plain.any() else rows
    states = [
        state if plain.any() or state == method else f"{method} {state}"
        for method, bits in zip(rows["method"], rows["bits"], strict=True)
        for state in [state_name(method, bits)]
    ]
    rows = rows.assign(width=pd.Series(states, rows.index, str))
    rows = rows.sort_values(
        ["panel", "bits", "change"], ascending=[True, False, True], kind="stable"
    )
    rows = rows.groupby(["panel", "width"], sort=False).head(SHOWN)
    points = {name: 100 * rows[own] for name, own in
              (("x", "change"), ("low", "low"), ("high", "high"))}  # fmt: skip
    return rows.assign(
        **points, drawing=rows["width"], y=rows["group"].astype(str),
        margin=100 * study.statistics.margin,
    )[["panel", "drawing", "y", "x", "low", "high", "margin", "verdict"]]  # fmt: skip
