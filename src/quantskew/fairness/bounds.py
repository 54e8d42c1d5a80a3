"""How the limits of each metric follow from the rates of two networks on the same samples.

A metric that is linear in the answers is bounded for the networks of all seeds together
(:mod:`quantskew.fairness.limits`). One that is an extreme over groups (:mod:`.gaps`) is bounded
for each seed, and the limits of the mean over seeds are the means of the limits: a mean has a
standard deviation of at most the mean standard deviation, however the seeds go together. The mean
over classes of a parity metric is bounded in the same way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from quantskew.fairness.gaps import (
    Paired,
    accuracy_rates,
    against_rest_limits,
    as_one_rate,
    gap_change_limits,
    gap_limits,
    joined,
    parity_rates,
    ratio_limits,
    rest_rates,
    worst_group_change_limits,
    worst_group_limits,
)
from quantskew.fairness.limits import (
    Limits,
    Shares,
    change_limits,
    share_limits,
)
from quantskew.fairness.metrics import Bools, Floats, Ints, ratio
from quantskew.fairness.parity import Answers

Bound = Callable[[Floats], Limits]
"""Maps the error of each limit, 0..½, to the limits."""


class Rows(NamedTuple):
    """Samples that limits are computed from; ``weights`` (C,) says how many each row stands for."""

    labels: Ints
    before: Ints  # (S, C)
    after: Ints
    codes: Ints
    units: Ints | None
    weights: Ints | None


@dataclass(frozen=True, eq=False)
class Pair:
    """Two networks on the same samples; without a reference both are the same one."""

    before: Answers
    after: Answers

    @property
    def both(self) -> tuple[Answers, Answers]:
        """The networks in order."""
        return self.before, self.after

    @property
    def counted(self) -> Bools:
        """Whether a group is large enough, (G,)."""
        return self.after.counted

    @cached_property
    def seeds(self) -> list["Pair"]:
        """The pair of each training seed."""
        return [
            Pair(*(replace(one, predictions=one.predictions[s : s + 1]) for one in self.both))
            for s in range(len(self.after.predictions))
        ]

    @cached_property
    def rows(self) -> Rows:
        """The samples; those of one network that nothing tells apart are counted, and stand once.

        A rate of a million samples then takes no longer than one of a thousand.
        """
        before, own = self.both
        if len(own.predictions) > 1 or own.units is not None:
            return Rows(own.labels, before.predictions, own.predictions, own.codes, own.units, None)
        shape = (len(own.counted) + 1, *[own.n_classes] * 3)
        samples = (own.places, own.labels, before.predictions[0], own.predictions[0])
        cells = np.ravel_multi_index(samples, shape)
        if math.prod(shape) <= len(cells):
            counts = np.bincount(cells)
            present = np.flatnonzero(counts)
            weights = counts[present]
        else:
            present, weights = np.unique(cells, return_counts=True)
        places, labels, one, other = np.unravel_index(present, shape)
        codes = np.where(places == len(own.counted), -1, places)
        return Rows(labels, one[None], other[None], codes, None, weights)

    def _accuracies(
        self, groups: Ints, n_groups: int, rates: Callable[..., Paired] = accuracy_rates
    ) -> Paired:
        rows = self.rows
        right = rows.before == rows.labels, rows.after == rows.labels
        return rates(*right, groups, n_groups, units=rows.units, weights=rows.weights)

    @cached_property
    def accuracy(self) -> Paired:
        """Accuracy of each group, mean over seeds, (G,)."""
        return self._accuracies(self.rows.codes, len(self.counted))

    @cached_property
    def everyone(self) -> Paired:
        """Accuracy of all samples, as of one group, mean over seeds, (1,)."""
        return self._accuracies(np.zeros_like(self.rows.codes), 1)

    @cached_property
    def rest(self) -> Paired:
        """Accuracy of each group and of all other groups together, mean over seeds, (G, 2)."""
        return self._accuracies(self.rows.codes, len(self.counted), rest_rates)

    @cached_property
    def each_accuracy(self) -> Paired:
        """Accuracy of each group by seed, (S, G)."""
        return joined([one.accuracy for one in self.seeds], np.stack)

    @cached_property
    def each_recall(self) -> Paired:
        """Recall of each class by seed, as one rate, (S, 1, K)."""
        n = self.after.n_classes
        rates = [one._accuracies(one.rows.labels, n) for one in self.seeds]
        return as_one_rate(joined(rates, np.stack))

    @cached_property
    def each_parity(self) -> dict[str, Paired]:
        """Rates of :func:`quantskew.fairness.gaps.parity_rates` by seed, (S, K, G)."""
        own = self.after
        rates = [
            parity_rates(
                rows.labels, rows.before, rows.after, rows.codes, n_groups=len(own.counted),
                n_classes=own.n_classes, units=rows.units, weights=rows.weights,
            )
            for rows in (one.rows for one in self.seeds)
        ]  # fmt: skip
        by_seed = {name: joined([one[name] for one in rates], np.stack) for name in rates[0]}
        true, false = own.rated.swapaxes(1, 2)[:, 1 if own.n_classes == 2 else 0 :]
        # equalized odds of a class take both rates, each of two groups at least
        both = np.logical_and(*((own.counted & rate).sum(-1) >= 2 for rate in (true, false)))
        rated = {
            "equal_opportunity": true,
            "predictive_equality": false,
            "equalized_odds": np.concatenate([true, false]) & np.tile(both, 2)[:, None],
        }
        return by_seed | {name: _of_enough(by_seed[name], enough) for name, enough in rated.items()}


def _of_enough(rates: Paired, enough: Bools) -> Paired:
    """Leave out the rates (K, G) of too few samples: they count as rates of nobody."""
    before, after, changes = rates
    return Paired(
        before._replace(n=np.where(enough, before.n, 0)),
        after._replace(n=np.where(enough, after.n, 0)),
        changes._replace(n=np.where(enough, changes.n, 0)),
    )


class Bounds(NamedTuple):
    """How the mean over seeds of a metric is bounded.

    Attributes
    ----------
    level
        Bounds the metric of the second network of a pair.
    change
        Bounds its change from the first.
    """

    level: Callable[[Pair], Bound]
    change: Callable[[Pair], Bound]


def _mean(limits: Limits) -> Limits:
    """Average limits over seeds and classes; those without a value are left out."""
    low, high = (ratio(np.nansum(end), (~np.isnan(end)).sum()) for end in limits)
    return Limits(low, high)


def _first(limits: Limits) -> Limits:
    return Limits(limits.low[0], limits.high[0])


SHARE = Bounds(
    lambda pair: lambda tail: _first(share_limits(pair.everyone.after, tail)),
    lambda pair: lambda tail: _first(change_limits(pair.everyone.changes, tail)),
)
SHARE_OF_GROUP = Bounds(
    lambda pair: lambda tail: share_limits(pair.accuracy.after, tail),
    lambda pair: lambda tail: change_limits(pair.accuracy.changes, tail),
)
AGAINST_REST = Bounds(
    lambda pair: lambda tail: against_rest_limits(pair.rest.after, tail),
    lambda pair: lambda tail: against_rest_limits(pair.rest.changes, tail),
)
WORST_GROUP = Bounds(
    lambda pair: (
        lambda tail: _mean(worst_group_limits(pair.each_accuracy.after, pair.counted, tail))
    ),
    lambda pair: (
        lambda tail: _mean(worst_group_change_limits(pair.each_accuracy, pair.counted, tail))
    ),
)


def gap(rates: Callable[[Pair], Paired], counted: Callable[[Pair], Bools]) -> Bounds:
    """Bound the largest gap between groups of rates (..., K, G), mean over the leading axes."""

    def level(pair: Pair) -> Bound:
        own, groups = rates(pair).after, counted(pair)
        return lambda tail: _mean(gap_limits(own, groups, tail, clip=False))

    def change(pair: Pair) -> Bound:
        own, groups = rates(pair), counted(pair)
        return lambda tail: _mean(gap_change_limits(own, groups, tail))

    return Bounds(level, change)


FVO = gap(lambda pair: as_one_rate(pair.each_accuracy), lambda pair: pair.counted)
RECALL_GAP = gap(lambda pair: pair.each_recall, lambda pair: np.ones(pair.after.n_classes, bool))


def parity(name: str, *, macro: bool) -> Bounds:
    """Bound a parity metric of the least fair class, or its mean over classes."""
    ratios = name == "disparate_impact"
    source = "demographic_parity" if ratios else name

    per_class = 2 if name == "equalized_odds" else 1

    def by_class(field: Floats) -> Floats:
        """Divide rates (S, R·K, G), R of each class, by class: (S, K, R, G)."""
        seeds, _, groups = field.shape
        return field.reshape(seeds, per_class, -1, groups).swapaxes(1, 2)

    def rates(pair: Pair) -> Paired:
        own = pair.each_parity[source]
        return own.map(by_class) if macro else own

    return _ratio(rates) if ratios else gap(rates, lambda pair: pair.counted)


def _ratio(rates: Callable[[Pair], Paired]) -> Bounds:
    """Bound the lowest ratio of rates (..., K, G), mean over the leading axes.

    Its change has no bound of its own: each end is that of the two levels at half the error.
    """

    def levels(own: Shares, counted: Bools) -> Bound:
        # a class that nobody is given has no ratio
        given = np.nansum(np.where(counted, own.value, 0), axis=(-2, -1)) > 0

        def bound(tail: Floats) -> Limits:
            low, high = ratio_limits(own, counted, tail, clip=False)
            return _mean(Limits(np.where(given, low, np.nan), np.where(given, high, np.nan)))

        return bound

    def change(pair: Pair) -> Bound:
        before, after = (levels(one, pair.counted) for one in rates(pair)[:2])

        def bound(tail: Floats) -> Limits:
            one, other = before(tail / 2), after(tail / 2)
            return Limits(other.low - one.high, other.high - one.low)

        return bound

    return Bounds(lambda pair: levels(rates(pair).after, pair.counted), change)
