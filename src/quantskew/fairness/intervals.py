"""Intervals for one accuracy, and for the size of a difference in standard deviations."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import betaincinv, ndtri
from scipy.stats import nct

from quantskew.fairness.metrics import Floats, ratio


def wilson(hits: ArrayLike, sizes: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Bound an accuracy by the score interval of Wilson (1927).

    The accuracies whose z-test does not reject the observed one. Close to its nominal coverage on
    average, and never outside 0..1; the usual choice for an error bar.

    Parameters
    ----------
    hits, sizes
        Right answers and samples; any shapes that broadcast.

    Returns
    -------
    Lower and upper limit; NaN for an empty group.
    """
    hits, sizes = np.broadcast_arrays(np.asarray(hits, float), np.asarray(sizes, float))
    z = ndtri((1 + confidence) / 2)
    centre = ratio(hits + z**2 / 2, np.where(sizes > 0, sizes + z**2, 0))
    half = z * ratio(np.sqrt(ratio(hits * (sizes - hits), sizes) + z**2 / 4), sizes + z**2)
    return np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)


def clopper_pearson(
    hits: ArrayLike, sizes: ArrayLike, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Bound an accuracy by the exact interval of Clopper & Pearson (1934).

    Each limit errs with chance (1 − confidence)/2 at most, at every sample size; the choice for a
    guarantee. Parameters and result as in :func:`wilson`.
    """
    hits, sizes = np.broadcast_arrays(np.asarray(hits, float), np.asarray(sizes, float))
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(hits > 0, betaincinv(hits, sizes - hits + 1, tail), 0.0)
        high = np.where(hits < sizes, betaincinv(hits + 1, sizes - hits, 1 - tail), 1.0)
    empty = sizes == 0
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


class EffectSize(NamedTuple):
    """Cohen's d and its confidence limits."""

    d: float
    low: float
    high: float


def cohens_d(changes: ArrayLike, *, confidence: float = 0.95) -> EffectSize:
    """Express a mean change in standard deviations of the changes.

    By custom 0.2 is small, 0.5 medium, 0.8 large (Cohen 1988). The limits are the d whose
    noncentral t distribution leaves (1 − confidence)/2 beyond the observed t; they assume normal
    values.

    Parameters
    ----------
    changes
        (n,) one a pair, such as the same seed before and after.

    Returns
    -------
    NaN limits and d where there is one value or none differ.
    """
    changes = np.asarray(changes, float)
    n = changes.size
    # equal numbers may differ from their mean by rounding
    if n < 2 or (sd := changes.std(ddof=1)) <= 1e-12 * np.abs(changes).max():
        return EffectSize(np.nan, np.nan, np.nan)
    t, tail = changes.mean() / sd * np.sqrt(n), (1 - confidence) / 2
    low, high = (_noncentrality(t, n - 1, level) for level in (1 - tail, tail))
    return EffectSize(float(t / np.sqrt(n)), low / np.sqrt(n), high / np.sqrt(n))


def _noncentrality(t: float, degrees: int, level: float) -> float:
    """Find the noncentrality under which the chance of less than ``t`` is ``level``."""

    def below(center: float) -> float:
        chance = nct.cdf(t, degrees, center)
        # scipy gives up far out in the tails, where the chance is as good as 0 or 1
        return float(center < t) if np.isnan(chance) else chance

    reach = 5.0 + abs(t)
    while below(t - reach) < level or below(t + reach) > level:
        reach *= 2
    return float(brentq(lambda center: below(center) - level, t - reach, t + reach))
