"""How much of the accuracy that groups lose goes with which step of the impact flow.

All of it is of the reference method and the first grouping. Each row that enters is a group at a
width: how far each step moved from fp32, and how much accuracy was lost. What comes out is
association, and answers two separate questions. At one width, do the groups that lose more also
move further? The weights cannot tell, because groups share them. And within one group, does the
loss follow the step as the width falls? Every step does so to some extent. The table ``mediation``
shows what is left of one relation once another step is held fixed; such data go no further.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, plain
from quantskew.layout import empty
from quantskew.names import FULL_PRECISION, width_name
from quantskew.schemas import VARIANT

NETWORK = ["dataset", "model", "seed"]
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
"""Steps in the order of the flow, and the columns that measure them."""

FALLING = ("true_probability",)
FROM_FP32 = ("relative_error", "cosine_distance")


def surveyed(groups: pd.DataFrame, curvature: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Join what was measured of each group with the surface of its loss.

    These are the rows of ``groups`` of fp32 and the reference method, on the first groupings, with
    the columns that only ``curvature`` has; those are NaN where the surface was not surveyed.
    """
    key = [*VARIANT, "attribute", "group"]
    surface = curvature[[*key, *curvature.columns.difference(groups.columns)]]
    return plain(first_groupings(groups, study), study).merge(surface, "left", key)


def changes(tables: Mapping[str, pd.DataFrame], study: Study) -> pd.DataFrame:
    """How far every step moved from fp32 in each group, and the accuracy it lost.

    From the tables ``groups``, ``layers`` and ``curvature``: one row per group of a network at a
    width, with dataset, model, seed, bits, attribute, group, :data:`LOST` and one column per step
    of :data:`STEPS`; NaN where the surface of the loss was not surveyed.
    """
    layers = tables["layers"]
    whole = layers.loc[layers["layer"] == "all", [*VARIANT, "relative_error"]]
    rows = surveyed(tables["groups"], tables["curvature"], study).merge(whole)
    origin = rows[rows["bits"] == FULL_PRECISION].set_index([*NETWORK, "group"])
    rows = rows[rows["bits"].isin(study.bits)].reset_index(drop=True)
    start = origin.loc[pd.MultiIndex.from_frame(rows[[*NETWORK, "group"]])].reset_index(drop=True)
    moved = {LOST: start["accuracy"] - rows["accuracy"]}
    for step, column in STEPS.items():
        rise = rows[column] if column in FROM_FP32 else rows[column] - start[column]
        moved[step] = -rise if column in FALLING else rise
    return rows[[*NETWORK, "bits", "attribute", "group"]].assign(**moved)


def attribution(moved: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables ``attribution`` and ``mediation``, from :func:`changes`."""
    frames: dict[str, list[pd.DataFrame]] = {"attribution": [], "mediation": []}
    place = ["dataset", "model", "attribute"]
    for names, part in moved.groupby(place, sort=False):
        for width, group, rows in _scopes(part):
            where = dict(zip((*place, "width", "group"), (*names, width, group), strict=True))
            ranks = rank_correlations(rows, LOST, [*STEPS])
            frames["attribution"].append(ranks.assign(**where))
            if group == EVERY:
                mediated = mediation(rows, LOST, [*STEPS]).assign(**where)
                frames["mediation"].append(mediated.drop(columns="group"))
    return {
        name: pd.concat(parts, ignore_index=True) if parts else empty(name)
        for name, parts in frames.items()
    }


def rank_correlations(
    changes: pd.DataFrame, accuracy_lost: str, steps: Sequence[str]
) -> pd.DataFrame:
    """Rank correlation of each step's change with the accuracy lost.

    Parameters
    ----------
    changes
        One row per group and width.
    accuracy_lost, steps
        Its columns: accuracy before minus after, and the changes of the steps of the flow.

    Returns
    -------
    pandas.DataFrame
        One row per step: ``step``, ``rows`` (how many have both numbers), Spearman's ``spearman``
        and Kendall's ``kendall`` (τ-b), each from −1 to 1; NaN where there are fewer than three
        rows or a column is constant. There is no p, because groups of a network share its weights.
    """
    known = changes[[accuracy_lost, *steps]]
    table = pd.DataFrame({"rows": known[known[accuracy_lost].notna()].count()})
    for kind in ("spearman", "kendall"):
        table[kind] = known.corr(kind, min_periods=3)[accuracy_lost]
    return table.loc[[*steps]].rename_axis("step").reset_index()


def mediation(changes: pd.DataFrame, accuracy_lost: str, steps: Sequence[str]) -> pd.DataFrame:
    """How far each step's relation to the accuracy lost is mediated by the next step of the flow.

    On ranks, the total slope from a step to the accuracy lost is compared with the direct slope
    that remains once the next step is held fixed (the product of coefficients of Baron & Kenny,
    1986; ranks make it independent of units and of monotone transformations).

    Parameters
    ----------
    changes, accuracy_lost, steps
        As in :func:`rank_correlations`; the steps in the order of the flow.

    Returns
    -------
    pandas.DataFrame
        One row per pair of neighbouring steps: ``step``, ``mediator``, ``rows``, the standardised
        slopes ``total`` and ``direct``, and ``association_through`` = total − direct. NaN where
        there are fewer than four rows, or the ranks are constant or collinear.
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
        # means over seeds, or the weights of the networks would stand in for the groups
        yield width_name(bits), EVERY, rows.groupby("group", sort=False).mean(numeric_only=True)
    for group, rows in part.groupby("group", sort=False):
        yield EVERY, str(group), rows
