"""The bootstrap and the exchange test of two networks on the same samples, on counts.

Samples of one group on which the networks behave alike are interchangeable, so drawing n samples
with replacement is drawing, from a multinomial, how often each *pattern* of behaviour occurs. A
group of 2,000 images has four patterns of right and wrong for two networks: a draw costs three
binomials instead of 2,000 indices, with exactly the same distribution. Several training seeds make
longer patterns; one draw then serves all of them, as they share the test samples.

Two ways of drawing answer two questions:

========= ============================================== ============================
resampled the test set is drawn again, group by group    how precise is the estimate?
exchanged on each sample a coin decides which network is could chance do this, if it
          called the reference                           made no difference which is
                                                         quantized?
========= ============================================== ============================

The interval comes from the first, the p-value from the second: FVO has a corner at zero, where
inverting a bootstrap interval is no valid test, while exchanging is exact at any sample size.
(A fair network that gets worse for everyone alike still gains FVO from noise. What is told apart
from that, too, is in :func:`quantskew.fairness.paired.compare_accuracy`.)
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from quantskew.fairness.metrics import Floats, Ints, ratio
from quantskew.fairness.seeds import seed_and_sampling_variance

Features = Callable[[Ints], Floats]
Statistics = Callable[[Floats], dict[str, Floats]]

_BLOCK = 1000  # draws held in memory at once


class Effect(NamedTuple):
    """A change, how precise it is, and whether it could be chance.

    The interval and the p-value speak of new test samples for these networks; ``seed_sd`` says how
    far networks of other training seeds would differ (:mod:`quantskew.fairness.seeds`).
    """

    estimate: Floats  # mean over seeds
    low: Floats
    high: Floats
    p_value: Floats  # of there being no change, two-sided
    seed_sd: Floats  # between training seeds; NaN for one seed
    sampling_sd: Floats  # of the mean over seeds, between test sets


class Cells(NamedTuple):
    """The distinct patterns of one group, and how many samples show each."""

    patterns: Ints  # (C, ...)
    counts: Ints  # (C,)


def placed(groups: ArrayLike, n_groups: int) -> tuple[Ints, Ints]:
    """Codes where who has no group forms a last one, as the overall accuracy counts them.

    Returns
    -------
    codes, sizes
        (n,) from 0 to ``n_groups``, and (G + 1,) samples of each.
    """
    places = np.where(np.less(groups, 0), n_groups, groups)
    return places, np.bincount(places, minlength=n_groups + 1)


def right(patterns: Ints) -> Floats:
    """Features of patterns of right (1) and wrong (0): the number of right answers."""
    return patterns[..., None].astype(float)


def accuracies(totals: Floats, sizes: Ints) -> tuple[Floats, Floats]:
    """Accuracy of each group, and of all samples, from totals of :func:`right`.

    Parameters
    ----------
    totals, sizes
        (..., G + 1, 1) and (G + 1,), as :func:`placed` divides the samples.

    Returns
    -------
    (..., G) and (...).
    """
    hits = totals[..., 0]
    return ratio(hits[..., :-1], sizes[:-1]), hits.sum(-1) / sizes.sum()


def tabulate(outcomes: ArrayLike, groups: ArrayLike, n_groups: int) -> list[Cells]:
    """Count the patterns of each group.

    Parameters
    ----------
    outcomes
        (..., n) integer codes of what each network does on each sample.
    groups
        (n,) codes from −1 (left out) to ``n_groups`` − 1.
    """
    outcomes, groups = np.asarray(outcomes), np.asarray(groups)
    shape = outcomes.shape[:-1]
    flat = outcomes.reshape(math.prod(shape), -1)

    def distinct(part: Ints) -> Cells:  # several times as fast as np.unique over an axis
        part = part[:, np.lexsort(part[::-1])]
        same = (part[:, 1:] == part[:, :-1]).all(0)
        starts = np.flatnonzero(np.append(True, ~same)[: part.shape[1]])
        counts = np.diff(starts, append=part.shape[1])
        return Cells(part[:, starts].T.reshape(-1, *shape), counts)

    return [distinct(flat[:, groups == group]) for group in range(n_groups)]


def observe(cells: list[Cells], features: Features) -> Floats:
    """Total the features as they are: the result of :func:`resampled`, for one draw."""
    return np.stack([_total(counts[None], features(p)) for p, counts in cells], axis=-2)


def _total(weights: ArrayLike, features: Floats) -> Floats:
    return np.tensordot(np.asarray(weights, float), features, 1)


def resampled(
    cells: list[Cells], features: Features, draws: int, rng: np.random.Generator
) -> Floats:
    """Draw the test set again, group by group, and total the features of its samples.

    ``features`` maps patterns (C, ...) to what is totalled, (C, ..., F); the result is
    (draws, ..., G, F).
    """
    totals = []
    for patterns, counts in cells:
        n = counts.sum()
        # numpy draws from no categories only this way
        weights = rng.multinomial(n, counts / n, size=draws) if n else np.zeros((draws, 0))
        totals.append(_total(weights, features(patterns)))
    return np.stack(totals, axis=-2)


def exchanged(
    cells: list[Cells], features: Features, draws: int, rng: np.random.Generator
) -> Floats:
    """Swap the two networks on a random half of the samples, and total the features.

    The first axis of a pattern must be the network, of length 2: patterns (C, 2, ...), features
    (C, 2, ..., F), result (draws, 2, ..., G, F).
    """
    totals = []
    for patterns, counts in cells:
        shown = features(patterns)
        swapped = rng.binomial(counts, 0.5, size=(draws, len(counts)))
        totals.append(_total(counts[None], shown) + _total(swapped, shown[:, ::-1] - shown))
    return np.stack(totals, axis=-2)


def changes(
    outcomes: ArrayLike,
    groups: ArrayLike,
    n_groups: int,
    *,
    features: Features,
    statistics: Statistics,
    draws: int,
    confidence: float,
    rng: np.random.Generator,
) -> dict[str, Effect]:
    """Effect on each statistic of going from the first network to the second.

    Parameters
    ----------
    outcomes
        (2, S, n) codes of what each network, trained with each seed, does on each sample.
    features
        Maps patterns (C, 2, S) to what is totalled over samples, (C, 2, S, F).
    statistics
        Maps totals (B, 2, S, G, F) to named values (B, 2, S, ...).
    draws
        Of each kind. The smallest p-value is 1 / (draws + 1).

    Returns
    -------
    The change of each value, second − first, averaged over seeds.
    """
    cells = tabulate(outcomes, groups, n_groups)

    def change(totals: Floats) -> dict[str, Floats]:  # (B, S, ...) each
        return {name: value[:, 1] - value[:, 0] for name, value in statistics(totals).items()}

    def gather(draw: Callable[..., Floats]) -> dict[str, Floats]:
        sizes = [min(_BLOCK, draws - start) for start in range(0, draws, _BLOCK)]
        blocks = [change(draw(cells, features, size, rng)) for size in sizes]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    observed, again, null = change(observe(cells, features)), gather(resampled), gather(exchanged)
    return {
        name: _effect(observed[name][0], again[name], null[name], confidence) for name in observed
    }


def _effect(observed: Floats, again: Floats, null: Floats, confidence: float) -> Effect:
    estimate = observed.mean(0)
    parts = seed_and_sampling_variance(observed, again)
    return Effect(
        estimate,
        *basic_interval(estimate, again.mean(1), confidence),
        exceedance(estimate, null.mean(1)),
        np.sqrt(parts.seed),
        np.sqrt(parts.sampling),
    )


def basic_interval(estimate: ArrayLike, draws: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Reflect the bootstrap's quantiles at the estimate: (2e − upper, 2e − lower).

    FVO and the worst group are extremes, so a resampled one overshoots the observed as the
    observed overshoots the truth; reflecting takes the overshoot back out, where the percentile
    interval would count it twice.

    Parameters
    ----------
    estimate
        (...).
    draws
        (B, ...). A draw that is NaN is left out; where the estimate is NaN, so are the limits.
    """
    estimate = np.asarray(estimate, float)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    # an undefined estimate would make nanquantile warn of a column of NaN
    filled = np.where(np.isnan(estimate), 0.0, draws)
    quantile = np.nanquantile if np.isnan(filled).any() else np.quantile
    low, high = quantile(filled, tails, axis=0)
    return 2 * estimate - high, 2 * estimate - low


def exceedance(observed: ArrayLike, null: Floats) -> Floats:
    """Two-sided p-value: (1 + #{|null| ≥ |observed|}) / (1 + draws), NaN for NaN.

    The added one counts the observation among the draws, which makes the test exact
    (Phipson & Smyth 2010).

    Parameters
    ----------
    observed
        (...).
    null
        (B, ...). A draw that is NaN could be anything, and counts as reached.
    """
    observed = np.asarray(observed, float)
    # sums in another order differ in the last bit, and a tie counts as reached
    reached = (~(np.abs(null) < np.abs(observed) - 1e-12)).sum(0)
    return np.where(np.isnan(observed), np.nan, (1 + reached) / (1 + len(null)))
