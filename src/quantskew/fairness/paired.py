"""Networks on the same samples: where one stands, what changed, and whether it is chance.

A quantized network and its fp32 parent answer the same test samples, so what they share cancels
and only the samples on which they differ speak. Three views of that:

* :func:`exchange_p_value`, the exact McNemar test for the networks of several seeds;
* :func:`flips`, which way the answers went;
* :func:`measure`: every metric of the catalogue, with a bootstrap interval, and its change, with an
  exchange test (:mod:`quantskew.fairness.resampling`).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import fftconvolve
from scipy.stats import binom

from quantskew.fairness.catalogue import CATALOGUE, Chance, Metric
from quantskew.fairness.metrics import Floats, Ints, one_hot
from quantskew.fairness.parity import Answers, Counts
from quantskew.fairness.resampling import (
    Effect,
    basic_interval,
    effect,
    exchanged,
    observe,
    resampled,
    tabulate,
)


class Flips(NamedTuple):
    """Samples of each group by how the answer changed from the reference; each (..., G)."""

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
        (..., n) classes given before and after.
    groups
        (n,) codes from −1 (no group) to ``n_groups`` − 1.
    """
    labels, reference, predictions = (np.asarray(a) for a in (labels, reference, predictions))
    before, after, other = reference == labels, predictions == labels, reference != predictions
    member = one_hot(groups, n_groups)
    kinds = (before & ~after, ~before & after, ~before & ~after & other)
    return Flips(*((kind @ member).astype(np.int64) for kind in kinds))


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
    draws: int = 10_000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> dict[str, Measured]:
    """Measure a network by every metric, and each change from a reference, variant − reference.

    Many metrics are extremes over groups, which the noise of rarer right answers alone makes worse.
    The p-value of their change is the larger of two: that exchanging the networks does as much, and
    that the less fair of the two treats all groups alike (:attr:`Metric.chance`). Without the
    second, a network that gets worse for everyone alike would be called unfair for its noise.

    Parameters
    ----------
    variant, reference
        Answers to the same samples. Row s of both belongs to training seed s: a metric is taken of
        each seed, then averaged, and a draw uses the same samples for all of them.
    metrics
        Those of the catalogue unless given.
    draws
        Of each kind. The smallest p-value of an exchange test is 1 / (draws + 1).

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
    >>> measured = measure(after, before, draws=200, rng=np.random.default_rng(0))
    >>> print(measured["fvo"].value.round(4), measured["fvo"].effect.estimate.round(4))
    [0.2] 0.2
    """
    asked = list(CATALOGUE.values() if metrics is None else metrics)
    networks = [variant] if reference is None else [reference, variant]
    answers = np.stack([network.predictions for network in networks])
    cells = tabulate(
        variant.labels, answers, variant.places, len(variant.counted) + 1, variant.n_classes
    )
    reasons = {metric.name: metric.missing(variant) for metric in asked}
    useful = [metric for metric in asked if not reasons[metric.name]]

    def values(blocks: Iterable[Counts]) -> dict[str, Floats]:  # (B, N, S, ...)
        rated = (replace(counts, rated=variant.rated) for counts in blocks)
        parts = [[metric.value(counts) for metric in useful] for counts in rated]
        return {m.name: np.concatenate(v) for m, *v in zip(useful, *parts, strict=True)}

    whole = observe(cells, variant.counted)
    counts = [whole.network(i) for i in range(len(networks))]
    observed = values([whole])
    again = values(resampled(cells, variant.counted, draws, rng))
    null = values(exchanged(cells, variant.counted, draws, rng)) if reference is not None else {}
    measured = {}
    for metric in useful:
        name = metric.name
        value = observed[name][0, -1]
        low, high = basic_interval(value.mean(0), again[name][:, -1].mean(1), confidence)
        chances = [
            Chance() if metric.chance is None else metric.chance(*own, draws, rng)
            for own in zip(networks, counts, strict=True)
        ]
        change = None
        if reference is not None:
            first, redrawn, swapped = (
                both[:, 1] - both[:, 0] for both in (observed[name], again[name], null[name])
            )
            change = effect(first[0], redrawn, swapped, confidence)
            if metric.exact:
                change = change._replace(p_value=_exact(metric, reference, variant))
            less_fair = chances[1 if metric.sign * change.estimate.mean() < 0 else 0].p_value
            if not np.isnan(less_fair):
                change = change._replace(p_value=np.fmax(change.p_value, less_fair))
        measured[name] = Measured(value, low, high, chances[-1], change, "")
    return {m.name: measured.get(m.name) or _undefined(m, variant, reference) for m in asked}


def _exact(metric: Metric, reference: Answers, variant: Answers) -> Floats:
    """Exact p-values of a share of right answers: of all samples, or of each group."""
    change = (variant.correct.astype(np.int64) - reference.correct).sum(0)
    if metric.of == "everyone":
        return np.array(exchange_p_value(change))
    groups = range(len(variant.counted))
    return np.array([exchange_p_value(change[variant.codes == group]) for group in groups])


def _undefined(metric: Metric, variant: Answers, reference: Answers | None) -> Measured:
    nothing = np.array(np.nan)
    change = None if reference is None else Effect(*[nothing] * len(Effect._fields))
    seeds = np.full(len(variant.predictions), np.nan)
    return Measured(seeds, nothing, nothing, Chance(), change, metric.missing(variant))
