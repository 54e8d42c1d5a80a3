import numpy as np
import pytest
from scipy.stats import ttest_1samp

from quantskew.fairness.contrasts import common_sd, contrast_over_seeds
from quantskew.fairness.seeds import variance_of_mean


def test_on_an_endless_test_set_it_is_student_s_test():
    values = np.array([0.02, 0.05, 0.01, 0.03])
    found = contrast_over_seeds(values, np.zeros((10, 4)), np.zeros(4))
    expected = ttest_1samp(values, 0)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.degrees == 3


def test_the_interval_and_the_p_value_agree():
    rng = np.random.default_rng(0)
    for _ in range(30):
        values = rng.normal(0.02, 0.02, 6)
        draws = rng.normal(0, 0.01, (200, 1)) + rng.normal(0, 0.01, (200, 6))
        found = contrast_over_seeds(values, draws, [0, 0, 0, 1, 1, 1])
        assert (found.p_value <= 0.05) == (found.low > 0 or found.high < 0)
        edge = contrast_over_seeds(values, draws, [0, 0, 0, 1, 1, 1], confidence=1 - found.p_value)
        assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-9)


def test_what_networks_share_does_not_average_out():
    rng = np.random.default_rng(1)
    draws = rng.normal(0, 0.03, (20_000, 1)) + rng.normal(0, 0.05, (20_000, 4))
    weights = np.full(4, 0.25)
    assert common_sd(draws, weights) == pytest.approx(0.03, rel=0.05)
    # as the split of variances has it, of seeds that do not differ: the mean's less the seeds' own
    own = draws.var(0, ddof=1).mean()
    common = (4 * variance_of_mean(np.zeros(4), draws) - own) / 3
    assert common_sd(draws, weights) == pytest.approx(np.sqrt(common), rel=0.01)
    assert np.isnan(common_sd(draws[:1], weights))


def test_models_are_averaged_after_their_seeds():
    values = np.array([0.1, 0.2, 0.0, 0.0, 0.0, 0.0])
    found = contrast_over_seeds(values, np.zeros((5, 6)), [0, 0, 1, 1, 1, 1])
    assert found.estimate == pytest.approx(0.075)
    assert found.seed_sd == pytest.approx(np.sqrt(0.005 / 2 / 4))
    assert found.degrees == pytest.approx(1)


def test_one_seed_says_nothing_of_another_training():
    found = contrast_over_seeds([0.1], np.zeros((5, 1)), [0])
    assert (found.low, found.high, found.p_value) == (-np.inf, np.inf, 1.0)
    undrawn = contrast_over_seeds([0.1, 0.2], np.full((5, 2), np.nan), [0, 0])
    assert (undrawn.low, undrawn.high, undrawn.p_value) == (-np.inf, np.inf, 1.0)
    unknown = contrast_over_seeds([0.1, np.nan], np.zeros((5, 2)), [0, 0])
    assert np.isnan([unknown.estimate, unknown.low, unknown.p_value]).all()
