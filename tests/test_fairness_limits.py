import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest, multinomial
from statsmodels.stats.proportion import proportion_confint

from quantskew.fairness.limits import (
    Changes,
    Limits,
    Shares,
    change_limits,
    changes,
    difference_limits,
    effective_samples,
    share_limits,
    shares,
    unit_totals,
)
from quantskew.fairness.paired import exchange_p_value, flips


@pytest.mark.parametrize("hits", [0, 1, 17, 29, 30])
def test_limits_of_one_network_are_those_of_scipy_and_statsmodels(hits):
    found = share_limits(Shares(np.array([hits / 30]), np.array([30.0])), 0.025)
    exact = binomtest(hits, 30).proportion_ci(0.95)
    assert (found.low[0], found.high[0]) == pytest.approx((exact.low, exact.high))
    other = share_limits(Shares(np.array([hits / 30]), np.array([30.0])), 0.025, jeffreys=True)
    jeffreys = proportion_confint(hits, 30, method="jeffreys")
    if 0 < hits < 30:  # at the ends statsmodels does not reach 0 and 1
        assert (other.low[0], other.high[0]) == pytest.approx(jeffreys)


def test_counts_are_those_of_flips():
    rng = np.random.default_rng(0)
    labels, a, b = rng.integers(0, 3, (3, 200))
    groups = rng.integers(-1, 2, 200)
    found = changes(a == labels, b == labels, groups, 2)
    lost, gained, _ = flips(labels, a, b, groups, 2)
    sizes = np.bincount(groups[groups >= 0])
    assert found.lost == pytest.approx(lost / sizes)
    assert found.gained == pytest.approx(gained / sizes)
    assert found.n.tolist() == sizes.tolist()
    level = shares(a == labels, groups, 2)
    assert found.value == pytest.approx(shares(b == labels, groups, 2).value - level.value)


@pytest.mark.parametrize("tail", [0.025, 0.05, 0.0025])
@pytest.mark.parametrize("n", [10, 30, 100])
def test_each_limit_of_a_change_errs_at_most_as_promised(n, tail):
    """Not simulated: summed over every outcome of n samples."""
    outcomes = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)])
    limits = change_limits(
        Changes(outcomes[:, 0] / n, outcomes[:, 1] / n, np.full(len(outcomes), float(n))), tail
    )
    cells = np.column_stack([outcomes, n - outcomes.sum(1)])
    for b, c in [(0, 0.01), (0.01, 0.01), (0.05, 0), (0.1, 0.03), (0.2, 0.2), (0.6, 0.1), (1, 0)]:
        chance = multinomial.pmf(cells, n, [b, c, 1 - b - c])
        assert chance[limits.low > c - b + 1e-9].sum() <= tail * 1.05, (b, c)
        assert chance[limits.high < c - b - 1e-9].sum() <= tail * 1.05, (b, c)


def test_no_interval_has_width_zero():
    nobody = Changes(np.zeros(1), np.zeros(1), np.array([30.0]))
    low, high = change_limits(nobody, 0.025)
    exact = binomtest(0, 30).proportion_ci(0.95).high
    assert high[0] == -low[0] == pytest.approx(exact)
    full = changes(np.ones((3, 30)), np.ones((3, 30)), np.zeros(30, int), 1)
    assert change_limits(full, 0.025).high[0] == pytest.approx(exact, rel=0.1)
    empty = changes([1], [0], [-1], 1)
    assert change_limits(empty, 0.025) == Limits(np.array([-1.0]), np.array([1.0]))
    assert share_limits(shares([1], [-1], 1), 0.025) == Limits(np.array([0.0]), np.array([1.0]))


def test_the_order_of_networks_and_of_samples_does_not_matter():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 3, 90)) < 0.7
    units = rng.integers(0, 30, 90)
    groups = rng.integers(0, 2, 90)
    found = change_limits(changes(a, b, groups, 2, units=units), 0.025)
    mirrored = change_limits(changes(b, a, groups, 2, units=units), 0.025)
    assert found.low == pytest.approx(-mirrored.high)
    order = rng.permutation(90)
    shuffled = changes(a[:, order], b[:, order], groups[order], 2, units=units[order])
    assert change_limits(shuffled, 0.025).low == pytest.approx(found.low)


def test_copies_of_a_sample_count_once_if_they_are_one_unit():
    rng = np.random.default_rng(2)
    right = rng.random(300) < 0.8
    groups = np.zeros(300, int)
    alone = shares(right, groups, 1)
    five = shares(np.repeat(right, 5), np.repeat(groups, 5), 1, units=np.repeat(np.arange(300), 5))
    assert five.value == alone.value
    assert five.n[0] == pytest.approx(300, rel=0.02)
    same_seeds = shares(np.tile(right, (4, 1)), groups, 1)
    assert same_seeds.n[0] == pytest.approx(300, rel=0.02)
    other_seeds = shares(rng.random((4, 300)) < 0.8, groups, 1)
    assert 700 < other_seeds.n[0] < 1500


def test_a_single_person_is_one_answer():
    assert shares([1, 1, 0], [0, 0, 0], 1, units=[7, 7, 7]).n[0] == 1
    assert effective_samples([[3.0, 0.0]], [3, 3], [0.25], [1], simple=True)[0] < 2


def test_the_effective_number_is_n_over_the_design_effect():
    """Beta-binomial persons of m images have a design effect of 1 + (m − 1) · correlation."""
    rng = np.random.default_rng(3)
    persons, images, correlation, p = 4000, 5, 0.3, 0.8
    concentration = (1 - correlation) / correlation
    own = rng.beta(p * concentration, (1 - p) * concentration, persons)
    right = rng.random(persons * images) < np.repeat(own, images)
    units = np.repeat(np.arange(persons), images)
    n = shares(right, np.zeros(units.size, int), 1, units=units).n[0]
    assert units.size / n == pytest.approx(1 + 4 * correlation, rel=0.08)


def by_betting(values, alpha=0.05):
    """Limits of a bounded mean that hold at any number of values (Waudby-Smith & Ramdas 2024).

    Nobody who bets on the mean, with what was seen before, becomes 1/α times as rich but with
    chance α; the limits are of the means against which it did not happen.
    """
    n, means = len(values), np.linspace(0.0005, 0.9995, 1000)
    ups, downs = (np.zeros_like(means) for _ in range(2))
    total, squares = 0.5, 0.25
    for seen, value in enumerate(values, 1):
        bet = np.sqrt(2 * np.log(2 / alpha) / (squares / seen * n))
        ups += np.log1p(np.minimum(bet, 0.5 / means) * (value - means))
        downs += np.log1p(-np.minimum(bet, 0.5 / (1 - means)) * (value - means))
        total += value
        squares += (value - total / (seen + 1)) ** 2
    kept = means[np.maximum(ups, downs) < np.log(2 / alpha)]
    return kept.min(), kept.max()


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_limits_by_person_agree_with_those_of_bets(correlation):
    """Another theory, of means of persons, gives the same interval somewhat wider."""
    rng, persons, images = np.random.default_rng(4), 400, 5
    ratios = []
    for share in (0.7, 0.9, 0.9):
        own = rng.random((persons, images)) < share
        alike = rng.random((persons, images)) < np.sqrt(correlation)
        right = np.where(alike, rng.random((persons, 1)) < share, own)
        units = np.repeat(np.arange(persons), images)
        found = shares(right.ravel(), np.zeros(units.size, int), 1, units=units)
        ours = share_limits(found, 0.025)
        low, high = by_betting(right.mean(1))
        assert low <= ours.low[0] <= share <= ours.high[0] <= high
        ratios.append((ours.high[0] - ours.low[0]) / (high - low))
    assert 0.5 < np.mean(ratios) < 1


def test_the_limits_of_a_change_are_those_of_the_formula():
    """MOVER written out for one group, with the limits of scipy's beta distribution."""
    n, lost, gained, tail = 80.0, 0.15, 0.05, 0.025

    def ends(p):
        return beta.ppf(tail, p * n, n - p * n + 1), beta.ppf(1 - tail, p * n + 1, n - p * n)

    (low_b, high_b), (low_c, high_c) = ends(lost), ends(gained)
    r = -np.sqrt(lost * gained / ((1 - lost) * (1 - gained)))
    down, up = gained - low_c, high_b - lost
    low = gained - lost - np.sqrt(down**2 + up**2 - 2 * r * down * up)
    down, up = lost - low_b, high_c - gained
    high = gained - lost + np.sqrt(down**2 + up**2 - 2 * r * down * up)
    found = change_limits(Changes(np.array([lost]), np.array([gained]), np.array([n])), tail)
    assert (found.low[0], found.high[0]) == pytest.approx((low, high))


def test_a_difference_of_equal_groups_is_that_of_newcombe():
    """Written out for two groups (Newcombe 1998, method 10, with these limits)."""
    value = np.array([0.8, 0.7])
    low, high = np.array([0.72, 0.6]), np.array([0.86, 0.79])
    found = difference_limits(value, Limits(low, high))
    assert found.low[0, 1] == pytest.approx(0.1 - np.sqrt(0.08**2 + 0.09**2))
    assert found.high[0, 1] == pytest.approx(0.1 + np.sqrt(0.06**2 + 0.1**2))
    assert found.low[1, 0] == pytest.approx(-found.high[0, 1])


def test_the_power_of_bounds_costs_little_against_exact_ones():
    """The bound of a change is near that of the exact test of one share, where nothing is gained.

    With no gains a loss is a binomial share, whose exact upper limit is Clopper and Pearson's.
    """
    n, lost = 338, binom.ppf(0.5, 338, 0.05)
    found = change_limits(Changes(np.array([lost / n]), np.zeros(1), np.array([float(n)])), 0.05)
    exact = binomtest(int(lost), n, alternative="less").proportion_ci(0.95).high
    assert -found.low[0] == pytest.approx(exact, abs=0.003)
    assert -found.low[0] >= exact - 1e-9


def test_people_are_exchanged_not_their_images():
    """Six people all of whose images were lost are as much evidence as six images."""
    units, change = np.repeat(np.arange(6) + 10, 5), np.full(30, -1)
    totals, sizes = unit_totals(change, units)
    assert sizes.tolist() == [5] * 6
    assert exchange_p_value(totals.astype(int)) == pytest.approx(2 / 2**6)
    assert unit_totals(change, None)[0].tolist() == change.tolist()
    mixed = np.array([2, -1, 3, 1])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
    naive = np.mean(np.abs(mixed @ signs) >= abs(mixed.sum()))
    images = np.repeat(np.sign(mixed), np.abs(mixed))
    by_unit = unit_totals(images, np.repeat(np.arange(4), np.abs(mixed)))[0]
    assert exchange_p_value(by_unit.astype(int)) == pytest.approx(naive)
