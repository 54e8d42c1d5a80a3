"""The Pareto frontier: the variants that nothing beats at everything."""

import numpy as np
from numpy.typing import ArrayLike

from quantskew.fairness.metrics import Bools


def on_frontier(values: ArrayLike, maximize: ArrayLike) -> Bools:
    """Mark the rows that no other row dominates.

    A row dominates another if it is as good in every column and better in one. Equal rows do not
    dominate each other. A row with NaN neither dominates nor stands on the frontier.

    Parameters
    ----------
    values
        (..., N, M) one row a variant, one column a criterion.
    maximize
        (M,) whether more of a column is better, as accuracy is and size is not.

    Returns
    -------
    (..., N).
    """
    values = np.where(maximize, values, -np.asarray(values, float))
    known = ~np.isnan(values).any(-1)
    ours, theirs = values[..., :, None, :], values[..., None, :, :]
    dominated = (theirs >= ours).all(-1) & (theirs > ours).any(-1)
    return np.asarray(known & ~dominated.any(-1))
