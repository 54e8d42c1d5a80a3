"""How much of the accuracy lost goes along with each step of the impact flow.

Association, not cause: the steps of the flow all grow with falling width, so each is related to
the loss of accuracy whether or not it brings it about. The mediation table shows what is left of
one relation once another step is held fixed, which is as far as such data can go.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats


def rank_correlations(
    changes: pd.DataFrame, accuracy_lost: str, steps: Sequence[str]
) -> pd.DataFrame:
    """Rank correlation of each step's change with the accuracy lost.

    Parameters
    ----------
    changes
        One row a (group, width): the changes from the original network.
    accuracy_lost
        Column that holds accuracy before minus after.
    steps
        Columns of the flow's steps, e.g. ``cosine_distance``.

    Returns
    -------
    pandas.DataFrame
        One row a step: ``step``, ``rows`` (those where both are known), Spearman's ``spearman``
        and Kendall's ``kendall`` (τ-b), each in −1 … 1; NaN where there are fewer than three rows
        or a column is constant. Without p: groups of one network share its weights.
    """
    table = []
    for step in steps:
        known = changes[[step, accuracy_lost]].dropna()
        row: dict[str, str | float] = {"step": step, "rows": len(known)}
        varied = len(known) > 2 and bool((known.max() > known.min()).all())
        for name, test in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
            row[name] = float(test(known[step], known[accuracy_lost])[0]) if varied else np.nan
        table.append(row)
    return pd.DataFrame(table)


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
