import numpy as np
import pytest
from scipy.stats import false_discovery_control
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from quantskew.fairness.limits import Changes, Limits, change_limits
from quantskew.fairness.paired import exchange_p_value, holm
from quantskew.fairness.verdicts import (
    WORDS,
    deciding_samples,
    false_discovery_rate,
    p_value_of_limits,
    verdicts,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.05, -0.01, "worse"),
        (0.001, 0.05, "better"),
        (-0.02, 0.02, "equivalent"),
        (-0.019, -0.001, "equivalent"),
        (-0.03, 0.01, "cannot tell"),
        (0.0, 0.05, "cannot tell"),
        (np.nan, 0.1, "undefined"),
    ],
)
def test_the_words(low, high, expected):
    assert verdicts(low, high, 0.02).item() == expected
    mirrored = verdicts(-high, -low, 0.02, higher_is_better=False).item()
    assert mirrored == expected


def test_a_verdict_needs_the_test_as_well():
    found = verdicts([-0.05, -0.05], [-0.01, -0.01], 0.0, p_value=[0.04, 0.06])
    assert found.tolist() == ["worse", "cannot tell"]
    assert verdicts([-1e-9], [1e-9], 0.0).tolist() == ["cannot tell"]
    assert verdicts([-0.3], [-0.1], 0.0, p_value=[np.nan]).tolist() == ["cannot tell"]
    with pytest.raises(ValueError, match="margin of -1"):
        verdicts([0], [0], -1)
    assert set(WORDS) == {"worse", "better", "equivalent", "cannot tell"}


def test_equivalence_is_two_one_sided_tests():
    """On many normal numbers, where the limits are Student's, as statsmodels does it."""
    rng = np.random.default_rng(0)
    for shift in np.linspace(0, 0.03, 7):
        x = DescrStatsW(rng.normal(shift, 0.1, 400))
        low, high = x.tconfint_mean(alpha=0.05)
        p = max(x.ttest_mean(-0.02, "larger")[1], x.ttest_mean(0.02, "smaller")[1])
        assert (verdicts(low, high, 0.02).item() == "equivalent") == (p <= 0.025)


def test_so_many_samples_decide():
    rng = np.random.default_rng(1)
    for _ in range(50):
        lost, gained = rng.integers(0, 20, 2) / 100
        n = 100.0

        def limits(n, lost=lost, gained=gained):
            low, high = change_limits(
                Changes(np.array([lost]), np.array([gained]), np.array([n])), 0.025
            )
            return low[0], high[0]

        needed = deciding_samples(n, gained - lost, *limits(n), 0.03).item()
        if np.isfinite(needed) and needed < 1e6:
            assert verdicts(*limits(1.5 * needed), 0.03).item() in WORDS[:3]
            if needed > 4 * n:
                assert verdicts(*limits(needed / 2), 0.03).item() == "cannot tell"
    assert np.isinf(deciding_samples(100, 0.0, -0.1, 0.1, 0.0))
    assert np.isinf(deciding_samples(100, 0.0, 0.0, 0.1, 0.0))


def test_the_p_value_is_where_the_interval_leaves_out_zero():
    def limits(tail):
        low, high = change_limits(
            Changes(np.array([0.1]), np.array([0.04]), np.array([300.0])), tail
        )
        return Limits(low[0], high[0])

    p = p_value_of_limits(limits)
    assert limits(p / 2 * 1.01).high < 0 < limits(p / 2 * 0.99).high
    # close to the exact test on the same counts
    assert p == pytest.approx(exchange_p_value(np.repeat([-1, 1], [30, 12])), rel=0.6)
    assert p_value_of_limits(lambda _: Limits(np.float64(-1), np.float64(1))) == 1
    assert p_value_of_limits(lambda _: Limits(np.float64(1), np.float64(1))) == pytest.approx(1e-8)
    assert np.isnan(p_value_of_limits(lambda _: Limits(np.float64(np.nan), np.float64(np.nan))))


def test_rates_of_false_discoveries_are_those_of_scipy_and_statsmodels():
    p = np.random.default_rng(2).random(30) ** 3
    assert false_discovery_rate(p) == pytest.approx(false_discovery_control(p))
    assert false_discovery_rate(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    missing = false_discovery_rate([[0.01, np.nan], [0.2, 0.03]])
    assert missing[0, 1] != missing[0, 1]
    assert missing[0, 0] == pytest.approx(0.03)
    assert np.isnan(false_discovery_rate([np.nan])).all()


def test_the_exchange_test_is_that_of_mcnemar():
    for lost, gained in ((3, 9), (0, 6), (20, 21)):
        change = np.repeat([-1, 1, 0], [lost, gained, 10])
        expected = mcnemar([[5, lost], [gained, 5]], exact=True).pvalue
        assert exchange_p_value(change) == pytest.approx(expected)
