"""Two sources of chance: the seed a network is trained with, the samples it is tested on.

All seeds are tested on one test set, so part of the sampling error is common to them and does not
average out over seeds, however many there are.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from quantskew.fairness.metrics import Floats


class SeedVariance(NamedTuple):
    """Where the variance of a metric comes from; NaN where one seed cannot tell."""

    seed: Floats  # between networks, were the test set endless
    sampling: Floats  # of the mean over these seeds, between test sets
    total: Floats  # of the mean over seeds, from both


def seed_and_sampling_variance(values: ArrayLike, draws: ArrayLike) -> SeedVariance:
    """Split the variance of a metric into training seeds and test samples.

    Seed s shows θ + a_s + c + e_s: its own deviation a, a sampling error c common to all seeds,
    and one of its own e. The bootstrap knows c and e: the mean covariance between seeds estimates
    Var c, the mean variance Var c + Var e. The variance between the observed values is
    Var a + Var e, hence Var a (not below zero).

    Parameters
    ----------
    values
        (S, ...) the metric of each seed.
    draws
        (B, S, ...) the same under resampling of test samples; a draw uses one test set for all
        seeds. A draw with NaN is left out.

    Returns
    -------
    Each (...). ``total`` = (Var a + Var e) / S + Var c.
    """
    values, draws = np.asarray(values, float), np.asarray(draws, float)
    seeds = len(values)
    sampling = _variance(draws.mean(1))
    if seeds == 1:
        unknown = np.full_like(sampling, np.nan)
        return SeedVariance(unknown, sampling, unknown)
    each = _variance(draws).mean(0)
    # Var(mean) = common + own / S, and each = common + own
    own = np.maximum(0.0, (each - sampling) * seeds / (seeds - 1))
    seed = np.maximum(0.0, values.var(0, ddof=1) - own)
    return SeedVariance(seed, sampling, seed / seeds + sampling)


def _variance(draws: Floats) -> Floats:
    known = ~np.isnan(draws)
    n = known.sum(0)
    filled = np.where(known, draws, 0.0)
    mean = filled.sum(0) / np.maximum(n, 1)
    squares = np.where(known, (draws - mean) ** 2, 0.0).sum(0)
    return np.where(n > 1, squares / np.maximum(n - 1, 1), np.nan)
