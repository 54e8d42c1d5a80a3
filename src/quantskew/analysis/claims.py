"""How a claim about quantization and fairness is tested: one engine, one table, one vocabulary.

A claim is declared before the data are seen: one function in :mod:`quantskew.analysis.hypotheses`
that computes what is tested, under a line that says in words what is claimed. What the function
returns decides the test; all tests are two-sided.

=================== ================================================================================
:class:`Contrast`   one number per network (or per pair of networks of a seed). Student's t test of
                    its mean, with an error from both training seeds and test samples
                    (:mod:`quantskew.fairness.seeds`): exact for normal errors if seeds are the only
                    source, conservative otherwise
:class:`Trend`      one rank correlation with the width per network, the mean of those within its
                    groups. Its sign is exchanged at random between networks. Groups of one network
                    share its weights, so they are no replicates
:class:`Ranks`      two numbers per group. Rank correlation over groups, whose pairs are permuted;
                    this takes the groups as exchangeable
=================== ================================================================================

The p of each family is adjusted by Holm. A test whose smallest possible p cannot reach ``alpha``
in its family, whatever the data show, is left out of the family and says how many units it needs;
this depends on the numbers of units alone. The verdicts are those of a change
(:mod:`quantskew.fairness.verdicts`), but that a claim has a side: of a number that is no outcome of
people, such as a rank correlation or the difference of two rises, "worse" would say nothing.

============== =====================================================================================
equivalent     the whole interval lies within ± the margin: neither side matters. Of one contrast
               with zero; not of the most extreme of several
supported      adjusted p ≤ alpha, and the estimate lies on the side that was claimed
refuted        adjusted p ≤ alpha, and it lies on the other side
cannot tell    adjusted p > alpha: the networks or samples are too few
not testable   the study lacks what the column ``missing`` names
============== =====================================================================================

Verdicts speak of the models and data sets of the study. They generalize over seeds and test
samples, not over architectures.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from quantskew.analysis.sampled import Sampled
from quantskew.analysis.study import Statistics, Study, kind
from quantskew.fairness.intervals import cohens_d
from quantskew.fairness.metrics import Floats
from quantskew.fairness.paired import holm
from quantskew.fairness.seeds import variance_of_mean
from quantskew.fairness.verdicts import (
    BETTER,
    CANNOT_TELL,
    EQUIVALENT,
    WORSE,
    deciding_seeds,
    verdicts,
    within,
)
from quantskew.names import BASELINE, FULL_PRECISION, Point, width_name

ALL = "all"
"""Model or width of the rows that speak of all of them together."""
RESAMPLES = 9999
NUMBERS = ("estimate", "boundary", "low", "high", "d", "d_low", "d_high", "p_value")


class NotTestable(Exception):  # noqa: N818 (it is an answer, not an error)
    """The study lacks something that a claim speaks of; the message says what."""


@dataclass(frozen=True)
class Evidence:
    """What claims are tested on: the networks of a data set, on its first grouping.

    Attributes
    ----------
    study
        Its ``bits`` are those that a contrast of networks is tested on.
    sampled
        Right answers of all networks, observed and on redrawn test sets.
    bytes
        Size of each point.
    steps
        Steps of the impact flow by network and group, from
        :func:`quantskew.analysis.attribution.surveyed`.
    model, width
        Names of the only model or width that is tested, or :data:`ALL`.
    """

    study: Study
    sampled: Sampled
    bytes: Mapping[Point, float]
    steps: pd.DataFrame
    model: str = ALL
    width: str = ALL

    @property
    def reference(self) -> str:
        """Name of the method that others are compared with; it has no recipe."""
        if self.study.reference not in self.study.methods:
            raise NotTestable(f"needs the reference, {self.study.reference}, among methods")
        return self.study.reference

    def only_bits(self, *bits: int) -> "Evidence":
        """Keep some widths of the quantized networks."""
        width = width_name(bits[0]) if len(bits) == 1 else ALL
        return replace(self, study=self.study.model_copy(update={"bits": bits}), width=width)

    def bits(self, *methods: str) -> list[int]:
        """Widths, falling, at which all these methods are."""
        runs = [{p.bits for p in self.sampled.points if p.method == name} for name in methods]
        shared = {*self.study.bits}.intersection(*runs)
        if not shared:
            raise NotTestable(f"needs a width at which {' and '.join(methods)} run")
        return sorted(shared, reverse=True)

    def at(self, values: Floats, model: str, method: str, bits: int) -> Floats:
        """Select a point from values of all points, (1 + B, P, S) to (1 + B, S)."""
        dataset = self.sampled.points[0].dataset
        return values[:, self.sampled.points.index(Point(dataset, model, method, bits))]

    def change(self, values: Floats, model: str, method: str, reference: str) -> Floats:
        """Mean over the widths that both have of the change from a reference, (1 + B, S)."""
        both = [name for name in (method, reference) if name != BASELINE]
        changes: list[Floats] = [
            self.at(values, model, method, bits)
            - self.at(values, model, reference, FULL_PRECISION if reference == BASELINE else bits)
            for bits in self.bits(*both)
        ]
        return np.asarray(np.mean(changes, axis=0))

    def over_models(self, each: Callable[[str], Floats]) -> Floats:
        """Side by side, what a function of the model gives: (1 + B, models × S)."""
        return np.concatenate([each(model) for model in self.study.models], axis=1)

    def between(self, values: Floats, method: str, reference: str) -> "Contrast":
        """Compare a method with a reference at the widths that both have."""
        widths = self.bits(method, *([] if reference == BASELINE else [reference]))
        some = len(widths) < len(self.study.bits)
        at = f" at {', '.join(map(str, widths))} bits" if some else ""
        return Contrast(
            self.over_models(lambda model: self.change(values, model, method, reference)),
            f"{method} − {reference}{at}",
        )

    def first(self, wanted: Callable[[Mapping[str, Any]], bool], words: str) -> str:
        """Name of the first method with integer weights that is as wanted."""
        for name, method in self.study.all_methods().items():
            if kind(method, "weights", "format") == "integer" and wanted(method):
                return name
        raise NotTestable(f"needs {words}")


class Contrast(NamedTuple):
    """A number per network or pair of networks, observed and under each draw of the test set."""

    values: Floats  # (1 + B, U)
    compared: str
    boundary: float = 0.0  # the claim is about the mean being above or below this
    looks: int = 1  # contrasts of which this is the most extreme; p is multiplied by it

    def tested(self, alpha: float) -> dict[str, Any]:
        """Test whether the mean over U ≥ 2 networks is the boundary.

        p is 1 where nothing varies and the mean is on the boundary, 0 where it is off it.
        """
        observed = self.values[0]
        if observed.size < 2:
            raise NotTestable("needs two networks at least: more seeds")
        if np.isnan(observed).any():
            raise NotTestable("needs two groups that are large enough")
        estimate = float(observed.mean())
        error = float(np.sqrt(variance_of_mean(observed, self.values[1:])))
        degrees = observed.size - 1
        half = stats.t.ppf(1 - alpha / 2, degrees) * error
        away = abs(estimate - self.boundary)
        p_value = 2 * stats.t.sf(away / error, degrees) if error > 0 else float(away < 1e-12)
        size = cohens_d(observed - self.boundary, confidence=1 - alpha)
        return {
            "units": observed.size, "estimate": estimate, "boundary": self.boundary,
            "low": estimate - half, "high": estimate + half,
            "d": size.d, "d_low": size.low, "d_high": size.high,
            "p_value": min(1.0, float(p_value) * self.looks), "looks": self.looks,
        }  # fmt: skip


class Trend(NamedTuple):
    """A rank correlation with the width per network."""

    correlations: Floats  # (U,)
    compared: str

    def tested(self, alpha: float) -> dict[str, Any]:
        """Exchange signs of networks: exact where no trend is as likely to rise as to fall."""
        if len(self.correlations) < 2:
            raise NotTestable("needs two networks at least: more seeds")
        return _permuted("samples", self.correlations, np.mean) | {
            "unit": "networks",
            "smallest_p": lambda units: 2.0 ** (1 - units),
        }


class Ranks(NamedTuple):
    """Two numbers per group."""

    x: pd.Series
    y: pd.Series
    compared: str

    def tested(self, alpha: float) -> dict[str, Any]:
        """Spearman's ρ, with the p of all (or 9999 random) ways to pair the groups' numbers.

        Examples
        --------
        >>> ranks = Ranks(pd.Series([1, 2, 3, 4]), pd.Series([9, 7, 5, 1]), "size and error")
        >>> tested = ranks.tested(alpha=0.05)
        >>> round(tested["estimate"], 6), round(tested["p_value"], 6)  # two of 24 orders
        (-1.0, 0.083333)
        """
        for column in (self.x, self.y):
            if column.nunique() < 2:
                raise NotTestable(f"needs groups that differ in {column.name}")
        x, y = (stats.zscore(stats.rankdata(column)) for column in (self.x, self.y))
        return _permuted("pairings", x, lambda values, axis: (values * y).mean(axis=axis)) | {
            "unit": "groups",
            "smallest_p": lambda units: 2 / math.factorial(units),
        }


Comparison = Contrast | Trend | Ranks


def _permuted(how: str, values: Floats, statistic: Callable[..., Floats]) -> dict[str, Any]:
    result = stats.permutation_test(
        (values,),
        statistic,
        permutation_type=how,
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    estimate, p_value = float(result.statistic), float(result.pvalue)
    return {"units": len(values), "estimate": estimate, "boundary": 0.0, "p_value": p_value}


def whole(evidence: Evidence) -> Iterator[Evidence]:
    """Test a claim on all models and widths together."""
    yield evidence


def each_width(evidence: Evidence) -> Iterator[Evidence]:
    """Test a claim on all widths together, then on each of them."""
    yield evidence
    if len(evidence.study.bits) > 1:
        yield from (evidence.only_bits(bits) for bits in evidence.study.bits)


def each_network(evidence: Evidence) -> Iterator[Evidence]:
    """Test a claim on each model and width of which the steps of the impact flow are known."""
    for (model, bits), steps in evidence.steps.groupby(["model", "bits"], sort=False):
        yield replace(evidence, steps=steps, model=model, width=width_name(bits))
    if evidence.steps.empty:
        yield evidence


@dataclass(frozen=True)
class Claim:
    """What is claimed, of which number, on which side of the boundary it is to lie, and its test.

    Attributes
    ----------
    text
        The claim, as a sentence.
    estimand
        The number that is compared with the boundary. That of a share says "accuracy" or "FVO",
        for by this word a difference is better or worse.
    side
        Where the claim says it lies: 1 above, −1 below, 0 on either side.
    test
        Computes what is tested.
    scopes
        The parts of the evidence that it is tested on, each a row of the table.
    family
        Claims of one family are adjusted together, for each model; a claim that is also tested at
        each width is a family of its own there.
    scale
        What the estimate is: ``share``, of 1, or ``rank correlation``.
    """

    text: str
    side: int
    estimand: str
    test: Callable[[Evidence], Comparison]
    scopes: Callable[[Evidence], Iterator[Evidence]] = each_width
    family: str = "quantization"
    scale: str = "share"


def judge(evidence: Evidence, claims: Mapping[str, Claim]) -> pd.DataFrame:
    """Test claims on the networks of a data set: rows of the table ``claims``."""
    rows = [row for name in claims for row in _rows(name, claims[name], evidence)]
    dataset, attribute = evidence.sampled.points[0].dataset, evidence.sampled.division.attribute
    table = pd.DataFrame(rows).assign(dataset=dataset, attribute=attribute)
    alpha, margin = evidence.study.statistics.alpha, evidence.study.statistics.margin
    families = [part for _, part in table.groupby(["model", "family"], sort=False)]
    table = pd.concat([_adjusted(part.copy(), alpha) for part in families], ignore_index=True)
    shown, side, looks = table["p_holm"] <= alpha, table.pop("side"), table.pop("looks")
    against_zero = (table["scale"] == "share") & (table["boundary"] == 0) & (looks == 1)
    agrees = (side == 0) | (side * (table["estimate"] - table["boundary"]) > 0)
    cases = {
        "not testable": table["missing"] != "",
        EQUIVALENT: against_zero & within(table["low"], table["high"], margin),
        "supported": shown & agrees,
        "refuted": shown & ~agrees,
    }
    return table.assign(verdict=np.select([*cases.values()], [*cases], CANNOT_TELL))


def in_four_words(rows: pd.DataFrame, settings: Statistics) -> pd.DataFrame:
    """Say of what claims compare what is said of a change, beside what it means for the claim.

    Parameters
    ----------
    rows
        Of the table ``claims``.

    Returns
    -------
    The rows with two more columns. ``difference``: *better* or *worse* where the claim is supported
    or refuted, by the side on which more accuracy or less FVO lies; *equivalent* or *cannot tell*
    with the claim. Of a claim against another boundary than zero it is the word of the interval,
    which is not adjusted; a rank correlation is no outcome and has none. ``decide``: the networks
    that would decide a difference that cannot be told, if it stays what it is; infinite where no
    number would.
    """
    lower = rows["estimand"].str.contains("FVO")
    zero, judged = rows["boundary"] == 0, rows["verdict"].isin(["supported", "refuted"])
    low, high, margin = rows["low"], rows["high"], settings.margin
    untold = rows["verdict"] == CANNOT_TELL
    cases = {
        "": (rows["missing"] != "") | (judged & (rows["scale"] != "share")),
        CANNOT_TELL: zero & untold,
        EQUIVALENT: zero & (rows["verdict"] == EQUIVALENT),
        BETTER: zero & ((rows["estimate"] < 0) == lower),
        WORSE: zero,
    }
    of_interval = verdicts(low, high, margin, higher_is_better=~lower)
    # the deviation of networks and the error of their common samples, from what is kept of a test
    n, away = rows["units"].astype(float), rows["estimate"] - rows["boundary"]
    own, error = away / rows["d"], (high - low) / 2 / stats.t.isf(settings.alpha / 2, n - 1)
    alone = 2 * stats.t.sf(abs(away) / error, n - 1)
    common = np.sqrt(np.maximum(0, error**2 - own**2 / n))
    one = np.isclose(alone, rows["p_value"])  # and not the most extreme of several
    # Holm multiplies the p of the next claim to be decided by the number of those that are open
    families = rows.groupby(["dataset", "model", "family"])["p_holm"]
    opened = families.transform(lambda p_values: (p_values > settings.alpha).sum())
    needed = deciding_seeds(
        n, away, own, common, np.where(zero & one, margin, 0),
        alpha=settings.alpha * np.where(untold, alone / rows["p_value"] / opened, 1),
    )  # fmt: skip
    return rows.assign(
        difference=np.select([*cases.values()], [*cases], of_interval),
        decide=np.where(untold, needed, np.nan),
    )


def _rows(name: str, claim: Claim, evidence: Evidence) -> Iterator[dict[str, object]]:
    for scope in claim.scopes(evidence):
        narrowed = claim.scopes is each_width and scope.width != ALL
        row: dict[str, object] = {
            "claim": name,
            "text": claim.text,
            "model": scope.model,
            "width": scope.width,
            "family": f"{name} by width" if narrowed else claim.family,
            "estimand": claim.estimand,
            "scale": claim.scale,
            "side": claim.side,
            "looks": 1,
            "compared": "",
            "missing": "",
            "units": 0,
            "unit": "",
            "smallest_p": None,
            **dict.fromkeys(NUMBERS, math.nan),
        }
        try:
            test = claim.test(scope)
            tested = test.tested(evidence.study.statistics.alpha)
            yield {**row, **tested, "compared": test.compared}
        except NotTestable as reason:
            yield {**row, "missing": str(reason)}
            if scope is evidence:  # it lacks at every width what it lacks at all of them
                return


def _adjusted(family: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Adjust by Holm the tests of a family that can reach alpha; say what the others need."""
    tests = int(family["p_value"].notna().sum())
    for row in family.dropna(subset="smallest_p").itertuples():
        needed = next(n for n in range(row.units, 10**6) if tests * row.smallest_p(n) <= alpha)
        if needed > row.units:
            among = f" among {tests} tests" if tests > 1 else ""
            short = f"needs {needed} {row.unit}, has {row.units}, for a verdict{among}"
            family.loc[row.Index, "missing"] = short
    p_holm = holm(family["p_value"].where(family["missing"] == ""))
    return family.assign(p_holm=p_holm).drop(columns=["unit", "smallest_p"])
