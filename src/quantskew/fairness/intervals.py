"""The size of a difference in standard deviations, with its interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import nct


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
    NaN limits and d where there is one value, none differ or one is NaN.
    """
    changes = np.asarray(changes, float)
    n = changes.size
    # equal numbers may differ from their mean by rounding
    if n < 2 or not (sd := changes.std(ddof=1)) > 1e-12 * np.abs(changes).max():
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
