"""Methods compared over training seeds: the network is the unit.

Two networks may differ though their methods do not: training again gives another network. What is
said of a *method* therefore counts networks, and adds what all of them share, the test samples.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit


class Contrast(NamedTuple):
    """How much better one method is than another, for new seeds and new test samples.

    It speaks of the models it was computed on, not of others.
    """

    estimate: float  # mean over models of the means over seeds
    low: float
    high: float
    p_value: float  # of no difference, two-sided
    degrees: float  # of freedom of the seeds' variance
    seed_sd: float  # of the estimate, from training (and samples that a network has of its own)
    common_sd: float  # of the estimate, from test samples that all networks share


def contrast_over_seeds(
    values: ArrayLike, draws: ArrayLike, models: ArrayLike, *, confidence: float = 0.95
) -> Contrast:
    """Compare two methods by the networks that each gives.

    Parameters
    ----------
    values
        (N,) the difference of a metric between the methods, one a model and training seed.
    draws
        (B, N) the same under resampling of the test samples, one draw for all networks.
    models
        (N,) codes of the model (architecture) of each. Seeds are averaged within a model first.
    confidence
        Of the interval.

    Returns
    -------
    With a single seed in any model, or where the draws do not tell the error that the networks
    share, the limits are infinite and p is 1: nothing is known of another training.

    Notes
    -----
    The variance between seeds, within models, gives the margin t·s with Satterthwaite's degrees of
    freedom (1946); the covariance of the draws between networks gives z·c. Their root of squares
    is the half width (Howe 1974). It is Student's interval where the test set is endless, and with
    two seeds of one model it is as wide as two numbers warrant.
    """
    values, models = np.asarray(values, float), np.asarray(models)
    draws = np.atleast_2d(draws).astype(float)
    names, counts = np.unique(models, return_counts=True)
    weights = 1 / (counts[np.searchsorted(names, models)] * names.size)
    estimate, shared = float(weights @ values), common_sd(draws, weights)
    if np.isnan(values).any():
        return Contrast(estimate, np.nan, np.nan, np.nan, 0.0, np.nan, shared)
    if counts.min() < 2 or np.isnan(shared):
        return Contrast(estimate, -np.inf, np.inf, 1.0, 0.0, np.nan, shared)
    parts = np.array([values[models == m].var(ddof=1) for m in names]) / counts / names.size**2
    seed = float(np.sqrt(parts.sum()))
    squares = float((parts**2 / (counts - 1)).sum())
    degrees = float(parts.sum() ** 2 / squares) if squares > 0 else float((counts - 1).sum())

    def reach(tail: float) -> float:
        return float(np.hypot(stdtrit(degrees, tail) * seed, ndtri(tail) * shared))

    half = reach((1 - confidence) / 2)
    return Contrast(
        estimate,
        estimate - half,
        estimate + half,
        _p_value(abs(estimate), reach),
        degrees,
        seed,
        shared,
    )


def _p_value(size: float, reach: Callable[[float], float]) -> float:
    tiny = 1e-12
    if size == 0:
        return 1.0
    if reach(tiny) <= size:
        return 2 * tiny
    from scipy.optimize import brentq  # 30 MB, not in every stage

    return float(2 * brentq(lambda tail: reach(tail) - size, tiny, 0.5))


def common_sd(draws: ArrayLike, weights: ArrayLike) -> float:
    """Estimate the error of a weighted mean of networks that their common test samples cause.

    The covariance between networks does not average out over seeds, their own variance does. For
    equal weights it is the root of the mean covariance.

    Parameters
    ----------
    draws
        (B, N) one column a network, one row a resampled test set; a row with NaN is left out.
    weights
        (N,) summing to 1.
    """
    again, weights = np.asarray(draws, float), np.asarray(weights, float)
    again = again[~np.isnan(again).any(1)]
    if len(again) < 2 or weights.size < 2:
        return float("nan")
    own = (weights**2 * again.var(0, ddof=1)).sum()
    between = (again @ weights).var(ddof=1) - own
    return float(np.sqrt(max(0.0, between / (1 - (weights**2).sum()))))
