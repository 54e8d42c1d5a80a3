"""A verdict in four words, what would decide it, and many verdicts at once.

=========== ===================================================================================
equivalent  the whole interval lies within ± the margin: what changed is too small to matter
worse       the interval lies on the worse side of zero, and the test (if any) agrees
better      the interval lies on the better side of zero, and the test agrees
cannot tell neither: the samples or the seeds are too few
=========== ===================================================================================

A change that is surely there and surely within the margin is *equivalent*: the margin says which
changes matter. Without a margin (0) nothing is.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantskew.fairness.limits import Limits
from quantskew.fairness.metrics import Bools, Floats, ratio

EQUIVALENT, WORSE, BETTER, CANNOT_TELL = WORDS = ("equivalent", "worse", "better", "cannot tell")
UNDEFINED = "undefined"  # no verdict: there is no number to judge


def verdicts(
    low: ArrayLike,
    high: ArrayLike,
    margin: float,
    *,
    p_value: ArrayLike | None = None,
    alpha: float = 0.05,
    higher_is_better: ArrayLike = True,
) -> NDArray[np.str_]:
    """Judge changes by their intervals, and by their adjusted p-values where there are any.

    Parameters
    ----------
    low, high
        (...) limits of each change at 1 − ``alpha``.
    margin
        Largest change that does not matter, ≥ 0, in the unit of the limits.
    p_value
        (...) of no change, adjusted for the family. A verdict of worse or better needs both the
        test and the interval, so that it contradicts neither.
    higher_is_better
        (...) False for FVO and other gaps.

    Returns
    -------
    (...) of :data:`WORDS`, and ``undefined`` where a limit is NaN.

    Examples
    --------
    >>> verdicts([-0.05, -0.01, 0.02, -0.1], [-0.01, 0.01, 0.05, 0.1], 0.02).tolist()
    ['worse', 'equivalent', 'better', 'cannot tell']
    >>> verdicts([0.02], [0.05], 0.02, higher_is_better=False).tolist()
    ['worse']
    """
    if not margin >= 0:
        raise ValueError(f"a margin of {margin}; it must be 0 or more")
    low, high = np.asarray(low, float), np.asarray(high, float)
    sure = np.asarray(True if p_value is None else np.asarray(p_value, float) <= alpha)
    down, up = sure & (high < 0), sure & (low > 0)
    better = np.where(higher_is_better, up, down)
    return np.select(
        [np.isnan(low) | np.isnan(high), within(low, high, margin), better, down | up],
        [UNDEFINED, EQUIVALENT, BETTER, WORSE],
        CANNOT_TELL,
    )


def within(low: ArrayLike, high: ArrayLike, margin: float) -> Bools:
    """Mark the intervals that lie within ± ``margin``, which must not be 0."""
    return np.asarray((margin > 0) & np.greater_equal(low, -margin) & np.less_equal(high, margin))


def deciding_samples(
    n: ArrayLike, estimate: ArrayLike, low: ArrayLike, high: ArrayLike, margin: float
) -> Floats:
    """Estimate how many samples would decide, if the estimate stays where it is.

    An interval shrinks with the root of the number of samples. It decides once it leaves out zero
    or lies within the margin, whichever comes first.

    Parameters
    ----------
    n
        (...) samples behind each interval.
    estimate, low, high
        (...) the change and its limits.

    Returns
    -------
    (...) samples in all, rounded up; at most ``n`` where it is decided, infinite where no number
    would (an estimate of exactly the margin, or of zero without a margin).

    Examples
    --------
    >>> deciding_samples(100, 0.0, -0.04, 0.04, 0.02).item()
    400.0
    """
    n, estimate, low, high = (np.asarray(a, float) for a in (n, estimate, low, high))
    below, above = estimate - low, high - estimate

    def share(reach: Floats, room: Floats) -> Floats:  # of the present width that may remain
        return np.where(reach > 0, np.maximum(room, 0) / np.where(reach > 0, reach, 1), np.inf)

    apart = np.where(estimate > 0, share(below, estimate), share(above, -estimate))
    inside = np.minimum(share(below, margin + estimate), share(above, margin - estimate))
    width = np.maximum(apart, inside)
    needed = np.full(width.shape, np.inf)
    np.divide(n, width**2, out=needed, where=width > 0)
    return np.asarray(np.ceil(needed - 1e-9))


def deciding_seeds(
    seeds: ArrayLike,
    estimate: ArrayLike,
    seed_sd: ArrayLike,
    common_sd: ArrayLike,
    margin: ArrayLike,
    *,
    alpha: ArrayLike = 0.05,
) -> Floats:
    """Estimate how many training seeds would decide, if the estimate stays where it is.

    Parameters
    ----------
    seeds
        (...) seeds there are.
    estimate, seed_sd, common_sd
        (...) the change, its standard deviation between seeds, and the error of its mean that the
        common test samples cause, which seeds do not reduce.
    margin, alpha
        As in :func:`verdicts`.

    Returns
    -------
    (...) seeds in all, more than there are; infinite where no number would.
    """
    from scipy.stats import norm  # 30 MB, not in every stage

    z = norm.isf(np.asarray(alpha, float) / 2)
    size = np.abs(np.asarray(estimate, float))
    room = np.maximum(size, margin - size) ** 2 - (z * np.asarray(common_sd, float)) ** 2
    needed = np.full(np.shape(room), np.inf)
    np.divide((z * np.asarray(seed_sd, float)) ** 2, room, out=needed, where=~(room <= 0))
    return np.asarray(np.maximum(np.ceil(needed - 1e-9), np.asarray(seeds) + 1))


def p_value_of_limits(limits: Callable[[Floats], Limits]) -> Floats:
    """Find the two-sided p-value of no change that belongs to an interval.

    It is twice the smallest ``tail`` at which the limits leave out zero.

    Parameters
    ----------
    limits
        Maps the error of each limit, (...), to limits (...), such as
        ``lambda tail: gap_change_limits(rates, counted, tail)`` of a single number.

    Returns
    -------
    (...) at least 1e-8; 1 where the limits never leave out zero, NaN where they are undefined.
    """

    def excess(exponent: Floats) -> Floats:
        """By how much zero is left out; below 0 where it is not."""
        low, high = limits(10.0**exponent)
        return np.asarray(np.maximum(low, -high))

    most = np.asarray(np.log10(0.5))
    least = np.asarray(np.log10(5e-9))
    outside, inside = excess(most), excess(least)
    undefined, ever, always = np.isnan(outside), outside > 0, inside > 0
    for _ in range(6 if (ever & ~always).any() else 0):
        middle = (most + least) / 2
        found = excess(middle)
        beyond = found > 0
        most, outside = np.where(beyond, middle, most), np.where(beyond, found, outside)
        least, inside = np.where(beyond, least, middle), np.where(beyond, inside, found)
    # an eighth of a decade is left, in which the limits move along a line
    share = np.where(always | ~ever, 1.0, ratio(outside, outside - inside))
    found = 2 * 10.0 ** (most + share * (least - most))
    return np.asarray(np.where(undefined, np.nan, np.where(ever, found, 1.0)))


def false_discovery_rate(p_values: ArrayLike) -> Floats:
    """Adjust p-values so that, of those ≤ α, a share of at most α is false on average.

    Benjamini & Hochberg (1995), by scipy; for what is explored beside the headline outcomes.

    Parameters
    ----------
    p_values
        Any shape; NaN is a test that was not made: it stays NaN and does not count.
    """
    p_values = np.asarray(p_values, float)
    adjusted = np.full(p_values.shape, np.nan)
    made = ~np.isnan(p_values)
    if made.any():
        from scipy.stats import false_discovery_control  # 30 MB, not in every stage

        adjusted[made] = false_discovery_control(p_values[made])
    return adjusted
