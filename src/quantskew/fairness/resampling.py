"""The bootstrap and the exchange test of networks on the same samples, on counts.

Samples of one group and class that all networks answer alike are interchangeable, so drawing n
samples with replacement is drawing how often each *pattern* of label and answers occurs, with
exactly the same distribution. Several training seeds and networks make longer patterns; one draw
then serves all of them, as they share the test samples.

Two ways of drawing answer two questions:

========= ============================================== ============================
resampled the test set is drawn again, group by group    how precise is the estimate?
exchanged on each sample a coin decides which network is could chance do this, if it
          called the reference                           made no difference which is
                                                         quantized?
========= ============================================== ============================

The interval comes from the first, the p-value from the second: FVO has a corner at zero, where
inverting a bootstrap interval is no valid test, while exchanging is exact at any sample size.
(A fair network that gets worse for everyone alike still gains FVO from noise. What tells the two
apart is :attr:`quantskew.fairness.catalogue.Metric.chance`.)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from quantskew.fairness.metrics import Bools, Floats, Ints, distinct
from quantskew.fairness.parity import Counts

_HELD = 4_000_000  # numbers of one array held in memory at once


@dataclass(frozen=True, eq=False)
class Cells:
    """The distinct patterns of one group: C of them, of N networks with S seeds each."""

    labels: Ints  # (C,)
    answers: Ints  # (N, S, C)
    counts: Ints  # (C,) samples that show each pattern
    n_classes: int  # K
    of_units: csr_array | None = None  # (C, U) samples of each unit that show each pattern

    @cached_property
    def _features(self) -> csr_array:
        """Whether a pattern has a class, then for each network is given it, then both."""
        n_classes, n_patterns = self.n_classes, len(self.labels)
        networks = self.answers.reshape(math.prod(self.answers.shape[:2]), n_patterns)
        selected = n_classes * np.arange(1, len(networks) + 1)[:, None] + networks
        hits = selected + n_classes * len(networks)
        rows = np.concatenate([self.labels[None], selected, hits])
        values = np.ones(rows.shape)
        values[1 + len(networks) :] = networks == self.labels
        columns = np.broadcast_to(np.arange(n_patterns), rows.shape)
        shape = (n_classes * (1 + 2 * len(networks)), n_patterns)
        return csr_array((values.ravel(), (rows.ravel(), columns.ravel())), shape)

    def totals(self, weights: Ints) -> tuple[Floats, Floats, Floats]:
        """Total the samples by class, the patterns counting ``weights`` (C, B).

        Returns
        -------
        (K, B) positives, then (N, S, K, B) selected and hits.
        """
        flat = np.asarray(self._features @ weights.astype(float))
        positives, networks = np.split(flat, [self.n_classes])
        shape = (2, *self.answers.shape[:2], self.n_classes, weights.shape[1])
        selected, hits = networks.reshape(shape)
        return positives, selected, hits


def tabulate(
    labels: ArrayLike,
    answers: ArrayLike,
    places: ArrayLike,
    n_groups: int,
    n_classes: int,
    *,
    units: Ints | None = None,
) -> list[Cells]:
    """Count the patterns of each group.

    Parameters
    ----------
    labels
        (n,) classes 0..K−1.
    answers
        (N, S, n) classes that each network answers.
    places
        (n,) groups from 0 to ``n_groups`` − 1.
    n_classes
        K.
    units
        (n,) who each sample comes from: units are then drawn, with all their samples of a group.
    """
    labels, answers, places = (np.asarray(a) for a in (labels, answers, places))
    rows = np.concatenate([labels[None], answers.reshape(-1, labels.size)])
    cells = []
    for group in range(n_groups):
        own = places == group
        patterns, counts = distinct(rows[:, own])
        shape = (*answers.shape[:-1], counts.size)
        drawn = None if units is None else _of_units(rows[:, own], units[own])
        cells.append(Cells(patterns[0], patterns[1:].reshape(shape), counts, n_classes, drawn))
    return cells


def _of_units(rows: Ints, units: Ints) -> csr_array:
    """Count the samples of each unit by pattern, in the order of :func:`distinct`."""
    distinct_rows, patterns = np.unique(rows, axis=1, return_inverse=True)
    names, codes = np.unique(units, return_inverse=True)
    shape = (distinct_rows.shape[1], names.size)
    return csr_array((np.ones(codes.size, np.int64), (patterns.ravel(), codes)), shape)


def observe(cells: list[Cells], counted: Bools) -> Counts:
    """Count the test set as it is; leading axes (1, N, S)."""
    return _counts([one.totals(one.counts[:, None]) for one in cells], counted)


def resampled(
    cells: list[Cells], counted: Bools, draws: int, rng: np.random.Generator
) -> Iterator[Counts]:
    """Draw the test set again, group by group; blocks with leading axes (draws, N, S)."""
    for size in _blocks(cells, draws):
        yield _counts([one.totals(_redrawn(one, size, rng)) for one in cells], counted)


def exchanged(
    cells: list[Cells], counted: Bools, draws: int, rng: np.random.Generator
) -> Iterator[Counts]:
    """Swap the two networks on a random half of the samples; blocks (draws, 2, S)."""
    for size in _blocks(cells, draws):
        totals = []
        for one in cells:
            # where the networks agree, nothing changes
            differ = (one.answers[0] != one.answers[1]).any(0)
            swaps = np.zeros((differ.size, size), np.int64)
            swaps[differ] = rng.binomial(one.counts[differ, None], 0.5, (differ.sum(), size))
            positives, *own = one.totals(one.counts[:, None])
            _, *swapped = one.totals(swaps)
            selected, hits = (a + b[::-1] - b for a, b in zip(own, swapped, strict=True))
            totals.append((positives, selected, hits))
        yield _counts(totals, counted)


def _blocks(cells: list[Cells], draws: int) -> list[int]:
    """Divide the draws so that neither the samples nor the counts of a block fill the memory."""
    n_networks, n_seeds, _ = cells[0].answers.shape
    largest = max(cell.counts.sum() for cell in cells)
    counts = n_networks * n_seeds * cells[0].n_classes * len(cells)
    block = max(1, _HELD // max(largest, counts))
    return [min(block, draws - start) for start in range(0, draws, block)]


def _redrawn(cells: Cells, draws: int, rng: np.random.Generator) -> Ints:
    """Draw as many samples as there are, with replacement: how often each pattern, (C, draws)."""
    n, n_patterns = int(cells.counts.sum()), cells.counts.size
    if not n:
        return np.zeros((0, draws), np.int64)
    if cells.of_units is not None:
        n_units = cells.of_units.shape[1]
        drawn_units = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=draws)
        return np.asarray(cells.of_units @ drawn_units.T)
    if 8 * n_patterns < n:  # few patterns: their counts are drawn at once
        return rng.multinomial(n, cells.counts / n, size=draws).T
    # numbered by pattern, so that the order of the samples in their table decides nothing
    samples = np.repeat(draws * np.arange(n_patterns), cells.counts)
    drawn = samples[rng.integers(n, size=(draws, n), dtype=np.int32)]
    drawn += np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_patterns * draws).reshape(n_patterns, draws)


def _counts(totals: list[tuple[Floats, Floats, Floats]], counted: Bools) -> Counts:
    """Counts of all groups; the draws lie side by side in memory, which makes sums fast."""
    positives, selected, hits = (np.stack(part) for part in zip(*totals, strict=True))
    selected, hits = (part.transpose(4, 1, 2, 0, 3) for part in (selected, hits))
    return Counts(positives.transpose(2, 0, 1)[:, None, None], selected, hits, counted)


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
