"""Two networks on the same samples: what changed, by how much, and whether it is chance.

A quantized network and its fp32 parent answer the same test samples, so what they share cancels
and only the samples on which they differ speak. Three views of that:

* :func:`exchange_p_value`, the exact McNemar test for the networks of several seeds;
* :func:`flips`, which way the answers went;
* :func:`compare_accuracy` and :func:`compare_parity`: any change of a group metric, with a
  bootstrap interval and an exchange test (:mod:`quantskew.fairness.resampling`).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import fftconvolve
from scipy.stats import binom

from quantskew.fairness.metrics import Bools, Floats, Ints, fvo, one_hot, ratio, worst_group
from quantskew.fairness.null import fvo_null, smallest
from quantskew.fairness.parity import (
    ClassCounts,
    blanked,
    class_counts,
    gap_p_values,
    parity_meaning,
    parity_values,
)
from quantskew.fairness.resampling import (
    Effect,
    Features,
    Statistics,
    accuracies,
    basic_interval,
    changes,
    observe,
    placed,
    resampled,
    right,
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

    Parameters
    ----------
    p_values
        Any shape; all of them are the family. NaN is a test that was not made: it stays NaN and
        does not count.
    """
    p_values = np.asarray(p_values, float)
    adjusted = np.full(p_values.shape, np.nan)
    made = ~np.isnan(p_values)
    family = p_values[made]
    order = np.argsort(family)
    steps = np.minimum(1.0, family[order] * np.arange(family.size, 0, -1))
    values = np.empty(family.size)
    values[order] = np.maximum.accumulate(steps)
    adjusted[made] = values
    return adjusted


def compare_accuracy(
    reference: ArrayLike,
    variant: ArrayLike,
    groups: ArrayLike,
    *,
    counted: ArrayLike,
    draws: int = 10_000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> dict[str, Effect]:
    """Measure the change of each accuracy metric, variant − reference.

    A rise of FVO is a claim about groups, so its p-value is the larger of two: that exchanging the
    networks does as much, and that the less fair of the two has no true gap at all
    (:func:`quantskew.fairness.null.fvo_null`). Without the second, a network that gets worse for
    everyone alike would be called unfair for its noise.

    Parameters
    ----------
    reference, variant
        (n,) or (S, n) whether the prediction is right. Row s of both belongs to training seed s:
        a statistic is taken for each seed, then averaged, and a draw uses the same samples for
        all of them.
    groups
        (n,) codes from −1 (no group) to G − 1.
    counted
        (G,) whether a group is large enough to enter FVO and the worst group.

    Returns
    -------
    ``overall``, ``fvo``, ``worst_group``: one effect each. ``group``: (G,), each group's change
    of accuracy (its p-value and that of ``overall`` are exact). ``against_rest``: (G,), its change
    less the change of all other groups together (difference in differences): below zero where the
    group pays more than the others.
    """
    counted, groups = np.asarray(counted, bool), np.asarray(groups)
    networks = np.stack([np.atleast_2d(reference), np.atleast_2d(variant)])
    places, sizes = placed(groups, counted.size)
    rest = sizes[:-1].sum() - sizes[:-1]

    def statistics(totals: Floats) -> dict[str, Floats]:
        inside = totals[..., :-1, 0]
        accuracy, overall = accuracies(totals, sizes)
        return {
            "overall": overall,
            "fvo": fvo(accuracy, counted),
            "worst_group": worst_group(accuracy, counted).accuracy,
            "group": accuracy,
            "against_rest": accuracy - ratio(inside.sum(-1, keepdims=True) - inside, rest),
        }

    found = changes(
        networks.astype(np.int64),
        places,
        counted.size + 1,
        features=right,
        statistics=statistics,
        draws=draws,
        confidence=confidence,
        rng=rng,
    )
    change = (networks[1].astype(np.int64) - networks[0]).sum(0)
    found["overall"] = found["overall"]._replace(p_value=np.array(exchange_p_value(change)))
    by_group = [exchange_p_value(change[groups == group]) for group in range(counted.size)]
    found["group"] = found["group"]._replace(p_value=np.array(by_group))
    less_fair = networks[1 if found["fvo"].estimate > 0 else 0]
    chance = fvo_null(less_fair, groups, counted=counted, draws=draws, rng=rng).p_value
    found["fvo"] = found["fvo"]._replace(p_value=np.maximum(found["fvo"].p_value, chance))
    return found


def compare_parity(
    labels: ArrayLike,
    reference: ArrayLike,
    variant: ArrayLike,
    groups: ArrayLike,
    *,
    counted: ArrayLike,
    n_classes: int,
    draws: int = 10_000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> dict[str, Effect]:
    """Measure the change of each parity metric, variant − reference.

    Like FVO, a parity difference grows with the noise of rarer answers, so the p-value is the
    larger of two here as well: that of exchanging the networks, and that of the less fair one
    treating all groups alike (:func:`quantskew.fairness.parity.gap_p_values`; the seed with the
    smallest decides, adjusted by Bonferroni).

    Parameters
    ----------
    labels
        (n,) classes 0..K−1.
    reference, variant
        (n,) or (S, n) predicted classes, row s of training seed s as in :func:`compare_accuracy`.
    groups
        (n,) codes from −1 (no group) to G − 1.
    counted
        (G,) whether a group is large enough to enter.
    n_classes
        K.

    Returns
    -------
    The names of :func:`quantskew.fairness.parity.fairness_differences`, each with its effect;
    NaN where the grouping gives the metric no meaning.
    """
    counted, labels, groups = np.asarray(counted, bool), np.asarray(labels), np.asarray(groups)
    networks = np.stack([np.atleast_2d(reference), np.atleast_2d(variant)])
    features, statistics = _parity_of(labels, networks, groups, counted, n_classes)
    found = changes(
        labels * n_classes + networks,
        groups,
        counted.size,
        features=features,
        statistics=statistics,
        draws=draws,
        confidence=confidence,
        rng=rng,
    )
    counts = class_counts(labels, networks, groups, n_groups=counted.size, n_classes=n_classes)
    gaps = gap_p_values(counts, counted)
    for name, effect in found.items():
        less_fair = int((effect.estimate > 0) != name.startswith("disparate_impact"))
        metric = name.removesuffix("_macro").removesuffix("_worst")
        chance = smallest(gaps[metric][less_fair])
        found[name] = effect._replace(p_value=np.maximum(effect.p_value, chance))
    return found


def parity_levels(
    labels: ArrayLike,
    predictions: ArrayLike,
    groups: ArrayLike,
    *,
    counted: ArrayLike,
    n_classes: int,
    draws: int = 10_000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Measure each parity metric of one network: the value and its bootstrap interval.

    Parameters and names as in :func:`compare_parity`; ``predictions`` is (n,).
    """
    counted, labels, groups = np.asarray(counted, bool), np.asarray(labels), np.asarray(groups)
    given = np.asarray(predictions)
    features, statistics = _parity_of(labels, given, groups, counted, n_classes)
    cells = tabulate(labels * n_classes + given, groups, counted.size)
    found = statistics(observe(cells, features))
    again = statistics(resampled(cells, features, draws, rng))
    return {
        name: (value[0], *basic_interval(value[0], again[name], confidence))
        for name, value in found.items()
    }


def _parity_of(
    labels: Ints, networks: Ints, groups: Ints, counted: Bools, n_classes: int
) -> tuple[Features, Statistics]:
    """What is counted of a code label·K + answer, and the metrics of the totals."""
    observed = class_counts(labels, networks, groups, n_groups=counted.size, n_classes=n_classes)
    reason, _ = parity_meaning(observed, counted)

    def features(codes: Ints) -> Floats:
        has, given = one_hot(codes // n_classes, n_classes), one_hot(codes % n_classes, n_classes)
        return np.concatenate([has, given, has * given], axis=-1)

    def statistics(totals: Floats) -> dict[str, Floats]:
        counts = ClassCounts(observed.sizes, *np.split(totals, 3, axis=-1))
        return blanked(parity_values(counts, counted), reason)

    return features, statistics
