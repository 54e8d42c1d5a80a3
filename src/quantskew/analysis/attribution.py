"""How much of the accuracy that groups lose goes with which step of the impact flow.

For plain quantization and the first grouping, from stored tables alone. A row of what is compared
is a group at a width: how far each step moved from fp32, and how much accuracy was lost. It is
association, and two questions are kept apart: at one width, do the groups that lose more also move
further (the weights, which groups share, cannot tell them apart)? And in one group, does the loss
follow the step as the width falls (every step does so to some extent)?
"""

from collections.abc import Iterator, Mapping

import pandas as pd

from quantskew.analysis.views import first_groupings, plain, width_name
from quantskew.impact.attribution import mediation, rank_correlations
from quantskew.params import Params

PLACE = ["dataset", "model", "seed"]
LOST = "accuracy lost"
EVERY = "all"
STEPS = {
    "change of the weights": "relative_error",
    "turn of the logits": "cosine_distance",
    "fall of the true class's probability": "true_probability",
    "rise of the loss": "loss",
    "rise of the gradient norm": "gradient_plain",
    "rise of the largest eigenvalue": "largest_eigenvalue",
}
"""Steps in the order of the flow, and the columns that tell them."""

FALLING = ("true_probability",)
FROM_FP32 = ("relative_error", "cosine_distance")


def changes(tables: Mapping[str, pd.DataFrame], study: Params) -> pd.DataFrame:
    """How far every step moved from fp32 in each group, and the accuracy it lost.

    Parameters
    ----------
    tables
        ``groups``, ``layers`` and ``curvature``.
    study
        Its first groupings and its plain method.

    Returns
    -------
    pandas.DataFrame
        One row a group of a network at a width: dataset, model, seed, bits, attribute, group, one
        column a step of :data:`STEPS` and :data:`LOST`; NaN where the loss was not surveyed.
    """
    key = [*PLACE, "bits", "attribute", "group"]
    rows = plain(first_groupings(tables["groups"], study), study)
    layers, surfaces = tables["layers"], tables["curvature"]
    whole = layers[layers["layer"] == "all"]
    rows = rows.merge(whole[[*PLACE, "method", "bits", "relative_error"]])
    measured = ["gradient_plain", "largest_eigenvalue"]
    rows = rows.merge(surfaces[[*key, "method", *measured]], "left", [*key, "method"])
    origin = rows[rows["bits"] == 32].set_index([*PLACE, "group"])
    rows = rows[rows["bits"].isin(study.bits)].reset_index(drop=True)
    start = origin.loc[pd.MultiIndex.from_frame(rows[[*PLACE, "group"]])].reset_index(drop=True)
    moved = {LOST: start["accuracy"] - rows["accuracy"]}
    for step, column in STEPS.items():
        rise = rows[column] if column in FROM_FP32 else rows[column] - start[column]
        moved[step] = -rise if column in FALLING else rise
    return rows[key].assign(**moved)


def attribution(moved: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables ``attribution`` and ``mediation``, from :func:`changes`."""
    found: dict[str, list[pd.DataFrame]] = {"attribution": [], "mediation": []}
    for place, part in moved.groupby(["dataset", "model", "attribute"], sort=False):
        names = dict(zip(("dataset", "model", "attribute"), place, strict=True))
        for width, group, rows in _scopes(part):
            where = {**names, "width": width, "group": group}
            ranks = rank_correlations(rows, LOST, [*STEPS])
            found["attribution"].append(ranks.assign(**where))
            if group == EVERY:
                carried = mediation(rows, LOST, [*STEPS]).assign(**where)
                found["mediation"].append(carried.drop(columns="group"))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in found.items()}


def _scopes(part: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    yield EVERY, EVERY, part
    for bits, rows in part.groupby("bits", sort=False):
        # seeds are averaged, or their weights would stand in for the groups
        yield width_name(bits), EVERY, rows.groupby("group", sort=False).mean(numeric_only=True)
    for group, rows in part.groupby("group", sort=False):
        yield EVERY, str(group), rows


def view(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations of :func:`attribution` as rows of a heat map."""
    over = table["group"].where(table["group"] != EVERY, table["width"])
    fields = {True: "over groups, at a width", False: "over widths, in a group"}
    return pd.DataFrame(
        {
            "panel": table["dataset"] + " · " + table["model"],
            "drawing": (table["group"] == EVERY).map(fields),
            "x": over,
            "y": table["step"],
            "value": table["spearman"],
        }
    )
