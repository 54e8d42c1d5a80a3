import numpy as np
import pytest
from scipy.stats import beta, multinomial

from quantskew.fairness.certificate import (
    certificate,
    certified_losses,
    loss_bound,
)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_bound_covers_every_true_loss(n, alpha):
    """Not simulated: the coverage is summed over every possible outcome of n samples."""
    outcomes = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)])
    bounds = np.array([loss_bound(b, c, n, alpha=alpha) for b, c in outcomes.tolist()])
    cells = np.column_stack([outcomes, n - outcomes.sum(1)])
    steps = np.linspace(0, 1, 21)
    for lost in steps:
        for gained in steps[steps <= min(lost, 1 - lost + 1e-9)]:
            chance = multinomial.pmf(cells, n, [lost, gained, max(0.0, 1 - lost - gained)])
            coverage = chance[bounds >= lost - gained - 1e-6].sum()
            assert coverage >= 1 - alpha, (lost, gained)


def test_all_groups_are_covered_at_once():
    rng = np.random.default_rng(0)
    sizes = np.array([400, 150, 60])
    lost, gained = np.array([0.02, 0.05, 0.2]), np.array([0.02, 0.01, 0.1])
    held = 0
    for _ in range(150):
        cells = [
            rng.multinomial(n, [b, c, 1 - b - c])
            for n, b, c in zip(sizes, lost, gained, strict=True)
        ]
        counts = np.array(cells)
        found = certificate(counts[:, 0], counts[:, 1], sizes, counted=[True] * 3, alpha=0.2)
        held += (found.groups >= lost - gained).all()
        assert found.bound == found.groups.max()
    assert held >= 120


def test_the_bound_is_sharper_than_two_clopper_pearson_limits():
    for lost, gained in ((10, 10), (20, 5), (60, 50)):
        split = beta.ppf(0.975, lost + 1, 1000 - lost) - beta.ppf(0.025, gained, 1001 - gained)
        assert loss_bound(lost, gained, 1000, alpha=0.05) < 0.9 * split


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (2, 0), (3, 2), (0, 4), (9, 1)])
def test_the_bound_is_that_of_a_search_over_all_outcomes(lost, gained):
    """Derived a second time: no loss at or above the bound explains so low a difference."""
    n, alpha = 25, 0.05
    outcomes = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)])
    as_low = outcomes[:, 0] - outcomes[:, 1] <= lost - gained
    cells = np.column_stack([outcomes, n - outcomes.sum(1)])
    most = beta.ppf(1 - alpha / 10, lost + gained + 1, n - lost - gained)

    def likeliest(loss):
        rates = np.linspace(max(loss, 1e-9), most, 15)
        shares = [((rate + loss) / 2, (rate - loss) / 2, 1 - rate) for rate in rates]
        return max(multinomial.pmf(cells, n, share)[as_low].sum() for share in shares)

    bound = loss_bound(lost, gained, n, alpha=alpha)
    step = 0.004
    if bound < most - step:
        assert likeliest(bound + step) < 0.9 * alpha < likeliest(max(bound - step, 0.0))
    else:
        assert bound == pytest.approx(most)
        assert likeliest(most - 1e-6) >= 0.9 * alpha


def test_the_bound_rises_with_what_was_lost_and_falls_with_samples():
    bounds = [loss_bound(lost, 5, 300, alpha=0.05) for lost in range(0, 60, 6)]
    assert bounds == sorted(bounds)
    assert bounds[5] > 25 / 300
    larger = [loss_bound(n // 10, n // 20, n, alpha=0.05) for n in (20, 200, 2000)]
    assert larger == sorted(larger, reverse=True)
    assert loss_bound(0, 100, 300, alpha=0.05) == 0
    assert loss_bound(0, 0, 0, alpha=0.05) == 1
    with pytest.raises(ValueError, match="7 lost and 5 gained of 10"):
        loss_bound(7, 5, 10, alpha=0.05)


def test_groups_that_are_not_counted_are_not_promised():
    found = certificate([1, 50, 3], [0, 0, 1], [200, 60, 100], counted=[True, False, True])
    assert np.isnan(found.groups[1])
    assert found.groups[0] == loss_bound(1, 0, 200, alpha=0.025)
    assert found.bound == max(found.groups[0], found.groups[2])
    assert np.isnan(certificate([1], [0], [9], counted=[False]).bound)


def test_bounds_that_one_of_many_networks_is_chosen_by_are_wider():
    counts = [3, 1], [0, 1], [200, 300]
    both = np.ones(2, bool)
    alone, two, ten = (certificate(*counts, counted=both, alternatives=k) for k in (1, 2, 10))
    assert alone.groups.tolist() == two.groups.tolist()  # α is divided among as many groups
    assert ten.groups[0] == loss_bound(3, 0, 200, alpha=0.05 / 10) > two.groups[0]
    before, after = np.ones(90, bool), np.arange(90) >= 3
    one = {"groups": np.zeros(90, int), "counted": np.array([True]), "alpha": 0.05}
    for units in (None, np.arange(90) // 3):
        few, many = (
            certified_losses(before, after, **one, units=units, alternatives=k) for k in (1, 8)
        )
        assert many > few
