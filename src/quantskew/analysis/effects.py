"""From the predictions of all networks: how each treats every group, and against what.

Three tables come out. ``levels`` says where a point of the study stands in every metric of the
catalogue; ``effects`` says what changed against a reference on the same samples: the fp32 baseline
for every point, the study's reference of the same width for every other method, and the control of
a remedy for channels, whose widths are dealt at random; ``certificates`` bounds what groups lost.

Comparing two points takes seconds and depends on their answers alone, so :func:`compare_point` can
run as a cell of its own. What depends on all comparisons together, the adjustment for their number
and the verdicts, is cheap and stays in :func:`joined`.
"""

import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd

from quantskew import tables
from quantskew.analysis.study import Statistics, Study
from quantskew.data.groups import Grouping, Groups, groupings
from quantskew.data.people import read_people
from quantskew.fairness.catalogue import CATALOGUE, find, values
from quantskew.fairness.certificate import certificate, smallest_detectable_drop
from quantskew.fairness.paired import Measured, flips, holm, measure
from quantskew.fairness.parity import Answers
from quantskew.files import replacing
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


class Options(TypedDict):
    """How sure a measurement is to be."""

    draws: int
    confidence: float
    rng: np.random.Generator


class Frames(NamedTuple):
    """Rows of the tables of those names."""

    levels: pd.DataFrame
    effects: pd.DataFrame
    certificates: pd.DataFrame


def read_answers(paths: Iterable[Path]) -> tuple[pd.DataFrame, dict[Variant, np.ndarray]]:
    """Read what networks answer, without their logits.

    Parameters
    ----------
    paths
        Tables ``predictions`` of one network each.

    Returns
    -------
    samples, answers
        One row a sample with its ``id`` and ``label``; and the classes that each network predicts,
        (n,) in the same order.

    Raises
    ------
    TableError
        When a network answers other samples than the first one does.
    """
    first: tuple[Path, pd.DataFrame] | None = None
    answers = {}
    for path in paths:
        rows = tables.read("predictions", path, [*VARIANT, "id", "label", "prediction"]).to_pandas()
        samples = rows[["id", "label"]]
        first = first or (path, samples)
        if not samples.equals(first[1]):
            raise tables.TableError(f"{path} answers other samples than {first[0]}")
        answers[Variant(*rows.loc[0, list(VARIANT)])] = rows["prediction"].to_numpy()
    if first is None:
        raise tables.TableError("there are no predictions to read")
    return first[1], answers


def read_predictions(
    points: Mapping[Point, Mapping[int, Path]],
) -> tuple[Predictions, np.ndarray]:
    """Read the predicted classes of the networks of a data set and a model.

    Parameters
    ----------
    points
        Tables ``predictions`` of each point by seed; all points have the same seeds.

    Returns
    -------
    The predictions, and the ids of the samples, (n,).
    """
    paths = [path for by_seed in points.values() for path in by_seed.values()]
    samples, answers = read_answers(paths)
    n_classes = len(tables.read("predictions", paths[0], ["logits"])["logits"][0])
    predicted = {
        point: np.stack([answers[Variant(seed=seed, **point._asdict())] for seed in by_seed])
        for point, by_seed in points.items()
    }
    seeds = [*next(iter(points.values()))]
    read = Predictions(samples["label"].to_numpy(), n_classes, seeds, predicted)
    return read, samples["id"].to_numpy()


def point_of(variant: Variant) -> Point:
    """Return the point of the study that a network belongs to."""
    return Point(*(getattr(variant, name) for name in POINT))


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
    labels, n_classes, seeds, predicted = predictions

    def networks(point: Point, division: Grouping) -> Networks:
        of = (division.codes, division.counted, n_classes)
        return Networks(seeds, Answers(labels, predicted[point], *of))

    parts = [
        compare(
            point,
            networks(point, division),
            {
                name: networks(point._replace(method=name, bits=bits), division)
                for name, bits in references(study, point, predicted)
            },
            division,
            study.statistics,
        )
        for point in predicted
        for division in divisions
    ]
    return joined(parts, study)


def compare_point(
    folder: Path,
    *,
    answers: list[Path],
    references: dict[str, list[Path]],
    samples: Path,
    grouping: str,
    groups: Groups,
    statistics: Statistics,
) -> None:
    """Compare a point with its references for one grouping, as a cell of its own.

    Parameters
    ----------
    folder
        Where ``levels.parquet``, ``effects.parquet`` and ``certificates.parquet`` are written, for
        :func:`read_frames` and :func:`joined`.
    answers
        Tables ``predictions`` of the point, one a seed.
    references
        The same of each reference by the name of its method, as :func:`references` lists them. A
        seed that either lacks is left out of the comparison.
    samples
        Table of the samples, of which the images are not read.
    grouping, groups, statistics
        What to divide by, and how; ``groups.needed_by(grouping)`` keeps other groupings from
        changing the cell.
    """
    people = read_people(samples).part("test")
    place, predicted = read_answers([*answers, *chain.from_iterable(references.values())])
    order = pd.Series(np.arange(len(people.ids)), people.ids).loc[place["id"]].to_numpy()
    (division,) = groupings(people.attributes.iloc[order], [grouping], groups)

    def networks(method: str) -> Networks:
        own = {v.seed: p for v, p in sorted(predicted.items()) if v.method == method}
        of = (division.codes, division.counted, len(people.classes))
        return Networks([*own], Answers(place["label"].to_numpy(), np.stack([*own.values()]), *of))

    point = point_of(next(iter(predicted)))
    others = {name: networks(name) for name in references}
    frames = compare(point, networks(point.method), others, division, statistics)
    for name, rows in frames._asdict().items():
        with replacing(folder / f"{name}.parquet") as temporary:
            rows.to_parquet(temporary, index=False)


def read_frames(folders: Iterable[Path]) -> Iterator[Frames]:
    """Read what cells of :func:`compare_point` wrote."""
    for folder in folders:
        yield Frames(*(pd.read_parquet(folder / f"{name}.parquet") for name in Frames._fields))


def joined(parts: Iterable[Frames], study: Study) -> Frames:
    """Put comparisons together, adjust their p-values for their number, and judge them."""
    levels, effects, certificates = (
        pd.concat([rows for rows in kind if len(rows)], ignore_index=True)
        if any(map(len, kind))
        else pd.DataFrame()
        for kind in zip(*parts, strict=True)
    )
    adjusted = effects.groupby(FAMILY)["p_value"].transform(lambda p: holm(p.to_numpy()))
    effects = effects.assign(p_holm=adjusted)
    effects["verdict"] = verdicts(effects, study.statistics.alpha)
    effects["detectable"] = detectable(effects, certificates, study)
    return Frames(levels, effects, certificates)


def verdicts(effects: pd.DataFrame, alpha: float) -> pd.Series:
    """Say of each change whether it is for the worse, for the better, or not detectable."""
    better = effects["metric"].map(lambda name: find(name).sign) * effects["change"] > 0
    detected = effects["p_holm"] <= alpha
    return pd.Series(
        np.select(
            [effects["p_holm"].isna(), detected & better, detected & ~better],
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


class Networks(NamedTuple):
    """The networks of a point, of those training seeds."""

    seeds: list[int]
    answers: Answers

    def at(self, seeds: list[int]) -> "Networks":
        """Those of some seeds alone."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return Networks(seeds, replace(self.answers, predictions=self.answers.predictions[rows]))


def compare(
    point: Point,
    networks: Networks,
    references: Mapping[str, Networks],
    division: Grouping,
    settings: Statistics,
) -> Frames:
    """Measure a point, and its change from each reference on the seeds that both have."""
    # the draws of a comparison depend on its name alone, not on what else the study holds
    name = "/".join(map(str, (*point, division.attribute)))
    rng = np.random.default_rng([settings.seed, zlib.crc32(name.encode())])
    place = {**point._asdict(), "attribute": division.attribute}
    options: Options = {"draws": settings.draws, "confidence": 1 - settings.alpha, "rng": rng}
    whole: dict[str, Measured] = {}
    effects, certificates = [], []
    for reference, others in references.items():
        seeds = [seed for seed in networks.seeds if seed in others.seeds]
        if not seeds:
            continue
        after, before = networks.at(seeds), others.at(seeds)
        measured = measure(after.answers, before.answers, **options)
        if seeds == networks.seeds:
            whole = whole or measured
        effects.append(_changes(measured, division).assign(**place, reference=reference))
        if reference == BASELINE:
            certificates.append(_certificates(before, after, division, settings).assign(**place))
    levels = _levels(whole or measure(networks.answers, **options), networks.answers, division)
    return Frames(
        levels.assign(**place),
        *(pd.concat(rows) if rows else pd.DataFrame() for rows in (effects, certificates)),
    )


def _levels(measured: Mapping[str, Measured], answers: Answers, division: Grouping) -> pd.DataFrame:
    whole, blocks = values(answers), []
    for metric in CATALOGUE.values():
        one = measured[metric.name]
        by_seed = whole[metric.name]
        value = by_seed.mean(0)
        by_group = metric.of == "each group"
        everyone = len(answers.labels) if metric.of == "everyone" else division.sizes.sum()
        block = {
            "metric": metric.name,
            "group": division.names if by_group else WHOLE,
            "n": division.sizes if by_group else everyone,
            "counted": division.counted if by_group else True,
            "value": value,
            "low": np.clip(one.low, *metric.span),
            "high": np.clip(one.high, *metric.span),
            "seed_sd": by_seed.std(0, ddof=1) if len(by_seed) > 1 else np.nan,
            "chance_mean": one.chance.mean,
            "chance_upper": one.chance.upper,
            "p_chance": one.chance.p_value,
            "debiased": np.mean(metric.debiased(answers.counts)) if metric.debiased else np.nan,
            "note": one.reason or (answers.left_out if metric.by_class else ""),
        }
        blocks.append((value.size, block))
    return _stacked(blocks)


def _changes(measured: Mapping[str, Measured], division: Grouping) -> pd.DataFrame:
    blocks = []
    for metric in CATALOGUE.values():
        change = measured[metric.name].effect
        assert change is not None  # there is a reference
        farthest = metric.span[1] - metric.span[0]
        block = {
            "metric": metric.name,
            "group": division.names if metric.of == "each group" else WHOLE,
            "change": change.estimate,
            **change._asdict(),
            "low": np.clip(change.low, -farthest, farthest),
            "high": np.clip(change.high, -farthest, farthest),
        }
        del block["estimate"]
        blocks.append((change.estimate.size, block))
    return _stacked(blocks)


def _stacked(blocks: list[tuple[int, dict[str, Any]]]) -> pd.DataFrame:
    """Rows of several blocks, each of so many rows; pandas takes 20 times as long to join them."""
    return pd.DataFrame(
        {
            column: np.concatenate([np.broadcast_to(one[column], size) for size, one in blocks])
            for column in blocks[0][1]
        }
    )


def _certificates(
    before: Networks, after: Networks, division: Grouping, settings: Statistics
) -> pd.DataFrame:
    _, codes, names, counted = division
    sizes, labels = division.sizes, after.answers.labels
    parts = []
    pairs = zip(after.seeds, before.answers.predictions, after.answers.predictions, strict=True)
    for seed, one, other in pairs:
        lost, gained, still_wrong = flips(labels, one, other, codes, len(names))
        bounds = certificate(lost, gained, sizes, counted=counted, alpha=settings.alpha).groups
        rows = pd.DataFrame({"group": names, "n": sizes, "lost": lost, "gained": gained})
        parts.append(rows.assign(seed=seed, still_wrong=still_wrong, bound=bounds))
    return pd.concat(parts)
