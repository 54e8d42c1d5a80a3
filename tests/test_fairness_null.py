import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantskew.fairness.metrics import fvo
from quantskew.fairness.null import debiased_fvo, equal_rates_p_value, fvo_null

UTKFACE = np.array([2016, 905, 687, 795, 338])  # test samples of a race


def test_a_fair_classifier_shows_fvo_on_utkface():
    groups = np.repeat(np.arange(5), UTKFACE)
    correct = np.arange(groups.size) < 0.8 * groups.size
    found = fvo_null(correct, groups, counted=[True] * 5, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    independent = np.ptp(rng.binomial(UTKFACE, 0.8, size=(10_000, 5)) / UTKFACE, axis=1)
    assert found.mean == pytest.approx(independent.mean(), rel=0.03)
    assert found.mean == pytest.approx(0.035, abs=0.001)
    assert found.upper == pytest.approx(0.061, abs=0.002)


def test_the_null_is_every_way_of_dealing_the_samples():
    correct = np.array([[1, 1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 1, 0]], bool)
    groups = np.array([0, 0, 0, 1, 1, 2, 2])
    counted = [True, True, True]

    def mean_fvo(places):
        accuracy = [[row[places == g].mean() for g in range(3)] for row in correct]
        return fvo(accuracy, counted).mean()

    distinct = set(itertools.permutations(groups.tolist()))
    every = np.array([mean_fvo(np.array(p)) for p in distinct])
    found = fvo_null(correct, groups, counted=counted, draws=40_000, rng=np.random.default_rng(2))
    assert found.observed == pytest.approx(mean_fvo(groups))
    assert found.mean == pytest.approx(every.mean(), abs=0.005)
    assert found.p_value == pytest.approx((every >= found.observed - 1e-12).mean(), abs=0.01)


def test_groups_that_are_not_counted_stay_aside():
    rng = np.random.default_rng(3)
    correct = rng.random(120) < 0.7
    groups = rng.integers(-1, 3, size=120)
    correct[groups == 1] = False
    found = fvo_null(correct, groups, counted=[True, False, True], rng=np.random.default_rng(4))
    kept = (groups == 0) | (groups == 2)
    alone = fvo_null(
        correct[kept], groups[kept] // 2, counted=[True, True], rng=np.random.default_rng(4)
    )
    assert found == alone
    assert np.isnan(fvo_null(correct, groups, counted=[True, False, False], rng=rng)).all()


def test_equal_groups_are_rarely_called_unequal_and_unequal_ones_often():
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(4), [120, 80, 60, 40])
    equal = unequal = 0
    for _ in range(300):
        same = rng.random(300) < 0.85
        planted = rng.random(300) < np.array([0.9, 0.9, 0.9, 0.6])[groups]
        p = [
            fvo_null(c, groups, counted=[True] * 4, draws=199, rng=rng).p_value
            for c in (same, planted)
        ]
        equal += p[0] <= 0.05
        unequal += p[1] <= 0.05
    assert equal <= 24  # more happens with chance 0.7 % at a level of 5 %
    assert unequal >= 250


@pytest.mark.parametrize(
    "accuracy",
    [
        [0.8, 0.8, 0.8, 0.8, 0.8],
        [0.8, 0.8, 0.8, 0.8, 0.78],
        [0.82, 0.8, 0.8, 0.8, 0.78],
        [0.8, 0.8, 0.8, 0.8, 0.7],
    ],
)
def test_the_debiased_fvo_is_less_biased(accuracy):
    rng = np.random.default_rng(6)
    observed = rng.binomial(UTKFACE, accuracy, size=(2000, 5)) / UTKFACE
    counted = np.ones(5, bool)
    true = np.ptp(accuracy)
    plain = fvo(observed, counted).mean() - true
    better = debiased_fvo(observed, UTKFACE, counted).mean() - true
    assert plain > 0
    assert abs(better) < plain
    assert abs(better) < 0.012


def test_debiased_fvo_lies_between_zero_and_fvo():
    sizes, counted = [100, 50, 10], [True, True, False]
    accuracy = [[0.9, 0.9, 0.1], [0.9, 0.5, 0.1], [1.0, 0.0, 0.5], [1.0, 1.0, 0.5], [0.9, 0.88, 1]]
    found = debiased_fvo(accuracy, sizes, counted)
    assert (found >= 0).all()
    assert (found <= fvo(accuracy, counted) + 1e-12).all()
    # Q = Σ n (a − ā)² / (ā(1 − ā)), ā = (90 + 25)/150
    pooled = 115 / 150
    q = (100 * (0.9 - pooled) ** 2 + 50 * (0.5 - pooled) ** 2) / (pooled * (1 - pooled))
    assert found[1] == pytest.approx(0.4 * np.sqrt(1 - 1 / q))
    assert found[0] == found[3] == found[4] == 0
    assert np.isnan(debiased_fvo(accuracy, sizes, [True, False, False])).all()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4))
def test_equal_rates_are_tested_by_counting_the_ways_to_deal(counts):
    part, other = np.array(counts).T
    whole = part + other
    found = equal_rates_p_value(part[:, None], whole[:, None], [True] * len(part))
    tails = []
    for hits, size in zip(part, whole, strict=True):
        ways = [
            comb(size, k) * comb(whole.sum() - size, part.sum() - k) for k in range(part.sum() + 1)
        ]
        tail = min(sum(ways[: hits + 1]), sum(ways[hits:])) / sum(ways)
        tails += [min(1, 2 * tail)] if size else []
    expected = min(1, min(tails) * len(tails)) if len(tails) > 1 else np.nan
    np.testing.assert_allclose(found, [expected])


def test_groups_that_are_not_counted_do_not_enter_the_test_of_equal_rates():
    part, whole = np.array([[9], [1], [5]]), np.array([[10], [10], [10]])
    some = equal_rates_p_value(part, whole, [True, True, False])
    np.testing.assert_array_equal(some, equal_rates_p_value(part[:2], whole[:2], [True, True]))
    assert np.isnan(equal_rates_p_value(part, whole, [True, False, False]))
