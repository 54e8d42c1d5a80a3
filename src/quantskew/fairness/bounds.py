"""How the limits of each metric follow from the rates of two networks on the same samples.

A metric that is linear in the answers is bounded for the networks of all seeds together
(:mod:`quantskew.fairness.limits`). One that is an extreme over groups (:mod:`.gaps`) is bounded
for each seed, and the limits of the mean over seeds are the means of the limits: a mean has a
standard deviation of at most the mean standard deviation, however the seeds go together. The mean
over classes of a parity metric is bounded in the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from quantskew.fairness.gaps import (
    Paired,
    accuracy_rates,
    against_rest_limits,
    as_one_rate,
    gap_change_limits,
    gap_limits,
    parity_rates,
    ratio_limits,
    rest_rates,
    worst_group_change_limits,
    worst_group_limits,
)
from quantskew.fairness.limits import (
    Changes,
    Limits,
    Shares,
    change_limits,
    difference_limits,
    share_limits,
)
from quantskew.fairness.metrics import Bools, Floats, Ints
from quantskew.fairness.parity import Answers

Bound = Callable[[Floats], Limits]
"""Maps the error of each limit, 0..½, to the limits."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two networks on the same samples; without a reference both are the same one."""

    before: Answers
    after: Answers

    @cached_property
    def seeds(self) -> list["Pair"]:
        """The pair of each training seed."""
        if len(self.after.predictions) == 1:
            return [self]
        return [
            Pair(*(replace(one, predictions=one.predictions[s : s + 1]) for one in self.both))
            for s in range(len(self.after.predictions))
        ]

    @property
    def both(self) -> tuple[Answers, Answers]:
        """The networks in order."""
        return self.before, self.after

    @property
    def counted(self) -> Bools:
        """Whether a group is large enough, (G,)."""
        return self.after.counted

    def _accuracies(self, groups: Ints, n_groups: int) -> Paired:
        right = self.before.correct, self.after.correct
        return accuracy_rates(right[0], right[1], groups, n_groups, units=self.after.units)

    @cached_property
    def accuracy(self) -> Paired:
        """Accuracy of each group, (G,)."""
        return self._accuracies(self.after.codes, len(self.counted))

    @cached_property
    def everyone(self) -> Paired:
        """Accuracy of all samples, as of one group, (1,)."""
        return self._accuracies(np.zeros_like(self.after.codes), 1)

    @cached_property
    def recall(self) -> Paired:
        """Recall of each class, (1, K)."""
        return as_one_rate(self._accuracies(self.after.labels, self.after.n_classes))

    @cached_property
    def rest(self) -> Paired:
        """Accuracy of each group and of all other groups together, (G, 2)."""
        own, right = self.after, (self.before.correct, self.after.correct)
        return rest_rates(right[0], right[1], own.codes, len(own.counted), units=own.units)

    @cached_property
    def parity(self) -> dict[str, Paired]:
        """Rates (K, G) of :func:`quantskew.fairness.gaps.parity_rates`."""
        own = self.after
        return parity_rates(
            own.labels, self.before.predictions, own.predictions, own.codes,
            n_groups=len(own.counted), n_classes=own.n_classes, units=own.units,
        )  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """How a metric is bounded.

    Attributes
    ----------
    level
        Bounds the metric of the second network of a pair.
    change
        Bounds its change from the first.
    linear
        Whether the networks of all seeds are bounded together, and not one by one.
    """

    level: Callable[[Pair], Bound]
    change: Callable[[Pair], Bound]
    linear: bool = False

    def of_mean(self, bound: Callable[[Pair], Bound], pair: Pair) -> Bound:
        """Bound the mean over seeds by ``level`` or ``change``."""
        if self.linear:
            return bound(pair)
        of_seeds = [bound(one) for one in pair.seeds]
        return lambda tail: _mean([own(tail) for own in of_seeds])


def _mean(limits: list[Limits]) -> Limits:
    low, high = (np.mean(ends, axis=0) for ends in zip(*limits, strict=True))
    return Limits(low, high)


def _against_rest(pair: Pair) -> Bound:
    rates = pair.rest.after

    def bound(tail: Floats) -> Limits:
        limits = share_limits(rates, np.asarray(tail)[..., None])
        found = difference_limits(np.nan_to_num(rates.value), limits)
        return Limits(*(end[..., 0, 1] for end in found))

    return bound


def _first(limits: Limits) -> Limits:
    return Limits(limits.low[0], limits.high[0])


SHARE = Bounds(
    lambda pair: lambda tail: _first(share_limits(pair.everyone.after, tail)),
    lambda pair: lambda tail: _first(change_limits(pair.everyone.changes, tail)),
    linear=True,
)
SHARE_OF_GROUP = Bounds(
    lambda pair: lambda tail: share_limits(pair.accuracy.after, tail),
    lambda pair: lambda tail: change_limits(pair.accuracy.changes, tail),
    linear=True,
)
AGAINST_REST = Bounds(
    _against_rest,
    lambda pair: lambda tail: against_rest_limits(pair.rest.changes, tail),
    linear=True,
)
WORST_GROUP = Bounds(
    lambda pair: lambda tail: worst_group_limits(pair.accuracy.after, pair.counted, tail),
    lambda pair: lambda tail: worst_group_change_limits(pair.accuracy, pair.counted, tail),
)


def gap(rates: Callable[[Pair], Paired], counted: Callable[[Pair], Bools]) -> Bounds:
    """Bound the largest gap between groups of rates (K, G)."""
    return Bounds(
        lambda pair: lambda tail: gap_limits(rates(pair).after, counted(pair), tail),
        lambda pair: lambda tail: gap_change_limits(rates(pair), counted(pair), tail),
    )


FVO = gap(lambda pair: as_one_rate(pair.accuracy), lambda pair: pair.counted)
RECALL_GAP = gap(lambda pair: pair.recall, lambda pair: np.ones(pair.after.n_classes, bool))


def parity_worst(name: str) -> Bounds:
    """Bound a parity metric of the least fair class."""
    if name == "disparate_impact":
        return _ratio(lambda pair: [pair.parity["demographic_parity"]])
    return gap(lambda pair: pair.parity[name], lambda pair: pair.counted)


def parity_macro(name: str) -> Bounds:
    """Bound the mean over classes of a parity metric."""
    if name == "disparate_impact":
        return _ratio(lambda pair: _by_class(pair.parity["demographic_parity"]))

    def level(pair: Pair) -> Bound:
        rates, counted = _by_class(pair.parity[name], name), pair.counted
        return lambda tail: _known_mean([gap_limits(one.after, counted, tail) for one in rates])

    def change(pair: Pair) -> Bound:
        rates, counted = _by_class(pair.parity[name], name), pair.counted
        return lambda tail: _known_mean([gap_change_limits(one, counted, tail) for one in rates])

    return Bounds(level, change)


def _by_class(rates: Paired, name: str = "") -> list[Paired]:
    """Divide rates (K, G) by class; equalized odds has two of each class, (2K, G)."""
    n_classes = len(rates.before.value) // (2 if name == "equalized_odds" else 1)
    return [
        Paired(
            Shares(*(field[k::n_classes] for field in rates.before)),
            Shares(*(field[k::n_classes] for field in rates.after)),
            Changes(*(field[k::n_classes] for field in rates.changes)),
        )
        for k in range(n_classes)
    ]


def _known_mean(limits: list[Limits]) -> Limits:
    known = [one for one in limits if not np.isnan(one.low)]
    return _mean(known) if known else Limits(np.array(np.nan), np.array(np.nan))


def _ratio(parts: Callable[[Pair], list[Paired]]) -> Bounds:
    """Bound the mean over parts of the lowest ratio of their rates.

    Its change has no bound of its own: each end is that of the two levels at half the error.
    """

    def levels(pair: Pair, side: int) -> Bound:
        rates = [(part.before, part.after)[side] for part in parts(pair)]
        # a class that nobody is given has no ratio
        given = [one for one in rates if np.nansum(np.where(pair.counted, one.value, 0)) > 0]
        return lambda tail: _known_mean([ratio_limits(one, pair.counted, tail) for one in given])

    def change(pair: Pair) -> Bound:
        before, after = levels(pair, 0), levels(pair, 1)

        def bound(tail: Floats) -> Limits:
            one, other = before(tail / 2), after(tail / 2)
            return Limits(other.low - one.high, other.high - one.low)

        return bound

    return Bounds(lambda pair: levels(pair, 1), change)
