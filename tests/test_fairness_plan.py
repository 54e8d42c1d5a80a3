import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from statsmodels.stats.power import TTestPower

from quantskew.fairness.certificate import loss_bound
from quantskew.fairness.plan import images_from_pilot, images_to_certify, seeds_to_decide


@pytest.mark.parametrize(
    ("loss", "flips", "true"), [(0.05, 0.05, 0.0), (0.05, 0.2, 0.01), (0.1, 0.1, 0.02)]
)
def test_so_many_images_certify_as_often_as_planned(loss, flips, true):
    n = int(images_to_certify(loss, flips, true_loss=true, power=0.8))
    rng = np.random.default_rng(0)
    lost, gained = (flips + true) / 2, (flips - true) / 2

    def power(n):
        drawn = rng.multinomial(n, [lost, gained, 1 - flips], size=400)
        return np.mean([loss_bound(int(b), int(c), n, alpha=0.05) < loss for b, c, _ in drawn])

    assert power(n) == pytest.approx(0.8, abs=0.08)
    assert power(n // 2) < 0.75


def test_planning_says_what_cannot_be_reached():
    assert math.isinf(images_to_certify(0.02, 0.1, true_loss=0.03))
    with pytest.raises(ValueError, match="at most the flip rate"):
        images_to_certify(0.05, 0.01, true_loss=0.02)
    assert math.isinf(seeds_to_decide(0.01, 0.02, common_sd=0.01))
    with pytest.raises(ValueError, match="above 0"):
        seeds_to_decide(0, 0.1)


@pytest.mark.parametrize("wrong", [{"loss": 2}, {"alpha": 2}, {"power": 1}, {"alpha": math.nan}])
def test_what_is_no_share_plans_nothing(wrong):
    asked = {"loss": 0.02, "flip_rate": 0.05, **wrong}
    with pytest.raises(ValueError, match="they are shares"):
        images_to_certify(**asked)
    with pytest.raises(ValueError, match="they are shares"):
        images_from_pilot(5, 5, 200, **{"loss": 0.02, **wrong})


def test_no_number_of_units_stays_no_number():
    assert math.isinf(images_to_certify(1e-7, 0.5, images_per_unit=5, correlation=0.5))


def test_several_images_of_a_person_count_for_less():
    alone = images_to_certify(0.05, 0.1)
    assert images_to_certify(0.05, 0.1, images_per_unit=5, correlation=0.5) == 3 * alone
    assert images_to_certify(0.05, 0.1, images_per_unit=5) == alone


def test_a_pilot_says_how_many_more():
    assert images_from_pilot(0, 0, 1000, 0.02) == 0
    more = images_from_pilot(5, 5, 200, 0.02)
    assert 200 + more == images_to_certify(0.02, 0.05)
    assert math.isinf(images_from_pilot(10, 0, 200, 0.02))


def test_a_pilot_of_people_counts_for_as_many_as_it_is_worth():
    assert images_from_pilot(0, 0, 1000, 0.02, effective=1000.0) == 0
    total = images_to_certify(0.02, 0.05)
    assert images_from_pilot(5, 5, 200, 0.02, effective=50.0) == 4 * total - 200


def test_without_flips_the_number_is_that_of_clopper_and_pearson():
    """0.9 α for the loss: (1 − x)^n ≤ 0.045 is a little less than what the bound asks."""
    n = images_to_certify(0.02, 0.0)
    assert 149 <= n <= 260  # 149 is the rule of three, exactly
    assert loss_bound(0, 0, int(n), alpha=0.05) < 0.02 <= loss_bound(0, 0, int(n) - 1, alpha=0.05)


@pytest.mark.parametrize(("size", "sd"), [(0.05, 0.02), (0.05, 0.05), (0.02, 0.03)])
def test_seeds_are_those_of_a_t_test(size, sd):
    expected = TTestPower().solve_power(size / sd, alpha=0.05, power=0.8)
    assert seeds_to_decide(size, sd) == math.ceil(expected)


def test_so_many_seeds_decide():
    rng = np.random.default_rng(1)
    seeds = int(seeds_to_decide(0.05, 0.04))
    found = ttest_1samp(rng.normal(0.05, 0.04, (4000, seeds)), 0, axis=1).pvalue <= 0.05
    assert 0.78 <= found.mean() <= 0.95
    fewer = seeds_to_decide(0.05, 0.04, models=3)
    assert fewer < seeds
    assert seeds_to_decide(0.05, 0.0) == 2
