"""Accuracy and calibration of groups, and the spread between groups."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class GroupAccuracy(NamedTuple):
    """Samples of a group, those answered rightly, and their ratio (NaN for an empty group)."""

    sizes: Ints  # (G,)
    hits: Ints  # (..., G)
    accuracy: Floats  # (..., G)


def one_hot(codes: ArrayLike, n: int) -> Floats:
    """Codes 0..n−1 as rows of an identity matrix (..., n); a code of −1 is a row of zeros."""
    codes = np.asarray(codes)
    if codes.size and not -1 <= codes.min() <= codes.max() < n:
        raise ValueError(f"codes {codes.min()} to {codes.max()}; for {n} values: −1 to {n - 1}")
    return np.asarray(codes[..., None] == np.arange(n), np.float64)


def ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """``part / whole``, NaN where ``whole`` is 0: a rate of nobody is not zero."""
    whole = np.asarray(whole, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(whole == 0, np.nan, part / whole), float)


def distinct(columns: ArrayLike) -> tuple[Ints, Ints]:
    """Find the C distinct columns of an array (R, n), several times as fast as ``np.unique``.

    Returns
    -------
    (R, C), and (C,) how often each occurs.
    """
    columns = np.asarray(columns)
    columns = columns[:, np.lexsort(columns[::-1])]
    n = columns.shape[1]
    first = np.flatnonzero(np.append(True, (columns[:, 1:] != columns[:, :-1]).any(0))[:n])
    return columns[:, first], np.diff(first, append=n)


def group_accuracy(correct: ArrayLike, groups: ArrayLike, n_groups: int) -> GroupAccuracy:
    """Accuracy of each group, with the counts behind it.

    With the labels as groups this is the recall of each class.

    Parameters
    ----------
    correct
        (..., n) whether the prediction is right.
    groups
        (n,) codes from −1 (no group) to ``n_groups`` − 1.
    """
    member = one_hot(groups, n_groups)
    sizes = member.sum(0)
    hits = np.asarray(correct, float) @ member
    return GroupAccuracy(sizes.astype(np.int64), hits.astype(np.int64), ratio(hits, sizes))


def extremes(values: ArrayLike, counted: ArrayLike, axis: int = -1) -> tuple[Floats, Floats]:
    """Lowest and highest value over the counted groups; NaN where fewer than two are defined."""
    values, counted = np.asarray(values, float), np.asarray(counted, bool)
    if not counted.all():
        values = np.where(counted.reshape(-1, *(1,) * (-1 - axis)), values, np.nan)
    enough = (~np.isnan(values)).sum(axis) >= 2
    low, high = (bound.reduce(values, axis, initial=np.nan) for bound in (np.fmin, np.fmax))
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)


def fvo(accuracy: ArrayLike, counted: ArrayLike) -> Floats:
    """Fairness violation observed: the largest difference of accuracy between two groups.

    FVO = max |Acc_g − Acc_g'| (Bellam & Kim, equation 2). It is never negative, so chance alone
    makes it positive: read it beside :func:`quantskew.fairness.null.fvo_null`.

    Parameters
    ----------
    accuracy
        (..., G).
    counted
        (G,) whether a group is large enough to enter.

    Returns
    -------
    (...) in the unit of ``accuracy``; NaN where fewer than two groups are counted.
    """
    low, high = extremes(accuracy, counted)
    return high - low


class WorstGroup(NamedTuple):
    """Lowest accuracy and whose it is (−1 where no group is counted)."""

    accuracy: Floats
    group: Ints


def worst_group(accuracy: ArrayLike, counted: ArrayLike) -> WorstGroup:
    """Accuracy of the worst counted group, and its code (the first of equals).

    ``accuracy`` is (..., G); both results are (...).
    """
    accuracy = np.asarray(accuracy, float)
    known = np.asarray(counted, bool) & ~np.isnan(accuracy)
    filled = np.where(known, accuracy, np.inf)
    some = known.any(-1)
    return WorstGroup(np.where(some, filled.min(-1), np.nan), np.where(some, filled.argmin(-1), -1))


def calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, groups: ArrayLike, n_groups: int, *, bins: int = 15
) -> Floats:
    """Compute the expected calibration error of each group, in bins of equal width.

    ECE = Σ_b (n_b/n) |accuracy_b − confidence_b|, where the confidence is the highest probability
    and bin b holds confidences in (b/bins, (b+1)/bins] (Guo et al. 2017, equation 3).

    Parameters
    ----------
    probabilities
        (..., n, K), rows summing to 1.

    Returns
    -------
    (..., G); NaN for an empty group.
    """
    probabilities = np.asarray(probabilities, float)
    confidence = probabilities.max(-1)
    gap = (probabilities.argmax(-1) == np.asarray(labels)) - confidence
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    member = one_hot(groups, n_groups)
    total = sum(np.abs(np.where(place == b, gap, 0.0) @ member) for b in range(bins))
    return ratio(total, member.sum(0))
