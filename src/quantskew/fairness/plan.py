"""How many images and seeds would decide, before they are gathered.

The plan inverts what the analysis will do with the data: the certificate of
:mod:`quantskew.fairness.certificate` and the contrast of :mod:`quantskew.fairness.contrasts`.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.stats import binom, nct, norm, t

from quantskew.errors import UserError
from quantskew.fairness.certificate import loss_bound
from quantskew.fairness.limits import Changes, change_limits

_MOST = 10_000_000  # images or seeds beyond which no answer is given


class PlanError(UserError, ValueError):
    """Numbers that nothing can be planned with."""


def images_to_certify(
    loss: float,
    flip_rate: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    true_loss: float = 0.0,
    images_per_unit: float = 1.0,
    correlation: float = 0.0,
) -> float:
    """Find how many images of a group would probably certify that it loses less.

    Parameters
    ----------
    loss
        Share of accuracy, 0..1: the group is to be certified to lose less than this.
    flip_rate
        Share of images on which exactly one of the networks is right, assumed or from a pilot.
    alpha
        Error of the group's bound; divide it by the number of groups if all bounds are to hold at
        once.
    power
        Chance of success wanted.
    true_loss
        What the group truly loses, at most ``flip_rate`` in size.
    images_per_unit, correlation
        Images of one person (or other unit) and the intra-class correlation of their changes: the
        number grows by the design effect 1 + (m − 1)·correlation.

    Returns
    -------
    Images; infinite where the true loss is not below ``loss``.

    Examples
    --------
    >>> images_to_certify(0.02, 0.05)
    1070.0
    """
    _check(alpha, power, loss)
    if not abs(true_loss) <= flip_rate <= 1:
        raise PlanError(
            f"loss {loss}, true loss {true_loss}, flip rate {flip_rate}: they are shares, "
            "and the true loss is at most the flip rate in size"
        )
    if true_loss >= loss:
        return math.inf
    lost = (1 + true_loss / flip_rate) / 2 if flip_rate else 0.5

    def certifies(n: int) -> bool:
        changed = round(n * flip_rate)
        losses = int(binom.ppf(power, changed, lost)) if changed else 0
        return loss_bound(losses, changed - losses, n, alpha=alpha) < loss

    effect = 1 + (images_per_unit - 1) * correlation
    return float(np.ceil(_first(certifies) * max(1.0, effect)))


def images_from_pilot(
    lost: int,
    gained: int,
    n: int,
    loss: float,
    *,
    effective: float | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Find how many *more* images of a group would probably certify that it loses less.

    The pilot's shares are taken for the true ones; 0 where it certifies the loss already.

    Parameters
    ----------
    lost, gained, n
        Counts of the pilot: right to wrong, wrong to right, all.
    effective
        Independent images that would show the change as precisely as these, which come several
        from one unit; None where each is its own. More units are taken to be like these.
    loss, alpha, power
        As in :func:`images_to_certify`.
    """
    _check(alpha, power, loss)
    if effective is None:
        bound, effective = loss_bound(lost, gained, n, alpha=alpha), n
    else:
        shares = Changes(np.array(lost / n), np.array(gained / n), np.array(effective))
        bound = -float(change_limits(shares, alpha).low)
    if bound < loss:
        return 0.0
    flips, true_loss = (lost + gained) / n, (lost - gained) / n
    total = images_to_certify(loss, flips, true_loss=true_loss, alpha=alpha, power=power)
    return max(1.0, float(np.ceil(total * n / effective)) - n)


def seeds_to_decide(
    size: float,
    seed_sd: float,
    *,
    common_sd: float = 0.0,
    models: int = 1,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Find how many training seeds of each model would probably show a difference of methods.

    Parameters
    ----------
    size
        The difference to be shown, > 0.
    seed_sd
        Standard deviation of the difference between seeds of one model.
    common_sd
        Error from the common test samples, which seeds do not reduce.
    models
        Number of models, each trained with as many seeds.
    alpha
        Level of the two-sided test.

    Returns
    -------
    Seeds, at least 2; infinite where the test samples are too few however many there are.

    Examples
    --------
    >>> seeds_to_decide(0.05, 0.02)
    4.0
    """
    _check(alpha, power)
    if not size > 0:
        raise PlanError(f"a difference of {size} to be shown; it must be above 0")
    if not (seed_sd >= 0 and common_sd >= 0 and models >= 1):
        raise PlanError(
            f"deviations {seed_sd} between seeds and {common_sd} in common, of {models} models; "
            "0 or more, of 1 or more"
        )
    z = norm.isf(alpha / 2)
    if common_sd > 0 and norm.sf(z - size / common_sd) <= power:
        return math.inf

    def shows(seeds: int) -> bool:
        degrees, own = models * (seeds - 1), seed_sd / math.sqrt(models * seeds)
        total = math.hypot(own, common_sd)
        if total == 0:
            return True
        half = math.hypot(t.isf(alpha / 2, degrees) * own, z * common_sd)
        if half > 30 * total:
            return False
        chance = nct.sf(half / total, degrees, size / total) if size < 30 * total else 1.0
        return bool(np.nan_to_num(chance) >= power)

    return _first(shows, start=2)


def _check(alpha: float, power: float, loss: float = 1.0) -> None:
    if not (0 < alpha < 1 and 0 < power < 1 and 0 < loss <= 1):
        raise PlanError(
            f"loss {loss}, alpha {alpha}, power {power}: they are shares, above 0 and below 1"
        )


def _first(enough: Callable[[int], bool], start: int = 1) -> float:
    """Find the smallest number that is enough, by doubling and bisection."""
    high = start
    while not enough(high):
        high *= 2
        if high > _MOST:
            return math.inf
    low = high // 2 if high > start else start - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(high)
