"""Confidence limits of the largest gap between groups, of the worst group, and of their changes.

FVO, demographic parity and equalized odds are a maximum over pairs of groups (and over classes).
A maximum of noisy numbers is too large on average, and no resampling takes that out again near a
gap of zero, so the limits are built pair by pair:

* The maximum is below x if *every* pair is. That is an intersection-union test (Berger 1982):
  each pair is tested at the full error, and no correction is due.
* The maximum is above x if *some* pair is. There the error is divided among the pairs.

The change of a maximum M(θ) = max θ_k is bounded alike at both ends. Whichever k is largest
afterwards, M' − M ≤ θ'_k − θ_j for every j, so an upper limit of the right side for every k is one
of the change. Two j are tried: k itself, which compares the same samples and gets 4/5 of the error,
and the j that was largest among the observed, which gets the rest, divided among all it could have
been. Before and after swapped, the same is a lower limit.

The paired term takes Jeffreys' limits, which are shorter than exact ones and may err a little more
in one group; in the difference of two that shortfall is not seen, and power is.

Groups are independent samples. ``counted`` marks those large enough to enter, and ``tail`` is the
error of each limit.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from quantskew.fairness.limits import (
    Changes,
    Limits,
    Shares,
    change_limits,
    changes,
    difference_limits,
    share_limits,
    shares,
)
from quantskew.fairness.metrics import Bools, Floats

_PAIRED = 0.8  # share of the error for the paired term of a change


class Paired(NamedTuple):
    """Rates of the same samples before and after; each field (..., G) or (..., K, G)."""

    before: Shares
    after: Shares
    changes: Changes

    def swapped(self) -> "Paired":
        """Return the same with the networks in the other order."""
        lost, gained, n = self.changes
        return Paired(self.after, self.before, Changes(gained, lost, n))

    def map(self, change: Callable[[Floats], Floats]) -> "Paired":
        """Return what ``change`` makes of each field."""
        return joined([self], lambda fields: change(fields[0]))


def parity_rates(
    labels: ArrayLike,
    reference: ArrayLike,
    predictions: ArrayLike,
    groups: ArrayLike,
    *,
    n_groups: int,
    n_classes: int,
    units: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> dict[str, Paired]:
    """Compute the rates whose largest gap is a parity metric (its worst class).

    Parameters
    ----------
    labels
        (n,) classes 0..K−1.
    reference, predictions
        (n,) or (S, n) answers of each network, row s of training seed s.
    groups, units, weights
        (n,) as in :func:`quantskew.fairness.limits.shares`.
    n_classes
        K. Of two classes only class 1 is looked at, as fairlearn does.

    Returns
    -------
    ``demographic_parity``, ``equal_opportunity``, ``predictive_equality``: rates (K, G) of being
    given a class, among all, those who have it, those who have it not. ``equalized_odds``: the
    last two together, (2K, G).
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    answers = [np.atleast_2d(reference), np.atleast_2d(predictions)]
    classes = range(1 if n_classes == 2 else 0, n_classes)

    def rates(among: Callable[[int], Bools]) -> Paired:
        rows = []
        for k in classes:
            codes = np.where(among(k), groups, -1)
            before, after = (answer == k for answer in answers)
            rows.append(
                accuracy_rates(before, after, codes, n_groups, units=units, weights=weights)
            )
        return joined(rows, np.stack)

    odds = {
        "equal_opportunity": rates(lambda k: labels == k),
        "predictive_equality": rates(lambda k: labels != k),
    }
    selected = rates(lambda k: np.ones(labels.shape, bool))
    both = joined(list(odds.values()), np.concatenate)
    return {"demographic_parity": selected, "equalized_odds": both, **odds}


def joined(rates: list[Paired], join: Callable[[list[Floats]], Floats]) -> Paired:
    """Join the fields of several rates, such as by ``np.stack``."""
    before, after, change = (
        [join([*fields]) for fields in zip(*parts, strict=True)]
        for parts in zip(*rates, strict=True)
    )
    return Paired(Shares(*before), Shares(*after), Changes(*change))


def accuracy_rates(
    before: ArrayLike,
    after: ArrayLike,
    groups: ArrayLike,
    n_groups: int,
    *,
    units: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Paired:
    """Compute the accuracies of groups, (G,), of two networks on the same samples.

    Parameters as in :func:`quantskew.fairness.limits.changes`. For the gap between groups give
    :func:`as_one_rate` of it to :func:`gap_change_limits`.
    """
    of = {"units": units, "weights": weights}
    one, other = (shares(x, groups, n_groups, **of) for x in (before, after))
    return Paired(one, other, changes(before, after, groups, n_groups, **of))


def as_one_rate(rates: Paired) -> Paired:
    """Give rates (..., G) the axis of several rates, (..., 1, G)."""
    return rates.map(lambda field: field[..., None, :])


def gap_limits(
    rates: Shares, counted: ArrayLike, tail: float | Floats, *, clip: bool = True
) -> Limits:
    """Bound the largest difference between two counted groups, over one or several rates.

    Parameters
    ----------
    rates
        (..., K, G) K rates that are compared between groups: one, the accuracy, for FVO; the
        shares given each class for demographic parity; true and false positive rates of each
        class for equalized odds.
    counted
        (G,) whether a group enters. A group without samples does not enter the rate it lacks.
    tail
        Error of each limit.
    clip
        Cut the limits to what a gap can be. Limits that are to be averaged must not be cut before:
        of several gaps of zero, the mean of the cut lower limits is above zero where any one is.

    Returns
    -------
    (...) in 0..1 if cut; NaN where no rate has two groups.
    """
    pairs, value = _pairs(rates, counted), _filled(rates.value, np.asarray(rates.n) > 0)
    low, high = (
        difference_limits(value, share_limits(rates, error))
        for error in (_shared(tail, pairs), tail)
    )
    limits = Limits(_largest(low.low, pairs), _largest(high.high, pairs))
    return _defined(limits, pairs, 0.0 if clip else -1.0)


def ratio_limits(
    rates: Shares, counted: ArrayLike, tail: float | Floats, *, clip: bool = True
) -> Limits:
    """Bound the lowest ratio of the rates of two counted groups (disparate impact).

    As :func:`gap_limits`, with the pairs compared as logarithms. A rate of zero is centred at
    Jeffreys' mean, (x + ½) / (n + 1), so that its logarithm exists.

    Returns
    -------
    (...) in 0..1 if cut (see :func:`gap_limits`); NaN where no rate has two groups.
    """
    pairs = _pairs(rates, counted)
    n = np.where(rates.n > 0, rates.n, 1.0)
    centre = np.log((np.where(rates.n > 0, rates.value, 0.5) * n + 0.5) / (n + 1))

    def logs(error: float | Floats) -> Limits:
        low, high = share_limits(rates, error)
        return difference_limits(centre, Limits(np.log(np.maximum(low, 1e-12)), np.log(high)))

    low = -_largest(-logs(tail).low, pairs)
    high = -_largest(-logs(_shared(tail, pairs)).high, pairs)
    if clip:
        low, high = np.minimum(low, 0), np.minimum(high, 0)
    return _defined(Limits(np.exp(low), np.exp(high)), pairs, 0.0, np.inf)


def gap_change_limits(rates: Paired, counted: ArrayLike, tail: float | Floats) -> Limits:
    """Bound the change of the largest difference between groups, after − before.

    Parameters and shapes as in :func:`gap_limits`.

    Returns
    -------
    (...) in −1..1; NaN where no rate has two groups.
    """
    pairs = _pairs(rates.changes, counted)
    mask, rest = np.asarray(pairs.any(-1)), _shared((1 - _PAIRED) * tail, pairs)
    before, after = (
        _Level(_filled(side.value, mask), share_limits(side, rest)) for side in rates[:2]
    )
    own = change_limits(rates.changes, _PAIRED * tail, jeffreys=True)
    change = _Level(rates.changes.value, change_limits(rates.changes, rest))

    def rise(before: _Level, after: _Level, change: _Level, own: Limits) -> Floats:
        level = _above_widest(before, after, change, mask)
        return _largest(np.minimum(difference_limits(change.value, own).high, level), pairs)

    fall = rise(after, before, change.mirrored(), own.mirrored())
    return _defined(Limits(-fall, rise(before, after, change, own)), pairs, -1.0)


class _Level(NamedTuple):
    """A number of each group, and its limits."""

    value: Floats
    limits: Limits

    def mirrored(self) -> "_Level":
        return _Level(-self.value, self.limits.mirrored())

    def margins(self) -> tuple[Floats, Floats]:
        """Return how far the limits lie below and above."""
        return self.value - self.limits.low, self.limits.high - self.value


def _above_widest(before: _Level, after: _Level, change: _Level, mask: Bools) -> Floats:
    """Bound from above each pair's difference afterwards less the widest one before.

    With m and l the best and the worst group before, entry (g, h) bounds
    a'_g − a'_h − (a_m − a_l): (..., K, G, G). The margins of independent groups add as squares
    (MOVER). A group that occurs twice is bounded by its change (a'_m − a_m) or, with one sign, by
    the sum of both margins, whatever their correlation.
    """
    places = np.arange(mask.shape[-1])
    best = np.where(mask, before.value, -np.inf).argmax(-1)[..., None] == places
    worst = np.where(mask, before.value, np.inf).argmin(-1)[..., None] == places
    (down, up), (down_after, up_after) = before.margins(), after.margins()
    less, more = change.margins()
    first = np.where(best, more, up_after + np.where(worst, up, 0))
    second = np.where(worst, less, down_after + np.where(best, down, 0))
    alone = np.where(best, down**2, 0) + np.where(worst, up**2, 0)
    squares = (first**2 - alone)[..., :, None] + (second**2 - alone)[..., None, :]
    squares += alone.sum(-1)[..., None, None]
    np.sqrt(np.maximum(squares, 0, out=squares), out=squares)
    widest = (np.where(best, before.value, 0) - np.where(worst, before.value, 0)).sum(-1)
    difference = after.value[..., :, None] - after.value[..., None, :]
    difference -= widest[..., None, None]
    return np.asarray(np.add(difference, squares, out=squares))


def worst_group_limits(rates: Shares, counted: ArrayLike, tail: float | Floats) -> Limits:
    """Bound the accuracy of the worst counted group.

    Parameters
    ----------
    rates
        (..., G).

    Returns
    -------
    (...); NaN where no group is counted.
    """
    mask = _groups(rates, counted)
    low = share_limits(rates, tail).low
    high = share_limits(rates, tail / max(1, mask.sum(-1).max())).high
    return Limits(_least(low, mask), _least(high, mask))


def worst_group_change_limits(rates: Paired, counted: ArrayLike, tail: float | Floats) -> Limits:
    """Bound the change of the accuracy of the worst counted group, after − before.

    The minimum is a maximum of −a, so that the change of a maximum applies to groups as it does
    to pairs. Parameters and shapes as in :func:`worst_group_limits`.
    """
    mask = _groups(rates.changes, counted)

    def fall(paired: Paired) -> Floats:
        own = change_limits(paired.changes, _PAIRED * tail).low
        rest = (1 - _PAIRED) * tail / max(1, mask.sum(-1).max())
        before, after = (_filled(side.value, mask) for side in paired[:2])
        lowest = np.where(mask, before, np.inf).argmin(-1)[..., None]
        high = share_limits(paired.before, rest).high
        low = share_limits(paired.after, rest).low
        least, above = (np.take_along_axis(x, lowest, -1) for x in (before, high - before))
        # the worst group itself occurs twice, and its own change bounds it better
        level = np.where(
            np.arange(mask.shape[-1]) == lowest, -1, after - least - np.hypot(after - low, above)
        )
        return _least(np.maximum(own, level), mask)

    return Limits(fall(rates), -fall(rates.swapped()))


def largest_loss_limits(change: Changes, counted: ArrayLike, tail: float | Floats) -> Limits:
    """Bound the largest loss of accuracy of any counted group, before − after.

    That no group loses more than x is a claim about every group, so its error is not divided
    among them; that some group loses more is, and there it is.

    Parameters
    ----------
    change
        (..., G).

    Returns
    -------
    (...) in −1..1; NaN where no group is counted.
    """
    mask = _groups(change, counted)
    high = -change_limits(change, tail / max(1, mask.sum(-1).max())).high
    low = -change_limits(change, tail).low
    return Limits(-_least(-high, mask), -_least(-low, mask))


def may_lose_most(change: Changes, counted: ArrayLike, tail: float | Floats) -> Bools:
    """Mark the groups that may have lost most; where it is one, it can be named.

    The group that truly loses most is among them with chance 1 − ``tail``: a group is left out
    only if another one loses more with an error of ``tail`` / (G − 1) (subset selection, Gupta
    1965).

    Parameters
    ----------
    change
        (..., G).

    Returns
    -------
    (..., G); none where nothing is counted.
    """
    mask = _groups(change, counted)
    alpha = tail / max(1, mask.sum(-1).max() - 1)
    pairs = difference_limits(_filled(change.value, mask), change_limits(change, alpha))
    # entry (g, h): the change of g is above that of h, so h loses more
    beaten = (pairs.low > 0) & mask[..., None, :] & mask[..., :, None]
    return np.asarray(mask & ~beaten.any(-1))


def against_rest_limits(rates: Shares | Changes, tail: ArrayLike) -> Limits:
    """Bound each group's accuracy, or its change, less that of all other groups together.

    A change below zero says that a group pays more than the others.

    Parameters
    ----------
    rates
        (..., G, 2) of each group, and of all others.
    tail
        (...) or (..., G).

    Returns
    -------
    (..., G).
    """
    tail = np.asarray(tail)[..., None]
    bound = share_limits(rates, tail) if isinstance(rates, Shares) else change_limits(rates, tail)
    found = difference_limits(np.nan_to_num(rates.value), bound)
    return Limits(*(end[..., 0, 1] for end in found))


def rest_rates(
    before: ArrayLike,
    after: ArrayLike,
    groups: ArrayLike,
    n_groups: int,
    *,
    units: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Paired:
    """Compute the accuracies of each group and of all other groups together, (G, 2).

    Parameters as in :func:`quantskew.fairness.limits.changes`.
    """
    groups = np.asarray(groups)
    codes = [np.where(groups < 0, -1, np.where(groups == g, 0, 1)) for g in range(n_groups)]
    of = {"units": units, "weights": weights}
    return joined([accuracy_rates(before, after, c, 2, **of) for c in codes], np.stack)


def _filled(value: Floats, mask: Bools) -> Floats:
    return np.where(mask, value, 0.0)


def _groups(rates: Shares | Changes, counted: ArrayLike) -> Bools:
    return np.asarray(np.asarray(counted, bool) & (np.asarray(rates.n) > 0))


def _pairs(rates: Shares | Changes, counted: ArrayLike) -> Bools:
    """Mark the ordered pairs of different groups that a rate compares: (..., K, G, G)."""
    mask = _groups(rates, counted)
    return np.asarray(mask[..., :, None] & mask[..., None, :] & ~np.eye(mask.shape[-1], dtype=bool))


def _shared(tail: float | Floats, pairs: Bools) -> float | Floats:
    """Divide an error among the ordered pairs."""
    return tail / max(1, int(pairs.sum((-3, -2, -1)).max()))


def _largest(values: Floats, pairs: Bools) -> Floats:
    return np.asarray(np.where(pairs, values, -np.inf).max((-3, -2, -1)))


def _least(values: Floats, mask: Bools) -> Floats:
    least = np.where(mask, values, np.inf).min(-1)
    return np.where(mask.any(-1), least, np.nan)


def _defined(limits: Limits, pairs: Bools, least: float, most: float = 1.0) -> Limits:
    known = pairs.any((-3, -2, -1))
    low, high = (np.where(known, np.clip(end, least, most), np.nan) for end in limits)
    return Limits(low, high)
