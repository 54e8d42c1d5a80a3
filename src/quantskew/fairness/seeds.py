"""Two sources of chance: the seed a network is trained with, the samples it is tested on.

All seeds are tested on one test set, so part of the sampling error is common to them and does not
average out over seeds, however many there are.
"""

import numpy as np
from numpy.typing import ArrayLike

from quantskew.fairness.metrics import Floats


def variance_of_mean(values: ArrayLike, draws: ArrayLike) -> Floats:
    """Estimate the variance of a metric's mean over seeds, for new seeds and new test samples.

    Seed s shows θ + a_s + c + e_s: its own deviation a, a sampling error c common to all seeds,
    and one of its own e. The bootstrap knows c and e: the mean covariance between seeds estimates
    Var c, the mean variance Var c + Var e. The variance between the observed values is
    Var a + Var e, hence Var a (not below zero).

    Parameters
    ----------
    values
        (S, ...) the metric of each of two seeds or more.
    draws
        (B, S, ...) the same under resampling of test samples; a draw uses one test set for all
        seeds. A draw with NaN is left out.

    Returns
    -------
    (...) (Var a + Var e) / S + Var c.
    """
    values, draws = np.asarray(values, float), np.asarray(draws, float)
    seeds = len(values)
    sampling, each = np.nanvar(draws.mean(1), 0, ddof=1), np.nanvar(draws, 0, ddof=1).mean(0)
    # Var(mean) = common + own / S, and each = common + own
    own = np.maximum(0.0, (each - sampling) * seeds / (seeds - 1))
    return np.asarray(np.maximum(0.0, values.var(0, ddof=1) - own) / seeds + sampling)
