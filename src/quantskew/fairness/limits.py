"""Confidence limits of a group's accuracy and of its change, never of width zero.

A group's accuracy is a share of samples, or a mean over several networks (training seeds) that
answered the same samples, and the samples may come several from one unit (a person, a writer, a
video). All of these become a share and an *effective number of samples*: as many independent
answers of one network as would be as precise (Korn & Graubard 1998). The limits then are those of
a binomial share (Clopper & Pearson 1934), which hold near 0 and 1 where a normal or a bootstrap
interval collapses.

A change is the share lost less the share gained, each with such limits, joined by MOVER with the
correlation that two shares of one multinomial have (Zou & Donner 2008, equation 4). Summed over all
outcomes of 30 to 338 samples, each limit errs no more than stated, at ``tail`` from 0.005 to 0.05
and at rates of change up to 60 %, where Tango's score interval (1998) errs up to half more when all
changes go one way. Below 20 samples with most answers changed it can err twice as often as stated;
:func:`quantskew.fairness.certificate.loss_bound` holds at any size, and is 5 to 25 % wider.

``tail`` is the error of one limit: 0.025 for each end of a 95 % interval. Divided by the number of
groups, the intervals hold for all groups at once.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, ndtri, stdtrit

from quantskew.fairness.metrics import Floats, Ints, ratio

_PRIOR = 3.0  # units with a rare answer that the assumed worst design effect weighs as much as


class Limits(NamedTuple):
    """Lower and upper confidence limits."""

    low: Floats
    high: Floats

    def mirrored(self) -> "Limits":
        """Return the limits of the same number with the other sign."""
        return Limits(-self.high, -self.low)


class Shares(NamedTuple):
    """Share of each group, and how many independent answers would be as precise; each (..., G)."""

    value: Floats  # 0..1, NaN for an empty group
    n: Floats  # effective number of samples


class Changes(NamedTuple):
    """Shares of each group that were lost and gained between two networks; each (..., G)."""

    lost: Floats  # was right, is wrong
    gained: Floats  # was wrong, is right
    n: Floats  # effective number of samples

    @property
    def value(self) -> Floats:
        """The change, gained − lost, in −1..1."""
        return self.gained - self.lost


def shares(
    values: ArrayLike,
    groups: ArrayLike,
    n_groups: int,
    *,
    units: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Shares:
    """Compute the share of each group and its effective number of samples.

    Parameters
    ----------
    values
        (n,) or (S, n) what is counted of each sample (is the answer right?), a row a seed; the
        share is the mean over seeds.
    groups
        (n,) codes from −1 (left out) to ``n_groups`` − 1. For a rate among some samples only,
        such as the true positive rate, give the others −1.
    units
        (n,) integer codes of who a sample comes from; None where each is its own unit.
    weights
        (n,) how many samples each row stands for; None where each is one. Only for the answers of
        one network, whose samples are their own units.

    Examples
    --------
    >>> one = shares([1, 1, 0, 1], [0, 0, 0, 0], 1)
    >>> one.value, one.n
    (array([0.75]), array([4.]))
    """
    values = np.atleast_2d(values).astype(float)
    if len(values) == 1 and units is None:
        n, (total,) = _totals(values, groups, n_groups, weights)
        return Shares(ratio(total, n), n)
    assert weights is None, "rows of several networks, or of units, stand for one sample each"
    parts = []
    for rows, of_unit in _by_group(values, groups, n_groups, units):
        mean = rows.mean(0)
        p = mean.mean() if mean.size else np.nan
        if p > 0.5:  # the rarer answer says how much the design effect is to be trusted
            mean = 1 - mean
        totals, sizes = unit_totals(mean, of_unit)
        n = effective_samples(
            totals, sizes, p * (1 - p), (totals > 0).sum(-1), simple=len(rows) == 1
        )
        parts.append((p, n))
    value, n = np.array(parts).T
    return Shares(value, n)


def changes(
    before: ArrayLike,
    after: ArrayLike,
    groups: ArrayLike,
    n_groups: int,
    *,
    units: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Changes:
    """Compute what each group lost and gained, and the effective number of samples.

    Parameters
    ----------
    before, after
        (n,) or (S, n) whether each network is right; row s of both belongs to training seed s.
    groups, units, weights
        As in :func:`shares`.
    """
    pair = np.stack([np.atleast_2d(before), np.atleast_2d(after)], axis=1).astype(float)
    if len(pair) == 1 and units is None:
        one, other = pair[0]
        either = np.stack([one * (1 - other), other * (1 - one)])
        n, both = _totals(either, groups, n_groups, weights)
        lost, gained = ratio(both, n)
        return Changes(lost, gained, n)
    assert weights is None, "rows of several networks, or of units, stand for one sample each"
    parts = []
    for rows, of_unit in _by_group(pair, groups, n_groups, units):
        lost, gained = (rows[:, a] * (1 - rows[:, 1 - a]) for a in (0, 1))
        b, c = (side.mean() if side.size else np.nan for side in (lost, gained))
        totals, sizes = unit_totals((gained - lost).mean(0), of_unit)
        events, _ = unit_totals((gained + lost).mean(0), of_unit)
        n = effective_samples(
            totals, sizes, b + c - (b - c) ** 2, (events > 0).sum(-1), simple=len(rows) == 1
        )
        parts.append((b, c, n))
    lost, gained, n = np.array(parts).T
    return Changes(lost, gained, n)


def _totals(
    values: Floats, groups: ArrayLike, n_groups: int, weights: ArrayLike | None
) -> tuple[Floats, Floats]:
    """Count the samples of each group, (G,), and total each row (R, n) of values, (R, G)."""
    places = np.asarray(groups) + 1  # those of no group come first
    rows = [weights, *(values if weights is None else values * np.asarray(weights))]
    n, *totals = (np.bincount(places, row, n_groups + 1)[1:].astype(float) for row in rows)
    return n, np.array(totals)


def _by_group(
    values: Floats, groups: ArrayLike, n_groups: int, units: ArrayLike | None
) -> list[tuple[Floats, Ints | None]]:
    groups = np.asarray(groups)
    inside = [groups == group for group in range(n_groups)]
    of = None if units is None else np.asarray(units)
    return [(values[..., mask], None if of is None else of[mask]) for mask in inside]


def unit_totals(values: ArrayLike, units: ArrayLike | None) -> tuple[Floats, Floats]:
    """Total the values of each unit's samples, and count the samples.

    The exchange test by unit takes the totals of a change as its samples:
    ``exchange_p_value(unit_totals(change, units)[0].astype(int))`` swaps the two networks for all
    images of a person at once.

    Parameters
    ----------
    values
        (n,).
    units
        (n,) codes from 0 on, of which some may not occur; None where each sample is its own unit.

    Returns
    -------
    totals, sizes
        (U,) each, of the units that occur.
    """
    values = np.asarray(values, float)
    if units is None:
        return values, np.ones(values.shape[-1])
    sizes = np.bincount(units)
    seen = np.flatnonzero(sizes)
    return np.bincount(units, values)[seen].astype(float), sizes[seen].astype(float)


def effective_samples(
    totals: ArrayLike, sizes: ArrayLike, variance: ArrayLike, events: ArrayLike, *, simple: bool
) -> Floats:
    """Compute how many independent answers would be as precise as those of these units.

    The design effect is the linearized variance between units over that of independent answers
    (Kish 1965). Estimated from few units it is too often too small, so it is weighed with the
    largest there can be, all answers of a unit alike: with k units that show the rare event the
    weights are k and 3. The correction for few units is Korn & Graubard's, (z / t)² at 97.5 %.

    Parameters
    ----------
    totals
        (..., U) sum of the values of each unit's samples, averaged over seeds.
    sizes
        (U,) samples of each unit.
    variance
        (...) of one independent answer: p(1 − p) of a share.
    events
        (...) units with the rare event.
    simple
        Whether each value comes from one network. Then one sample a unit is n independent
        answers, and nothing is estimated.
    """
    totals, sizes = np.asarray(totals, float), np.asarray(sizes, float)
    n, count = sizes.sum(), sizes.size
    if n == 0 or (simple and (sizes == 1).all()):
        return np.full(totals.shape[:-1], n)
    if count == 1:
        return np.ones(totals.shape[:-1])
    worst = (sizes**2).sum() / n
    residuals = totals - sizes * (totals.sum(-1, keepdims=True) / n)
    between = (residuals**2).sum(-1) * count / (count - 1) / n
    effect = np.where(np.greater(variance, 0), ratio(between, variance), worst)
    events = np.asarray(events, float)
    effect = (events * effect + _PRIOR * worst) / (events + _PRIOR)
    return np.asarray(n / effect * (ndtri(0.975) / stdtrit(count - 1, 0.975)) ** 2)


def share_limits(share: Shares, tail: ArrayLike, *, jeffreys: bool = False) -> Limits:
    """Bound shares by Clopper & Pearson's limits, with a real number of samples.

    Parameters
    ----------
    tail
        Chance of each limit to be missed, 0..½.
    jeffreys
        Take the shorter limits of Jeffreys' prior (Brown, Cai & DasGupta 2001), which hold on
        average over shares and not for each: for use inside a bound that has slack elsewhere.

    Returns
    -------
    In 0..1; (0, 1) where there are no samples.

    Examples
    --------
    >>> low, high = share_limits(Shares(np.array([1.0]), np.array([30.0])), 0.025)
    >>> round(low[0], 3), high[0]
    (np.float64(0.884), np.float64(1.0))
    """
    tail = np.asarray(tail, float)
    p, n = np.broadcast_arrays(np.asarray(share.value, float), np.asarray(share.n, float))
    seen = n > 0
    n = np.where(seen, n, 1.0)
    hits = np.where(seen, p, 0.5) * n
    more = 0.5 if jeffreys else 1.0
    some, all_ = seen & (hits > 1e-9), seen & (hits < n - 1e-9)
    low = betaincinv(np.where(some, hits + 1 - more, 1.0), n - hits + more, tail)
    high = betaincinv(hits + more, np.where(all_, n - hits + 1 - more, 1.0), 1 - tail)
    return Limits(np.where(some, low, 0.0), np.where(all_, high, 1.0))


def change_limits(change: Changes, tail: ArrayLike, *, jeffreys: bool = False) -> Limits:
    """Bound the change of each group's share, gained − lost.

    With v̂ the estimate, (l, u) the limits of each share and r = −√(bc / ((1 − b)(1 − c))) the
    correlation of the shares lost b and gained c, the lower limit is
    v̂ − √((ĉ − l_c)² + (u_b − b̂)² − 2r (ĉ − l_c)(u_b − b̂)), and the upper mirrors it.

    Parameters
    ----------
    tail, jeffreys
        As in :func:`share_limits`.

    Returns
    -------
    In −1..1; (−1, 1) where there are no samples.

    Examples
    --------
    Thirty samples of which none changed do not show that nothing changes:

    >>> limits = change_limits(Changes(np.zeros(1), np.zeros(1), np.array([30.0])), 0.025)
    >>> limits.high.round(3)
    array([0.116])
    """
    seen = np.asarray(change.n) > 0
    b, c = (np.where(seen, share, 0.0) for share in (change.lost, change.gained))
    lost, gained = (share_limits(Shares(x, change.n), tail, jeffreys=jeffreys) for x in (b, c))
    correlation = -np.sqrt(ratio(b * c, (1 - b) * (1 - c)))
    correlation = np.where((b < 1) & (c < 1), correlation, -1.0)

    def reach(one: Floats, other: Floats) -> Floats:
        return np.sqrt(one**2 + other**2 - 2 * correlation * one * other)

    low = c - b - reach(c - gained.low, lost.high - b)
    high = c - b + reach(gained.high - c, b - lost.low)
    return Limits(
        np.where(seen, np.clip(low, -1, 1), -1.0), np.where(seen, np.clip(high, -1, 1), 1.0)
    )


def difference_limits(value: Floats, limits: Limits) -> Limits:
    """Bound the difference of every two independent groups from the limits of each (MOVER).

    Parameters
    ----------
    value, limits
        (..., G) estimates and their limits.

    Returns
    -------
    (..., G, G) limits of group i less group j, at the error of the given ones.

    Notes
    -----
    Lower limit: v_i − v_j − √((v_i − l_i)² + (u_j − v_j)²) (Zou & Donner 2008, equation 3). Where
    one unit has samples in both groups, answers that rise and fall together make it wider than
    it need be.
    """
    below, above = value - limits.low, limits.high - value
    high = np.hypot(above[..., :, None], below[..., None, :])
    high += value[..., :, None] - value[..., None, :]
    return Limits(-high.swapaxes(-1, -2), high)  # i less j is j less i with the other sign
