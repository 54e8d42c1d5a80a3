"""The catalogue of group metrics: every metric is declared once, and all tables loop over it.

A metric is a function of :class:`Counts`, registered under its own name:

    @metric(of="grouping", better="lower", title="largest gap between two groups")
    def fvo(counts):
        "The accuracy of the best group less that of the worst."
        return gap(counts.accuracy, counts.counted)

From then on it has rows in the tables ``levels`` and ``effects`` with intervals, p-values and
verdicts, columns beside every remedy, and rules of the gate.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from quantskew.engine.fingerprint import outside
from quantskew.errors import UserError, close_names, named
from quantskew.fairness import bounds
from quantskew.fairness.bounds import Bounds
from quantskew.fairness.metrics import Floats, ratio
from quantskew.fairness.metrics import fvo as gap
from quantskew.fairness.metrics import worst_group as lowest
from quantskew.fairness.null import debiased_fvo, fvo_null, smallest
from quantskew.fairness.parity import PARITY, Answers, Counts

Scope = Literal["everyone", "each group", "grouping"]
Better = Literal["higher", "lower"]


class Chance(NamedTuple):
    """What a metric shows by chance where all groups are treated alike."""

    p_value: float = np.nan  # of a gap like the observed one or a larger one
    mean: float = np.nan
    upper: float = np.nan  # 95th percentile


Test = Callable[[Answers, Counts, int, np.random.Generator], Chance]
"""Tests by answers, their counts (S, ...), a number of draws and where these come from."""


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True, extra="forbid"))
class Metric:
    """A number that says how a network treats groups.

    Attributes
    ----------
    name
        Its key in the tables.
    title, sentence
        How pages call it, and what it is.
    of
        What has a value: all samples together, each group, or a grouping as a whole.
    better
        Whether a ``higher`` or a ``lower`` value is better. Nothing else decides what is worse.
    value
        Maps counts with leading axes (...) to (...), or to (..., G) for a metric of each group.
    rule
        What rules of the gate call it.
    span
        Lowest and highest value that it can have.
    by_class
        Whether it compares rates class by class, for which a group must hold several classes.
    bounds
        How its limits follow from the rates of groups. Without them they come from the bootstrap,
        which errs near a gap of zero, and the tables say so.
    exact
        Whether it is a share of right answers, whose change has an exact test.
    chance
        Tests whether the groups are treated alike, for a metric that noise alone makes worse.
    debiased
        Its value with the share of chance taken out.
    """

    name: str
    title: str
    sentence: str
    of: Scope
    better: Better
    value: Callable[[Counts], Floats]
    rule: str
    span: tuple[float, float] = (0.0, 1.0)
    by_class: bool = False
    bounds: Bounds | None = None
    exact: bool = False
    chance: Test | None = None
    debiased: Callable[[Counts], Floats] | None = None

    @property
    def sign(self) -> int:
        """1 where a higher value is better, −1 where a lower one is."""
        return {"higher": 1, "lower": -1}[self.better]

    def of_counts(self, counts: Counts) -> Floats:
        """Return its values, of which there must be as many as it declares, within its span."""
        if outside([self.value]):  # which may write into what it is given
            names = "positives", "selected", "hits", "counted"
            given = {name: getattr(counts, name) for name in names}
            fixed = {name: np.broadcast_to(one, one.shape) for name, one in given.items()}
            counts = replace(counts, **fixed)
        with named(f"the metric {self.name!r}"):
            found = np.asarray(self.value(counts)).astype(float, casting="same_kind")
        shape = counts.accuracy.shape[: None if self.of == "each group" else -1]
        if found.shape != shape:
            raise UserError(
                f"the metric {self.name!r} gives values of shape {found.shape}; of={self.of!r} "
                f"needs {shape}"
            )
        low, high = self.span
        beyond = found[(found < low - 1e-9) | (found > high + 1e-9)]
        if beyond.size:
            raise UserError(
                f"the metric {self.name!r} gives {beyond[0]:g}, beyond its span of {low:g} to "
                f"{high:g}"
            )
        return found

    def tested(self, answers: Answers, draws: int, rng: np.random.Generator) -> Chance:
        """Return what it shows by chance; nothing where it has no test, or units are not known."""
        if self.chance is None or answers.units is not None:
            return Chance()
        with named(f"the test of the metric {self.name!r}"):
            return Chance(*self.chance(answers, answers.counts, draws, rng))

    def missing(self, answers: Answers) -> str:
        """Say why the metric has no meaning for a grouping, or return an empty text."""
        if self.bounds is None and answers.units is not None:
            return "the bootstrap of a metric without bounds knows no units"
        if self.of != "grouping":
            return ""
        groups = int(answers.counted.sum())
        if self.by_class and groups < 2:
            return f"groups are compared, and {groups} of them is large enough"
        if self.by_class and answers.label_is_known:
            return "the group tells the class: every group holds one class, so no rates compare"
        return ""


CATALOGUE: dict[str, Metric] = {}
"""All metrics by name, in the order in which pages show them."""


def find(name: str) -> Metric:
    """Return a metric by name.

    Raises
    ------
    UserError
        For a name that is not in the catalogue.
    """
    if name not in CATALOGUE:
        raise UserError(
            f"no metric is named {name!r}{close_names(name, CATALOGUE)}; there are "
            f"{', '.join(CATALOGUE)}"
        )
    return CATALOGUE[name]


def values(answers: Answers) -> dict[str, Floats]:
    """Return every metric of the networks of S seeds, (S,) or (S, G); NaN where it has no meaning.

    Examples
    --------
    >>> labels, codes = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    >>> two_groups = Answers(labels, np.array([[0, 1, 0, 0]]), codes, np.array([True, True]), 2)
    >>> print(values(two_groups)["fvo"], values(two_groups)["equal_opportunity_worst"])
    [0.5] [1.]
    """
    return {
        name: np.full(len(answers.predictions), np.nan)
        if metric.missing(answers)
        else metric.of_counts(answers.counts)
        for name, metric in CATALOGUE.items()
    }


Value = Callable[[Counts], Floats]


def metric(
    *, of: Scope, better: Better, title: str, name: str = "", sentence: str = "", rule: str = "",
    **facts: Any,
) -> Callable[[Value], Value]:  # fmt: skip
    """Register a function of counts as a metric.

    Parameters are those of :class:`Metric`. The name and the rule are the name of the function, and
    the sentence is its docstring, unless given.

    Raises
    ------
    ValueError
        When there is a metric of that name.
    """

    def register(value: Value) -> Value:
        key = name or value.__name__
        if key in CATALOGUE:
            raise ValueError(f"there is a metric {key!r} already")
        if "debiased" in facts:
            facts["debiased"] = named(f"the metric {key!r}, debiased,")(facts["debiased"])
        said = sentence or " ".join((value.__doc__ or "").split())
        CATALOGUE[key] = Metric(key, title, said, of, better, value, rule or key, **facts)
        return value

    return register


@metric(
    of="each group", better="higher", title="accuracy of a group", exact=True,
    bounds=bounds.SHARE_OF_GROUP,
)  # fmt: skip
def accuracy(counts: Counts) -> Floats:
    """Share of the samples of a group that is answered rightly."""
    return counts.accuracy


@metric(
    of="everyone", better="higher", title="overall accuracy", exact=True,
    bounds=bounds.SHARE,
)  # fmt: skip
def overall(counts: Counts) -> Floats:
    """Share of all samples that is answered rightly, those of no group included."""
    return np.asarray(counts.hits.sum((-2, -1)) / counts.positives.sum((-2, -1)))


def _fvo_chance(answers: Answers, _: Counts, draws: int, rng: np.random.Generator) -> Chance:
    null = fvo_null(answers.correct, answers.codes, counted=answers.counted, draws=draws, rng=rng)
    return Chance(null.p_value, null.mean, null.upper)


@metric(
    of="grouping",
    better="lower",
    title="largest gap between two groups (FVO)",
    bounds=bounds.FVO,
    chance=_fvo_chance,
    debiased=lambda counts: debiased_fvo(counts.accuracy, counts.sizes, counts.counted),
)
def fvo(counts: Counts) -> Floats:
    """Accuracy of the best group less that of the worst (Bellam & Kim, equation 2)."""
    return gap(counts.accuracy, counts.counted)


@metric(
    of="grouping", better="higher", title="accuracy of the worst group", bounds=bounds.WORST_GROUP
)
def worst_group(counts: Counts) -> Floats:
    """Lowest accuracy of a group."""
    return lowest(counts.accuracy, counts.counted).accuracy


@metric(
    of="each group", better="higher", title="a group against the rest", span=(-1.0, 1.0),
    bounds=bounds.AGAINST_REST,
)  # fmt: skip
def against_rest(counts: Counts) -> Floats:
    """Accuracy of a group less that of all other groups together."""
    hits, sizes = counts.hits[..., :-1, :].sum(-1), counts.drawn_sizes
    others = hits.sum(-1, keepdims=True) - hits
    return counts.accuracy - ratio(others, sizes.sum(-1, keepdims=True) - sizes)


def _parity_chance(name: str) -> Test:
    # of several seeds the least fair one decides, adjusted by Bonferroni
    return lambda _, counts, draws, rng: Chance(float(smallest(counts.gap_p_values[name])))


def _mean(by_class: Floats) -> Floats:
    known = ~np.isnan(by_class)
    return ratio(np.where(known, by_class, 0).sum(-1), known.sum(-1))


def _of_classes(name: str, summary: Callable[[Floats], Floats], counts: Counts) -> Floats:
    return np.asarray(summary(counts.parity[name]))


for _name, _sentence in PARITY.items():
    _better: Better = "higher" if _name == "disparate_impact" else "lower"
    _least_fair = partial((np.fmin if _better == "higher" else np.fmax).reduce, axis=-1)
    for _part, _words, _rule, _summary, _bounds in (
        ("macro", "mean over classes", f"{_name}_macro", _mean, bounds.parity(_name, macro=True)),
        ("worst", "least fair class", _name, _least_fair, bounds.parity(_name, macro=False)),
    ):
        metric(
            name=f"{_name}_{_part}",
            title=f"{_name.replace('_', ' ')}, {_words}",
            sentence=f"{_sentence}; {_words}.",
            rule=_rule,
            of="grouping",
            better=_better,
            by_class=True,
            bounds=_bounds,
            chance=_parity_chance(_name),
        )(partial(_of_classes, _name, _summary))


@metric(
    of="everyone", better="lower", title="gap of recall between classes",
    bounds=bounds.RECALL_GAP, chance=_parity_chance("recall_gap"),
)  # fmt: skip
def recall_gap(counts: Counts) -> Floats:
    """Largest difference of recall between two classes, over all samples."""
    recall = ratio(counts.hits.sum(-2), counts.positives.sum(-2))
    return gap(recall, np.ones(recall.shape[-1], bool))
