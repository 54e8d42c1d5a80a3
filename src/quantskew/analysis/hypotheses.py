"""What has been claimed of quantization and fairness, as tests declared before the data are seen.

A claim names a *contrast*: a number computed for each network (or pair of networks of one seed)
whose mean over the networks of the study the claim says to lie on one side of a value. All claims
are tested alike:

=========== ========================================================================================
estimate    mean of the contrast over the units: model × seed, or seed where models are compared
its error   from both sources (:mod:`quantskew.fairness.seeds`): networks of other seeds, and other
            test samples, which all networks share
test        Student's t with (units − 1) degrees of freedom, two-sided; exact for normal errors if
            seeds are the only source, conservative otherwise
family      the claims that can be tested on a data set, adjusted by Holm; what is a mean over
            widths is tested at each of them too, a family of its own
verdict     supported or refuted by the sign of an estimate whose adjusted p is at most alpha
=========== ========================================================================================

What a study lacks for a claim is said in the column ``missing``. Who loses most cannot be told at
a width that leaves a group less than :data:`NOTHING` of right answers: it has no more to lose, so
such a width is left out of that claim, whatever it would show. H1 to H6 are the hypotheses of
Diyora (2024), "Beyond Naive Quantization"; the others are claims of Bellam & Kim (2025).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student

from quantskew.analysis.sampled import Sampled
from quantskew.analysis.study import Study
from quantskew.fairness.intervals import cohens_d
from quantskew.fairness.metrics import Floats
from quantskew.fairness.paired import holm
from quantskew.fairness.seeds import seed_and_sampling_variance
from quantskew.names import BASELINE, FULL_PRECISION, Point, width_name

NOTHING = 0.01
"""Accuracy, in the mean over networks, below which a group has nothing left to lose."""


class NotTestable(Exception):  # noqa: N818 (it is an answer, not an error)
    """The study lacks something that a claim speaks of; the message says what."""


ALL = "all"
"""Width of the rows that speak of all widths together."""


class Contrast(NamedTuple):
    """A number a unit, observed and under each draw, and what was compared for it."""

    values: Floats  # (1 + B, U)
    compared: str
    boundary: float = 0.0  # the claim is about the mean being above or below this
    looks: int = 1  # contrasts of which this is the most extreme; p is multiplied by it
    widths: tuple[int, ...] = ()  # at which the claim can be tested one by one


@dataclass(frozen=True)
class Grid:
    """The networks of a data set, by what they are."""

    sampled: Sampled
    study: Study
    bytes: Mapping[Point, float]

    @property
    def plain(self) -> str:
        """Name of the method that others are compared with."""
        return self.study.reference

    @property
    def as_is(self) -> Mapping[str, Any]:
        """Recipe of the method that others are compared with, which changes nothing."""
        recipe: Mapping[str, Any] = self.study.methods[self.plain]["recipe"]
        return recipe

    def bits(self, *methods: str) -> list[int]:
        """Widths, falling, at which all of some methods are."""
        runs = [{p.bits for p in self.sampled.points if p.method == name} for name in methods]
        shared = {*self.study.bits}.intersection(*runs)
        if not shared:
            raise NotTestable(f"needs a width at which {' and '.join(methods)} run")
        return sorted(shared, reverse=True)

    def at(self, values: Floats, model: str, method: str, bits: int) -> Floats:
        """Of values (1 + B, P, S), those of a point: (1 + B, S)."""
        dataset = self.sampled.points[0].dataset
        return values[:, self.sampled.points.index(Point(dataset, model, method, bits))]

    def change(self, values: Floats, model: str, method: str, reference: str) -> Floats:
        """Mean over the widths that both have of the change from a reference, (1 + B, S)."""
        both = [name for name in (method, reference) if name != BASELINE]
        changes = [
            self.at(values, model, method, bits)
            - self.at(values, model, reference, FULL_PRECISION if reference == BASELINE else bits)
            for bits in self.bits(*both)
        ]
        return np.mean(changes, axis=0)

    def over_models(self, each: Callable[[str], Floats]) -> Floats:
        """Side by side, what a function of the model gives: (1 + B, models × S)."""
        return np.concatenate([each(model) for model in self.study.models], axis=1)

    def first(self, wanted: Callable[[Mapping[str, Any]], bool], words: str) -> str:
        """Name of the first method that is as wanted."""
        for name, method in self.study.all_methods().items():
            if method["weights"]["format"] == "integer" and wanted(method):
                return name
        raise NotTestable(f"needs {words}")


def is_mixed(method: Mapping[str, Any]) -> bool:
    """Whether layers may have different widths by design (not only for a first RGB layer)."""
    return method["weights"]["first_last"] is not None or method["policy"]["kind"] != "uniform"


def _mixed_and_uniform(grid: Grid) -> tuple[str, str]:
    mixed = grid.first(
        lambda m: is_mixed(m) and m["recipe"] == grid.as_is,
        "a method of mixed precision, recipe as is",
    )
    training = grid.study.all_methods()[mixed]["training"]
    uniform = grid.first(
        lambda m: m["training"] == training and not is_mixed(m) and m["recipe"] == grid.as_is,
        f"a method of uniform precision with training: {training['kind']}",
    )
    return mixed, uniform


def _qat(grid: Grid) -> str:
    return grid.first(
        lambda m: m["training"]["kind"] == "qat" and not is_mixed(m) and m["recipe"] == grid.as_is,
        "a method with training: qat, uniform precision and recipe as is",
    )


def _between(grid: Grid, values: Floats, method: str, reference: str) -> Contrast:
    widths = grid.bits(method, *([] if reference == BASELINE else [reference]))
    kept = f" at {', '.join(map(str, widths))} bits" if len(widths) < len(grid.study.bits) else ""
    return Contrast(
        grid.over_models(lambda model: grid.change(values, model, method, reference)),
        f"{method} − {reference}{kept}",
        widths=tuple(widths),
    )


def capacity(grid: Grid) -> Contrast:
    """Compare the largest with the smallest model."""
    dataset = grid.sampled.points[0].dataset
    size = {m: grid.bytes[Point(dataset, m, BASELINE, FULL_PRECISION)] for m in grid.study.models}
    small, large = min(size, key=size.__getitem__), max(size, key=size.__getitem__)
    if size[small] == size[large]:
        raise NotTestable("needs two models of different size")
    values = grid.sampled.overall
    one, other = (grid.change(values, m, grid.plain, BASELINE) for m in (large, small))
    return Contrast(one - other, f"{grid.plain}: {large} − {small}")


def qat_accuracy(grid: Grid) -> Contrast:
    """Compare accuracies under QAT and PTQ."""
    return _between(grid, grid.sampled.overall, _qat(grid), grid.plain)


def qat_fairness(grid: Grid) -> Contrast:
    """Compare FVO under QAT and PTQ."""
    return _between(grid, grid.sampled.debiased, _qat(grid), grid.plain)


def _but_for_choice(method: Mapping[str, Any]) -> dict[str, Any]:
    return {**method, "calibration": method["calibration"]["samples"]}


def balanced_calibration(grid: Grid) -> Contrast:
    """Compare two methods that differ in the choice of calibration images alone."""
    methods = grid.study.all_methods()
    for random, balanced in permutations(methods, 2):
        one, other = methods[random], methods[balanced]
        choices = tuple(m["calibration"]["choice"]["kind"] for m in (one, other))
        if choices == ("random", "balanced") and _but_for_choice(one) == _but_for_choice(other):
            return _between(grid, grid.sampled.debiased, balanced, random)
    raise NotTestable(
        "needs two methods that look at calibration images (activations: static, say), "
        "alike but for calibration: {choice: random} and {choice: balanced}"
    )


def mixed_preserves(grid: Grid) -> Contrast:
    """Compare mixed precision with fp32, less what may be lost."""
    mixed, _ = _mixed_and_uniform(grid)
    found = _between(grid, grid.sampled.debiased, mixed, BASELINE)
    return found._replace(boundary=grid.study.targets.worst_group_loss)


def mixed_fairer(grid: Grid) -> Contrast:
    """Compare mixed with uniform precision, trained alike."""
    return _between(grid, grid.sampled.debiased, *_mixed_and_uniform(grid))


def knee(grid: Grid) -> Contrast:
    """Compare the step from 8 to 4 bits with that from fp32 to 8."""
    lacking = [bits for bits in (8, 4) if bits not in grid.bits(grid.plain)]
    if lacking:
        raise NotTestable(f"needs {' and '.join(map(str, lacking))} among the bits")
    values = grid.sampled.debiased

    def bend(model: str) -> Floats:
        full, eight, four = (
            grid.at(values, model, method, bits)
            for method, bits in ((BASELINE, FULL_PRECISION), (grid.plain, 8), (grid.plain, 4))
        )
        return (four - eight) - (eight - full)

    return Contrast(grid.over_models(bend), f"{grid.plain}: (4 − 8) − (8 − fp32)")


def architecture(grid: Grid) -> Contrast:
    """Compare the two models that differ most."""
    pairs = list(combinations(grid.study.models, 2))
    if not pairs:
        raise NotTestable("needs two models")
    by_pair = {
        pair: np.subtract(
            *(grid.change(grid.sampled.debiased, m, grid.plain, BASELINE) for m in pair)
        )
        for pair in pairs
    }
    most = min(by_pair, key=lambda pair: two_sided(by_pair[pair]).p_value)
    return Contrast(by_pair[most], f"{grid.plain}: {most[0]} − {most[1]}", looks=len(pairs))


def width_trend(grid: Grid) -> Contrast:
    """Fit a line through FVO over the steps from fp32 down."""
    steps = [(BASELINE, FULL_PRECISION), *((grid.plain, bits) for bits in grid.bits(grid.plain))]
    place = np.arange(len(steps)) - (len(steps) - 1) / 2
    weights = place / (place**2).sum()

    def slope(model: str) -> Floats:
        values = [grid.at(grid.sampled.debiased, model, *step) for step in steps]
        return np.tensordot(weights, values, 1)

    names = ", ".join(str(bits) for _, bits in steps)
    return Contrast(grid.over_models(slope), f"{grid.plain}: widths {names}")


def minority(grid: Grid) -> Contrast:
    """Compare the group with fewest training samples with the mean of the others."""
    sampled = grid.sampled
    names, counted = np.array(sampled.division.names), sampled.division.counted
    if counted.sum() < 2:
        raise NotTestable("needs two groups that are large enough")
    sizes = np.where(counted, sampled.train_sizes, np.inf)
    few = sizes.argmin()
    if (sampled.train_sizes[counted] == sizes[few]).all():
        raise NotTestable("needs groups of different training sizes")
    others = counted & (np.arange(len(names)) != few)
    gap = sampled.accuracy[..., few] - sampled.accuracy[..., others].mean(-1)
    widths = tuple(grid.bits(grid.plain))
    kept = tuple(
        bits
        for bits in widths
        if all(
            grid.at(sampled.accuracy, model, grid.plain, bits)[0].mean(0)[counted].min() >= NOTHING
            for model in grid.study.models
        )
    )
    if not kept:
        raise NotTestable(f"needs a width that leaves every group {NOTHING:.0%} of right answers")
    there = replace(grid, study=grid.study.model_copy(update={"bits": kept}))
    at = f" at {', '.join(map(str, kept))} bits" if kept != widths else ""
    who = f"{sampled.division.attribute} {names[few]} − others"
    found = _between(there, gap, grid.plain, BASELINE)
    return found._replace(compared=f"{grid.plain} − {BASELINE}{at}: {who}", widths=widths)


def fair_training(grid: Grid) -> Contrast:
    """Compare balanced and weighted QAT of mixed precision with PTQ."""
    wanted = ("balanced", "weighted")
    fair = grid.first(
        lambda m: (
            m["training"]["kind"] == "qat"
            and (m["recipe"]["sampling"]["kind"], m["recipe"]["loss"]["kind"]) == wanted
        ),
        "a method with training: qat and recipe: {sampling: balanced, loss: weighted}",
    )
    return _between(grid, grid.sampled.debiased, fair, grid.plain)


@dataclass(frozen=True)
class Claim:
    """What is claimed, of which number, and on which side of the boundary it is to lie."""

    text: str
    estimand: str
    contrast: Callable[[Grid], Contrast]
    side: int  # +1: above, −1: below, 0: on either side


CLAIMS: Mapping[str, Claim] = {
    "H1": Claim(
        "Larger models lose less accuracy to quantization.",
        "change of overall accuracy, largest less smallest model",
        capacity,
        +1,
    ),
    "H2": Claim(
        "QAT is more accurate than PTQ at the same width.",
        "overall accuracy, QAT less PTQ",
        qat_accuracy,
        +1,
    ),
    "H3": Claim(
        "Calibration images balanced over groups make quantization fairer.",
        "debiased FVO, balanced less random calibration",
        balanced_calibration,
        -1,
    ),
    "H4": Claim(
        "Mixed precision keeps the FVO of fp32 within the accepted loss.",
        "debiased FVO, mixed precision less fp32, against targets.worst_group_loss",
        mixed_preserves,
        -1,
    ),
    "H5": Claim(
        "More fairness is lost from 8 to 4 bits than from fp32 to 8.",
        "debiased FVO, rise from 8 to 4 bits less rise from fp32 to 8",
        knee,
        +1,
    ),
    "H6": Claim(
        "How fairness changes under quantization depends on the architecture.",
        "change of debiased FVO, difference of the two models farthest apart",
        architecture,
        0,
    ),
    "qat_less_fair": Claim(
        "QAT is less fair than PTQ at the same width.",
        "debiased FVO, QAT less PTQ",
        qat_fairness,
        +1,
    ),
    "disparity_grows": Claim(
        "Disparity grows as the width falls.",
        "debiased FVO, mean rise a step of width",
        width_trend,
        +1,
    ),
    "minority_pays": Claim(
        "The group with fewest training samples loses more accuracy than the others.",
        "change of accuracy, that group less the mean of the others",
        minority,
        -1,
    ),
    "mixed_fairer": Claim(
        "Mixed precision is fairer than uniform precision of the same width and training.",
        "debiased FVO, mixed less uniform precision",
        mixed_fairer,
        -1,
    ),
    "fair_qat": Claim(
        "QAT on balanced samples with a weighted loss is fairer than PTQ of the same width.",
        "debiased FVO, fair QAT less PTQ",
        fair_training,
        -1,
    ),
}


class Tested(NamedTuple):
    """A mean over units, its limits, and how it stands to the boundary."""

    estimate: float
    low: float
    high: float
    p_value: float


def two_sided(values: Floats, *, boundary: float = 0.0, alpha: float = 0.05) -> Tested:
    """Test whether the mean over networks is the boundary.

    Parameters
    ----------
    values
        (1 + B, U) observed, then under each draw of the test set; U ≥ 2.
    boundary
        Under the null hypothesis.
    alpha
        1 − confidence of the limits.

    Returns
    -------
    p is 1 where nothing varies and the mean is on the boundary, 0 where it is off it.
    """
    observed = values[0]
    if observed.size < 2:
        raise NotTestable("needs two networks at least: more seeds")
    if np.isnan(observed).any():
        raise NotTestable("needs two groups that are large enough")
    estimate = float(observed.mean())
    error = float(np.sqrt(seed_and_sampling_variance(observed, values[1:]).total))
    degrees = observed.size - 1
    half = student.ppf(1 - alpha / 2, degrees) * error
    away = abs(estimate - boundary)
    p_value = 2 * student.sf(away / error, degrees) if error > 0 else float(away < 1e-12)
    return Tested(estimate, estimate - half, estimate + half, float(p_value))


def assess(sampled: Sampled, study: Study, sizes: Mapping[Point, float]) -> pd.DataFrame:
    """Test all claims on a data set: rows of the table ``hypotheses``.

    Parameters
    ----------
    sampled
        All networks of the data set, on its first grouping.
    study
        All parameters.
    sizes
        Bytes of each point.
    """
    alpha = study.statistics.alpha
    rows = []
    for name in CLAIMS:
        row, widths = _tested(name, Grid(sampled, study, sizes))
        rows.append(row | {"width": ALL})
        for bits in widths:
            grid = Grid(sampled, study.model_copy(update={"bits": (bits,)}), sizes)
            rows.append(_tested(name, grid)[0] | {"width": width_name(bits)})
    columns = ["estimate", "boundary", "low", "high", "d", "d_low", "d_high", "p_value"]
    table = pd.DataFrame(rows)
    table = table.reindex(columns=[*table.columns.union(columns, sort=False)])
    families = table["hypothesis"].where(table["width"] != ALL, ALL)
    table["p_holm"] = table.groupby(families)["p_value"].transform(
        lambda p: holm(p.to_numpy(float))
    )
    claimed = table["hypothesis"].map(lambda name: CLAIMS[name].side)
    found_at_all = table["p_holm"] <= alpha
    table["verdict"] = np.select(
        [
            table["missing"] != "",
            found_at_all & ((claimed == 0) | (table["side"] > 0)),
            found_at_all,
        ],
        ["not testable", "supported", "refuted"],
        "undecided",
    )
    dataset, attribute = sampled.points[0].dataset, sampled.division.attribute
    return table.drop(columns="side").assign(dataset=dataset, attribute=attribute)


def _tested(name: str, grid: Grid) -> tuple[dict[str, object], tuple[int, ...]]:
    """Test a claim: its row, and the widths that it is to be tested at one by one."""
    claim, alpha = CLAIMS[name], grid.study.statistics.alpha
    row = {"hypothesis": name, "claim": claim.text, "estimand": claim.estimand, "side": 0}
    try:
        found = claim.contrast(grid)
        tested = two_sided(found.values, boundary=found.boundary, alpha=alpha)
    except NotTestable as reason:
        return row | {"compared": "", "missing": str(reason), "units": 0}, ()
    observed = found.values[0]
    size = cohens_d(observed - found.boundary, confidence=1 - alpha)
    row |= {
        **tested._asdict(),
        "p_value": min(1.0, tested.p_value * found.looks),
        "compared": found.compared,
        "missing": "",
        "units": observed.size,
        "boundary": found.boundary,
        "d": size.d,
        "d_low": size.low,
        "d_high": size.high,
        "side": claim.side * np.sign(tested.estimate - found.boundary),
    }
    return row, found.widths if len(found.widths) > 1 else ()
