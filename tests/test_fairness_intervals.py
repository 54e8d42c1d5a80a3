import numpy as np
import pytest
from scipy.stats import ttest_1samp

from quantskew.fairness.intervals import cohens_d


def test_d_is_t_over_the_root_of_n():
    changes = np.random.default_rng(0).normal(0.5, 2, size=9)
    assert cohens_d(changes).d == pytest.approx(ttest_1samp(changes, 0).statistic / 3)


def test_the_interval_of_d_excludes_zero_when_the_t_test_rejects():
    rng = np.random.default_rng(1)
    for _ in range(40):
        changes = rng.normal(0.8, 1.4, size=6)
        found = cohens_d(changes)
        assert found.low < found.d < found.high
        assert (found.low > 0 or found.high < 0) == (ttest_1samp(changes, 0).pvalue < 0.05)


def test_the_interval_covers_the_true_d():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        found = cohens_d(rng.normal(1.2, 1, 7), confidence=0.8)
        covered += found.low <= 1.2 <= found.high
    assert 140 <= covered <= 180


@pytest.mark.parametrize("changes", [[1, 1, 1], [1], [-0.1, -0.1, -0.1], [0, 0], [0.1, np.nan]])
def test_no_d_without_variance(changes):
    assert np.isnan(cohens_d(changes)).all()


def test_limits_of_an_effect_far_out_in_the_tails_are_found():
    size = cohens_d([0.86, 0.90])
    assert size.low < size.d < size.high
    assert np.isfinite([size.low, size.high]).all()
