"""Parity of predictions between groups, class by class, on counts.

How many samples of a group have a class, are given it, and both: these counts carry every parity
metric. A bootstrap resamples the counts and calls the same functions
(:mod:`quantskew.fairness.paired`), so a point estimate and its interval cannot mean different
things.

fairlearn defines the metrics; the tests hold ours to it on every one-against-the-rest problem. It
does not compute them here for two reasons. Its MetricFrame calls Python for every rate and group:
ten classes of one network take it hundreds of times as long as counting
(``python benchmarks/bootstrap.py``), and its fastest form, one frame a grouping for all networks at
once, would add half a minute to the five of the default study. And it answers 0 for a rate that is
undefined, such as the true positive rate of a group without positives.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from quantskew.fairness.metrics import Bools, Floats, Ints, extremes, fvo, ratio
from quantskew.fairness.null import equal_rates_p_value, smallest

PARITY = (
    "demographic_parity",
    "equalized_odds",
    "equal_opportunity",
    "predictive_equality",
    "disparate_impact",
)


class ClassCounts(NamedTuple):
    """Each class against the rest, in each group.

    The four numbers of a confusion matrix follow: true positives are ``hits``, false positives
    ``selected − hits``, false negatives ``positives − hits``, and the rest true negatives.
    """

    sizes: Floats | Ints  # (G,) samples
    positives: Floats | Ints  # (..., G, K) samples that have the class
    selected: Floats | Ints  # (..., G, K) samples that are given the class
    hits: Floats | Ints  # (..., G, K) both


class Parity(NamedTuple):
    """Parity metrics of one grouping.

    ``values`` maps a name of :data:`PARITY` with the suffix ``_macro`` or ``_worst``, and
    ``recall_gap``, to an array over variants. ``reason`` is empty, or says why the parity metrics
    have no meaning for this grouping and are NaN. ``note`` says how many rates were left out.
    """

    values: dict[str, Floats]
    reason: str
    note: str


def class_counts(
    labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike, *, n_groups: int, n_classes: int
) -> ClassCounts:
    """Count, in each group, who has a class, who is given it, and both.

    Parameters
    ----------
    labels
        (n,) classes 0..K−1.
    predictions
        (..., n) classes 0..K−1.
    groups
        (n,) codes from −1 (no group) to ``n_groups`` − 1.
    """
    labels, predictions, groups = (np.asarray(a) for a in (labels, predictions, groups))
    inside = groups >= 0
    labels, predictions, groups = labels[inside], predictions[..., inside], groups[inside]
    shape = (n_groups, n_classes)
    cells = n_groups * n_classes

    def count(classes: Ints, where: Bools) -> Ints:
        rows = np.broadcast_to(where, classes.shape).reshape(-1, classes.shape[-1])
        codes = (groups * n_classes + classes).reshape(rows.shape)
        table = [np.bincount(c[w], minlength=cells) for c, w in zip(codes, rows, strict=True)]
        return np.reshape(table, (*classes.shape[:-1], *shape))

    everyone = np.ones(labels.shape, bool)
    return ClassCounts(
        np.bincount(groups, minlength=n_groups),
        count(labels, everyone),
        count(predictions, everyone),
        count(predictions, predictions == labels),
    )


def parity_by_class(counts: ClassCounts, counted: ArrayLike) -> dict[str, Floats]:
    """Parity metrics of each class against the rest.

    ===================== ================================================================
    demographic_parity    difference of the share given the class
    equal_opportunity     difference of the true positive rate
    predictive_equality   difference of the false positive rate
    equalized_odds        the larger of the last two (Hardt et al. 2016)
    disparate_impact      lowest over highest share given the class; below 0.8 fails the
                          four-fifths rule
    ===================== ================================================================

    A difference is the largest between two counted groups. A group in which a rate is undefined
    (no positives, or no negatives) is left out of that rate.

    Returns
    -------
    Name to (..., K); NaN where fewer than two groups have the rate.
    """
    sizes = np.asarray(counts.sizes)[:, None]
    lowest, highest = extremes(ratio(counts.selected, sizes), counted, axis=-2)
    true_low, true_high = extremes(ratio(counts.hits, counts.positives), counted, axis=-2)
    false_low, false_high = extremes(
        ratio(counts.selected - counts.hits, sizes - counts.positives), counted, axis=-2
    )
    return {
        "demographic_parity": highest - lowest,
        "equalized_odds": np.maximum(true_high - true_low, false_high - false_low),
        "equal_opportunity": true_high - true_low,
        "predictive_equality": false_high - false_low,
        "disparate_impact": ratio(lowest, highest),
    }


def parity_values(counts: ClassCounts, counted: ArrayLike) -> dict[str, Floats]:
    """Parity metrics over all classes: the mean (``_macro``) and the worst (``_worst``) class.

    Of two classes only class 1 is looked at, as fairlearn does. ``recall_gap`` is the largest
    difference of recall between two classes. Worst is the highest difference, the lowest ratio.
    """
    values: dict[str, Floats] = {}
    for name, by_class in parity_by_class(counts, counted).items():
        if by_class.shape[-1] == 2:
            by_class = by_class[..., 1:]
        known = ~np.isnan(by_class)
        values[f"{name}_macro"] = ratio(np.where(known, by_class, 0).sum(-1), known.sum(-1))
        sign = -1 if name == "disparate_impact" else 1
        worst = np.where(known, sign * by_class, -np.inf).max(-1)
        values[f"{name}_worst"] = np.where(known.any(-1), sign * worst, np.nan)
    recall = ratio(counts.hits.sum(-2), counts.positives.sum(-2))
    values["recall_gap"] = fvo(recall, np.ones(recall.shape[-1], bool))
    return values


def gap_p_values(counts: ClassCounts, counted: ArrayLike) -> dict[str, Floats]:
    """Test whether a network treats groups differently at all, by the rate of each metric.

    An exact test that all counted groups share the rate of a class; the smallest p-value over
    classes (and over both rates of equalized odds) is adjusted by Bonferroni. For ``recall_gap`` it
    is the classes that share their recall.

    Returns
    -------
    Name, without ``_macro`` and ``_worst``, to p-values (...); NaN where there is nothing to test.
    """
    sizes = np.broadcast_to(np.asarray(counts.sizes)[:, None], np.shape(counts.selected))
    selection = equal_rates_p_value(counts.selected, sizes, counted)
    true = equal_rates_p_value(counts.hits, counts.positives, counted)
    false = equal_rates_p_value(
        counts.selected - counts.hits, sizes - np.asarray(counts.positives), counted
    )
    if selection.shape[-1] == 2:
        selection, true, false = (p[..., 1:] for p in (selection, true, false))
    hits, positives = (np.sum(n, axis=-2)[..., None] for n in (counts.hits, counts.positives))
    recall = equal_rates_p_value(hits, positives, np.ones(hits.shape[-2], bool))
    return {
        "demographic_parity": smallest(selection),
        "equalized_odds": smallest(np.concatenate([true, false], axis=-1)),
        "equal_opportunity": smallest(true),
        "predictive_equality": smallest(false),
        "disparate_impact": smallest(selection),
        "recall_gap": smallest(recall),
    }


def parity_meaning(counts: ClassCounts, counted: ArrayLike) -> tuple[str, str]:
    """Say why parity has no meaning for a grouping (or ''), and which rates are undefined."""
    counted = np.asarray(counted, bool)
    positives = np.asarray(counts.positives)[counted]
    if counted.sum() < 2:
        return f"parity compares groups, and {counted.sum()} is large enough", ""
    present = positives > 0
    if (present.sum(1) == 1).all() and present.sum(0).max() == 1:
        return "the group is the class: its members share one label, so only recall compares", ""
    everyone = positives == np.asarray(counts.sizes)[counted][:, None]
    lacks = [
        f"{what} in {pairs.sum()}"
        for what, pairs in (("true positives", ~present), ("false positives", everyone))
        if pairs.any()
    ]
    if not lacks:
        return "", ""
    return "", f"rates undefined, left out: {', '.join(lacks)} of {present.size} (group, class)"


def fairness_differences(
    labels: ArrayLike,
    predictions: ArrayLike,
    groups: ArrayLike,
    *,
    n_groups: int,
    n_classes: int,
    counted: ArrayLike,
) -> Parity:
    """Parity metrics of one grouping; see :func:`parity_by_class` for what they are.

    Where the grouping gives them no meaning (the group is the class, or fewer than two groups are
    large enough) they are NaN, ``reason`` says so, and ``recall_gap`` is what remains.
    """
    counts = class_counts(labels, predictions, groups, n_groups=n_groups, n_classes=n_classes)
    reason, note = parity_meaning(counts, counted)
    return Parity(blanked(parity_values(counts, counted), reason), reason, note)


def blanked(values: Mapping[str, Floats], reason: str) -> dict[str, Floats]:
    """NaN for all parity metrics but ``recall_gap`` where there is a reason against them."""
    return {
        name: np.full_like(value, np.nan) if reason and name != "recall_gap" else value
        for name, value in values.items()
    }
