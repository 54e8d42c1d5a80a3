"""Paired changes of the scores of every group, with intervals and verdicts.

Of the change of a group's score one of three promises is made, at 1 − α; ``benchmarks/coverage.py``
simulates them:

================== ===============================================================================
score              limits
================== ===============================================================================
share of samples   those of a change of accuracy (:mod:`quantskew.fairness.limits`)
mean over samples  Student's, of the sums over units, plus what unseen samples could add
any other          the same, of its influence function (AUC: DeLong et al. 1988; several images of
                   a person: Obuchowski 1997) or of a jackknife (calibration: Quenouille 1956)
================== ===============================================================================

What unseen samples could add: two samples at each end of the legal range are added to the variance,
as Agresti & Coull (1998) add two successes and two failures to a share. Without a single change
among n samples the interval then reaches 3.9/n of the range, where the exact one of a share reaches
3.7/n. So no interval has width zero, and each score is bounded: one sample weighs at most 9.2 nats.

They speak of other test samples for these networks, several seeds together, and not of the method.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from quantskew.fairness.limits import Limits, change_limits, changes, unit_totals
from quantskew.fairness.metrics import Bools, Floats, Ints
from quantskew.fairness.paired import exchange_p_value
from quantskew.fairness.score_catalogue import (
    SCORES,
    Kind,
    Outputs,
    Score,
    Scored,
    ScoreError,
    refuse,
)
from quantskew.fairness.verdicts import (
    CANNOT_TELL,
    EQUIVALENT,
    UNDEFINED,
    false_discovery_rate,
    verdicts,
)
from quantskew.names import WHOLE
from quantskew.units import numbered

_ADDED = 2.0  # samples that are added at each end of the range


class Division(Protocol):
    """A way of dividing the samples, such as :class:`quantskew.data.groups.Grouping`."""

    @property
    def attribute(self) -> str:
        """What divides them."""

    @property
    def codes(self) -> Ints:
        """(n,) groups from −1 (no group) to G − 1."""

    @property
    def names(self) -> list[str]:
        """G names."""

    @property
    def counted(self) -> Bools:
        """(G,) whether a group is large enough to be compared."""


def compare(
    before: ArrayLike,
    after: ArrayLike,
    labels: ArrayLike,
    divisions: Sequence[Division],
    units: ArrayLike | None = None,
    *,
    threshold: float = 0.5,
    largest_error: float | None = None,
    questions: Sequence[str] | None = None,
    margin: float = 0.02,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Compare the scores of two networks on the same samples, group by group.

    ============= ================= ============================================================
    labels        before and after  what they are
    ============= ================= ============================================================
    (n,) integer  (n, K)            probabilities of K classes
    (n,) integer  (S, n, K)         the same of the networks of S training seeds
    (n,) 0 or 1   (n,)              probability of class 1: binary with one output
    (n, L) 0, 1   (n, L)            multi-label: each column is a question of its own, and
                                    question ``all`` takes their answers together
    (n,) float    (n,), (S, n)      numbers; their absolute error
    ============= ================= ============================================================

    Parameters
    ----------
    before, after, labels
        As in the table. `score_catalogue.probabilities` makes them from logits.
    divisions
        Ways of dividing the samples.
    units
        (n,) codes or names of who each sample comes from; None where each is its own unit.
    threshold
        Of recall and false positive rate, 0..1.
    largest_error
        Of numbers: errors count as at most this, and the margin is a share of it; the range of the
        labels unless given.
    questions
        Names of the columns of multi-label answers.
    margin
        Largest change that does not matter: a share, nats, or a share of ``largest_error``.
    alpha
        1 − confidence of each interval; a verdict of worse or better also needs a false discovery
        rate of at most this, over all rows.

    Returns
    -------
    One row a question (of multi-label answers), division, group and score: ``n`` samples that the
    score asks about, ``counted``, ``before``, ``after``, ``change`` (means over seeds), ``low``,
    ``high``, ``p_value`` of no change, ``scale`` that the margin is a share of, ``fdr``,
    ``verdict``, ``note``. Group ``all`` is everyone.

    Raises
    ------
    ScoreError
        When shapes do not match, a label is none of the classes, or a row is no probability.

    Examples
    --------
    >>> from quantskew.data.groups import Grouping
    >>> labels = np.tile([0, 1], 300)
    >>> side = Grouping("side", np.repeat([0, 1], 300), ["left", "right"], np.array([True, True]))
    >>> sure = np.where(labels == 1, 0.9, 0.1)
    >>> unsure = np.where(side.codes == 1, 0.5 + (sure - 0.5) / 4, sure)
    >>> found = compare(sure, unsure, labels, [side]).set_index(["score", "group"])
    >>> found.loc["brier", "verdict"].tolist()
    ['equivalent', 'worse', 'worse']
    """
    labels = np.asarray(labels)
    labels = labels.astype(int) if labels.dtype.kind == "b" else labels
    if not labels.size or not divisions:
        raise ScoreError(f"{len(labels)} samples in {len(divisions)} divisions: nothing to compare")
    one, other = (np.asarray(values, float) for values in (before, after))
    of_unit = np.arange(len(labels)) if units is None else numbered(units)
    if of_unit.shape != labels.shape[:1]:
        raise ScoreError(f"units are {of_unit.shape}, where there are {len(labels)} samples")
    samples = _Samples(labels, list(divisions), of_unit)
    rows = partial(_rows, threshold=threshold, largest_error=largest_error, alpha=alpha)
    if labels.ndim > 1:
        return judged(_by_question(one, other, samples, rows, questions), margin, alpha)
    return judged(rows(one, other, samples), margin, alpha)


class _Samples(NamedTuple):
    labels: np.ndarray
    divisions: list[Division]
    units: Ints

    def repeated(self, times: int) -> "_Samples":
        """Each sample so often, with all of its labels."""
        divisions: list[Division] = [
            _Repeated(one.attribute, np.repeat(one.codes, times), one.names, one.counted)
            for one in self.divisions
        ]
        return _Samples(self.labels.ravel(), divisions, np.repeat(self.units, times))


class _Repeated(NamedTuple):
    attribute: str
    codes: Ints
    names: list[str]
    counted: Bools


def _by_question(
    before: Floats,
    after: Floats,
    samples: _Samples,
    rows: Callable[[Floats, Floats, _Samples], pd.DataFrame],
    questions: Sequence[str] | None,
) -> pd.DataFrame:
    """Compare each column of multi-label answers, then all of them: n · L answers of n units."""
    n, width = samples.labels.shape
    names = [str(column) for column in range(width)] if questions is None else [*questions]
    if len(names) != width or not before.shape == after.shape == (n, width):
        raise ScoreError(
            f"of {width} questions ({len(names)} named) and {n} samples the outputs must be "
            f"{(n, width)}; they are {before.shape} and {after.shape}"
        )
    parts = []
    for at, name in enumerate(names):
        own = samples._replace(labels=samples.labels[:, at])
        parts.append(rows(before[:, at], after[:, at], own).assign(question=name))
    whole = rows(before.ravel(), after.ravel(), samples.repeated(width))
    return pd.concat([*parts, whole.assign(question=WHOLE)], ignore_index=True)


def _rows(
    before: Floats,
    after: Floats,
    samples: _Samples,
    *,
    threshold: float,
    largest_error: float | None,
    alpha: float,
) -> pd.DataFrame:
    labels, divisions, units = samples
    kind: Kind = "numbers" if labels.dtype.kind == "f" else "classes"
    check = _numbers if kind == "numbers" else _classes
    before, after = (check(values, labels) for values in (before, after))
    if before.shape != after.shape:
        raise ScoreError(f"outputs before are {before.shape}, those after are {after.shape}")
    most = 1.0
    if kind == "numbers":
        most = float(np.ptp(labels)) if largest_error is None else largest_error
        if not most > 0:
            raise ScoreError(f"errors of at most {most}; give a largest_error above 0")
    asked = [one for one in SCORES.values() if one.of == kind]
    rows = []
    for division, name, counted, mask in _groups(divisions, len(labels)):
        dense = pd.factorize(units[mask])[0]
        one, other = (
            [
                Outputs(labels[mask], own[mask], base[mask], dense, threshold, most)
                for own, base in zip(values, before, strict=True)
            ]
            for values in (before, after)
        )
        place = {"attribute": division.attribute, "group": name, "counted": counted}
        rows += [place | _change(score, one, other, alpha) for score in asked]
    return pd.DataFrame(rows)


def _groups(divisions: list[Division], n: int) -> Iterator[tuple[Division, str, bool, Bools]]:
    for division in divisions:
        if np.shape(division.codes) != (n,):
            raise ScoreError(
                f"{division.attribute!r} divides {len(division.codes)} samples, where there are {n}"
            )
        for group, name in enumerate(division.names):
            mask = np.asarray(division.codes) == group
            if mask.any():
                yield division, name, bool(division.counted[group]), mask
        yield division, WHOLE, True, np.ones(n, bool)


def _numbers(values: Floats, labels: np.ndarray) -> Floats:
    """Check numbers, and return them as (S, n)."""
    values = np.atleast_2d(values)
    if values.shape[1:] != labels.shape:
        raise ScoreError(
            f"outputs for {len(labels)} true numbers must be (n,) or (S, n), not {values.shape}; "
            "give the labels of classes as integers"
        )
    wrong = ~np.isfinite(values).all(0) | ~np.isfinite(labels)
    refuse(wrong, np.vstack([labels, values]).T, "numbers, the true one first, must be finite")
    return values


def _classes(values: Floats, labels: np.ndarray) -> Floats:
    """Check probabilities, and return them as (S, n, K)."""
    if labels.dtype.kind not in "iu":
        raise ScoreError(f"labels are {labels.dtype}; give integers 0..K−1, or floats for numbers")
    if values.ndim == 1:
        values = np.stack([1 - values, values], axis=-1)
    values = values if values.ndim == 3 else values[None]
    if values.ndim != 3 or values.shape[1] != len(labels) or values.shape[2] < 2:
        raise ScoreError(
            f"outputs for {len(labels)} labels must be (n,), (n, K) or (S, n, K), not "
            f"{values.shape}; give the labels of numbers as floats"
        )
    rule = "probabilities lie in 0..1 and those of a row sum to 1; are these logits, or numbers?"
    for rows in values:
        outside = ~((rows >= -1e-6) & (rows <= 1 + 1e-6)).all(-1)
        refuse(outside | ~(np.abs(rows.sum(-1) - 1) <= 1e-3), rows, rule)
    n_classes = values.shape[2]
    unknown = (labels < 0) | (labels >= n_classes)
    refuse(unknown, labels, f"labels must be 0..{n_classes - 1}")
    return values


def _change(
    score: Score, before: list[Outputs], after: list[Outputs], alpha: float
) -> dict[str, Any]:
    """Compare a score of the networks of several seeds in one group."""
    values = [score.value(outputs) for outputs in (*before, *after)]
    units, scale = before[0].units, before[0].range if score.of == "numbers" else 1.0
    parts = [one for one in values if isinstance(one, Scored)]
    n = len(units)
    if parts:  # influences, of the networks before and then as many after
        one, other = np.array([scored.value for scored in parts]).reshape(2, -1).mean(1).tolist()
        influence = np.array([scored.influence for scored in parts])
        first, second = influence.reshape(2, -1, influence.shape[-1]).mean(1)
        limits, p_value = _student(other - one, second - first, parts[0].reach, score.span, alpha)
    else:
        whole = np.array(values)
        asked = ~np.isnan(whole[0])
        first, second = np.split(whole[:, asked], 2)
        n, one, other, p_value = int(asked.sum()), np.nan, np.nan, np.nan
        limits = Limits(np.array(np.nan), np.array(np.nan))
        if n:
            one, other = float(first.mean()), float(second.mean())
            limits, p_value = _of_samples(score, first, second, units[asked], scale, alpha)
    return {
        "score": score.name,
        "n": n,
        "before": one,
        "after": other,
        "change": other - one,
        "low": float(limits.low),
        "high": float(limits.high),
        "p_value": np.nan if score.distance else p_value,
        "scale": scale,
    }


def _of_samples(
    score: Score, before: Floats, after: Floats, units: Ints, scale: float, alpha: float
) -> tuple[Limits, float]:
    """Limits of the change of a mean over samples, and its p-value."""
    apart, n = None if np.bincount(units).max() == 1 else units, len(units)
    if score.share:
        low, high = change_limits(
            changes(before, after, np.zeros(n, int), 1, units=apart), alpha / 2
        )
        totals, _ = unit_totals((after - before).sum(0), apart)
        return Limits(low[0], high[0]), exchange_p_value(np.rint(totals).astype(int))
    change = (after - before).mean(0)
    parts, sizes = unit_totals(change - change.mean(), apart)
    low_high = np.multiply(score.span, scale)
    reach = float(np.ptp(low_high)) * float((sizes**2).sum()) / n**2
    return _student(float(change.mean()), parts / n, reach, low_high, alpha)


def _student(
    change: float, parts: Floats, reach: float, span: ArrayLike, alpha: float
) -> tuple[Limits, float]:
    """Limits of a change that sums the influences of M independent parts, and its p-value."""
    count, most = len(parts), float(np.ptp(np.asarray(span, float)))
    if np.isnan(change) or count < 2:
        edge = np.nan if np.isnan(change) else most
        return Limits(np.asarray(-edge), np.asarray(edge)), float(edge / edge)
    # two samples at each end of the range: 2 · _ADDED of them, each a whole range away
    error = np.sqrt((parts**2).sum() * count / (count - 1) + 2 * _ADDED * reach**2)
    from scipy.stats import t  # 30 MB, not in every stage

    half = t.isf(alpha / 2, count - 1) * error
    ends = (np.clip(change + side * half, -most, most) for side in (-1, 1))
    return Limits(*map(np.asarray, ends)), float(2 * t.sf(abs(change) / error, count - 1))


def judged(rows: pd.DataFrame, margin: float, alpha: float) -> pd.DataFrame:
    """Adjust the p-values of all rows of :func:`compare`, and give every change its verdict.

    Rows of several comparisons are judged again together, so that the false discovery rate is that
    of all of them.
    """
    distance = rows["score"].map(lambda name: SCORES[name].distance).to_numpy(bool)
    lower = rows["score"].map(lambda name: SCORES[name].better == "lower").to_numpy(bool)
    low, high = (np.asarray(rows[end] / rows["scale"], float) for end in ("low", "high"))
    fdr = false_discovery_rate(rows["p_value"])
    words = verdicts(
        low, high, margin, p_value=np.where(distance, 0, fdr), alpha=alpha, higher_is_better=~lower
    )
    least = np.where(lower, low, -high)
    unsure = distance & (least <= margin) & ~np.isin(words, [EQUIVALENT, UNDEFINED])
    return rows.assign(
        fdr=fdr,
        verdict=np.where(unsure, CANNOT_TELL, words),
        note=np.where(rows["before"].isna(), "no samples of the classes that it needs", ""),
    )
