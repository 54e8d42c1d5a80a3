"""How much of the accuracy that groups lose goes with which step of the impact flow.

For plain quantization and the first grouping, from stored tables alone. A row of what is compared
is a group at a width: how far each step moved from fp32, and how much accuracy was lost. It is
association, and two questions are kept apart: at one width, do the groups that lose more also move
further (the weights, which groups share, cannot tell them apart)? And in one group, does the loss
follow the step as the width falls (every step does so to some extent)? The table ``mediation``
shows what is left of one relation once another step is held fixed, which is as far as such data go.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, plain
from quantskew.names import FULL_PRECISION, width_name

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


def changes(tables: Mapping[str, pd.DataFrame], study: Study) -> pd.DataFrame:
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
    origin = rows[rows["bits"] == FULL_PRECISION].set_index([*PLACE, "group"])
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


def rank_correlations(
    changes: pd.DataFrame, accuracy_lost: str, steps: Sequence[str]
) -> pd.DataFrame:
    """Rank correlation of each step's change with the accuracy lost.

    Parameters
    ----------
    changes
        One row a (group, width).
    accuracy_lost, steps
        Columns of it: accuracy before minus after, and the changes of the flow's steps.

    Returns
    -------
    pandas.DataFrame
        One row a step: ``step``, ``rows`` (those where both are known), Spearman's ``spearman``
        and Kendall's ``kendall`` (τ-b), each in −1 … 1; NaN where there are fewer than three rows
        or a column is constant. Without p: groups of one network share its weights.
    """
    known = changes[[accuracy_lost, *steps]]
    table = pd.DataFrame({"rows": known[known[accuracy_lost].notna()].count()})
    for kind in ("spearman", "kendall"):
        table[kind] = known.corr(kind, min_periods=3)[accuracy_lost]
    return table.loc[[*steps]].rename_axis("step").reset_index()


def mediation(changes: pd.DataFrame, accuracy_lost: str, steps: Sequence[str]) -> pd.DataFrame:
    """How far the steps of the flow, in their order, carry the relation to the accuracy lost.

    Each step is followed to the next one: on ranks, its total slope to the accuracy lost is
    compared with the direct slope that remains once the next step is held fixed (Baron & Kenny's
    product of coefficients; ranks make it blind to units and to monotone curvature).

    Parameters
    ----------
    changes, accuracy_lost, steps
        As in :func:`rank_correlations`; the steps in the order of the flow.

    Returns
    -------
    pandas.DataFrame
        One row a pair of neighbouring steps: ``step``, ``mediator``, ``rows``, the standardised
        slopes ``total`` and ``direct``, and ``association_through`` = total − direct. NaN where
        there are fewer than four rows or the ranks are constant or collinear.
    """
    table = []
    for step, mediator in pairwise(steps):
        known = changes[[step, mediator, accuracy_lost]].dropna()
        total = direct = np.nan
        if len(known) > 3 and (known.max() > known.min()).all():
            r = known.rank().corr().to_numpy()
            total = r[0, 2]
            if abs(r[0, 1]) < 1 - 1e-9:
                direct = np.linalg.solve(r[:2, :2], r[:2, 2])[0]
        table.append((step, mediator, len(known), total, direct, total - direct))
    return pd.DataFrame(
        table, columns=["step", "mediator", "rows", "total", "direct", "association_through"]
    )


def _scopes(part: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    yield EVERY, EVERY, part
    for bits, rows in part.groupby("bits", sort=False):
        # seeds are averaged, or their weights would stand in for the groups
        yield width_name(bits), EVERY, rows.groupby("group", sort=False).mean(numeric_only=True)
    for group, rows in part.groupby("group", sort=False):
        yield EVERY, str(group), rows
