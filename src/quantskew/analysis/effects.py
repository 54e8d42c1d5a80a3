"""From the predictions of all variants: how each does for each group, and against what.

Two tables come out. ``levels`` says where a variant stands: accuracy of every group, FVO, worst
group, with an interval. ``effects`` says what changed against a reference on the same samples: the
fp32 baseline for every variant, plain post-training quantization of the same width for every
remedy, and the control of a remedy for channels, whose widths are dealt at random.
"""

import zlib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from quantskew import tables
from quantskew.analysis.study import Statistics, Study
from quantskew.data.groups import Grouping, is_label
from quantskew.fairness.certificate import certificate, smallest_detectable_drop
from quantskew.fairness.metrics import fvo, worst_group
from quantskew.fairness.null import debiased_fvo, fvo_null
from quantskew.fairness.paired import compare_accuracy, compare_parity, flips, holm
from quantskew.fairness.resampling import (
    Effect,
    accuracies,
    basic_interval,
    observe,
    placed,
    resampled,
    right,
    tabulate,
)
from quantskew.names import BASELINE, FULL_PRECISION, WHOLE, Point, Variant
from quantskew.schemas import POINT, VARIANT

FAMILY = ["dataset", "model", "method", "reference", "attribute", "metric"]


class Predictions(NamedTuple):
    """What every point of a data set and a model says of every test sample.

    ``labels`` is (n,), a value of ``predicted`` (seeds, n) in the order of ``seeds``.
    """

    labels: np.ndarray
    n_classes: int  # of the network: test samples may lack some
    seeds: list[int]
    predicted: dict[Point, np.ndarray]


class Frames(NamedTuple):
    """Rows of the tables of those names."""

    levels: pd.DataFrame
    effects: pd.DataFrame
    certificates: pd.DataFrame


def read_predictions(folder: Path) -> tuple[Predictions, np.ndarray]:
    """Read the predicted classes of all variants of a folder, and the ids of the samples."""
    answers: dict[Variant, np.ndarray] = {}
    for path in sorted((folder / "predictions").iterdir()):
        rows = tables.read("predictions", path, [*VARIANT, "id", "label", "prediction"]).to_pandas()
        answers[Variant(*rows.loc[0, list(VARIANT)])] = rows["prediction"].to_numpy()
    n_classes = len(tables.read("predictions", path, ["logits"])["logits"][0])
    seeds = sorted({variant.seed for variant in answers})
    points = sorted({Point(*(getattr(variant, name) for name in POINT)) for variant in answers})
    predicted = {
        point: np.stack([answers[Variant(seed=seed, **point._asdict())] for seed in seeds])
        for point in points
    }
    return Predictions(rows["label"].to_numpy(), n_classes, seeds, predicted), rows["id"].to_numpy()


def references(study: Study, point: Point, points: Container[Point]) -> list[tuple[str, int]]:
    """Methods and widths that a point is compared with, of those there are."""
    if point.method == BASELINE:
        return []
    plain = study.reference
    if point.method == plain or point._replace(method=plain) not in points:
        return [(BASELINE, FULL_PRECISION)]
    beside = [plain, *_shuffled(study, point.method)]
    same_width = [(m, point.bits) for m in beside if point._replace(method=m) in points]
    return [(BASELINE, FULL_PRECISION), *same_width]


def _shuffled(study: Study, name: str) -> list[str]:
    """Names of the controls of a method: alike, but for widths dealt to channels at random."""
    methods = study.all_methods()
    policy = methods[name]["policy"] if name in methods else {}
    unit = policy.get("unit", {})
    if unit.get("shuffle", True):  # a control itself, or no choice of channels
        return []
    control = {**methods[name], "policy": {**policy, "unit": {**unit, "shuffle": True}}}
    return [other for other, method in methods.items() if method == control]


def analyze(predictions: Predictions, divisions: list[Grouping], study: Study) -> Frames:
    """Compute the tables ``levels``, ``effects`` and ``certificates`` of a data set and a model.

    Parameters
    ----------
    divisions
        Ways of dividing the same test samples, in the same order.
    """
    tasks = [
        delayed(_one)(
            point,
            {
                name: predictions.predicted[point._replace(method=name, bits=bits)]
                for name, bits in references(study, point, predictions.predicted)
            },
            predictions._replace(predicted={point: predictions.predicted[point]}),
            division,
            study.statistics,
        )
        for point in predictions.predicted
        for division in divisions
    ]
    parts = Parallel(n_jobs=-1, return_as="generator")(tasks)
    bar = tqdm(parts, desc="analyze", total=len(tasks), unit="comparison", dynamic_ncols=True)
    levels, effects, certificates = (
        pd.concat(kind, ignore_index=True) for kind in zip(*bar, strict=True)
    )
    adjusted = effects.groupby(FAMILY)["p_value"].transform(lambda p: holm(p.to_numpy()))
    effects = effects.assign(p_holm=adjusted)
    effects["verdict"] = verdicts(effects, study.statistics.alpha)
    effects["detectable"] = detectable(effects, certificates, study)
    return Frames(levels, effects, certificates)


HIGHER_IS_WORSE = (
    "fvo",
    "demographic_parity",
    "equalized_odds",
    "equal_opportunity",
    "predictive_equality",
    "recall_gap",
)


def verdicts(effects: pd.DataFrame, alpha: float) -> pd.Series:
    """Say of each change whether it is for the worse, for the better, or not detectable."""
    sign = np.where(effects["metric"].str.startswith(HIGHER_IS_WORSE), -1, 1)
    better = sign * effects["change"] > 0
    found = effects["p_holm"] <= alpha
    return pd.Series(
        np.select(
            [effects["p_holm"].isna(), found & better, found & ~better],
            ["undefined", "better", "worse"],
            "no detectable effect",
        ),
        effects.index,
    )


def detectable(effects: pd.DataFrame, certificates: pd.DataFrame, study: Study) -> pd.Series:
    """Find the smallest drop that a test would probably have seen where none was detected.

    Of a single network, by the exact McNemar test with a chance of 80 %, at alpha divided among
    the tests of the family (Holm asks no more of any), if answers change as often as they do in
    the mean over seeds. For the first grouping against fp32; NaN elsewhere.
    """
    asked = effects[
        (effects["attribute"] == effects["dataset"].map(lambda d: study.groups_of(d)[0]))
        & (effects["metric"] == "accuracy")
        & (effects["reference"] == BASELINE)
        & (effects["verdict"] == "no detectable effect")
    ]
    key = [*POINT, "attribute", "group"]
    seen = certificates.assign(changed=certificates["lost"] + certificates["gained"])
    seen = seen.groupby(key)[["n", "changed"]].mean()
    levels = study.statistics.alpha / effects.groupby(FAMILY)["p_value"].transform("count")
    drops = []
    for row, place in zip(asked.index, asked[key].itertuples(index=False, name=None), strict=True):
        n, changed = seen.loc[place]
        drops.append(smallest_detectable_drop(int(n), changed / n, alpha=levels[row]))
    return pd.Series(drops, asked.index, dtype=float).reindex(effects.index)


def _one(
    point: Point,
    compared: Mapping[str, np.ndarray],
    predictions: Predictions,
    division: Grouping,
    settings: Statistics,
) -> Frames:
    labels = predictions.labels
    predicted = predictions.predicted[point]
    correct = predicted == labels
    # the draws of a comparison depend on its name alone, not on what else the study holds
    name = "/".join(map(str, (*point, division.attribute)))
    rng = np.random.default_rng([settings.seed, zlib.crc32(name.encode())])
    common = {**point._asdict(), "attribute": division.attribute}
    options: dict[str, Any] = {
        "counted": division.counted,
        "draws": settings.draws,
        "confidence": 1 - settings.alpha,
        "rng": rng,
    }
    levels = _levels(correct, division, settings, rng)
    effects: list[pd.DataFrame] = []
    certificates: list[pd.DataFrame] = []
    for reference, others in compared.items():
        before = others == labels
        found = compare_accuracy(before, correct, division.codes, **options)
        if reference == BASELINE:
            certificates += _certificates(predictions, point, others, division, settings)
            # a second comparison would cost more than all others and answer the same question
            if not is_label(division.codes, labels):
                found |= compare_parity(
                    labels, others, predicted, division.codes,
                    n_classes=predictions.n_classes, **options,
                )  # fmt: skip
        effects += (rows.assign(reference=reference) for rows in _rows(found, division.names))
    return Frames(
        levels.assign(**common),
        *(
            pd.concat(rows).assign(**common) if rows else pd.DataFrame()
            for rows in (effects, certificates)
        ),
    )


def _levels(
    correct: np.ndarray, division: Grouping, settings: Statistics, rng: np.random.Generator
) -> pd.DataFrame:
    _, codes, names, counted = division
    places, every = placed(codes, len(names))
    sizes = every[:-1]
    cells = tabulate(correct.astype(np.int64), places, len(every))

    def statistics(totals: np.ndarray) -> dict[str, np.ndarray]:  # (B, S, G + 1, 1) to (B, S, ...)
        accuracy, overall = accuracies(totals, every)
        return {
            "accuracy": accuracy,
            "overall": overall,
            "fvo": fvo(accuracy, counted),
            "worst_group": worst_group(accuracy, counted).accuracy,
        }

    observed = {name: array[0] for name, array in statistics(observe(cells, right)).items()}
    draws = statistics(resampled(cells, right, settings.draws, rng))
    chance = fvo_null(correct, codes, counted=counted, draws=settings.draws, rng=rng)
    further = {
        "chance_mean": chance.mean,
        "chance_upper": chance.upper,
        "p_chance": chance.p_value,
        "debiased": np.mean([debiased_fvo(row, sizes, counted) for row in observed["accuracy"]]),
    }
    frames = []
    for metric, by_seed in observed.items():
        value = by_seed.mean(0)
        low, high = basic_interval(value, draws[metric].mean(1), 1 - settings.alpha)
        spread = by_seed.std(0, ddof=1) if len(by_seed) > 1 else np.full_like(value, np.nan)
        by_group = metric == "accuracy"
        frame = pd.DataFrame(
            {
                "group": names if by_group else WHOLE,
                "n": sizes if by_group else [(every if metric == "overall" else sizes).sum()],
                "counted": counted if by_group else True,
                "value": np.atleast_1d(value),
                "low": np.clip(np.atleast_1d(low), 0, 1),
                "high": np.clip(np.atleast_1d(high), 0, 1),
                "seed_sd": np.atleast_1d(spread),
                **(further if metric == "fvo" else dict.fromkeys(further, np.nan)),
            }
        )
        frames.append(frame.assign(metric=metric))
    return pd.concat(frames)


def _rows(effects: Mapping[str, Effect], names: list[str]) -> Iterator[pd.DataFrame]:
    for metric, effect in effects.items():
        by_group = metric in ("group", "against_rest")
        columns = pd.DataFrame({key: np.atleast_1d(v) for key, v in effect._asdict().items()})
        columns = columns.rename(columns={"estimate": "change"})
        if metric != "against_rest":  # a share changes by one at most, a difference of two by two
            columns[["low", "high"]] = columns[["low", "high"]].clip(-1, 1)
        columns["group"] = names if by_group else WHOLE
        columns["metric"] = "accuracy" if metric == "group" else metric
        yield columns


def _certificates(
    predictions: Predictions,
    point: Point,
    before: np.ndarray,
    division: Grouping,
    settings: Statistics,
) -> Iterator[pd.DataFrame]:
    _, codes, names, counted = division
    sizes = division.sizes
    labels, after = predictions.labels, predictions.predicted[point]
    for seed, one, other in zip(predictions.seeds, before, after, strict=True):
        lost, gained, still_wrong = flips(labels, one, other, codes, len(names))
        bounds = certificate(lost, gained, sizes, counted=counted, alpha=settings.alpha).groups
        rows = pd.DataFrame({"group": names, "n": sizes, "lost": lost, "gained": gained})
        yield rows.assign(seed=seed, still_wrong=still_wrong, bound=bounds)
