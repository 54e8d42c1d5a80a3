"""From the predictions of all networks: how each treats every group, and against what.

Three tables come out. ``levels`` says where a point of the study stands in every metric of the
catalogue; ``effects`` says what changed against a reference on the same samples: the fp32 baseline
for every point, the study's reference of the same width for every other method, the control of a
remedy whose widths or groups are dealt at random, and the free remedies of the same width for
what was trained; ``certificates`` bounds what groups lost.

Comparing two points depends on their answers alone, so :func:`compare_point` can run as a cell of
its own. What depends on all comparisons together, the adjustment for their number and the verdicts
(:mod:`quantskew.fairness.verdicts`), is cheap and stays in :func:`joined`.

A change is *about* one of two things. A method that retrains gives other networks with every seed,
so what is said of it is said over seeds. What merely quantizes the networks of the reference is
judged on these very networks, and so is everything in a study of one seed.
"""

import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri

from quantskew import tables
from quantskew.analysis.study import Statistics, Study
from quantskew.data.groups import Grouping, Groups, groupings, unit_codes
from quantskew.data.people import read_people
from quantskew.fairness.bounds import Pair
from quantskew.fairness.catalogue import CATALOGUE, Metric, find
from quantskew.fairness.certificate import certified_losses, is_a_basis
from quantskew.fairness.gaps import may_lose_most
from quantskew.fairness.limits import change_limits, changes
from quantskew.fairness.paired import Measured, flips, holm, measure
from quantskew.fairness.parity import Answers
from quantskew.fairness.verdicts import (
    BETTER,
    CANNOT_TELL,
    deciding_samples,
    deciding_seeds,
    false_discovery_rate,
    verdicts,
)
from quantskew.files import replacing
from quantskew.layout import empty
from quantskew.names import BASELINE, FULL_PRECISION, WHOLE, Point, Variant
from quantskew.schemas import POINT, VARIANT
from quantskew.units import units_by_group

HEADLINE, EXPLORATORY = "headline", "exploratory"
OUTCOMES = ("overall", "fvo", "worst_group")
"""Metrics whose changes on the first grouping are the headline outcomes of a study."""
METHOD, NETWORKS = "the method, over seeds", "these networks"
COLLAPSED = 0.95
"""From this share of answers that are one class on, a network has collapsed."""


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


def read_answers(paths: Iterable[Path]) -> tuple[pd.DataFrame, dict[Variant, np.ndarray]]:
    """Read the tables ``predictions`` of one network each, without their logits.

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
    points: Mapping[Point, Mapping[int, Path]], n_classes: int
) -> tuple[Predictions, np.ndarray]:
    """Read the predicted classes of a data set and a model, and the ids of the samples, (n,).

    ``points`` are tables ``predictions`` by seed; all points have the same seeds.
    """
    paths = [path for by_seed in points.values() for path in by_seed.values()]
    samples, answers = read_answers(paths)
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


def references(
    study: Study, point: Point, points: Container[Point], grouping: str
) -> list[tuple[str, int]]:
    """Methods and widths that a point is compared with, of those there are.

    Free remedies are among them on the first grouping alone, where remedies are priced.
    """
    base = (BASELINE, FULL_PRECISION)
    if point.method == BASELINE:
        return []
    plain = study.reference
    if point.method == plain or point._replace(method=plain) not in points:
        return [base]
    priced = study.retrained(point.method) and grouping == study.groups_of(point.dataset)[0]
    free = study.free_remedies() if priced else []
    beside = [plain, *study.controls_of(point.method), *free]
    return [base, *((m, point.bits) for m in beside if point._replace(method=m) in points)]


def analyze(
    predictions: Predictions,
    divisions: list[Grouping],
    study: Study,
    units: np.ndarray | None = None,
) -> Frames:
    """Compute the tables ``levels``, ``effects`` and ``certificates`` of a data set and a model.

    ``divisions`` and ``units`` (who each sample comes from, (n,); None where each is its own) are
    of the same test samples, in the same order.
    """
    labels, n_classes, seeds, predicted = predictions

    def networks(point: Point, division: Grouping) -> Networks:
        of = (division.codes, division.counted, n_classes, units)
        return Networks(seeds, Answers(labels, predicted[point], *of))

    parts = [
        compare(
            point,
            networks(point, division),
            {
                name: networks(point._replace(method=name, bits=bits), division)
                for name, bits in references(study, point, predicted, division.attribute)
            },
            division,
            study.statistics,
            retrained=study.retrained(point.method),
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
    retrained: bool,
    unit: str | None,
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
    retrained
        Whether the networks of the point come from a training of their own.
    unit
        Column of the samples that names who each comes from; None where each is its own unit.
    """
    people = read_people(samples).test
    place, predicted = read_answers([*answers, *chain.from_iterable(references.values())])
    attributes = people.attributes.set_axis(people.ids, axis=0).loc[place["id"]]
    units = unit_codes(attributes, unit)
    (division,) = groupings(attributes, [grouping], groups, units)

    def networks(method: str) -> Networks:
        own = {v.seed: p for v, p in sorted(predicted.items()) if v.method == method}
        of = (division.codes, division.counted, len(people.classes), units)
        return Networks([*own], Answers(place["label"].to_numpy(), np.stack([*own.values()]), *of))

    point = point_of(next(iter(predicted)))
    others = {name: networks(name) for name in references}
    frames = compare(
        point, networks(point.method), others, division, statistics, retrained=retrained
    )
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
    if effects.empty:  # nothing could be made of the fp32 networks
        return Frames(levels, empty("effects"), empty("certificates"))
    return Frames(levels, _judged(_adjusted(effects, study), study.statistics), certificates)


def _adjusted(effects: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Adjust the headline outcomes as one family by Holm, and give the rest its false discoveries.

    Of a study without any headline outcome, such as one of a single group, all is exploratory. So
    are comparisons with free remedies, each of which would make it harder to show what any method
    does against fp32 and the reference.
    """
    first = effects["dataset"].map(lambda dataset: study.groups_of(dataset)[0])
    headline = effects["metric"].isin(OUTCOMES) & (effects["attribute"] == first)
    headline &= ~effects["reference"].isin(study.free_remedies())
    p_value = effects["p_value"].astype(float)
    return effects.assign(
        family=np.where(headline, HEADLINE, EXPLORATORY),
        p_holm=holm(p_value.where(headline)),
        fdr=false_discovery_rate(p_value.where(~headline)),
    )


def _judged(effects: pd.DataFrame, settings: Statistics) -> pd.DataFrame:
    """Give every change its verdict, and say what would decide where these data cannot tell."""
    better_is_higher = effects["metric"].map(lambda name: find(name).sign) > 0
    p_value = effects["p_holm"].fillna(effects["fdr"])
    words = verdicts(
        effects["low"], effects["high"], settings.margin,
        p_value=p_value, alpha=settings.alpha, higher_is_better=better_is_higher,
    )  # fmt: skip
    # an interval that has decided waits for its own p to fall to the share of alpha that is its own
    apart = (effects["low"] > 0) | (effects["high"] < 0)
    own = effects["p_value"].astype(float)
    ratio = ndtri(settings.alpha * own / p_value / 2) / np.minimum(ndtri(own / 2), -1e-9)
    images = np.where(apart, np.ceil(effects["n"] * ratio**2), effects["decide"])
    decide = np.where(effects["about"] == METHOD, effects["decide"], images)
    by_class = effects["metric"].map(lambda name: find(name).by_class)
    hollow = by_class & effects["collapsed"] & (words == BETTER)
    return effects.assign(
        verdict=words,
        decide=np.where(words == CANNOT_TELL, decide, np.nan),
        note=np.where(hollow, "the network answers nearly one class, which evens out rates", ""),
    ).drop(columns=["n", "collapsed"])


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
    *,
    retrained: bool,
) -> Frames:
    """Measure a point, and its change from each reference on the seeds that both have."""
    place = {**point._asdict(), "attribute": division.attribute}
    metrics = [one for one in CATALOGUE.values() if settings.parity or not one.by_class]

    def measured_by(
        reference: str, *answers: Answers, over_seeds: bool = False
    ) -> dict[str, Measured]:
        # what is drawn for a comparison does not depend on what else is compared
        name = "/".join(map(str, (*place.values(), reference)))
        rng = np.random.default_rng([settings.seed, zlib.crc32(name.encode())])
        return measure(
            *answers, metrics=metrics, draws=settings.draws, confidence=1 - settings.alpha,
            rng=rng, over_seeds=over_seeds,
        )  # fmt: skip

    whole: dict[str, Measured] = {}
    effects, certificates = [], []
    for reference, others in references.items():
        seeds = [seed for seed in networks.seeds if seed in others.seeds]
        if not seeds:
            continue
        after, before = networks.at(seeds), others.at(seeds)
        over_seeds = retrained and len(seeds) > 1
        measured = measured_by(reference, after.answers, before.answers, over_seeds=over_seeds)
        if seeds == networks.seeds:
            whole = whole or measured
        rows = _changes(measured, Pair(before.answers, after.answers), division, settings)
        rows["about"] = METHOD if over_seeds else NETWORKS
        effects.append(rows.assign(**place, reference=reference))
        if reference == BASELINE:
            certificates.append(_certificates(before, after, division, settings).assign(**place))
    levels = _levels(whole or measured_by("", networks.answers), networks.answers, division)
    return Frames(
        levels.assign(**place),
        *(pd.concat(rows) if rows else pd.DataFrame() for rows in (effects, certificates)),
    )


def _levels(measured: Mapping[str, Measured], answers: Answers, division: Grouping) -> pd.DataFrame:
    blocks = []
    top, collapsed = answers.top_share, answers.collapses(COLLAPSED)
    for name, one in measured.items():
        metric, by_seed = find(name), one.value
        value = by_seed.mean(0)
        notes = [one.reason or (answers.left_out if metric.by_class else "")]
        if metric.bounds is None and not one.reason:
            notes.append("limits by the bootstrap: too narrow near a gap of zero")
        if metric.chance and answers.units is not None:
            notes.append("what chance would show is not known by unit")
        if collapsed and metric.by_class:
            notes.append(f"{top:.0%} of answers are one class")
        block = {
            "metric": metric.name,
            **_of(metric, answers, division),
            "value": value,
            "low": one.low,
            "high": one.high,
            "seed_sd": by_seed.std(0, ddof=1) if len(by_seed) > 1 else np.nan,
            "chance_mean": one.chance.mean,
            "chance_upper": one.chance.upper,
            "p_chance": one.chance.p_value,
            "debiased": np.mean(metric.debiased(answers.counts)) if metric.debiased else np.nan,
            "top_share": top,
            "collapsed": collapsed,
            "note": "; ".join(filter(None, notes)),
        }
        blocks.append((value.size, block))
    return _stacked(blocks)


def _of(metric: Metric, answers: Answers, division: Grouping) -> dict[str, Any]:
    """Name the groups of a metric, count their units, and say whether they are compared."""
    sizes = answers.counts.sizes.astype(np.int64)
    if metric.of == "each group":
        return {"group": division.names, "n": sizes, "counted": division.counted}
    n = len(answers.labels) if metric.of == "everyone" else sizes.sum()
    return {"group": WHOLE, "n": n, "counted": True}


def _changes(
    measured: Mapping[str, Measured], pair: Pair, division: Grouping, settings: Statistics
) -> pd.DataFrame:
    blocks, seeds = [], len(pair.after.predictions)
    simultaneous = {"high_all": np.nan, "may_lose_most": False}
    for name, one in measured.items():
        metric, change = find(name), one.effect
        assert change is not None  # there is a reference
        farthest = metric.span[1] - metric.span[0]
        own = _of(metric, pair.after, division)
        low, high = (np.clip(end, -farthest, farthest) for end in (change.low, change.high))
        images = deciding_samples(own["n"], change.estimate, low, high, settings.margin)
        over_seeds = deciding_seeds(
            seeds, change.estimate, change.seed_sd, change.common_sd, settings.margin,
            alpha=settings.alpha,
        )  # fmt: skip
        block = {
            "metric": metric.name,
            **own,
            "change": change.estimate,
            "low": low,
            "high": high,
            "p_value": change.p_value,
            "seed_sd": change.seed_sd,
            **(_losses(pair, settings.alpha) if metric.name == "accuracy" else simultaneous),
            "decide": np.where(np.isnan(change.common_sd), images, over_seeds),
            "collapsed": pair.after.collapses(COLLAPSED),
        }
        blocks.append((change.estimate.size, block))
    return _stacked(blocks)


def _losses(pair: Pair, alpha: float) -> dict[str, Any]:
    """Bound the changes of all counted groups at once, and mark who may lose most."""
    changes, counted = pair.accuracy.changes, pair.counted
    high = change_limits(changes, alpha / 2 / max(1, counted.sum())).high
    return {
        "high_all": np.where(counted, high, np.nan),
        "may_lose_most": may_lose_most(changes, counted, alpha),
    }


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
    labels, units = after.answers.labels, after.answers.units
    sound = all(is_a_basis(labels, one) for one in before.answers.predictions)
    parts = []
    pairs = zip(after.seeds, before.answers.predictions, after.answers.predictions, strict=True)
    for seed, one, other in pairs:
        lost, gained, still_wrong = flips(labels, one, other, codes, len(names))
        right = one == labels, other == labels
        bounds = certified_losses(*right, codes, counted=counted, alpha=settings.alpha, units=units)
        columns = {
            "group": names, "n": division.sizes, "lost": lost, "gained": gained, "seed": seed,
            "still_wrong": still_wrong, "bound": bounds if sound else np.nan,
            "units": units_by_group(codes, len(names), units),
            "effective": changes(*right, codes, len(names), units=units).n,
        }  # fmt: skip
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts)
