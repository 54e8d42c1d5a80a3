"""The catalogue of scores: every score of what networks say is declared once.

A score is a function of the :class:`Outputs` of one network on the samples of one group, registered
under its own name:

    @score(better="lower", title="Brier score", span=(0, 1))
    def brier(outputs):
        "Half of the squared distance of the probabilities from the label."
        return ((outputs.values - outputs.truth) ** 2).sum(-1) / 2

From then on :func:`quantskew.fairness.scores.compare` and the table ``scores`` of a study have its
changes, with intervals and verdicts. It returns a number for each sample, NaN for one that it does
not ask about; or a :class:`Scored`, where it is no mean over samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf, expit, softmax

from quantskew.errors import UserError
from quantskew.fairness.metrics import Bools, Floats, Ints

LEAST = 1e-4
"""A smaller probability counts as this one wherever its logarithm is taken."""
_BINS = 15


class ScoreError(UserError, ValueError):
    """Outputs that no score can be taken of."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one network says of n samples of one group.

    Attributes
    ----------
    labels
        (n,) classes 0..K−1, or true numbers.
    values
        (n, K) probabilities, rows summing to 1, or (n,) predicted numbers.
    reference
        The same of the network that this one is compared with, which may be itself.
    units
        (n,) codes 0..U−1 of who each sample comes from.
    threshold
        Probability from which on a class counts as given.
    range
        Largest error that a number can have.
    """

    labels: np.ndarray
    values: Floats
    reference: Floats
    units: Ints
    threshold: float = 0.5
    range: float = 1.0

    @cached_property
    def truth(self) -> Bools:
        """(n, K) whether a class is the label."""
        return np.asarray(self.labels[:, None] == np.arange(self.values.shape[1]))

    @cached_property
    def of_label(self) -> Floats:
        """(n,) probability of the label."""
        return np.asarray(self.values[np.arange(len(self.labels)), self.labels])


class Scored(NamedTuple):
    """A score that is no mean over samples.

    Attributes
    ----------
    value
        The score; NaN where it has no meaning.
    influence
        (M,) what each of M independent parts of the samples adds to it, to first order; the same
        parts for all networks. Its variance is that of their sum.
    reach
        Most that one sample can move it, times the root of the samples in a mean unit where a
        unit has several.
    """

    value: float
    influence: Floats
    reach: float


Kind = Literal["classes", "numbers"]


@dataclass(frozen=True)
class Score:
    """A number that says how well the outputs of a network fit.

    Attributes
    ----------
    name, title, sentence
        Its key in the tables, how pages call it, and what it is.
    better
        Whether a ``higher`` or a ``lower`` value is better.
    value
        Maps :class:`Outputs` to (n,), or to a :class:`Scored`.
    span
        Lowest and highest value of a sample; of ``numbers`` as a share of their range.
    of
        Whether it is taken of probabilities of ``classes`` or of ``numbers``.
    share
        Whether each sample has 0 or 1.
    distance
        Whether it is a distance to the reference. Two networks never agree in all, so it is worse
        only where it is surely more than the margin, and never better.
    """

    name: str
    title: str
    sentence: str
    better: Literal["higher", "lower"]
    value: Callable[[Outputs], Floats | Scored]
    span: tuple[float, float]
    of: Kind = "classes"
    share: bool = False
    distance: bool = False


SCORES: dict[str, Score] = {}
"""All scores by name, in the order in which tables show them."""


def score(
    *, better: Literal["higher", "lower"], title: str, span: tuple[float, float], **facts: Any
) -> Callable[[Callable[[Outputs], Any]], Callable[[Outputs], Any]]:
    """Register a function of outputs as a score.

    Parameters are those of :class:`Score`; its name is that of the function, and its sentence the
    first paragraph of the docstring.

    Raises
    ------
    ValueError
        When there is a score of that name.
    """

    def register(value: Callable[[Outputs], Any]) -> Callable[[Outputs], Any]:
        name = value.__name__
        if name in SCORES:
            raise ValueError(f"there is a score {name!r} already")
        sentence = " ".join((value.__doc__ or "").partition("\n\n")[0].split())
        SCORES[name] = Score(name, title, sentence, better, value, span, **facts)
        return value

    return register


@score(better="lower", title="negative log likelihood, nats", span=(0, -np.log(LEAST)))
def nll(outputs: Outputs) -> Floats:
    """Mean of −log of the label's probability, which is at least 0.0001."""
    return np.asarray(-np.log(np.maximum(outputs.of_label, LEAST)))


@score(better="lower", title="Brier score", span=(0, 1))
def brier(outputs: Outputs) -> Floats:
    """Half of the squared distance of the probabilities from the label (Brier 1950)."""
    return np.asarray(((outputs.values - outputs.truth) ** 2).sum(-1) / 2)


@score(better="lower", title="calibration error (ECE), debiased", span=(0, 1))
def calibration_error(outputs: Outputs) -> Scored:
    """ECE of 15 bins of equal width, less the share of chance (Kumar, Liang & Ma 2019).

    Chance makes every bin's gap d between accuracy and confidence larger than it is. A normal gap
    with mean d and the standard error s has the mean size s√(2/π)·exp(−d²/2s²) + |d|·erf(d/s√2);
    what that exceeds |d| by is taken off. So it can fall a little below zero.
    """
    confidence = outputs.values.max(-1)
    gap = (outputs.values.argmax(-1) == outputs.labels) - confidence
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    cells, of_sample = np.unique(outputs.units * _BINS + bins, return_inverse=True)
    # samples, sum of gaps and of their squares, by unit and bin, then by bin
    sums = np.array([np.bincount(of_sample, w) for w in (np.ones(gap.size), gap, gap**2)])
    unit, bin_ = np.divmod(cells, _BINS)
    whole = np.array([np.bincount(bin_, w, _BINS) for w in sums])
    each, others = _debiased(whole), gap.size - np.bincount(outputs.units)
    value, worst = float(each.sum() / gap.size), worst_unit(outputs) / gap.size
    if others.size == 1:
        return Scored(value, np.zeros(1), worst)
    less = np.bincount(unit, each[bin_] - _debiased(whole[:, bin_] - sums))
    without = (each.sum() - less) / others  # the score of all units but one
    return Scored(value, (1 - 1 / others.size) * (without.mean() - without), worst)


def _debiased(sums: Floats) -> Floats:
    """Debiased gap of bins, times their samples, of their sums (3, B)."""
    n, total, squares = sums
    counts = np.maximum(n, 1)
    mean = total / counts
    variance = np.maximum(squares - n * mean**2, 0) / np.maximum(n - 1, 1)
    error = np.maximum(np.sqrt(variance / counts), 1e-12)
    z = np.abs(mean) / error
    by_chance = error * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + np.abs(mean) * erf(
        z / np.sqrt(2)
    )
    return np.asarray(n * (2 * np.abs(mean) - by_chance))


@score(better="higher", title="area under the ROC curve (AUC)", span=(0, 1))
def auc(outputs: Outputs) -> Scored:
    """Chance that a sample of a class has a higher probability of it than one of another.

    Of two classes it is that of class 1; of more, the mean over the classes of which a group has
    samples and of which it has others (one against the rest).
    """
    from scipy.stats import rankdata  # 30 MB, not in every stage

    n_classes = outputs.values.shape[1]
    classes = [1] if n_classes == 2 else range(n_classes)
    worst = worst_unit(outputs)
    areas, influences, reaches = [], [], []
    for k in classes:
        has = outputs.truth[:, k]
        positives, negatives = int(has.sum()), int((~has).sum())
        if not positives or not negatives:
            continue
        value = outputs.values[:, k]
        ranks, above = rankdata(value), np.empty(value.size)
        for own, others in ((has, negatives), (~has, positives)):  # of each, the others below it
            above[own] = (ranks[own] - rankdata(value[own])) / others
        above[~has] = 1 - above[~has]
        area = above[has].mean()
        areas.append(area)
        influences.append((above - area) / np.where(has, positives, negatives))
        reaches.append(worst**2 * (1 / positives**2 + 1 / negatives**2))
    if not areas:
        return Scored(np.nan, np.zeros(1), np.nan)
    influence = np.bincount(outputs.units, np.mean(influences, axis=0)).astype(float)
    return Scored(float(np.mean(areas)), influence, float(np.sqrt(np.sum(reaches)) / len(areas)))


@score(better="higher", title="recall at the threshold", span=(0, 1), share=True)
def recall(outputs: Outputs) -> Floats:
    """Share of samples whose label reaches the threshold; of two classes, of those of class 1."""
    hit = np.asarray(outputs.of_label >= outputs.threshold, float)
    binary = outputs.values.shape[1] == 2
    return np.where(outputs.labels == 1, hit, np.nan) if binary else hit


@score(better="lower", title="false positive rate at the threshold", span=(0, 1), share=True)
def false_positive_rate(outputs: Outputs) -> Floats:
    """Share of samples of which a wrong class reaches the threshold; of two, class 1 of class 0."""
    others = np.where(outputs.truth, -np.inf, outputs.values)
    if outputs.values.shape[1] == 2:
        others = np.where(outputs.labels == 0, others[:, 1], np.nan)[:, None]
    highest = others.max(-1)
    return np.asarray(np.where(np.isnan(highest), np.nan, highest >= outputs.threshold))


@score(
    better="lower", title="divergence (KL) from the reference, nats", distance=True,
    span=(0, -np.log(LEAST)),
)  # fmt: skip
def divergence(outputs: Outputs) -> Floats:
    """Kullback–Leibler divergence of the probabilities from those of the reference.

    Probabilities are at least 0.0001, and then made to sum to 1.
    """
    ours, theirs = (
        raised / raised.sum(-1, keepdims=True)
        for raised in (np.maximum(p, LEAST) for p in (outputs.values, outputs.reference))
    )
    return np.asarray((theirs * np.log(theirs / ours)).sum(-1))


@score(
    better="higher", title="agreement with the reference", span=(0, 1), share=True, distance=True
)
def agreement(outputs: Outputs) -> Floats:
    """Share of samples that are answered as the reference does; the rest is churn."""
    same = outputs.values.argmax(-1) == outputs.reference.argmax(-1)
    return np.asarray(same, float)


@score(better="lower", title="absolute error", span=(0, 1), of="numbers")
def absolute_error(outputs: Outputs) -> Floats:
    """Mean distance of the predicted number from the true one, at most the range of numbers."""
    return np.asarray(np.minimum(np.abs(outputs.values - outputs.labels), outputs.range))


def worst_unit(outputs: Outputs) -> float:
    """Samples in the unit of a mean sample: 1 where each sample is its own unit."""
    sizes = np.bincount(outputs.units)
    return float((sizes.astype(float) ** 2).sum() / sizes.sum())


def probabilities(logits: ArrayLike) -> Floats:
    """Turn logits into probabilities.

    Parameters
    ----------
    logits
        (..., K) of K classes, or (n,) or (n, 1) of a single output, which is that of class 1.

    Returns
    -------
    (..., K) rows summing to 1, or (n,) the probability of class 1. A logit of −∞, the logarithm
    of zero, is a probability of zero.

    Raises
    ------
    ScoreError
        When a logit is NaN or +∞, or all of a row are −∞.

    Examples
    --------
    >>> probabilities([[0.0, -np.inf], [0.0, 0.0]]).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    >>> probabilities([0.0]).tolist()
    [0.5]
    """
    logits = np.asarray(logits, float)
    single = logits.ndim == 1 or logits.shape[-1] == 1
    rows = logits.reshape(-1, 1) if single else logits.reshape(-1, logits.shape[-1])
    wrong = np.isnan(rows).any(-1) | (rows == np.inf).any(-1)
    if not single:
        wrong |= (rows == -np.inf).all(-1)
    refuse(wrong, rows, "logits must be numbers below infinity, and one of a row above −∞")
    return np.asarray(expit(logits).reshape(-1) if single else softmax(logits, axis=-1))


def refuse(wrong: Bools, rows: np.ndarray, rule: str) -> None:
    """Raise a :class:`ScoreError` that shows the first of the wrong rows, and the rule."""
    at = np.flatnonzero(wrong)
    if at.size:
        raise ScoreError(f"row {at[0]} ({at.size - 1} more): {rows[at[0]].tolist()}; {rule}")
