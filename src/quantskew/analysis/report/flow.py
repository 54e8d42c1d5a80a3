"""The impact flow as one picture (Bellam & Kim, Figure 2), with the numbers of a study."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from quantskew.analysis.attribution import LOST, STEPS, changes
from quantskew.analysis.study import Study
from quantskew.names import width_name

_IN_POINTS = (LOST, "fall of the true class's probability")


class Step(NamedTuple):
    """A step of the flow, and how far it moved in the two groups that are set side by side."""

    name: str
    most: str
    least: str


class Flow(NamedTuple):
    """The flow of a network at a width: its groups that lost most and least, and its steps."""

    network: str
    most: str
    least: str
    steps: list[Step]


def flow(frames: Mapping[str, pd.DataFrame], study: Study) -> list[Flow]:
    """Follow the groups that lost most and least through the six steps to the accuracy lost.

    A flow for each data set and model, at the narrowest width at which all steps were measured;
    none where the study lacks a table. Numbers are means over the seeds that were surveyed.
    """
    if not all(len(frames.get(name, ())) for name in ("groups", "layers", "curvature")):
        return []
    moved = changes(frames, study).dropna(subset=[*STEPS])
    found = []
    for (dataset, model), rows in moved.groupby(["dataset", "model"], sort=False):
        bits = rows["bits"].min()
        means = rows[rows["bits"] == bits].groupby("group")[[*STEPS, LOST]].mean()
        if len(means) < 2:
            continue
        most, least = means[LOST].idxmax(), means[LOST].idxmin()
        steps = [
            Step(name, *(_written(name, means.loc[group, name]) for group in (most, least)))
            for name in [*STEPS, LOST]
        ]
        where = f"{model} at {width_name(bits)}"
        found.append(Flow(where if len(study.datasets) == 1 else f"{where}, {dataset}",
                          str(most), str(least), steps))  # fmt: skip
    return found


def _written(name: str, value: float) -> str:
    if name == "change of the weights":
        return f"{100 * value:.0f} %"
    if name in _IN_POINTS:
        return f"{100 * value:.1f} points".replace("-", "−")
    digits = 2 if abs(value) < 10 else 0 if abs(value) >= 100 else 1
    return f"{np.round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")
