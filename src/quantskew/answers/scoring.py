"""What tables of answers say beyond answers: scores of every group, and slices that lose most."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from quantskew.analysis.study import Study
from quantskew.answers.joining import Joined
from quantskew.answers.reading import AnswersError, Codes, Numbers, listed
from quantskew.data.groups import Grouping
from quantskew.fairness.score_catalogue import LEAST, probabilities
from quantskew.fairness.scores import compare, judged
from quantskew.fairness.slices import clusters, describe, find_slices

CLUSTER = "logit cluster"


class Slices(NamedTuple):
    """What was searched for slices, and those that were tested.

    Attributes
    ----------
    columns
        Names of the columns that describe samples.
    tested
        Rows of :func:`quantskew.fairness.slices.find_slices`.
    """

    columns: tuple[str, ...]
    tested: pd.DataFrame


def score_threshold(joined: Joined, threshold: float | None) -> float:
    """Probability from which on recall and false positive rate count a class as given.

    Parameters
    ----------
    threshold
        That of a ``score``, in its unit; half unless given.
    """
    if threshold is None:
        return 0.5
    as_logit = any(one.kind == "score" and not _shares(one) for one in joined.numbers.values())
    return float(expit(threshold)) if as_logit else threshold


def score_tables(
    joined: Joined, divisions: Sequence[Grouping], study: Study, threshold: float | None
) -> dict[str, pd.DataFrame]:
    """Compare the scores of every table with those of the first, by group.

    Parameters
    ----------
    divisions
        Ways of dividing the samples.
    threshold
        As in :func:`score_threshold`.

    Returns
    -------
    Rows of :func:`quantskew.fairness.scores.compare` by name of table, judged as one family.

    Raises
    ------
    AnswersError
        When a table has no numbers behind its answers, or some give a ``score`` as a probability
        and others as a logit.
    """
    lacking = [name for name in joined.answers if name not in joined.numbers]
    if lacking:
        raise AnswersError(
            f"{listed(lacking)}: scores need logits, probabilities, p_<class> of each class or a "
            "score beside the prediction, and there are none"
        )
    _refuse_mixed(joined.numbers)
    cut = score_threshold(joined, threshold)
    if not 0 <= cut <= 1:
        raise AnswersError(
            f"--threshold {cut:g}: recall and false positive rate are taken at a probability, 0..1"
        )
    cut = min(cut, float(np.float32(cut)))  # of lists in float32 too, what is at it stays there

    def said(name: str) -> np.ndarray:
        return _probabilities(joined.numbers[name])

    return _compared(joined, said, divisions, study, threshold=cut)


def error_tables(
    joined: Joined, divisions: Sequence[Grouping], study: Study, span: tuple[float, float]
) -> dict[str, pd.DataFrame]:
    """Compare the absolute errors of every table with those of the first, by group.

    Parameters
    ----------
    span
        Lowest and highest number; ``study.statistics.margin`` is a share of their distance.

    Returns
    -------
    Rows of :func:`quantskew.fairness.scores.compare` by name of table, judged as one family.
    """
    said = joined.answers.__getitem__
    return _compared(joined, said, divisions, study, largest_error=span[1] - span[0])


def _compared(
    joined: Joined, said: Callable[[str], np.ndarray], divisions: Sequence[Grouping], study: Study,
    **options: Any,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Compare what each table says with what the first does, and judge all tables together."""
    reference, *others = joined.answers
    before, settings = said(reference), study.statistics
    parts = {
        name: compare(
            before, said(name), joined.labels, divisions, joined.units,
            margin=settings.margin, alpha=settings.alpha, **options,
        )
        for name in others
    }  # fmt: skip
    rows = judged(pd.concat(parts, names=["table", None]), settings.margin, settings.alpha)
    return {
        name: own.drop(columns="scale").reset_index(drop=True)
        for name, own in rows.groupby(level="table", sort=False)
    }


def log_probabilities(numbers: Mapping[str, Numbers]) -> dict[str, np.ndarray]:
    """Logits of every table that holds numbers, (n, K); of probabilities, their logarithms.

    Raises
    ------
    AnswersError
        When some tables give a ``score`` as a probability and others as a logit.
    """
    _refuse_mixed(numbers)
    smallest = np.finfo(np.float32).tiny
    return {
        name: one.values
        if one.kind == "logits"
        else np.log(np.maximum(_probabilities(one), smallest)).astype(np.float32)
        for name, one in numbers.items()
    }


def _refuse_mixed(numbers: Mapping[str, Numbers]) -> None:
    single = {name: _shares(one) for name, one in numbers.items() if one.kind == "score"}
    if len({*single.values()}) > 1:
        inside, outside = (
            next(n for n, own in single.items() if own is is_) for is_ in (True, False)
        )
        raise AnswersError(
            f"each score of {inside} lies within 0..1, as probabilities do, and some of {outside} "
            "do not, as logits; write p_<class> of each class or logits, so that they compare"
        )


def _shares(one: Numbers) -> bool:
    return bool(((one.values >= 0) & (one.values <= 1)).all())


def _probabilities(one: Numbers) -> np.ndarray:
    """Probabilities, (n, K); a ``score`` is that of the second class, or its logit."""
    if one.kind == "logits":
        return probabilities(one.values)
    if one.kind == "probabilities":
        return one.values.astype(float)
    second = one.values[:, 0]
    second = second if _shares(one) else probabilities(second)
    return np.stack([1 - second, second], axis=1)


def slice_tables(joined: Joined, study: Study) -> dict[str, Slices]:
    """Find the slices of the samples on which every table loses most against the first.

    They are described by the attributes that were read, the label, and clusters of logits where
    both tables have numbers.
    """
    reference, *others = joined.answers
    features = pd.DataFrame(
        {name: _feature(joined.attributes[name]) for name in joined.features}
    ).assign(label=pd.Categorical.from_codes(joined.labels, [*joined.classes]))
    settings = study.statistics
    found = {}
    for name in others:
        own = features
        if {reference, name} <= {*joined.numbers}:
            before, after = (
                np.log(np.maximum(_probabilities(joined.numbers[one]), LEAST))
                for one in (reference, name)
            )
            own = features.copy(deep=False)
            own.insert(0, CLUSTER, clusters(before, after).astype(str))
        rows = find_slices(
            own, joined.answers[reference], joined.answers[name], joined.labels, joined.units,
            minimum=study.groups.minimum, margin=settings.margin, alpha=settings.alpha,
            seed=settings.seed,
        )  # fmt: skip
        columns = dict.fromkeys(column for one in describe(own) for column in one.columns)
        found[name] = Slices(tuple(columns), rows)
    return found


def _feature(codes: Codes) -> pd.Series:
    """Values of a column: numbers where all texts are finite numbers, else the texts."""
    numbers = pd.to_numeric(pd.Series(codes.names, dtype=object), errors="coerce").to_numpy(float)
    if len(numbers) and np.isfinite(numbers).all():
        return pd.Series(np.append(numbers, np.nan)[codes.codes])
    return pd.Series(codes.categorical())
