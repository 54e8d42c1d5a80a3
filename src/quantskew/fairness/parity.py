"""Counts of answers by group and class, and the parity of predictions between groups.

How many samples of a group have a class, are given it, and both: these counts carry every group
metric. A bootstrap draws the counts again (:mod:`quantskew.fairness.resampling`) and calls the same
functions of them, so a value and its interval cannot mean different things.

fairlearn's metrics are those of one class against the rest. The tests hold ours to them for every
class; they do not compute the tables, because they call Python for every rate, group and class
(``python benchmarks/bootstrap.py``), and answer 0 for a rate that is undefined, such as the true
positive rate of a group without positives.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quantskew.fairness.metrics import Bools, Floats, Ints, extremes, ratio
from quantskew.fairness.null import equal_rates_p_value, smallest

PARITY = {
    "demographic_parity": "Largest difference between two groups of the share given a class",
    "equalized_odds": "Larger one of equal opportunity and predictive equality (Hardt et al. 2016)",
    "equal_opportunity": "Largest difference between two groups of the true positive rate",
    "predictive_equality": "Largest difference between two groups of the false positive rate",
    "disparate_impact": "Lowest over highest share given a class; below 0.8 fails the four-fifths "
    "rule",
}
"""Parity metrics of one class against the rest, and what they are."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Samples by group and class, of any number of networks or draws (leading axes ...).

    The four numbers of a class's confusion matrix in a group follow: true positives are ``hits``,
    false positives ``selected − hits``, false negatives ``positives − hits``, and the rest true
    negatives.

    Attributes
    ----------
    positives, selected, hits
        (..., G + 1, K) samples that have the class, that are given it, and both. The last of the
        G + 1 rows counts the samples that belong to no group.
    counted
        (G,) whether a group is large enough to enter a comparison.
    rated
        (2, G, K) whether the true and the false positive rate of a class are taken of enough
        samples of a group to enter a comparison; all are unless given.
    """

    positives: Floats
    selected: Floats
    hits: Floats
    counted: Bools
    rated: Bools | None = None

    @cached_property
    def sizes(self) -> Floats:
        """Samples of each group, (G,), of the first draw."""
        first = self.positives[(0,) * (self.positives.ndim - 2)]
        return np.asarray(first[:-1].sum(-1))

    @cached_property
    def drawn_sizes(self) -> Floats:
        """Samples of each group in each draw, (..., G); draws of units differ in their samples."""
        return np.asarray(self.positives[..., :-1, :].sum(-1))

    @cached_property
    def accuracy(self) -> Floats:
        """Accuracy of each group, (..., G); NaN for a group without samples."""
        return ratio(self.hits[..., :-1, :].sum(-1), self.drawn_sizes)

    @cached_property
    def rates(self) -> dict[str, tuple[Floats, Floats]]:
        """Each rate as part and whole, (..., G, K): ``selection``, ``true`` and ``false``.

        A rate of too few samples is one of nobody.
        """
        positives, selected, hits = (
            counts[..., :-1, :] for counts in (self.positives, self.selected, self.hits)
        )
        sizes = np.broadcast_to(self.drawn_sizes[..., None], positives.shape)
        true, false = (True, True) if self.rated is None else self.rated
        return {
            "selection": (selected, sizes),
            "true": (hits, np.where(true, positives, 0)),
            "false": (selected - hits, np.where(false, sizes - positives, 0)),
        }

    @cached_property
    def parity(self) -> dict[str, Floats]:
        """Each metric of :data:`PARITY` for each class against the rest, (..., K).

        A group in which a rate is undefined (no positives, or no negatives) is left out of that
        rate; where fewer than two groups have it the metric is NaN. Of two classes only class 1 is
        looked at, as fairlearn does: (..., 1).
        """
        rates = {name: ratio(part, whole) for name, (part, whole) in self.rates.items()}
        low_high = {name: extremes(rate, self.counted, axis=-2) for name, rate in rates.items()}
        (lowest, highest), true, false = low_high.values()
        gaps = {
            "demographic_parity": highest - lowest,
            "equalized_odds": np.maximum(true[1] - true[0], false[1] - false[0]),
            "equal_opportunity": true[1] - true[0],
            "predictive_equality": false[1] - false[0],
            "disparate_impact": ratio(lowest, highest),
        }
        return {name: _positive(by_class) for name, by_class in gaps.items()}

    @cached_property
    def gap_p_values(self) -> dict[str, Floats]:
        """P-values of all groups being treated alike, (...), by the metric whose rate is tested.

        An exact test that all counted groups share the rate of a class; the smallest p-value over
        the classes that the metric is taken of (and over both rates of equalized odds) is adjusted
        by Bonferroni. For ``recall_gap`` it is the classes that share their recall. NaN where
        nothing can be tested.
        """
        selection, true, false = (
            _positive(equal_rates_p_value(part, whole, self.counted))
            for part, whole in self.rates.values()
        )
        both = np.where(np.isnan(true) | np.isnan(false), np.nan, [true, false])
        hits, positives = (n.sum(-2)[..., None] for n in (self.hits, self.positives))
        recall = equal_rates_p_value(hits, positives, np.ones(hits.shape[-2], bool))
        return {
            "demographic_parity": smallest(selection),
            "equalized_odds": smallest(np.concatenate(both, axis=-1)),
            "equal_opportunity": smallest(true),
            "predictive_equality": smallest(false),
            "disparate_impact": smallest(selection),
            "recall_gap": smallest(recall),
        }


def _positive(by_class: Floats) -> Floats:
    return by_class[..., 1:] if by_class.shape[-1] == 2 else by_class


@dataclass(frozen=True, eq=False)
class Answers:
    """What the networks of S training seeds answer on the same n samples.

    Attributes
    ----------
    labels
        (n,) classes 0..K−1.
    predictions
        (S, n) classes 0..K−1.
    codes
        (n,) groups from −1 (no group) to G − 1.
    counted
        (G,) whether a group is large enough to enter a comparison.
    n_classes
        K.
    least
        Samples that a rate of a group is taken of, at least, to enter a comparison.
    units
        (n,) codes of who each sample comes from (a person, a video); None where each is its own.
    """

    labels: Ints
    predictions: Ints
    codes: Ints
    counted: Bools
    n_classes: int
    units: Ints | None = None
    least: int = 1

    @property
    def correct(self) -> Bools:
        """Whether an answer is right, (S, n)."""
        return np.asarray(self.predictions == self.labels)

    @cached_property
    def places(self) -> Ints:
        """Groups from 0 to G, (n,): samples of no group form the last one."""
        return np.where(self.codes < 0, len(self.counted), self.codes)

    @cached_property
    def counts(self) -> Counts:
        """Counts of each seed, (S, G + 1, K)."""
        hits = [self._count(self.labels, row == self.labels) for row in self.predictions]
        selected = [self._count(row) for row in self.predictions]
        positives = np.broadcast_to(self._count(self.labels), np.shape(hits))
        return Counts(positives, np.stack(selected), np.stack(hits), self.counted, self.rated)

    def _count(self, classes: Ints, among: Bools | None = None) -> Floats:
        """Count samples by group and class, (G + 1, K)."""
        cells = self.places * self.n_classes + classes
        shape = (len(self.counted) + 1, self.n_classes)
        return np.bincount(cells, among, shape[0] * shape[1]).reshape(shape).astype(float)

    @cached_property
    def rated(self) -> Bools:
        """Whether ``least`` samples of a group have a class, and have another, (2, G, K)."""
        positives = self._count(self.labels)
        negatives = positives.sum(1, keepdims=True) - positives
        return np.asarray(np.stack([positives, negatives])[:, :-1] >= self.least)

    @cached_property
    def present(self) -> Bools:
        """Whether a counted group has samples of a class, (counted groups, K)."""
        present = np.zeros((len(self.counted) + 1, self.n_classes), bool)
        present[self.places, self.labels] = True
        return np.asarray(present[:-1][self.counted])

    @property
    def label_is_known(self) -> bool:
        """Whether each counted group holds samples of one class only.

        So it is where the group is the class, where it is an intersection with the class, and where
        an attribute stands for the class.
        """
        return bool((self.present.sum(1) == 1).all())

    @cached_property
    def shares(self) -> Floats:
        """Share of the answers that are each class, (S, K)."""
        given = [np.bincount(row, minlength=self.n_classes) for row in self.predictions]
        return np.asarray(given, float) / len(self.labels)

    @property
    def top_share(self) -> float:
        """Share of the answers that are the most frequent one, mean over seeds."""
        return float(self.shares.max(1).mean())

    def collapses(self, share: float) -> bool:
        """Whether a network of any seed answers one class that often, and the labels do not."""
        top = self.shares.argmax(1)
        of_labels = np.bincount(self.labels, minlength=self.n_classes)[top] / len(self.labels)
        return bool(((self.shares.max(1) >= share) & (of_labels < share)).any())

    @property
    def left_out(self) -> str:
        """Say which rates are undefined and left out of the parity metrics."""
        only = self.present & (self.present.sum(1, keepdims=True) == 1)
        lacks = {"true positives": ~self.present, "false positives": only}
        texts = [f"{rate} in {pairs.sum()}" for rate, pairs in lacks.items() if pairs.any()]
        if not texts:
            return ""
        return f"rates undefined, left out: {', '.join(texts)} of {only.size} (group, class)"
