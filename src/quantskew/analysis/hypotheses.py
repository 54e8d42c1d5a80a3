"""What has been claimed of quantization and fairness, declared as tests before the data are seen.

Each claim is one function under its name and what it estimates; the first line of its docstring is
the claim in words. :mod:`quantskew.analysis.claims` tests them all alike.

H1 to H6 are the hypotheses of Diyora (2024), "Beyond Naive Quantization"; ``qat_less_fair`` is a
claim of Liu et al. (2025), as is ``augmented_fairer``; those named ``aware`` are of FairQuant
(Woergaard & Selvan 2026); those on free remedies are of no paper, which all train; the others are
claims of Bellam & Kim (2025). Those about the steps of the impact flow are correlations, and show
association alone.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pandas as pd

from quantskew.analysis.attribution import surveyed
from quantskew.analysis.claims import (
    Claim,
    Comparison,
    Contrast,
    Evidence,
    NotTestable,
    Ranks,
    Trend,
    each_network,
    judge,
    whole,
)
from quantskew.analysis.sampled import Sampled
from quantskew.analysis.study import Study, acting, kind, part
from quantskew.fairness.metrics import Floats, worst_group
from quantskew.names import BASELINE, FULL_PRECISION, Point

NOTHING = 0.01
"""Accuracy, averaged over networks, below which a group has nothing left to lose."""

CLAIMS: dict[str, Claim] = {}
"""All declared claims by name."""


def claim(
    name: str, side: int, estimand: str, text: str = "", **options: Any
) -> Callable[[Callable[[Evidence], Comparison]], Callable[[Evidence], Comparison]]:
    """Declare a claim, which the function below it tests; see :class:`Claim`.

    ``text`` is the first line of the function's docstring, unless given here.
    """

    def declare(test: Callable[[Evidence], Comparison]) -> Callable[[Evidence], Comparison]:
        words = text or (test.__doc__ or "").partition("\n")[0]
        if name in CLAIMS or not words:
            raise ValueError(f"claim {name!r}: it needs words, and a name of its own")
        made = Claim(words, side, estimand, test, **options)
        if made.scale == "share" and ("accuracy" in estimand) == ("FVO" in estimand):
            raise ValueError(
                f"claim {name!r}: {estimand!r} must say accuracy, of which more is better, or FVO, "
                "of which less is"
            )
        CLAIMS[name] = made
        return test

    return declare


def assess(
    study: Study,
    sampled: Sampled,
    sizes: Mapping[Point, float],
    groups: pd.DataFrame,
    curvature: pd.DataFrame,
) -> pd.DataFrame:
    """Test all declared claims on a data set: rows of the table ``claims``.

    Of the tables ``groups`` and ``curvature``, rows of other data sets, and of groups below
    ``groups.minimum``, are left out.
    """
    steps = surveyed(groups[groups["counted"]], curvature, study)
    steps = steps[steps["dataset"] == sampled.points[0].dataset]
    steps = steps[steps["bits"].isin([FULL_PRECISION, *study.bits])]
    return judge(Evidence(study, sampled, sizes, steps), CLAIMS)


def _is_mixed(method: Mapping[str, Any]) -> bool:
    """Whether layers may have different widths by design (not only for a first RGB layer)."""
    return method["weights"]["first_last"] is not None or kind(method, "policy") != "uniform"


def _without_recipe(evidence: Evidence, *, mixed: bool, training: str | None = None) -> str:
    """Name of the first such method; it has no recipe, as the reference, and is no control."""
    plain = evidence.study.methods[evidence.reference]["recipe"]
    trained = f" with training: {training}" if training else ""
    return evidence.first(
        lambda m: (
            _is_mixed(m) == mixed
            and not m.get("post")
            and not part(m, "policy", "unit", "shuffle")
            and m["recipe"] == plain
            and training in (None, kind(m, "training"))
        ),
        f"a method of {'mixed' if mixed else 'uniform'} precision{trained} and no recipe",
    )


@claim("H1", +1, "change of overall accuracy, largest less smallest model", scopes=whole)
def _capacity(evidence: Evidence) -> Contrast:
    """Larger models lose less accuracy to quantization."""
    dataset, models = evidence.sampled.points[0].dataset, evidence.study.models
    size = {m: evidence.bytes[Point(dataset, m, BASELINE, FULL_PRECISION)] for m in models}
    small, large = min(models, key=size.__getitem__), max(models, key=size.__getitem__)
    if size[small] == size[large]:
        raise NotTestable("needs two models of different size")
    overall, reference = evidence.sampled.overall, evidence.reference
    one, other = (evidence.change(overall, m, reference, BASELINE) for m in (large, small))
    return Contrast(one - other, f"{reference}: {large} − {small}")


@claim("H2", +1, "overall accuracy, QAT less PTQ")
def _qat_accuracy(evidence: Evidence) -> Contrast:
    """QAT is more accurate than PTQ at the same width."""
    qat = _without_recipe(evidence, mixed=False, training="qat")
    return evidence.between(evidence.sampled.overall, qat, evidence.reference)


@claim("H3", -1, "debiased FVO, balanced less random calibration")
def _balanced_calibration(evidence: Evidence) -> Contrast:
    """Calibration images balanced over groups make quantization fairer."""
    for pair in permutations(evidence.study.all_methods().items(), 2):
        choices = [kind(method, "calibration", "choice") for _, method in pair]
        # balancing needs labels, which is no other difference
        one, other = (
            acting(m) | {"labels": None, "calibration": part(m, "calibration", "samples")}
            for _, m in pair
        )
        if choices == ["balanced", "random"] and one == other:
            return evidence.between(evidence.sampled.debiased, *(name for name, _ in pair))
    raise NotTestable(
        "needs two methods that look at calibration images (activations: static, say), alike but "
        "for calibration: {choice: random} and {choice: balanced}"
    )


@claim("H4", -1, "debiased FVO, mixed precision less fp32, against targets.worst_group_loss")
def _mixed_preserves(evidence: Evidence) -> Contrast:
    """Mixed precision keeps the FVO of fp32 within the accepted loss."""
    mixed = _without_recipe(evidence, mixed=True)
    contrast = evidence.between(evidence.sampled.debiased, mixed, BASELINE)
    return contrast._replace(boundary=evidence.study.targets.worst_group_loss)


@claim("H5", +1, "debiased FVO, rise from 8 to 4 bits less rise from fp32 to 8", scopes=whole)
def _knee(evidence: Evidence) -> Contrast:
    """More fairness is lost from 8 to 4 bits than from fp32 to 8."""
    reference = evidence.reference
    lacking = [bits for bits in (8, 4) if bits not in evidence.bits(reference)]
    if lacking:
        raise NotTestable(f"needs {' and '.join(map(str, lacking))} among the bits")

    def bend(model: str) -> Floats:
        full, eight, four = (
            evidence.at(evidence.sampled.debiased, model, method, bits)
            for method, bits in ((BASELINE, FULL_PRECISION), (reference, 8), (reference, 4))
        )
        return (four - eight) - (eight - full)

    return Contrast(evidence.over_models(bend), f"{reference}: (4 − 8) − (8 − fp32)")


@claim("H6", 0, "change of debiased FVO, difference of the two models farthest apart", scopes=whole)
def _architecture(evidence: Evidence) -> Contrast:
    """How fairness changes under quantization depends on the architecture."""
    reference, alpha = evidence.reference, evidence.study.statistics.alpha

    def change(model: str) -> Floats:
        return evidence.change(evidence.sampled.debiased, model, reference, BASELINE)

    contrasts = [
        Contrast(change(one) - change(other), f"{reference}: {one} − {other}")
        for one, other in combinations(evidence.study.models, 2)
    ]
    if not contrasts:
        raise NotTestable("needs two models")
    farthest = min(contrasts, key=lambda contrast: float(contrast.tested(alpha)["p_value"]))
    return farthest._replace(looks=len(contrasts))


@claim("qat_less_fair", +1, "debiased FVO, QAT less PTQ")
def _qat_fairness(evidence: Evidence) -> Contrast:
    """QAT is less fair than PTQ at the same width."""
    qat = _without_recipe(evidence, mixed=False, training="qat")
    return evidence.between(evidence.sampled.debiased, qat, evidence.reference)


@claim("disparity_grows", +1, "debiased FVO, mean rise per step of width", scopes=whole)
def _width_trend(evidence: Evidence) -> Contrast:
    """Disparity grows as the width falls."""
    reference = evidence.reference
    quantized = [(reference, bits) for bits in evidence.bits(reference)]
    points = [(BASELINE, FULL_PRECISION), *quantized]
    place = np.arange(len(points)) - (len(points) - 1) / 2
    weights = place / (place**2).sum()

    def slope(model: str) -> Floats:
        values = [evidence.at(evidence.sampled.debiased, model, *point) for point in points]
        return np.tensordot(weights, values, 1)

    names = ", ".join(str(bits) for _, bits in points)
    return Contrast(evidence.over_models(slope), f"{reference}: widths {names}")


@claim("minority_pays", -1, "change of accuracy, that group less the mean of the others")
def _minority(evidence: Evidence) -> Contrast:
    """The group with fewest training samples loses more accuracy than the others.

    A width that leaves a group less than :data:`NOTHING` of right answers is left out, whatever it
    would show: such a group has no more to lose.
    """
    sampled, reference = evidence.sampled, evidence.reference
    names, counted = np.array(sampled.division.names), sampled.division.counted
    if counted.sum() < 2:
        raise NotTestable("needs two groups that are large enough")
    fewest = np.where(counted, sampled.train_sizes, np.inf).argmin()
    if (sampled.train_sizes[counted] == sampled.train_sizes[fewest]).all():
        raise NotTestable("needs groups of different training sizes")
    others = counted & (np.arange(len(names)) != fewest)
    gap = sampled.accuracy[..., fewest] - sampled.accuracy[..., others].mean(-1)

    def lowest(model: str, bits: int) -> float:
        accuracy = evidence.at(sampled.accuracy, model, reference, bits)[0]
        return float(accuracy.mean(0)[counted].min())

    widths = evidence.bits(reference)
    left = [b for b in widths if min(lowest(m, b) for m in evidence.study.models) >= NOTHING]
    if not left:
        raise NotTestable(f"needs a width that leaves every group {NOTHING:.0%} of right answers")
    at = f" at {', '.join(map(str, left))} bits" if left != widths else ""
    contrast = evidence.only_bits(*left).between(gap, reference, BASELINE)
    who = f"{sampled.division.attribute} {names[fewest]} − others"
    return contrast._replace(compared=f"{reference} − {BASELINE}{at}: {who}")


@claim("mixed_fairer", -1, "debiased FVO, mixed less uniform precision")
def _mixed_fairer(evidence: Evidence) -> Contrast:
    """Mixed precision is fairer than uniform precision of the same width and training."""
    mixed = _without_recipe(evidence, mixed=True)
    training = kind(evidence.study.all_methods()[mixed], "training")
    uniform = _without_recipe(evidence, mixed=False, training=training)
    return evidence.between(evidence.sampled.debiased, mixed, uniform)


@claim("fair_qat", -1, "debiased FVO, fair QAT less PTQ")
def _fair_training(evidence: Evidence) -> Contrast:
    """QAT on balanced samples with a weighted loss is fairer than PTQ of the same width."""
    fair = evidence.first(
        lambda m: (
            kind(m, "training") == "qat"
            and not m.get("post")
            and kind(m, "recipe", "sampling") == "balanced"
            and kind(m, "recipe", "loss") == "weighted"
        ),
        "a method with training: qat and recipe: {sampling: balanced, loss: weighted}",
    )
    return evidence.between(evidence.sampled.debiased, fair, evidence.reference)


def best_of_both(contrasts: Mapping[tuple[str, str], Contrast], side: int) -> Contrast:
    """Return the contrast of the best trained remedy and the best free one.

    ``contrasts`` are trained less free, by their names; ``side`` is where the trained one is
    better: 1 above, −1 below. Both are chosen by their means on the same networks and samples, so
    p is multiplied by the number of pairs that it was chosen from.
    """
    gain = {pair: side * float(c.values[0].mean()) for pair, c in contrasts.items()}
    rivals: dict[str, tuple[str, str]] = {}
    for pair in contrasts:
        rivals[pair[0]] = min(pair, rivals.get(pair[0], pair), key=gain.__getitem__)
    chosen = max(rivals.values(), key=gain.__getitem__)
    return contrasts[chosen]._replace(looks=len(contrasts))


def _trained_less_free(evidence: Evidence, values: Floats, side: int) -> Contrast:
    """Compare the best trained remedy with the best free one that is there at all its widths."""
    study, points = evidence.study, evidence.sampled.points

    def widths(name: str) -> set[int]:
        return {point.bits for point in points if point.method == name} & {*study.bits}

    contrasts = {
        (trained, free): evidence.only_bits(*sorted(widths(trained))).between(values, trained, free)
        for trained in study.mitigations
        for free in study.free_remedies()
        if study.retrained(trained) and widths(trained) and widths(trained) <= widths(free)
    }
    if not contrasts:
        raise NotTestable(
            "needs a trained remedy among mitigations, and at all its widths a free one (post)"
        )
    return best_of_both(contrasts, side)


@claim("training_beats_free_fvo", -1, "debiased FVO, best trained remedy less best free one")
def _training_fairer(evidence: Evidence) -> Contrast:
    """The best trained remedy has a lower FVO than the best free one."""
    return _trained_less_free(evidence, evidence.sampled.debiased, -1)


@claim(
    "training_beats_free_worst", +1,
    "accuracy of the worst group plus overall accuracy, best trained remedy less best free one",
)  # fmt: skip
def _training_spares(evidence: Evidence) -> Contrast:
    """The best trained remedy is better for the worst group than the best free one.

    At equal accuracy: what a remedy changes in overall accuracy counts point for point beside what
    it changes for the worst group.
    """
    return _trained_less_free(evidence, _worst(evidence) + evidence.sampled.overall, +1)


@claim("quantization_adds", +1, "debiased FVO, logit-adjusted networks less the same in fp32")
def _left_by_adjustment(evidence: Evidence) -> Contrast:
    """Quantization adds to the disparity that logit adjustment leaves."""
    points = {(point.method, point.bits) for point in evidence.sampled.points}
    adjusting = {
        name: method["post"]
        for name, method in evidence.study.all_methods().items()
        if [part["kind"] for part in method.get("post", [])] == ["logit_adjustment"]
        and not evidence.study.retrained(name)
    }
    pairs = (
        (narrow, full)
        for narrow, full in permutations(adjusting, 2)
        if adjusting[narrow] == adjusting[full]
        and (full, FULL_PRECISION) in points
        and any((narrow, bits) in points for bits in evidence.study.bits)
    )
    narrow, full = next(pairs, ("", ""))
    if not narrow:
        raise NotTestable(
            "needs post: logit_adjustment at integer widths, and with weights: {format: float32}"
        )
    values, widths = evidence.sampled.debiased, evidence.bits(narrow)

    def added(model: str) -> Floats:
        each = [evidence.at(values, model, narrow, bits) for bits in widths]
        start = evidence.at(values, model, full, FULL_PRECISION)
        return np.asarray(np.mean(each, axis=0) - start)

    return Contrast(evidence.over_models(added), f"{narrow} − {full}")


@claim(
    "augmented_fairer", -1, "debiased FVO, augmented less plain training, both quantized",
    family="footing",
)  # fmt: skip
def _augmentation(evidence: Evidence) -> Contrast:
    """Data augmentation makes quantized networks fairer."""
    augmented = evidence.first(
        lambda m: (
            kind(m, "training") == "none"
            and not m.get("post")
            and kind(m, "recipe", "augmentation") != "none"
        ),
        "a method with an augmentation in its recipe and no QAT",
    )
    return evidence.between(evidence.sampled.debiased, augmented, evidence.reference)


@claim(
    "weighted_rounding", +1, "accuracy of the worst group, weighted rounding less its control",
    family="footing",
)  # fmt: skip
def _weighted_rounding(evidence: Evidence) -> Contrast:
    """Rounding that spares the worst-off group helps it more than with groups dealt at random."""
    methods, weighting = evidence.study.all_methods(), ("weights", "rounding", "weighting")
    spared = [
        name
        for name, method in methods.items()
        if kind(method, *weighting) == "worst_group" and not part(method, *weighting, "shuffle")
    ]
    pairs = [(name, control) for name in spared for control in evidence.study.controls_of(name)]
    if not pairs:
        control = ", shuffle: true" if spared else ""
        raise NotTestable(f"needs a rounding with weighting: {{kind: worst_group{control}}}")
    return evidence.between(_worst(evidence), *pairs[0])


def _worst(evidence: Evidence) -> Floats:
    """Accuracy of the worst group, (1 + B, P, S)."""
    sampled = evidence.sampled
    return worst_group(sampled.accuracy, sampled.division.counted).accuracy


def _column(evidence: Evidence, column: str, *, aware: bool) -> str:
    """Name of a method whose bits are shared with an eye on groups, or uniform, and so trained.

    The columns are those of one footing: ``untrained``; ``tuned``, which is QAT from the plain fp32
    network; ``fair``, the same with a loss that looks at groups. Uniform and untrained is the
    reference.
    """
    plain = evidence.study.methods[evidence.reference]["recipe"]

    def wanted(method: Mapping[str, Any]) -> bool:
        policy, recipe = method["policy"], method["recipe"]
        tuned = kind(method, "training") == "qat"
        by_group = recipe["during"] == "qat" and "by" in recipe["loss"]
        spares = "reduce" in policy and kind(policy, "reduce") != "mean"
        spares |= "objective" in policy and kind(policy, "objective") == "worst_group"
        here = {
            "untrained": not tuned and recipe == plain,
            "tuned": tuned and recipe == plain,
            "fair": tuned and by_group,
        }[column]
        return here and spares == aware and aware == _is_mixed(method) and not method.get("post")

    if column == "untrained" and not aware:
        return evidence.reference
    bits = "a policy that looks at groups" if aware else "uniform widths"
    return evidence.first(wanted, f"a method with {bits} in the column {column}")


def _published(evidence: Evidence, *, bits: int, overall: bool = False) -> Contrast:
    """Compare as published: trained and fair at 4 bits on average, less uniform and untrained.

    Of the worst group against 0, or of all samples against −margin.
    """
    aware, plain = _column(evidence, "fair", aware=True), evidence.reference
    if 4 not in evidence.bits(aware) or bits not in evidence.bits(plain):
        raise NotTestable(f"needs {aware} at 4 bits and {plain} at {bits}")
    values = evidence.sampled.overall if overall else _worst(evidence)

    def difference(model: str) -> Floats:
        return evidence.at(values, model, aware, 4) - evidence.at(values, model, plain, bits)

    boundary = -evidence.study.statistics.margin if overall else 0.0
    compared = f"{aware} at 4 − {plain} at {bits}"
    return Contrast(evidence.over_models(difference), compared, boundary)


def _widths(evidence: Evidence, *, column: str) -> Contrast:
    aware, uniform = (_column(evidence, column, aware=aware) for aware in (True, False))
    return evidence.between(_worst(evidence), aware, uniform)


claim(
    "aware_recovers", +1,
    "overall accuracy, group-aware 4 bits, tuned and fair, less uniform 8 bits, against −margin",
    "Group-aware widths of 4 bits on average keep the accuracy of uniform 8 bits.",
    family="footing", scopes=whole,
)(partial(_published, bits=8, overall=True))  # fmt: skip
for _bits in (8, 4):
    claim(
        f"aware_beats_{_bits}", +1,
        f"accuracy of the worst group, group-aware 4 bits, tuned and fair, less uniform {_bits}",
        f"Group-aware widths of 4 bits on average are better for the worst group than uniform "
        f"{_bits} bits without training.",
        family="footing", scopes=whole,
    )(partial(_published, bits=_bits))  # fmt: skip
for _name, _words in {
    "untrained": "without training",
    "tuned": "with the same fine-tuning",
    "fair": "with the same fine-tuning and fairness loss",
}.items():
    claim(
        f"widths_{_name}", +1,
        f"accuracy of the worst group, group-aware less uniform widths, {_words}",
        f"Group-aware widths are better for the worst group than uniform ones, {_words}.",
        family="footing",
    )(partial(_widths, column=_name))  # fmt: skip


@claim(
    "training_adds_more", +1,
    "accuracy of the worst group, gain of fair tuning less gain of group-aware widths",
    family="footing",
)  # fmt: skip
def _training_adds(evidence: Evidence) -> Contrast:
    """Fine-tuning with a fairness loss does more for the worst group than group-aware widths."""
    fair, aware = _column(evidence, "fair", aware=False), _column(evidence, "untrained", aware=True)
    return evidence.between(_worst(evidence), fair, aware)  # both gains are over the reference


def rank_correlation(evidence: Evidence, x: str, y: str) -> Ranks:
    """Correlate two columns over groups, averaged over seeds."""
    means = evidence.steps.dropna(subset=[x, y]).groupby("group")[[x, y]].mean()
    if len(means) < 2:
        raise NotTestable(f"needs {x} and {y} of two groups (curvature:)")
    return Ranks(means[x], means[y], f"{x}, {y}")


def rank_trend(evidence: Evidence, y: str) -> Trend:
    """Correlate a column with the width in each group of a network, and average over groups."""
    rows = evidence.steps.dropna(subset=[y])
    if rows["bits"].nunique() < 3:
        raise NotTestable(f"needs {y} at three widths, fp32 among them")
    within = rows.groupby(["model", "seed", "group"])
    each = within[["bits", y]].corr("spearman").xs("bits", level=-1)[y].dropna()
    if each.empty:
        raise NotTestable(f"needs networks whose {y} varies with the width")
    return Trend(each.groupby(["model", "seed"]).mean().to_numpy(), f"bits, {y}")


def _flow(name: str, side: int, text: str, test: Callable[..., Comparison], **columns: str) -> None:
    """Declare a rank correlation of two columns, or of one column and the width."""
    over, scopes = {
        rank_correlation: ("over groups", each_network),
        rank_trend: ("over widths within groups, mean", whole),
    }[test]
    estimand = f"Spearman's ρ {over}: {' and '.join(columns.values())}"
    options = {"scopes": scopes, "family": "impact flow", "scale": "rank correlation"}
    claim(name, side, estimand, text, **options)(partial(test, **columns))


_flow(
    "gradient_by_size", -1, "A smaller group has a larger gradient norm.",
    rank_correlation, x="n_train", y="gradient_plain",
)  # fmt: skip
_flow(
    "gradient_by_size_at_equal_n", -1,
    "A smaller group has a larger gradient norm, measured on equally many samples of each.",
    rank_correlation, x="n_train", y="gradient_equal_n",
)  # fmt: skip
_flow(
    "eigenvalue_by_accuracy", -1, "Less accuracy goes with a larger eigenvalue.",
    rank_correlation, x="accuracy", y="largest_eigenvalue",
)  # fmt: skip
_flow(
    "eigenvalue_by_confidence", -1, "A lower top probability goes with a larger eigenvalue.",
    rank_correlation, x="top_probability", y="largest_eigenvalue",
)  # fmt: skip
_flow(
    "eigenvalue_by_gradient", +1, "Gradient norm and eigenvalue rise together.",
    rank_correlation, x="gradient_plain", y="largest_eigenvalue",
)  # fmt: skip
_flow(
    "logit_variance_falls", +1, "The variance of the logits falls with the width.",
    rank_trend, y="logit_variance",
)  # fmt: skip
_flow(
    "eigenvalue_grows", -1, "The largest eigenvalue grows as the width falls.",
    rank_trend, y="largest_eigenvalue",
)  # fmt: skip
