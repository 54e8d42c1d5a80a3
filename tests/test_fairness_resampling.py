from dataclasses import replace

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score

from quantskew.fairness.catalogue import CATALOGUE
from quantskew.fairness.paired import measure
from quantskew.fairness.parity import Answers
from quantskew.fairness.resampling import (
    basic_interval,
    exceedance,
    exchanged,
    observe,
    resampled,
    tabulate,
)
from quantskew.fairness.seeds import variance_of_mean


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [150, 90, 60])
    before = rng.random(300) < np.array([0.9, 0.8, 0.7])[groups]
    after = before ^ (rng.random(300) < 0.1)
    return before, after, groups


def table(networks, groups, n_groups=3, labels=None, classes=2):
    """Cells of networks (N, n) of one seed each that are right where their answer is ``labels``."""
    labels = np.ones_like(groups) if labels is None else labels
    return tabulate(labels, np.stack(networks)[:, None].astype(int), groups, n_groups, classes)


def hits(blocks):
    """Right answers in each draw, (B, N, G) with a group that stands for nobody left in."""
    return np.concatenate([counts.hits.sum(-1)[:, :, 0] for counts in blocks])


def changed(before, after, groups, metric, n_groups=3, **options):
    """Effect on a metric of going from one network to another."""
    of = (groups, np.ones(n_groups, bool), 2)
    after, before = (
        Answers(np.ones_like(groups), np.atleast_2d(right).astype(int), *of)
        for right in (after, before)
    )
    bootstrapped = replace(CATALOGUE[metric], bounds=None)
    return measure(after, before, metrics=[bootstrapped], **options)[metric].effect


def test_patterns_are_counted_group_by_group():
    cells = table([[1, 1, 0, 1], [0, 0, 1, 1]], np.array([0, 0, 0, 2]))
    np.testing.assert_array_equal(cells[0].answers[:, 0], [[0, 1], [1, 0]])
    np.testing.assert_array_equal(cells[0].counts, [1, 2])
    assert cells[1].counts.size == 0
    np.testing.assert_array_equal(hits([observe(cells, np.ones(2))])[0], [[2, 0, 1], [1, 0, 1]])
    rng = np.random.default_rng(0)
    for draw in (resampled, exchanged):
        assert (hits(draw(cells, np.ones(2), 4, rng))[:, :, 1] == 0).all()


@pytest.mark.parametrize("classes", [2, 60], ids=["counts are drawn", "samples are drawn"])
def test_drawing_patterns_is_drawing_samples(pair, classes):
    """Means and covariances are those of n samples drawn with replacement, in closed form."""
    before, after, groups = pair
    rng = np.random.default_rng(1)
    labels = rng.integers(1, classes, size=300)
    answers = [np.where(right, labels, 0) for right in (before, after)]
    cells = table(answers, groups, labels=labels, classes=classes)
    drawn = hits(resampled(cells, np.ones(2), 50_000, rng)).reshape(50_000, -1)
    expected = np.zeros((2, 3, 2, 3))
    for g in range(3):
        right = np.stack([before, after])[:, groups == g]
        expected[:, g, :, g] = right.shape[1] * np.cov(right, bias=True)
        np.testing.assert_allclose(drawn.reshape(-1, 2, 3)[..., g].mean(0), right.sum(1), atol=0.1)
    # of 50,000 draws a variance of 19 is known to 0.12
    np.testing.assert_allclose(np.cov(drawn.T), expected.reshape(6, 6), atol=0.5)


def test_exchanging_keeps_the_sum_and_flips_a_fair_coin(pair):
    before, after, groups = pair
    cells = table([before, after], groups)
    drawn = hits(exchanged(cells, np.ones(2), 20_000, np.random.default_rng(2)))
    both = hits([observe(cells, np.ones(2))])[0].sum(0)
    np.testing.assert_array_equal(drawn.sum(1), np.broadcast_to(both, (20_000, 3)))
    differs = np.bincount(groups, before != after)
    difference = drawn[:, 1] - drawn[:, 0]
    np.testing.assert_allclose(difference.mean(0), 0, atol=0.2)
    np.testing.assert_allclose(difference.var(0), differs, rtol=0.05)


def test_the_interval_is_scipys(pair):
    before, after, groups = pair

    def change(*members, axis):
        one, two = (np.stack([right[m].mean(axis) for m in members]) for right in (before, after))
        return np.ptp(two, axis=0) - np.ptp(one, axis=0)

    rng = np.random.default_rng(3)
    members = [np.flatnonzero(groups == g) for g in range(3)]
    low, high = bootstrap(
        members, change, n_resamples=8000, method="basic", vectorized=True, rng=rng
    ).confidence_interval
    ours = changed(before, after, groups, "fvo", draws=20_000, rng=rng)
    tolerance = 0.04 * (high - low)
    assert ours.low == pytest.approx(low, abs=tolerance)
    assert ours.high == pytest.approx(high, abs=tolerance)


def test_quantiles_of_accuracy_are_fairlearns(pair):
    before, _, groups = pair
    frame = MetricFrame(
        metrics=accuracy_score,
        y_true=np.ones(300, bool),
        y_pred=before,
        sensitive_features=groups,
        n_boot=150,
        ci_quantiles=[0.1, 0.9],
        random_state=0,
    )
    cells = table([before], groups)
    drawn = hits(resampled(cells, np.ones(2), 5000, np.random.default_rng(4)))[:, 0]
    drawn /= np.bincount(groups)
    ours = np.quantile(drawn, [0.1, 0.9], axis=0)
    theirs = np.stack([quantile.to_numpy(float) for quantile in frame.by_group_ci])
    np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_a_draw_gives_all_seeds_the_same_samples():
    """Two seeds with the same answers vary together; nothing averages out."""
    rng = np.random.default_rng(5)
    right = rng.random(200) < 0.7
    zero = np.zeros(200, int)
    once, twice = (
        changed(before, ~before, zero, "overall", 1, draws=4000, rng=rng)
        for before in (right[None], np.stack([right, right]))
    )
    assert twice.high - twice.low == pytest.approx(once.high - once.low, rel=0.05)
    assert twice.seed_sd == 0
    assert np.isnan(once.seed_sd)


def test_interval_and_p_value_of_a_known_distribution():
    draws = np.arange(1001.0)[:, None] / 1000
    low, high = basic_interval([0.4], draws, 0.9)
    np.testing.assert_allclose([low[0], high[0]], [0.8 - 0.95, 0.8 - 0.05])
    holed = np.where(np.arange(1001)[:, None] % 2, np.nan, draws)
    np.testing.assert_allclose(basic_interval([0.4], holed, 0.9)[0], low)
    assert np.isnan(basic_interval([np.nan], holed * np.nan, 0.9)).all()
    null = np.array([[-3.0], [1.0], [2.0], [0.0]])
    np.testing.assert_allclose(exceedance([2.0], null), [3 / 5])
    np.testing.assert_allclose(exceedance([9.0], null), [1 / 5])
    assert np.isnan(exceedance([np.nan], null)).all()
    # what a draw without a value would have shown is not known
    np.testing.assert_allclose(exceedance([9.0], np.array([[np.nan], [1.0], [2.0]])), [2 / 4])


def test_variance_is_split_into_seeds_and_samples():
    """θ + seed + common error + own error, with known variances 4, 9, 1."""
    rng = np.random.default_rng(6)
    found, means = [], []
    for _ in range(2000):
        truth = rng.normal(0, 2, 5)
        values = truth + rng.normal(0, 3) + rng.normal(0, 1, 5)
        draws = values + rng.normal(0, 3, (200, 1)) + rng.normal(0, 1, (200, 5))
        found.append(variance_of_mean(values, draws))
        means.append(values.mean())
    assert np.mean(found) == pytest.approx(4 / 5 + 9 + 1 / 5, rel=0.03)
    assert np.var(means) == pytest.approx(4 / 5 + 9 + 1 / 5, rel=0.1)
