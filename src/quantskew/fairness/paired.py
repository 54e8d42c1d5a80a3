"""Networks on the same samples: where one stands, what changed, and whether it is chance.

A quantized network and its fp32 parent answer the same test samples, so what they share cancels
and only the samples on which they differ speak. Three views of that:

* :func:`exchange_p_value`, the exact McNemar test for the networks of several seeds;
* :func:`flips`, which way the answers went;
* :func:`measure`: every metric of the catalogue with its limits, and its change with limits and a
  test. Both speak of new test samples for these networks, or, over seeds, of the method: of other
  networks that it would have given.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from quantskew.fairness.bounds import Pair
from quantskew.fairness.catalogue import CATALOGUE, Chance, Metric
from quantskew.fairness.contrasts import contrast_over_seeds
from quantskew.fairness.limits import unit_totals
from quantskew.fairness.metrics import Bools, Floats, Ints
from quantskew.fairness.parity import Answers, Counts
from quantskew.fairness.resampling import (
    basic_interval,
    exceedance,
    exchanged,
    resampled,
    tabulate,
)
from quantskew.fairness.verdicts import p_value_of_limits

_SHARED_DRAWS = 200


class Flips(NamedTuple):
    """Samples of each group by how the answer changed from the reference; each (G,)."""

    right_to_wrong: Ints
    wrong_to_right: Ints
    wrong_to_other_wrong: Ints


def flips(
    labels: ArrayLike,
    reference: ArrayLike,
    predictions: ArrayLike,
    groups: ArrayLike,
    n_groups: int,
) -> Flips:
    """Count changed answers by direction and group.

    Two networks of equal accuracy may answer differently for many people; this is where it shows.

    Parameters
    ----------
    labels
        (n,) true classes.
    reference, predictions
        (n,) classes given before and after.
    groups
        (n,) codes from −1 (no group) to ``n_groups`` − 1.
    """
    labels, reference, predictions = (np.asarray(a) for a in (labels, reference, predictions))
    before, after, other = reference == labels, predictions == labels, reference != predictions
    places = np.asarray(groups) + 1  # those of no group come first
    kinds = (before & ~after, ~before & after, ~before & ~after & other)
    return Flips(*(np.bincount(places[kind], minlength=n_groups + 1)[1:] for kind in kinds))


def exchange_p_value(change: ArrayLike) -> float:
    """Exact two-sided test that two networks are exchangeable on every sample.

    A sample changes by d, the number of seeds that got it right less those that got it wrong.
    Were the networks exchangeable, each |d| would keep its sign with probability ½; the
    distribution of the sum follows by convolution, so that the smallest p-value depends on the
    data and not on a number of draws. For one seed it is the exact McNemar test.

    Parameters
    ----------
    change
        (n,) integers.
    """
    from scipy.signal import fftconvolve  # 30 MB, not in every stage
    from scipy.stats import binom

    change = np.asarray(change)
    sizes = np.bincount(np.abs(change))
    chance = np.ones(1)
    for size in np.flatnonzero(sizes[1:]) + 1:
        # a sum of m signs times the size lies on −m·size, (−m + 2)·size, …, m·size
        spread = np.zeros(2 * size * sizes[size] + 1)
        spread[:: 2 * size] = binom.pmf(np.arange(sizes[size] + 1), sizes[size], 0.5)
        chance = fftconvolve(chance, spread) if len(chance) > 1 else spread
    reach = len(chance) // 2
    extreme = np.abs(np.arange(-reach, reach + 1)) >= abs(int(change.sum()))
    return float(np.clip(chance[extreme].sum(), 0.0, 1.0))


def holm(p_values: ArrayLike) -> Floats:
    """Adjust the p-values of one family so that rejecting those ≤ α errs at all with chance ≤ α.

    Holm's step-down: the i-th smallest of m is multiplied by m − i + 1, and kept from falling.
    (statsmodels computes the same, and collects garbage in every call, which takes 50 ms.)

    Parameters
    ----------
    p_values
        Any shape; all of them are the family. NaN is a test that was not made: it stays NaN and
        does not count.
    """
    adjusted = np.array(p_values, float)
    tested = ~np.isnan(adjusted)
    family = adjusted[tested]
    order = np.argsort(family)
    steps = np.minimum(1.0, family[order] * np.arange(family.size, 0, -1))
    family[order] = np.maximum.accumulate(steps)
    adjusted[tested] = family
    return adjusted


class Effect(NamedTuple):
    """A change, how precise it is, and whether it could be chance."""

    estimate: Floats  # mean over seeds
    low: Floats
    high: Floats
    p_value: Floats  # of there being no change, two-sided
    seed_sd: Floats  # between training seeds; NaN for one seed
    common_sd: Floats  # from the common test samples; NaN unless it speaks of the method


class Measured(NamedTuple):
    """A metric of a network, and how it changed from a reference."""

    value: Floats  # (S,) of each seed, or (S, G)
    low: Floats  # limits of the mean over seeds: other test samples for these networks
    high: Floats
    chance: Chance
    effect: Effect | None  # None without a reference
    reason: str  # why it has no meaning here, and is NaN; or an empty text


def measure(
    variant: Answers,
    reference: Answers | None = None,
    *,
    metrics: Iterable[Metric] | None = None,
    over_seeds: bool = False,
    draws: int = 10_000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> dict[str, Measured]:
    """Measure a network by every metric, and each change from a reference, variant − reference.

    Limits come from :attr:`Metric.bounds`, and p-values are those that belong to them; a share of
    right answers has its exact exchange test. A metric without bounds has the reflected bootstrap
    and the exchange test by random draws. As the noise of rarer right answers alone makes many a
    metric worse, its p-value then is at least that of the less fair network treating all groups
    alike (:attr:`Metric.chance`).

    Parameters
    ----------
    variant, reference
        Answers to the same samples. Row s of both belongs to training seed s: a metric is taken of
        each seed, then averaged.
    metrics
        Those of the catalogue unless given.
    over_seeds
        Whether the changes are to speak of the method and not of these networks. Their limits and
        p-values then are the more careful ones of both: those of
        :func:`quantskew.fairness.contrasts.contrast_over_seeds`, and those for these networks.
    draws
        Of each kind, where there are any.

    Returns
    -------
    Name of the metric to what was measured.

    Examples
    --------
    >>> labels, codes = np.array([0, 1] * 50), np.repeat([0, 1], 50)
    >>> wrong = np.where(np.arange(100) < 90, labels, 1 - labels)
    >>> before, after = (
    ...     Answers(labels, answers[None], codes, np.array([True, True]), 2)
    ...     for answers in (labels, wrong)
    ... )
    >>> measured = measure(after, before, rng=np.random.default_rng(0))
    >>> print(measured["fvo"].value.round(4), measured["fvo"].effect.estimate.round(4))
    [0.2] 0.2
    """
    asked = list(CATALOGUE.values() if metrics is None else metrics)
    pair = Pair(variant if reference is None else reference, variant)
    reasons = {metric.name: metric.missing(variant) for metric in asked}
    useful = [metric for metric in asked if not reasons[metric.name]]
    drawn = _drawn(pair, useful, reference is not None, over_seeds, draws, rng)
    tail = np.asarray((1 - confidence) / 2)
    measured = {}
    for metric in useful:
        value, chance = metric.of_counts(variant.counts), metric.tested(variant, draws, rng)
        change = None
        if reference is not None:
            before = metric.of_counts(reference.counts)
            change = _effect(metric, pair, value - before, drawn, chance, confidence, draws, rng)
            if over_seeds:
                change = _of_method(change, value - before, drawn.again[metric.name], confidence)
        if metric.bounds is None:
            again = drawn.again[metric.name][:, -1].mean(1)
            low, high = basic_interval(value.mean(0), again, confidence)
        else:
            low, high = metric.bounds.level(pair)(tail)
        # a class without a rate in one seed has no mean over seeds, and so no limits of it
        undefined = np.isnan(value.mean(0))
        low, high = (np.where(undefined, np.nan, np.clip(end, *metric.span)) for end in (low, high))
        measured[metric.name] = Measured(value, low, high, chance, change, "")
    nothing = np.array(np.nan)
    change = None if reference is None else Effect(*[nothing] * len(Effect._fields))
    seeds = np.full(len(variant.predictions), np.nan)
    return {
        name: measured.get(name) or Measured(seeds, nothing, nothing, Chance(), change, reason)
        for name, reason in reasons.items()
    }


class _Drawn(NamedTuple):
    """Metrics of both networks on redrawn test sets, (B, N, S, ...), by name, where needed."""

    again: dict[str, Floats]
    exchanged: dict[str, Floats]


def _drawn(
    pair: Pair,
    metrics: list[Metric],
    paired: bool,
    over_seeds: bool,
    draws: int,
    rng: np.random.Generator,
) -> _Drawn:
    bootstrapped = [metric for metric in metrics if metric.bounds is None]
    shared = metrics if over_seeds else bootstrapped
    if not shared:
        return _Drawn({}, {})
    own, counted = pair.after, pair.counted
    networks = np.stack([one.predictions for one in (pair.both if paired else (own,))])
    cells = tabulate(
        own.labels, networks, own.places, len(counted) + 1, own.n_classes, units=own.units
    )

    def values(metrics: list[Metric], blocks: Iterable[Counts]) -> dict[str, Floats]:
        rated = (replace(counts, rated=own.rated) for counts in blocks)
        parts = [[metric.of_counts(counts) for metric in metrics] for counts in rated]
        return {m.name: np.concatenate(v) for m, *v in zip(metrics, *parts, strict=True)}

    # that the seeds share test samples is known well enough from few draws
    few = draws if bootstrapped else min(draws, _SHARED_DRAWS)
    again = values(shared, resampled(cells, counted, few, rng))
    swapped = {}
    if paired and bootstrapped:
        swapped = values(bootstrapped, exchanged(cells, counted, draws, rng))
    return _Drawn(again, swapped)


def _effect(
    metric: Metric,
    pair: Pair,
    changes: Floats,
    drawn: _Drawn,
    chance: Chance,
    confidence: float,
    draws: int,
    rng: np.random.Generator,
) -> Effect:
    """Bound and test the mean of the changes (S, ...) of a metric."""
    estimate, nothing = changes.mean(0), np.full(changes.shape[1:], np.nan)
    tail = np.asarray((1 - confidence) / 2)
    if metric.bounds is None:
        redrawn, swapped = (
            (both[:, 1] - both[:, 0]).mean(1)
            for both in (drawn.again[metric.name], drawn.exchanged[metric.name])
        )
        low, high = basic_interval(estimate, redrawn, confidence)
        p_value = exceedance(estimate, swapped)
        if metric.chance is not None:
            if metric.sign * estimate.mean() > 0:
                chance = metric.tested(pair.before, draws, rng)
            p_value = np.fmax(p_value, chance.p_value)
    else:
        bound = metric.bounds.change(pair)
        low, high = bound(tail)
        p_value = _exact(metric, pair) if metric.exact else p_value_of_limits(bound)
    low, high = (np.where(np.isnan(estimate), np.nan, end) for end in (low, high))
    p_value = np.where(np.isnan(estimate), np.nan, p_value)
    seed_sd = changes.std(0, ddof=1) if len(changes) > 1 else nothing
    return Effect(estimate, low, high, p_value, seed_sd, nothing)


def _of_method(found: Effect, changes: Floats, drawn: Floats, confidence: float) -> Effect:
    """Widen an effect on these networks to one of the method that gave them."""
    seeds, again = len(changes), drawn[:, 1] - drawn[:, 0]
    columns = zip(changes.reshape(seeds, -1).T, again.reshape(*again.shape[:2], -1).T, strict=True)
    contrasts = [
        contrast_over_seeds(values, redrawn.T, np.zeros(seeds), confidence=confidence)
        for values, redrawn in columns
    ]
    low, high, p_value, common = (
        np.reshape([getattr(one, name) for one in contrasts], found.estimate.shape)
        for name in ("low", "high", "p_value", "common_sd")
    )
    return found._replace(
        low=np.minimum(found.low, low),
        high=np.maximum(found.high, high),
        p_value=np.maximum(found.p_value, p_value),
        common_sd=common,
    )


def _exact(metric: Metric, pair: Pair) -> Floats:
    """Exact p-values of a share of right answers: of all samples, or of each group."""
    change = (pair.after.correct.astype(np.int64) - pair.before.correct).sum(0)
    codes, units = pair.after.codes, pair.after.units

    def p_value(own: Bools) -> float:
        totals, _ = unit_totals(change[own], None if units is None else units[own])
        return exchange_p_value(totals.astype(np.int64))

    if metric.of == "each group":
        return np.array([p_value(codes == group) for group in range(len(pair.counted))])
    return np.array(p_value(np.ones(codes.shape, bool)))
