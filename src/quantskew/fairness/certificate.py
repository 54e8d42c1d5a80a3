"""What can be promised of a network, or of several of which one is chosen.

A promise speaks of one trained network and its reference on the same samples. ``lost`` is how many
samples of a group went from right to wrong, ``gained`` how many came back.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, betaincinv

from quantskew.fairness.limits import change_limits, changes
from quantskew.fairness.metrics import Bools, Floats, Ints

_NUISANCE = 0.1  # share of α spent on the rate of change; 0.05 to 0.2 give nearly the same bound
_MONOTONE = 0.75  # up to this rate of change, a higher one makes a low D likelier, at any n


class Certificate(NamedTuple):
    """Upper bounds of the accuracy each group lost, as shares of 1, valid all at once."""

    groups: Floats  # (G,); NaN for a group that is not counted
    bound: float  # the largest: no counted group loses more


def certificate(
    lost: ArrayLike,
    gained: ArrayLike,
    sizes: ArrayLike,
    *,
    counted: ArrayLike,
    alpha: float = 0.05,
    alternatives: int = 1,
) -> Certificate:
    """Certify that no group loses more than ``bound`` of its accuracy.

    With confidence 1 − α over the choice of test samples, every counted group's true loss is
    within its bound (α is divided among them). It takes no assumption about the networks, as long
    as the test samples had no part in making them.

    Parameters
    ----------
    lost, gained, sizes
        (G,) samples that went from right to wrong, from wrong to right, and all.
    counted
        (G,) the groups the promise covers.
    alternatives
        Networks of which one is chosen by these bounds. That no group of any of them loses more
        than it is certified to needs α to be divided among the groups or among the networks,
        whichever are more: a network whose bound is too low has a group that loses most, and the
        bound of that group is too low.

    See Also
    --------
    loss_bound : the bound of one group.
    """
    counted = np.asarray(counted, bool)
    bounds = np.full(counted.size, np.nan)
    for g in np.flatnonzero(counted):
        cell = (int(np.asarray(a)[g]) for a in (lost, gained, sizes))
        bounds[g] = loss_bound(*cell, alpha=alpha / max(counted.sum(), alternatives))
    return Certificate(bounds, float(np.nanmax(bounds)) if counted.any() else np.nan)


def is_a_basis(labels: Ints, answers: Ints) -> bool:
    """Whether a reference is right more often than the most frequent class alone would be.

    One that is not was probably built or fed otherwise than it was trained, so what another
    network loses against it says nothing.

    Examples
    --------
    >>> is_a_basis(np.array([0, 1, 1]), np.array([1, 1, 1]))
    False
    """
    return bool((answers == labels).mean() > np.bincount(labels).max() / len(labels))


def certified_losses(
    before: Bools,
    after: Bools,
    groups: Ints,
    *,
    counted: Bools,
    alpha: float,
    units: Ints | None = None,
    alternatives: int = 1,
) -> Floats:
    """Certify the losses of all counted groups at once, also where units have several samples.

    Parameters
    ----------
    before, after
        (n,) whether the reference and the network are right.
    groups
        (n,) codes from −1 (no group) to G − 1.
    counted
        (G,) the groups the promise covers.
    alpha
        Chance that any of the bounds is too low.
    units
        (n,) who each sample comes from; None where each is its own unit.
    alternatives
        As in :func:`certificate`.

    Returns
    -------
    (G,) upper bounds of the accuracy lost, not below 0; NaN for a group that is not counted. Those
    of :func:`certificate` count samples and are exact; of units there are the limits of
    :func:`quantskew.fairness.limits.change_limits`.

    Examples
    --------
    >>> before, after = np.ones(90, bool), np.arange(90) >= 3
    >>> one = {"groups": np.zeros(90, int), "counted": np.array([True]), "alpha": 0.05}
    >>> certified_losses(before, after, **one).round(3)
    array([0.095])
    >>> certified_losses(before, after, **one, units=np.arange(90) // 3).round(3)
    array([0.157])
    """
    if units is None:
        every = (before & ~after, ~before & after, np.ones(len(before), bool))
        lost, gained, sizes = (
            np.bincount(groups[(groups >= 0) & kind], minlength=len(counted)) for kind in every
        )
        return certificate(
            lost, gained, sizes, counted=counted, alpha=alpha, alternatives=alternatives
        ).groups
    change = changes(before, after, groups, len(counted), units=units)
    lows = change_limits(change, alpha / max(alternatives, counted.sum())).low
    return np.where(counted, np.maximum(0.0, -lows), np.nan)


def loss_bound(lost: int, gained: int, n: int, *, alpha: float) -> float:
    """Bound from above the accuracy that one group lost, P(lost) − P(gained), not below 0.

    The test statistic D = lost − gained depends on the loss x and on how often answers change at
    all, δ. Following Berger & Boos (1994), a tenth of α buys an exact upper limit of δ, and the
    bound is the x at which D is as low as observed with chance 9α/10 at most, at any δ up to that
    limit (the likeliest is the limit itself, unless nearly every answer changes). Each is an exact
    binomial calculation. Bounding P(lost) and P(gained) apart, by Clopper–Pearson at α/2 each, is
    as valid and 20–30 % wider where both occur.

    Parameters
    ----------
    lost, gained, n
        Counts with ``lost + gained <= n``.
    alpha
        Chance of the bound being too low.

    Returns
    -------
    Share of 1. With nobody in the group it is 1: nothing is known.
    """
    if not 0 <= lost + gained <= n:
        raise ValueError(f"{lost} lost and {gained} gained of {n}: they cannot be more than all")
    changed = lost + gained
    most = _most_changed(changed, n, alpha)

    def excess(x: float) -> float:
        rates = np.linspace(max(x, _MONOTONE), most, 12) if most > _MONOTONE else [most]
        return max(_at_most(lost - gained, n, x, rate) for rate in rates) - budget

    budget = (1 - _NUISANCE) * alpha
    if excess(0.0) <= 0:
        return 0.0
    if excess(most) >= 0:
        return most
    from scipy.optimize import brentq  # 30 MB, not in every stage

    return float(brentq(excess, 0.0, most, xtol=1e-7))


def loss_floor(lost: int, gained: int, n: int, *, alpha: float) -> float:
    """Bound from below the accuracy that one group lost, P(lost) − P(gained).

    The mirror of :func:`loss_bound`: the x at which D is as high as observed with chance 9α/10 at
    most, at any rate of change within its upper limit. Where no x above 0 is that unlikely, what
    may have been gained bounds the loss from below. Parameters as there.
    """
    changed = lost + gained
    most = _most_changed(changed, n, alpha)
    budget = (1 - _NUISANCE) * alpha

    def excess(x: float) -> float:
        rates = np.linspace(max(x, most / 100), most, 12)
        return max(_at_most(gained - lost, n, -x, rate) for rate in rates) - budget

    if excess(0.0) >= 0:
        return -loss_bound(gained, lost, n, alpha=alpha)
    from scipy.optimize import brentq  # 30 MB, not in every stage

    return float(brentq(excess, 0.0, most, xtol=1e-7))


def _most_changed(changed: int, n: int, alpha: float) -> float:
    """Upper limit of the rate of change, for a tenth of α (Clopper–Pearson)."""
    return (
        1.0 if changed == n else float(betaincinv(changed + 1, n - changed, 1 - _NUISANCE * alpha))
    )


@lru_cache(maxsize=32)
def _likely(n: int, rate: float) -> tuple[Ints, Floats]:
    """List the values of Bin(n, rate) but for tails far below any alpha, and their chances."""
    reach = 8 * np.sqrt(n * rate * (1 - rate)) + 20
    values = np.arange(max(0, int(n * rate - reach)), min(n, int(n * rate + reach)) + 1)
    from scipy.stats import binom  # 30 MB, not in every stage

    return values, binom.pmf(values, n, rate)


def _at_most(difference: int, n: int, x: float, rate: float) -> float:
    """Chance of lost − gained ≤ ``difference`` when a share ``rate`` changes and ``x`` is lost."""
    changed, likely = _likely(n, rate)
    reach = np.floor((difference + changed) / 2)
    chance = bdtr(np.clip(reach, 0, changed), changed, min(1.0, (1 + x / rate) / 2))
    return float(likely @ np.where(reach < 0, 0.0, chance))
