"""Simulate every interval, bound, verdict and rule: what is promised against what is measured.

    python benchmarks/coverage.py [--folder runs/coverage] [--samples 1000] [--processes 2]
                                  [--kinds Design Files] [--only "10 × 200, accuracy 0.8"]

Each cell is one design: sizes and accuracies of groups, what they lose, how many answers flip, how
many networks (seeds) answer and how many images come from one person. Its results are a file of
the folder, so that a run that was stopped goes on where it was; a change of the statistics or of
this program starts anew. A cell in which something measured falls short is simulated again, with
other chance and ten times as many samples, so that the worst of thousands of numbers is not the
one with the worst luck. The Markdown tables go to standard output.
"""

import argparse
import hashlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from multiprocessing import Pool
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import betaincinv
from scipy.stats import binom, norm, page_trend_test, rankdata

from quantskew import params
from quantskew.analysis import claims, frontier
from quantskew.analysis.report import decision, words
from quantskew.data.groups import Grouping
from quantskew.fairness import (
    bounds,
    certificate,
    contrasts,
    gaps,
    limits,
    score_catalogue,
    scores,
    slices,
    verdicts,
)
from quantskew.fairness.limits import (
    Changes,
    Shares,
    change_limits,
    effective_samples,
    share_limits,
)
from quantskew.fairness.paired import exchange_p_value
from quantskew.fairness.parity import Answers
from quantskew.fairness.score_catalogue import Outputs, probabilities

SIZES = {
    "2 × 2,370": [2370] * 2,
    "UTKFace": [2016, 905, 687, 795, 338],
    "10 × 100": [100] * 10,
    "10 × 200": [200] * 10,
    "40 × 100": [100] * 40,
    "5 × 338": [338] * 5,
    "5 × 1,000": [1000] * 5,
}
FILES = ["2 × 2,370", "UTKFace", "10 × 200"]  # where files are judged
FEWER = ["2 × 2,370", "UTKFace", "10 × 100"]  # where seeds and persons are simulated
ACCURACIES: list[float | str] = [0.5, 0.8, 0.97, 0.995, "unequal"]
EFFECTS = [("none", 0.0), ("all", 0.05), *(("one", x) for x in (0.01, 0.02, 0.05, 0.1))]
FLIPS = [0.01, 0.05, 0.2]
METRICS: dict[str, Callable[[np.ndarray], Any]] = {  # of accuracies (..., G + 1), of all last
    "accuracy": lambda shares: shares[..., -1],
    "FVO": lambda shares: np.ptp(shares[..., :-1], axis=-1),
    "worst group": lambda shares: shares[..., :-1].min(-1),
}
SEED_CORRELATION = 0.4  # between the answers of two seeds to one image
MARGIN = 0.02
LEAST = 0.94  # coverage of what promises 95 %


def _looked_up(a: np.ndarray, b: np.ndarray, y: ArrayLike) -> np.ndarray:
    """Compute betaincinv once for each pair of a and b: counts of one network recur."""
    if np.ndim(y):
        return np.asarray(betaincinv(a, b, y))
    a, b = np.broadcast_arrays(a, b)
    pairs, places = np.unique(a + 1j * b, return_inverse=True)
    looked_up: np.ndarray = betaincinv(pairs.real, pairs.imag, y)[places.reshape(a.shape)]
    return looked_up


class Design(NamedTuple):
    """One cell of the simulation."""

    sizes: str
    accuracy: float | str
    effect: str  # who loses: none, all, or one group
    loss: float
    flips: float
    seeds: int = 1
    images: int = 1  # most of one person: persons have 1 to so many
    correlation: float = 0.0  # of the answers to the images of one person


class Seeds(NamedTuple):
    """A comparison of a method with itself, or with one that is worse by ``loss``."""

    models: int
    seeds: int
    spread: float  # standard deviation of the accuracy between seeds
    loss: float = 0.0


class Trends(NamedTuple):
    """Values of groups over widths without a trend."""

    networks: int
    groups: int
    widths: int
    shared: float  # share of the variance that the groups of a network have in common


class Many(NamedTuple):
    """A table of tests, of which a share has an effect."""

    tests: int
    effects: float


class Scored(NamedTuple):
    """Probabilities of two networks for one group, or numbers that they predict."""

    samples: int
    classes: int  # 1: numbers
    change: str  # what became of the logits: see CHANGES; of numbers, see OF_NUMBERS
    images: int = 1  # most of one person
    correlation: float = 0.0  # of the images of one person


class Sliced(NamedTuple):
    """Samples of which a part that nobody listed may lose."""

    samples: int
    hidden: int  # samples of that part
    seen: str  # how features show it: a value of a column; a number that it shifts; or not at all
    loss: float
    everyone: float = 0.0  # loss of all others
    images: int = 1


class Files(NamedTuple):
    """Files of one network, each smaller than the last: what the page says of them."""

    sizes: str
    flips: float
    loss: float  # of one group; the target and the margin are just as large, or 5 where it is 0
    files: int


class Parity(NamedTuple):
    """Answers of three classes, of persons: the rates that parity compares between groups."""

    sizes: str
    flips: float
    given: float  # of one group: afterwards so many more answers are the first class
    images: int  # most of one person
    correlation: float  # of the images of one person


class Row(NamedTuple):
    """One promise in one cell."""

    promise: str
    kind: str  # coverage, error or power
    promised: float
    measured: float
    error: float  # Monte Carlo standard error


Cell = Design | Seeds | Trends | Many | Scored | Sliced | Files | Parity


def designs() -> Iterator[Cell]:
    for sizes, accuracy, (effect, loss), flips in product(SIZES, ACCURACIES, EFFECTS, FLIPS):
        yield Design(sizes, accuracy, effect, loss, flips)
    apart = [(2, 1, 0.0), (5, 1, 0.0), *((1, 10, icc) for icc in (0.0, 0.2, 0.5)), (2, 10, 0.2)]
    few = [("none", 0.0), ("one", 0.05)]
    for sizes, accuracy, (effect, loss), flips in product(FEWER, [0.8, 0.995], few, [0.05, 0.2]):
        for seeds, images, icc in apart:
            yield Design(sizes, accuracy, effect, loss, flips, seeds, images, icc)
    for models, seeds, spread in product([1, 2], [2, 4, 6], [0.0, 0.01, 0.03]):
        yield Seeds(models, seeds, spread)
        if spread == 0.01:
            yield Seeds(models, seeds, spread, 0.05)
    for networks, widths, shared in product([2, 4, 8], [3, 5], [0.0, 0.8]):
        yield Trends(networks, 10, widths, shared)
    for effects in (0.0, 0.1, 0.5):
        yield Many(200, effects)
    for n, classes, change in product([30, 100, 338, 1000], [1, 2, 10], CHANGES):
        yield Scored(n, classes, change)
        yield Scored(n, classes, change, images=5, correlation=0.5)
    for total, seen in product([1500, 5000], ["value", "number"]):
        yield Sliced(total, 300, seen, 0.1)
        yield Sliced(total, 300, seen, 0.1, everyone=0.02)
    for total, images in product([600, 1500, 5000], [1, 5]):
        for loss in (0.0, 0.05):
            yield Sliced(total, 300, "value", loss, everyone=loss, images=images)
    for sizes, loss, files in product(FILES, [0.0, 0.05], [1, 2, 8]):
        yield Files(sizes, 0.04 if loss == 0 else 0.08, loss, files)
    for sizes, given, icc in product(["UTKFace", "10 × 100"], [0.0, 0.1], [0.0, 0.2, 0.5]):
        yield Parity(sizes, 0.05, given, 10, icc)


def describe(cell: Cell) -> str:
    """Name a cell in words."""
    match cell:
        case Design(sizes, accuracy, effect, loss, flips, seeds, images, icc):
            who = {"none": "no loss", "all": "all lose", "one": "one group loses"}[effect]
            text = f"{sizes}, accuracy {accuracy}, {who}{f' {100 * loss:.0f}' if loss else ''}"
            text += f", flips {100 * flips:.0f} %"
            text += f", {seeds} seeds" if seeds > 1 else ""
            return text + (f", 1–{images} images a person, ICC {icc}" if images > 1 else "")
        case Seeds(models, seeds, spread, loss):
            return f"{models} × {seeds} networks, sd {100 * spread:.0f}, loss {100 * loss:.0f}"
        case Trends(networks, groups, widths, shared):
            return f"{networks} networks, {groups} groups, {widths} widths, {shared:.0%} shared"
        case Many(tests, effects):
            return f"{tests} tests, {effects:.0%} with an effect"
        case Scored(n, classes, change, images, icc):
            text = f"{n} samples of {classes if classes > 1 else 'no'} classes, {change}"
            return text + (f", 1–{images} images a person, ICC {icc}" if images > 1 else "")
        case Sliced(total, hidden, seen, loss, everyone, images):
            text = f"{hidden} of {total:,} lose {100 * loss:.0f}, the rest {100 * everyone:.0f}"
            text += f", shown by a {seen}"
            return text + (f", 1–{images} images a person" if images > 1 else "")
        case Files(sizes, flips, loss, files):
            text = f"{files} files, {sizes}, accuracy 0.9, flips {100 * flips:.0f} %"
            return f"{text}, one group loses {100 * loss:.0f}"
        case Parity(sizes, flips, given, images, icc):
            text = f"{sizes}, 3 classes, one is given {100 * given:.0f} more in one group"
            return f"{text}, flips {100 * flips:.0f} %, 1–{images} images a person, ICC {icc}"


def rates(design: Design) -> np.ndarray:
    """Chances (G, 4) that an answer is right in both, lost, gained, wrong in both."""
    groups = len(SIZES[design.sizes])
    if design.accuracy == "unequal":
        before = np.linspace(0.97, 0.8, groups)
    else:
        before = np.full(groups, float(design.accuracy))
    loss = np.zeros(groups)
    loss[slice(None) if design.effect == "all" else [-1]] = design.loss
    gained = np.minimum(np.maximum(design.flips - loss, 0) / 2, 1 - before)
    lost = np.minimum(gained + loss, before)
    return np.column_stack([before - lost, lost, gained, 1 - before - gained])


class Simulated(NamedTuple):
    """Draws of a design and what is true of it; arrays (R, G) and (G,)."""

    paired: gaps.Paired
    ignored: Changes  # as if each image were a person of its own
    before: np.ndarray
    after: np.ndarray
    totals: np.ndarray | None  # (R, U) changes of the persons of the first group


def simulate(design: Design, samples: int, rng: np.random.Generator) -> Simulated:
    chances, sizes = rates(design), SIZES[design.sizes]
    before, after = chances[:, 0] + chances[:, 1], chances[:, 0] + chances[:, 2]
    first = None
    if design.seeds == 1 and design.images == 1:
        counts = np.stack(
            [rng.multinomial(n, p, samples) for n, p in zip(sizes, chances, strict=True)], 1
        )
        n = np.broadcast_to(np.array(sizes, float), counts.shape[:2])
        both, lost, gained, _ = np.moveaxis(counts / n[..., None], -1, 0)
        changed = Changes(lost, gained, n)
        paired = gaps.Paired(Shares(both + lost, n), Shares(both + gained, n), changed)
        return Simulated(paired, changed, before, after, None)
    parts = []
    for size, p in zip(sizes, chances, strict=True):
        persons = np.full(size, 1) if design.images == 1 else _persons(size, design.images)
        block = max(1, 400_000 // size)
        pieces = [
            _dependent(design, persons, p, min(block, samples - start), rng)
            for start in range(0, samples, block)
        ]
        *group, totals = (np.concatenate(piece) for piece in zip(*pieces, strict=True))
        parts.append(group)
        first = totals if first is None and design.seeds == 1 else first
    columns = [np.stack(column, 1) for column in zip(*parts, strict=True)]
    a, b, lost, gained, n_a, n_b, n_change, n = columns
    changed = Changes(lost, gained, n_change)
    paired = gaps.Paired(Shares(a, n_a), Shares(b, n_b), changed)
    return Simulated(paired, changed._replace(n=n), before, after, first)


def _persons(n: int, most: int) -> np.ndarray:
    """Sizes of the persons of n images: 1, 2, …, most images, and again."""
    sizes: list[int] = []
    while sum(sizes) < n:
        sizes.append(min(len(sizes) % most + 1, n - sum(sizes)))
    return np.array(sizes)


def _spread(p: np.ndarray, correlation: float, rng: np.random.Generator) -> np.ndarray:
    """Chances around p, such that two draws from one have the intra-class correlation."""
    if correlation == 0:
        return p
    shape = rng.standard_gamma(p * (1 - correlation) / correlation + 1e-300)
    total = shape.sum(-1, keepdims=True)
    return np.where(total > 0, shape / np.where(total > 0, total, 1), p)


def _multinomial(n: np.ndarray | int, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    p = p / p.sum(-1, keepdims=True)  # numpy refuses sums above 1 by rounding
    return rng.multinomial(n, p).astype(float)


def _dependent(
    design: Design, persons: np.ndarray, p: np.ndarray, samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    n = persons.sum()
    wide = np.broadcast_to(p, (samples, persons.size, 4))
    own = _spread(wide, design.correlation, rng)
    if design.seeds == 1:
        kinds = np.moveaxis(_multinomial(persons, own, rng), -1, 0)
        starts = np.arange(persons.size)
    else:
        chances = _spread(np.repeat(own, persons, axis=1), SEED_CORRELATION, rng)
        kinds = np.moveaxis(_multinomial(design.seeds, chances, rng), -1, 0) / design.seeds
        starts = np.append(0, np.cumsum(persons)[:-1])
    units = np.add.reduceat(kinds, starts, axis=-1)  # (4, R, U)
    both, lost, gained, _ = units.sum(-1) / n

    def effective(values: np.ndarray, shown: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return effective_samples(
            values, persons, variance, (shown > 0).sum(-1), simple=design.seeds == 1
        )

    sides = []
    for right, miss in ((units[0] + units[1], units[2] + units[3]),
                        (units[0] + units[2], units[1] + units[3])):  # fmt: skip
        share = right.sum(-1) / n
        rare = np.where((share > 0.5)[:, None], miss, right)
        sides.append(effective(rare, rare, share * (1 - share)))
    change = units[2] - units[1]
    variance = lost + gained - (lost - gained) ** 2
    n_change = effective(change, units[1] + units[2], variance)
    every = np.full(samples, float(n))
    return both + lost, both + gained, lost, gained, *sides, n_change, every, change


def judge(design: Design, samples: int, rng: np.random.Generator) -> Iterator[Row]:
    """Check every promise about groups in one design."""
    sim = simulate(design, samples, rng)
    paired, before, after = sim.paired, sim.before, sim.after
    change, groups = after - before, len(before)
    counted = np.ones(groups, bool)
    stacked = gaps.Paired(
        Shares(*(field[:, None] for field in paired.before)),
        Shares(*(field[:, None] for field in paired.after)),
        Changes(*(field[:, None] for field in paired.changes)),
    )
    two = Shares(*(np.stack(field, 1) for field in zip(paired.before, paired.after, strict=True)))

    gap = {"before": np.ptp(before), "after": np.ptp(after)}
    rise, both_gaps = gap["after"] - gap["before"], max(gap.values())
    worst = after.min() - before.min()
    loss = abs(change.min())  # no design gains in all groups

    def covered(found: limits.Limits, truth: np.ndarray | float) -> np.ndarray:
        return np.asarray((found.low <= truth + 1e-9) & (found.high >= truth - 1e-9))

    kinds = list(zip(SIZES[design.sizes], before.round(9), change.round(9), strict=True))
    for name, found, truth in (
        ("accuracy of a group", share_limits(paired.after, 0.025), after),
        ("change of a group", change_limits(paired.changes, 0.025), change),
    ):
        hits = covered(found, truth)
        alike = [hits[:, [k == kind for k in kinds]].mean(1) for kind in set(kinds)]
        yield _row(name, "coverage", 0.95, min(alike, key=np.mean))
        if found.low.min() == found.high.max():
            raise AssertionError("an interval of width zero")
    tail = 0.025 / groups
    every = change_limits(paired.changes, tail)
    yield _row("accuracies of all groups at once", "coverage", 0.95,
               covered(share_limits(paired.after, tail), after).all(1))  # fmt: skip
    yield _row("changes of all groups at once", "coverage", 0.95, covered(every, change).all(1))
    one_network = Shares(*(x[:, None] for x in paired.after))
    whole: list[tuple[str, Callable[..., limits.Limits], tuple[object, ...], float]] = [
        ("FVO", gaps.gap_limits, (one_network,), gap["after"]),
        ("largest gap of two rates", gaps.gap_limits, (two,), both_gaps),
        ("change of FVO", gaps.gap_change_limits, (stacked,), rise),
        ("accuracy of the worst group", gaps.worst_group_limits, (paired.after,), after.min()),
        ("change of the worst group", gaps.worst_group_change_limits, (paired,), worst),
        ("largest loss of a group", gaps.largest_loss_limits, (paired.changes,), loss),
    ]
    for name, function, given, truth in whole:
        yield _row(name, "coverage", 0.95, covered(function(*given, counted, 0.025), truth))
        found = function(*given, counted, 0.05)
        yield _row(f"{name}: passes at its true value", "error", 0.05, found.high < truth - 1e-9)
        yield _row(f"{name}: fails at its true value", "error", 0.05, found.low > truth + 1e-9)
        if name == "change of FVO" and rise < 0.03:
            yield _row(f"passes FVO +5 when it rises by {100 * rise:.0f}", "power", np.nan,
                       found.high <= 0.05)  # fmt: skip
        if name == "largest loss of a group" and loss < 0.03:
            yield _row(f"passes a loss of 5 when it is {100 * loss:.0f}", "power", np.nan,
                       found.high <= 0.05)  # fmt: skip
    ratio = gaps.ratio_limits(one_network, counted, 0.025)
    yield _row("disparate impact", "coverage", 0.95, covered(ratio, after.min() / after.max()))

    most = gaps.may_lose_most(paired.changes, counted, 0.05)
    yield _row("who loses most is left out", "error", 0.05, ~most[:, change.argmin()])
    if design.effect == "one":
        named = most[:, -1] & (most.sum(1) == 1)
        yield _row(f"names who loses {100 * loss:.0f}", "power", np.nan, named)

    word = verdicts.verdicts(*every, MARGIN)
    false = (
        ((word == "worse") & (change > -1e-9))
        | ((word == "better") & (change < 1e-9))
        | ((word == "equivalent") & (np.abs(change) >= MARGIN - 1e-9))
    )
    yield _row("verdict on any group is false", "error", 0.05, false.any(1))
    if design.effect == "one":
        yield _row(f"verdict: worse, of a loss of {100 * loss:.0f}", "power", np.nan,
                   word[:, -1] == "worse")  # fmt: skip
    if design.effect == "none":
        yield _row("verdict: equivalent, of no loss", "power", np.nan, word == "equivalent")
    if design.images > 1:
        alone = covered(change_limits(sim.ignored, 0.025), change)
        yield _row("change of a group, persons ignored", "shown", 0.95, alone.mean(1))
    if sim.totals is not None and change[0] == 0:
        yield _row("exchange test by person errs", "error", 0.05,
                   np.array([_exchange(row) <= 0.05 for row in sim.totals]))  # fmt: skip
        lost, gained, n = (field[:, 0] for field in sim.ignored)
        flipped = np.rint((lost + gained) * n)
        p = 2 * binom.cdf(np.rint(np.minimum(lost, gained) * n), flipped, 0.5)
        yield _row("exchange test, persons ignored, errs", "shown", 0.05, p <= 0.05)


def _exchange(totals: np.ndarray) -> float:
    return exchange_p_value(np.rint(totals).astype(np.int64))


def over_seeds(cell: Seeds, samples: int, rng: np.random.Generator) -> Iterator[Row]:
    """Compare methods over seeds: five groups of 200 images, of which the last may lose."""
    n, groups, networks = 1000, 5, cell.models * cell.seeds
    weights = rng.multinomial(n, np.full(n, 1 / n), 200)
    member = np.repeat(np.eye(groups), n // groups, axis=0) / (n / groups)
    models = np.repeat(np.arange(cell.models), cell.seeds)
    resampled = np.concatenate([member, np.full((n, 1), 1 / n)], axis=1)
    found: dict[str, list[tuple[bool, bool, bool]]] = {name: [] for name in METRICS}
    loss = np.repeat([0, 0, 0, 0, cell.loss], n // groups)
    for _ in range(samples):
        image = rng.beta(0.8 * 1.5, 0.2 * 1.5, n)  # hard and easy ones, for all networks
        shift = rng.normal(0, cell.spread, (2, networks, groups)).repeat(n // groups, -1)
        chance = np.clip(image + shift - np.stack([np.zeros(n), loss])[:, None], 0, 1)
        right = (rng.random(chance.shape) < chance).astype(float)
        by_group = right @ resampled  # (2, N, G + 1)
        again = np.einsum("bi,mni,ig->bmng", weights, right, resampled, optimize=True)
        share = np.einsum("bi,ig->bg", weights, resampled)
        again = again / share[:, None, None]
        for name, metric in METRICS.items():
            values, draws = (metric(a) for a in (by_group, again))
            contrast = contrasts.contrast_over_seeds(
                values[1] - values[0], draws[:, 1] - draws[:, 0], models
            )
            zero = contrast.p_value <= 0.05
            found[name].append((zero, contrast.low > 0, contrast.high < 0))
    for name, rows in found.items():
        wrong, _, below = np.array(rows).T
        if cell.loss == 0:
            yield _row(f"same method, {name}: detectable", "error", 0.05, wrong)
        elif name != "FVO":
            label = f"one group loses 5, {name}: detected with {cell.seeds} seeds"
            yield _row(label, "power", np.nan, below)


def over_widths(cell: Trends, samples: int, rng: np.random.Generator) -> Iterator[Row]:
    """Test trends where there are none."""
    ours, page = [], []
    for _ in range(samples):
        common = rng.normal(size=(cell.networks, 1, cell.widths)) * np.sqrt(cell.shared)
        own = rng.normal(size=(cell.networks, cell.groups, cell.widths))
        values = common + own * np.sqrt(1 - cell.shared)
        ranks = rankdata(values, axis=-1) - (cell.widths + 1) / 2
        order = np.arange(cell.widths) - (cell.widths - 1) / 2
        correlations = (ranks @ order).mean(1) / (order @ order)
        ours.append(claims.Trend(correlations, "").tested(0.05)["p_value"] <= 0.05)
        rows = values.reshape(-1, cell.widths)
        tails = [page_trend_test(side).pvalue for side in (rows, -rows)]
        page.append(2 * min(tails) <= 0.05)
    yield _row("trend over widths where there is none", "error", 0.05, np.array(ours))
    yield _row("Page's test, groups as units, errs", "shown", 0.05, np.array(page))


def many(cell: Many, samples: int, rng: np.random.Generator) -> Iterator[Row]:
    """Adjust a table of tests of changes of groups, at 200 images each."""
    real = np.arange(cell.tests) < cell.effects * cell.tests
    chance = np.where(real[:, None], [0.10, 0.02, 0.88], [0.05, 0.05, 0.90])
    shares = []
    for _ in range(samples):
        lost, gained, _ = rng.multinomial(200, chance).T
        p = np.minimum(1, 2 * binom.cdf(np.minimum(lost, gained), lost + gained, 0.5))
        found = verdicts.false_discovery_rate(p) <= 0.05
        shares.append((found & ~real).sum() / max(1, found.sum()))
    yield _row("false discoveries among those found", "error", 0.05, np.array(shares))


Change = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
CHANGES: dict[str, Change] = {
    # of the signal that labels are drawn by, the noise before, other noise, and 1 % of the samples
    "noise of the same size": lambda signal, _, noise, __: 1.3 * signal + 0.3 * noise,
    "more noise": lambda signal, _, noise, __: 1.3 * signal + noise,
    "too sure": lambda signal, noise, _, __: 2 * signal + 0.3 * noise,
    "1 % surely wrong": lambda signal, noise, _, lost: np.where(
        lost, -9 * signal, 1.3 * signal + 0.3 * noise
    ),
}
OF_NUMBERS: dict[str, Change] = {  # of the true numbers, and the rest as above
    "noise of the same size": lambda truth, _, noise, __: truth + 0.3 * noise,
    "more noise": lambda truth, _, noise, __: truth + noise,
    "too sure": lambda truth, noise, _, __: 1.3 * truth + 0.3 * noise,
    "1 % surely wrong": lambda truth, noise, _, lost: truth + 0.3 * noise + 6 * lost,
}
LARGEST_ERROR = 10.0


def _units(n: int, most: int) -> np.ndarray:
    """Persons of n images, who have 1 to so many."""
    if most == 1:
        return np.arange(n)
    sizes = _persons(n, most)
    return np.repeat(np.arange(sizes.size), sizes)


def say(cell: Scored, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw labels, probabilities before and after, and persons."""
    persons = _units(cell.samples, cell.images)

    def normal(columns: int) -> np.ndarray:
        shared = rng.normal(size=(persons[-1] + 1, columns))[persons]
        own = rng.normal(size=(cell.samples, columns))
        return np.asarray(np.sqrt(cell.correlation) * shared + np.sqrt(1 - cell.correlation) * own)

    signal, noise, other = 2 * normal(cell.classes), normal(cell.classes), normal(cell.classes)
    if cell.classes == 1:
        signal = signal.clip(-LARGEST_ERROR / 2, LARGEST_ERROR / 2)
        after = OF_NUMBERS[cell.change](signal, noise, other, normal(1) > norm.isf(0.01))
        return signal[:, 0], (signal + 0.3 * noise)[:, 0], after[:, 0], persons
    labels = (signal + rng.gumbel(size=signal.shape)).argmax(1)
    after = CHANGES[cell.change](signal, noise, other, normal(1) > norm.isf(0.01))
    return labels, probabilities(1.3 * signal + 0.3 * noise), probabilities(after), persons


@cache
def true_changes(classes: int, change: str) -> dict[str, float]:
    """Changes of all scores, of a hundred thousand samples."""
    labels, *both, persons = say(Scored(100_000, classes, change), np.random.default_rng(1))
    changes = {}
    for name, score in score_catalogue.SCORES.items():
        if score.of == ("classes" if classes > 1 else "numbers"):
            values = [
                score.value(Outputs(labels, p, both[0], persons, range=LARGEST_ERROR)) for p in both
            ]
            before, after = (
                v.value if isinstance(v, score_catalogue.Scored) else float(np.nanmean(v))
                for v in values
            )
            changes[name] = after - before
    return changes


def of_scores(cell: Scored, samples: int, rng: np.random.Generator) -> Iterator[Row]:
    """Check the limits and verdicts of every score of one group."""
    truth = true_changes(cell.classes, cell.change)
    nobody = Grouping("", np.full(cell.samples, -1), [], np.zeros(0, bool))
    hits: dict[str, list[bool]] = {name: [] for name in truth}
    told: dict[str, list[bool]] = {name: [] for name in truth}
    for _ in range(samples):
        labels, before, after, persons = say(cell, rng)
        rows = scores.compare(
            before, after, labels, [nobody], persons, margin=MARGIN, largest_error=LARGEST_ERROR
        )
        for row in rows.dropna(subset="low").itertuples():
            if row.low == row.high:
                raise AssertionError("an interval of width zero")
            hits[row.score].append(row.low - 1e-12 <= truth[row.score] <= row.high + 1e-12)
            told[row.score].append(row.verdict in ("worse", "better"))
    for name, found in hits.items():
        yield _row(f"change of a score: {name}", "coverage", 0.95, np.array(found))
        if cell.change != "noise of the same size":
            label = f"tells what became of {name}: {describe(cell)}"
            yield _row(label, "power", np.nan, np.array(told[name]))
        elif not score_catalogue.SCORES[name].distance:
            yield _row(f"score without a change, worse or better: {name}", "error", 0.05,
                       np.array(told[name]))  # fmt: skip


def of_slices(cell: Sliced, samples: int, rng: np.random.Generator) -> Iterator[Row]:
    """Look for a part that nobody listed, and for parts that are not there."""
    named, false = [], []
    for number in range(samples):
        persons = _units(cell.samples, cell.images)
        order = rng.permutation(persons[-1] + 1)[persons]  # whole persons are hidden
        hidden = np.argsort(np.argsort(order, kind="stable"), kind="stable") < cell.hidden
        kinds = rng.choice([*"abcd"], (2, cell.samples))
        features = pd.DataFrame(rng.normal(size=(cell.samples, 4)), columns=[*"wxyz"])
        features["site"], features["kind"] = kinds
        if cell.seen == "value":
            features["kind"] = np.where(hidden, "hidden", features["kind"])
        else:
            features["w"] -= 2 * hidden
        labels = rng.integers(10, size=cell.samples)
        right = np.where(rng.random((2, cell.samples)) < 0.85, labels, (labels + 1) % 10)
        same = rng.random(cell.samples) < 0.84  # so that 4 % flip
        before, after = right[0], np.where(same, right[0], right[1])
        lost = rng.random(cell.samples) < np.where(hidden, cell.loss, cell.everyone) / 0.85
        after = np.where(lost, (labels + 1) % 10, after)
        rows = slices.find_slices(features, before, after, labels, persons, seed=number)
        found = rows.loc[rows["fdr"] <= 0.05, "slice"]
        text = "kind hidden" if cell.seen == "value" else f"w {features['w'].min():.2g} to"
        real = found.str.contains(text, regex=False) & (cell.loss > cell.everyone)
        named.append(bool(real.any()))
        false.append((~real).sum() / max(1, len(found)))
    if cell.loss > cell.everyone:
        yield _row("false slices among those found", "error", 0.05, np.array(false))
        yield _row(f"finds the slice: {describe(cell)}", "power", np.nan, np.array(named))
    else:
        yield _row("slices found where none is", "error", 0.05, np.array(false))


def of_files(cell: Files, samples: int, rng: np.random.Generator) -> Iterator[Row]:
    """Judge files as the page does: which may ship, which are safe, who loses most."""
    sizes, effect = np.array(SIZES[cell.sizes]), "one" if cell.loss else "none"
    chances = rates(Design(cell.sizes, 0.9, effect, cell.loss, cell.flips))
    target, groups = cell.loss or 0.05, len(sizes)
    study = params.load(Path(__file__).parents[1] / "params.yaml").judged()
    study = study.model_copy(update={
        "targets": study.targets.model_copy(update={"worst_group_loss": target}),
        "statistics": study.statistics.model_copy(update={"margin": target}),
    })  # fmt: skip
    place = {"dataset": study.datasets[0], "attribute": "group", "n": sizes}
    found: dict[str, list[bool]] = {name: [] for name in ("ships", "above", *words.TONES, "named")}
    for _ in range(samples):
        kinds = [rng.multinomial(n, p, cell.files) for n, p in zip(sizes, chances, strict=True)]
        _, lost, gained, _ = np.moveaxis(np.stack(kinds, 1), -1, 0)  # (files, groups)
        bound = np.array([
            certificate.certificate(
                *one, sizes, counted=np.ones(groups, bool), alternatives=cell.files
            ).bound
            for one in zip(lost, gained, strict=True)
        ])  # fmt: skip
        files = pd.DataFrame({"loss_bound": bound, "fvo_high": np.nan, "bits": 8, "accuracy": 0.9})
        files["method"], files["bytes"] = "int8", np.arange(cell.files, 0, -1)
        rows = pd.DataFrame({"seed": 0, "lost": lost[0], "gained": gained[0], **place})
        judged = decision._judged_file(rows.assign(bound=bound[0]), study)
        most, verdict = judged["may_lose_most"].to_numpy(), decision._verdict(judged["verdict"])
        found["ships"].append(bool(frontier.judged(files, study)["recommended"].any()))
        found["above"].append(bool(bound.min() < cell.loss))
        found["named"].append(bool(most.sum() == 1 and not most[-1]))
        for word in (words.SAFE, words.HARMS):
            found[word].append(verdict == word)
    labels = {
        "ships": ("a file may ship, though a group loses the target", "a file may ship"),
        words.SAFE: ("a file is safe, though a group loses the margin", "a file is safe"),
        words.HARMS: ("a file harms someone, of a loss of 5", "a file harms someone, of no loss"),
    }
    for name, (lossy, harmless) in labels.items():
        wrong = (name == words.HARMS) == (cell.loss == 0)
        row = _row(lossy if cell.loss else harmless, "error" if wrong else "power",
                   0.05 if wrong else np.nan, np.array(found[name]))  # fmt: skip
        yield row if wrong else row._replace(promise=f"{row.promise}: {describe(cell)}")
    if cell.loss:
        yield _row("a file is certified to less than a group loses", "error", 0.05,
                   np.array(found["above"]))  # fmt: skip
        yield _row("a file's page names another group than loses most", "error", 0.05,
                   np.array(found["named"]))  # fmt: skip


def of_parity(cell: Parity, samples: int, rng: np.random.Generator) -> Iterator[Row]:
    """Check the limits of parity where persons are counted: whole persons answer alike or not."""
    sizes, classes = SIZES[cell.sizes], 3
    right = np.linspace(0.95, 0.8, len(sizes))[:, None, None]
    same, none = np.eye(classes), np.ones((classes, classes)) / (classes - 1)
    before = right * same + (1 - right) * none * (1 - same)
    stays = np.where(same, 1 - cell.flips, cell.flips * none)
    drawn = np.einsum("gab,bc->gabc", before, stays) / classes  # label, before and after
    moved = cell.given * drawn[-1].sum(-1)
    drawn[-1] *= 1 - cell.given
    drawn[-1, :, :, 0] += moved

    def gaps_of(joint: np.ndarray) -> dict[str, np.ndarray]:  # (G, label, answer), by class
        diagonal = joint.diagonal(axis1=1, axis2=2)
        true = np.ptp(diagonal * classes, axis=0)
        false = np.ptp((joint.sum(1) - diagonal) * classes / (classes - 1), axis=0)
        selected = np.ptp(joint.sum(1), axis=0)
        return {"demographic_parity": selected, "equalized_odds": np.maximum(true, false)}

    truth = [gaps_of(drawn.sum(3)), gaps_of(drawn.sum(2))]
    persons = [_units(n, cell.images) for n in sizes]
    firsts = np.cumsum([0, *(own[-1] + 1 for own in persons)])
    units = np.concatenate([own + first for own, first in zip(persons, firsts[:-1], strict=True)])
    codes = np.repeat(np.arange(len(sizes)), sizes)
    hits: dict[str, list[bool]] = {}
    for _ in range(samples):
        parts = []
        for own, joint in zip(persons, drawn, strict=True):
            kinds = rng.choice(joint.size, (2, len(own)), p=joint.ravel())
            common = rng.random(len(own)) < np.sqrt(cell.correlation)
            kind = np.where(common, kinds[0][own], kinds[1])  # the first so many are of the persons
            parts.append(np.stack(np.unravel_index(kind, joint.shape)))
        labels, *both = np.concatenate(parts, axis=1)
        counted = np.ones(len(sizes), bool)
        pair = bounds.Pair(
            *(Answers(labels, one[None], codes, counted, classes, units) for one in both)
        )
        for name, macro in product(truth[0], [False, True]):
            one, other = (float(side[name].mean() if macro else side[name].max()) for side in truth)
            found = bounds.parity(name, macro=macro)
            for what, bound, true in (
                ("", found.level, other), ("change of ", found.change, other - one),
            ):  # fmt: skip
                low, high = bound(pair)(np.asarray(0.025))
                label = f"{what}{name.replace('_', ' ')} by person, "
                label += "mean over classes" if macro else "least fair class"
                hits.setdefault(label, []).append(bool(low - 1e-9 <= true <= high + 1e-9))
    for label, held in hits.items():
        yield _row(label, "coverage", 0.95, np.array(held))


CHECKS: dict[type[Cell], Callable[[Any, int, np.random.Generator], Iterator[Row]]] = {
    Design: judge,
    Seeds: over_seeds,
    Trends: over_widths,
    Many: many,
    Scored: of_scores,
    Sliced: of_slices,
    Files: of_files,
    Parity: of_parity,
}


def _row(promise: str, kind: str, promised: float, values: ArrayLike) -> Row:
    each = np.asarray(values, float)
    each = each.mean(1) if each.ndim > 1 else each
    error = each.std() / np.sqrt(len(each))
    return Row(promise, kind, promised, float(each.mean()), float(error))


def falls_short(row: Row, slack: float = 0.0) -> bool:
    """Whether a promise is not kept, beyond so many Monte Carlo errors."""
    if row.kind == "coverage":
        return row.measured < LEAST - slack * row.error
    return row.kind == "error" and row.measured > row.promised + slack * row.error


def measure(cell: Cell, samples: int, seed: int) -> list[Row]:
    """Simulate a cell, and again with ten times as many samples where it falls short."""
    check = CHECKS[type(cell)]
    cheap = (
        isinstance(cell, Design) and cell.seeds == cell.images == 1 and len(SIZES[cell.sizes]) <= 10
    )
    with (
        patch.object(limits, "betaincinv", _looked_up),
        patch.object(certificate, "loss_bound", cache(certificate.loss_bound)),
    ):
        rows = list(check(cell, samples, np.random.default_rng([seed, 0])))
        if any(falls_short(row, slack=0 if cheap else 1.5) for row in rows):
            rows = list(check(cell, 10 * samples, np.random.default_rng([seed, 1])))
    return rows


def code() -> str:
    """A fingerprint of the statistics and of this program."""
    modules = (
        bounds, certificate, claims, contrasts, decision, frontier, gaps, limits, score_catalogue,
        scores, slices, verdicts,
    )  # fmt: skip
    files = [*(Path(inspect.getfile(module)) for module in modules), Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def run(job: tuple[Path, Cell, int]) -> None:
    """Measure a cell and keep its rows as a file."""
    path, cell, samples = job
    rows = measure(cell, samples, int(path.stem, 16) % 2**32)
    text = {"cell": [type(cell).__name__, *cell], "rows": rows}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(text))
    part.replace(path)


def table(folder: Path) -> pd.DataFrame:
    """Read all rows of a finished folder, with the cell of each."""
    rows = []
    kinds = {kind.__name__: kind for kind in CHECKS}
    for path in sorted(folder.glob("*.json")):
        kept = json.loads(path.read_text())
        name, *fields = kept["cell"]
        cell = kinds[name](*fields)
        rows += [{"cell": cell, **Row(*row)._asdict()} for row in kept["rows"]]
    return pd.DataFrame(rows)


def percent(share: float) -> str:
    """Format a share."""
    return f"{100 * share:.1f}"


def summary(rows: pd.DataFrame) -> str:
    """Lay out the worst cell of each promise as Markdown."""
    lines = ["| promise | promised % | worst measured % (MC error) | median % | cells | in |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for kind, sign in (("coverage", "≥ "), ("error", "≤ "), ("shown", "")):
        for promise, part in rows[rows["kind"] == kind].groupby("promise", sort=False):
            off = (part["measured"] - part["promised"]) * (
                1 if part["promised"].iloc[0] < 0.5 else -1
            )
            worst = part.loc[off.idxmax()]
            lines.append(
                f"| {promise} | {sign}{percent(worst['promised'])} | {percent(worst['measured'])} "
                f"({percent(worst['error'])}) | {percent(part['measured'].median())} | "
                f"{len(part)} | {describe(worst['cell'])} |"
            )
    return "\n".join(lines)


def power(rows: pd.DataFrame) -> str:
    """Lay out the power of one network at an accuracy of .8, and of methods over seeds."""
    part = rows[rows["kind"] == "power"]
    kinds = part["cell"].map(lambda cell: type(cell).__name__)
    plain = part[kinds == "Design"]
    plain = plain[plain["cell"].map(lambda c: c[1] == 0.8 and c[5:7] == (1, 1)).astype(bool)]
    lines = [f"| at flips of 1 / 5 / 20 % | {' | '.join(SIZES)} |", "|---" * (len(SIZES) + 1) + "|"]
    for promise, of in plain.groupby("promise", sort=False):
        of = of[of["cell"].map(lambda c: c.effect != "all")]
        by = {(c.sizes, c.flips): m for c, m in zip(of["cell"], of["measured"], strict=True)}
        cells = [" / ".join(f"{100 * by[s, f]:.0f}" for f in FLIPS if (s, f) in by) for s in SIZES]
        if any(cells):
            lines.append(f"| {promise} | {' | '.join(cells)} |")
    lines += ["", "| scores, slices and files | power % |", "|---|---|"]
    for row in part[kinds.isin(["Scored", "Sliced", "Files"])].itertuples():
        shown = isinstance(row.cell, Files) or row.cell[0] in (338, 1500, 5000)
        if shown and getattr(row.cell, "images", 1) == 1:
            lines.append(f"| {row.promise} | {percent(row.measured)} |")
    lines += ["", "| methods over seeds | power % |", "|---|---|"]
    for row in part[kinds == "Seeds"].itertuples():
        lines.append(f"| {row.promise}, {row.cell.models} models | {percent(row.measured)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/coverage"))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="only each n-th cell")
    kinds = {kind.__name__: kind for kind in CHECKS}
    parser.add_argument("--only", nargs="+", default=[""], help="cells with one of these words")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=[*kinds], help="only these")
    asked = parser.parse_args()
    folder = asked.folder / f"{code()}-{asked.samples}"
    folder.mkdir(parents=True, exist_ok=True)
    chosen = tuple(kinds[name] for name in asked.kinds)
    cells = [
        cell
        for cell in designs()
        if isinstance(cell, chosen) and any(text in describe(cell) for text in asked.only)
    ][:: asked.every]
    names = [hashlib.sha256(repr(cell).encode()).hexdigest()[:12] for cell in cells]
    paths = [folder / f"{name}.json" for name in names]
    # in the order of their names, so that a part of them is a fair sample of all
    jobs = sorted(
        (p, c, asked.samples) for p, c in zip(paths, cells, strict=True) if not p.exists()
    )
    start = time.perf_counter()
    with Pool(asked.processes, initializer=os.nice, initargs=(10,)) as pool:
        for _ in pool.imap_unordered(run, jobs):
            pass
    rows = table(folder)
    print(f"{summary(rows)}\n\n{power(rows)}")
    kept = [Row(*row[1:]) for row in rows.itertuples(index=False)]
    short = [at for at, row in enumerate(kept) if falls_short(row, slack=2)]
    print(f"\n{len(kept):,} promises in {len(cells)} cells; {len(short)} fall short.")
    for at in short:
        row = kept[at]
        where = describe(rows["cell"][at])
        print(f"- {row.promise}: {percent(row.measured)} ({percent(row.error)}) in {where}")
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
