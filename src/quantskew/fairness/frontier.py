"""The Pareto frontier: the variants that nothing beats at everything."""

import numpy as np
from numpy.typing import ArrayLike

from quantskew.fairness.metrics import Bools, Floats


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


def frontier_probability(draws: ArrayLike, maximize: ArrayLike) -> Floats:
    """Compute how often each variant is on the frontier of a resampled test set.

    Parameters
    ----------
    draws
        (B, N, M) the criteria under each draw; a draw resamples the same test samples for all
        variants. What is not sampled, such as size, repeats.
    maximize
        (M,) whether more of a column is better.

    Returns
    -------
    (N,) shares of 1.
    """
    shares = np.mean([on_frontier(draw, maximize) for draw in np.asarray(draws, float)], axis=0)
    return np.asarray(shares)
