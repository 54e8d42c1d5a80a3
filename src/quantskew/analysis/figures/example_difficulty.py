"""Difficulty of the classes while fp32 is trained."""

import pandas as pd

from quantskew.analysis.figures.drawing import Curves
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.analysis.views import panel
from quantskew.names import BASELINE


@figure(
    order=200,
    section="flow",
    title="Difficulty of the classes while fp32 is trained",
    alternative=(
        "Lines of accuracy by epoch, one for each class, on training and on test samples; those "
        "that end lowest are coloured."
    ),
    caption=(
        "The three classes that end lowest are coloured, the others grey. The same number of "
        "samples of each class is watched; training is not balanced. What differs is their "
        "difficulty and how many of the class the network learns from. §4.6 of Bellam & Kim "
        "balances those too."
    ),
    drawing=Curves("epoch", "accuracy"),
)
def example_difficulty(study: Study, history: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each class by epoch of the fp32 training, mean over seeds."""
    rows = panel(history[history["method"] == BASELINE])
    rows["split"] += ", " + rows["n"].astype(str) + " samples a class"
    keys = ["panel", "split", "group", "epoch"]
    means = rows.groupby(keys, as_index=False)["accuracy"].mean()
    return means.rename(
        columns={"split": "drawing", "group": "series", "epoch": "x", "accuracy": "y"}
    ).sort_values(["panel", "drawing", "series", "x"], ascending=[True, False, True, True])
