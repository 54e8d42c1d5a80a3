import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from quantskew.fairness import catalogue
from quantskew.fairness.bounds import FVO, Pair, parity
from quantskew.fairness.catalogue import find
from quantskew.fairness.metrics import fvo, group_accuracy
from quantskew.fairness.paired import exchange_p_value, flips, holm, measure
from quantskew.fairness.parity import Answers

ACCURACY = [m for m in catalogue.CATALOGUE.values() if not m.by_class and m.name != "recall_gap"]
SKEWED = [find("fvo"), find("against_rest")]
PARITY = [m for m in catalogue.CATALOGUE.values() if m not in ACCURACY]


def answers_of(before, after, groups, counted):
    """Network and reference that are right or wrong, as if class 1 were always true."""
    one, two = (np.atleast_2d(np.asarray(right, int)) for right in (before, after))
    of = (np.asarray(groups), np.asarray(counted), 2)
    ones = np.ones_like(of[0])
    return Answers(ones, two, *of), Answers(ones, one, *of)


def compare_accuracy(before, after, groups, *, counted, metrics=ACCURACY, **options):
    pair = answers_of(before, after, groups, counted)
    return {n: m.effect for n, m in measure(*pair, metrics=metrics, **options).items()}


def compare_parity(labels, before, after, groups, *, counted, n_classes, **options):
    of = (np.asarray(groups), np.asarray(counted), n_classes)
    pair = (Answers(labels, np.atleast_2d(answers), *of) for answers in (after, before))
    return {n: m.effect for n, m in measure(*pair, metrics=PARITY, **options).items()}


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_exchange_test_of_one_seed_is_statsmodels_and_scipys_mcnemar(lost, gained):
    found = exchange_p_value([-1] * lost + [1] * gained + [0] * 5)
    expected = mcnemar([[7, lost], [gained, 9]], exact=True).pvalue
    assert found == pytest.approx(expected, abs=1e-12)
    if lost + gained:
        assert found == pytest.approx(binomtest(lost, lost + gained).pvalue, abs=1e-12)


@settings(max_examples=20)  # statsmodels takes 0.1 s
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values):
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1])


def test_a_test_not_made_is_no_member_of_the_family():
    np.testing.assert_allclose(holm([[0.01, np.nan], [0.04, 0.03]]), [[0.03, np.nan], [0.06, 0.06]])


def test_flips_by_direction():
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    before = np.array([0, 0, 1, 1, 1, 0, 2])
    after = np.array([0, 2, 0, 2, 1, 0, 0])
    found = flips(labels, before, after, [0, 0, 0, 0, 1, 1, -1], 2)
    np.testing.assert_array_equal(found.right_to_wrong, [1, 0])
    np.testing.assert_array_equal(found.wrong_to_right, [1, 0])
    np.testing.assert_array_equal(found.wrong_to_other_wrong, [1, 0])


def networks(rng, sizes, accuracy, losses, churn=0.03, seeds=1):
    """Right or wrong of two networks: ``accuracy`` before, less ``losses`` after."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    lost, kept = (np.asarray(losses) + churn)[groups], np.asarray(accuracy)[groups]
    u = rng.random((seeds, groups.size))
    before = u < kept
    after = (u < kept - lost) | ((u >= kept) & (u < kept + churn))
    return before, after, groups


def test_estimates_are_the_plain_differences():
    rng = np.random.default_rng(1)
    before, after, groups = networks(rng, [80, 50, 30], [0.9, 0.8, 0.7], [0, 0.1, 0.2], seeds=3)
    groups = np.where(rng.random(groups.size) < 0.1, -1, groups)
    counted = np.array([True, True, False])
    found = compare_accuracy(before, after, groups, counted=counted, draws=200, rng=rng)
    one, two = (group_accuracy(c, groups, 3) for c in (before, after))
    np.testing.assert_allclose(found["overall"].estimate, after.mean() - before.mean())
    np.testing.assert_allclose(
        found["fvo"].estimate, (fvo(two.accuracy, counted) - fvo(one.accuracy, counted)).mean()
    )
    worst = (two.accuracy[:, counted].min(1) - one.accuracy[:, counted].min(1)).mean()
    np.testing.assert_allclose(found["worst_group"].estimate, worst)
    np.testing.assert_allclose(found["accuracy"].estimate, (two.accuracy - one.accuracy).mean(0))
    change = after.astype(int) - before
    for g in range(3):
        others = (groups >= 0) & (groups != g)
        expected = change[:, groups == g].mean() - change[:, others].mean()
        np.testing.assert_allclose(found["against_rest"].estimate[g], expected)
    for effect in found.values():
        assert (effect.low <= effect.estimate).all()
        assert (effect.estimate <= effect.high).all()


def test_each_group_has_the_exchange_test_of_its_own_samples():
    rng = np.random.default_rng(2)
    before, after, groups = networks(rng, [300, 200, 120], [0.9, 0.8, 0.7], [0.0, 0.02, 0.05])
    found = compare_accuracy(before, after, groups, counted=[True] * 3, draws=100, rng=rng)
    change = after.astype(int)[0] - before[0]
    expected = [exchange_p_value(change[groups == g]) for g in range(3)]
    np.testing.assert_array_equal(found["accuracy"].p_value, expected)
    assert found["overall"].p_value == exchange_p_value(change)


@pytest.mark.parametrize("loss", [0.0, 0.3], ids=["no effect", "everyone alike"])
def test_without_a_skew_none_is_found_more_often_than_alpha(loss):
    rng = np.random.default_rng(3)
    rejected = {"fvo": 0, "against_rest": 0}
    for _ in range(100):
        before, after, groups = networks(rng, [90] * 5, [0.92] * 5, [loss] * 5)
        found = compare_accuracy(before, after, groups, counted=[True] * 5, rng=rng, metrics=SKEWED)
        rejected["fvo"] += found["fvo"].p_value <= 0.05
        rejected["against_rest"] += found["against_rest"].p_value[0] <= 0.05
    # 100 tests at 5 %: more than 11 happens with chance 0.4 %
    assert max(rejected.values()) <= 11


def test_a_planted_skew_is_found():
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(30):
        before, after, groups = networks(rng, [400, 400, 150], [0.9] * 3, [0.02, 0.02, 0.25])
        effects = compare_accuracy(
            before, after, groups, counted=[True] * 3, rng=rng, metrics=SKEWED
        )
        found += effects["fvo"].p_value <= 0.05 and effects["against_rest"].high[2] < 0
    assert found >= 20  # about three in four


def test_the_interval_covers_the_true_change():
    rng = np.random.default_rng(8)
    covered = {1: 0, 3: 0}
    for seeds in [1, 3] * 200:
        before, after, groups = networks(
            rng, [200] * 3, [0.9, 0.85, 0.7], [0.0, 0.0, 0.1], seeds=seeds
        )
        variant, reference = answers_of(before, after, groups, [True] * 3)
        low, high = FVO.change(Pair(reference, variant))(0.025)
        covered[seeds] += low <= 0.1 <= high
        one, two = (group_accuracy(right, groups, 3).accuracy for right in (before, after))
        assert low < (np.ptp(two, axis=-1) - np.ptp(one, axis=-1)).mean() < high
    # of 200 at 95 %, less than 181 is covered with chance 0.3 %
    assert min(covered.values()) >= 181


def test_where_groups_are_alike_the_mean_of_several_gaps_may_be_zero():
    """Lower limits are averaged over seeds and classes, and any one of them may be above zero."""
    rng, missed = np.random.default_rng(5), 0
    labels, codes = np.tile(np.arange(3), 150), np.repeat([0, 1, 2], 150)
    for _ in range(60):
        wrong = rng.random((8, 450)) < 0.3
        answers = np.where(wrong, (labels + rng.integers(1, 3, (8, 450))) % 3, labels)
        network = Answers(labels, answers, codes, np.ones(3, bool), 3)
        pair = Pair(network, network)
        missed += parity("equal_opportunity", macro=True).level(pair)(0.025).low > 0
    assert missed <= 5  # of 60 at 2.5 %, more has a chance of 0.3 %


def test_a_group_in_which_nothing_changed_has_an_interval_all_the_same():
    right, groups = np.ones((2, 60), bool), np.repeat([0, 1], 30)
    found = compare_accuracy(
        right, right, groups, counted=[True] * 2, rng=np.random.default_rng(0), over_seeds=True
    )
    for effect in found.values():
        assert (effect.high - effect.low > 0.05).all()
        assert (effect.p_value == 1).all()


def test_over_seeds_a_change_of_the_networks_is_none_of_the_method_unless_seeds_agree():
    rng, codes = np.random.default_rng(2), np.zeros(1000, int)
    for lost, detected in ((np.array([0, 0, 300, 0]), False), (np.full(4, 75), True)):
        before = np.ones((4, 1000), bool)
        after = np.arange(1000) >= lost[:, None]
        pair = answers_of(before, rng.permuted(after, axis=1), codes, [True])
        these, method = (
            measure(*pair, metrics=[find("overall")], over_seeds=over, rng=rng)["overall"].effect
            for over in (False, True)
        )
        assert these.p_value < 0.001
        assert (method.p_value < 0.05) == detected
        assert method.low <= these.low < these.high <= method.high


def test_parity_changes_are_the_plain_differences_and_exchangeable():
    rng = np.random.default_rng(6)
    labels, groups = rng.integers(3, size=300), rng.integers(-1, 3, size=300)
    before, after = (
        np.where(rng.random((2, 300)) < p, labels, rng.integers(3, size=(2, 300)))
        for p in (0.9, 0.5)
    )
    sizes = {"n_classes": 3, "counted": [True] * 3}
    found = compare_parity(labels, before, after, groups, draws=300, rng=rng, **sizes)
    plain = [
        catalogue.values(Answers(labels, p, groups, np.ones(3, bool), 3)) for p in (before, after)
    ]
    for name, effect in found.items():
        assert effect.estimate == pytest.approx((plain[1][name] - plain[0][name]).mean())
        assert 0 < effect.p_value <= 1
    same = compare_parity(labels, before, before, groups, draws=99, rng=rng, **sizes)
    assert all(effect.p_value == 1 for effect in same.values())


def answers(rng, labels, wrong):
    """Answers of a network before and after: ``wrong`` are the shares of other classes."""
    u, other = rng.random(labels.size), (labels + rng.integers(1, 3, labels.size)) % 3
    return (np.where(u < share, other, labels) for share in wrong)


def test_a_network_that_gets_worse_for_all_alike_is_not_called_disparate():
    rng = np.random.default_rng(9)
    groups = np.repeat(np.arange(4), [150, 90, 60, 60])
    rejected = dict.fromkeys(("equalized_odds_macro", "predictive_equality_worst"), 0)
    for _ in range(40):
        labels = rng.integers(3, size=groups.size)
        before, after = answers(rng, labels, (0.05, 0.35))
        found = compare_parity(
            labels, before, after, groups, counted=[True] * 4, n_classes=3, draws=99, rng=rng
        )
        for name in rejected:
            rejected[name] += found[name].p_value <= 0.05
    # 40 tests at 5 %: more than 6 happens with chance 0.3 %
    assert max(rejected.values()) <= 6


def test_a_planted_disparity_is_found():
    rng = np.random.default_rng(10)
    groups = np.repeat(np.arange(3), [600, 600, 400])
    labels = rng.integers(3, size=groups.size)
    before, after = answers(rng, labels, (0.05, np.where(groups == 2, 0.5, 0.05)))
    found = compare_parity(
        labels, before, after, groups, counted=[True] * 3, n_classes=3, draws=199, rng=rng
    )
    for name in ("equalized_odds", "equal_opportunity", "predictive_equality"):
        assert found[f"{name}_worst"].p_value <= 0.01
        assert found[f"{name}_macro"].estimate > 0.05
    assert found["disparate_impact_worst"].p_value > 0.05  # all classes are as often given


def test_parity_where_the_group_is_the_class_compares_recall_only():
    rng = np.random.default_rng(7)
    labels = np.repeat([0, 1, 2], 50)
    before = labels
    after = np.where(rng.random(150) < 0.3 * labels, 0, labels)
    found = compare_parity(
        labels, before, after, labels, counted=[True] * 3, n_classes=3, draws=199, rng=rng
    )
    assert found["recall_gap"].p_value < 0.001
    for field in found["demographic_parity_worst"]:
        assert np.isnan(field)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=10))
def test_the_exact_exchange_test_counts_every_assignment_of_signs(change):
    sums = [np.dot(signs, change) for signs in itertools.product((-1, 1), repeat=len(change))]
    expected = np.mean(np.abs(sums) >= abs(sum(change)))
    np.testing.assert_allclose(exchange_p_value(change), expected, atol=1e-12)


def test_a_group_that_collapses_is_seen_with_any_number_of_draws():
    before, after = np.ones((2, 50), bool), np.zeros((2, 50), bool)
    found = compare_accuracy(
        before, after, np.zeros(50, int), counted=[True], draws=100, rng=np.random.default_rng(0)
    )
    assert found["accuracy"].p_value[0] < 1e-10
    assert found["overall"].p_value < 1e-10


def persons(rng, n, images):
    """Codes of persons, and whether a network is right, nearly alike for all images of a person."""
    units = np.repeat(np.arange(n), images)
    easy, flips = rng.random(n) < 0.8, rng.random((2, n)) < 0.1
    own = rng.random((2, units.size)) < 0.02
    return units, *((easy ^ flips)[:, units] ^ own)


def test_images_of_one_person_are_no_more_evidence_than_the_person():
    rng, codes = np.random.default_rng(0), np.repeat([0, 1], 500)
    rejected = {"units": 0, "images": 0}
    for _ in range(60):
        units, before, after = persons(rng, 200, 5)
        pair = answers_of(before, after, codes, [True] * 2)
        for name, of in (("units", units), ("images", None)):
            both = (replace(one, units=of) for one in pair)
            found = measure(*both, metrics=[find("overall"), find("accuracy")], rng=rng)
            rejected[name] += found["overall"].effect.p_value <= 0.05
            width = found["accuracy"].high - found["accuracy"].low
            assert (width > 0.12).all() == (name == "units")
    assert rejected["units"] <= 8  # of 60 at 5 %, more has a chance of 0.4 %
    assert rejected["images"] >= 15


def test_units_that_are_single_samples_change_nothing_and_units_are_drawn_together():
    rng, codes = np.random.default_rng(1), np.repeat([0, 1], 50)
    units, before, after = persons(rng, 20, 5)
    pair = answers_of(np.stack([before] * 2), np.stack([after] * 2), codes, [True] * 2)
    alone = (replace(one, units=np.arange(100)) for one in pair)
    one, other = (measure(*both, metrics=ACCURACY, rng=rng) for both in (pair, alone))
    for name, found in one.items():
        np.testing.assert_allclose(found.effect[:4], other[name].effect[:4])
    common = [
        measure(
            *(replace(one, units=of) for one in pair),
            metrics=[find("overall")], over_seeds=True, rng=rng,
        )["overall"].effect.common_sd
        for of in (None, units)
    ]  # fmt: skip
    assert common[1] > 1.5 * common[0]
    squared = replace(find("fvo"), name="squared", bounds=None)
    (left_out,) = measure(
        *(replace(one, units=units) for one in pair), metrics=[squared], rng=rng
    ).values()
    assert "knows no units" in left_out.reason


def test_limits_of_units_are_of_the_groups_that_the_value_compares():
    """A rate of few units is a rate; however little they say, it is in the value and the limits."""
    units = np.arange(600) // 5
    codes, few = units % 2, np.isin(units, [1, 3])  # all positives of group 1: ten images of two
    labels = (few | ((codes == 0) & (units % 4 == 0))).astype(int)
    answers = Answers(labels, np.where(few, 0, labels)[None], codes, np.ones(2, bool), 2, units)
    for least in (1, 10):
        found = measure(replace(answers, least=least), rng=np.random.default_rng(0))
        for name in ("equal_opportunity_worst", "equalized_odds_worst", "equalized_odds_macro"):
            assert found[name].value == 1
            assert found[name].low <= 1 <= found[name].high
    left_out = measure(replace(answers, least=11), rng=np.random.default_rng(0))
    assert np.isnan(left_out["equal_opportunity_worst"].value)
    assert np.isnan(left_out["equal_opportunity_worst"].high)


def test_limits_of_equalized_odds_are_of_the_classes_that_its_value_compares():
    """Only one group has samples of class 2, so its true positive rates compare nothing."""
    codes = np.repeat([0, 1], 200)
    labels = np.where(codes == 0, np.arange(400) % 3, np.arange(400) % 2)
    wrong = (codes == 1) & (np.arange(400) % 10 > 0)  # class 2 is said of nearly all of group 1
    answers = Answers(labels, np.where(wrong, 2, labels)[None], codes, np.ones(2, bool), 3)
    found = measure(answers, metrics=PARITY, rng=np.random.default_rng(0))
    for one in found.values():
        assert one.low - 1e-9 <= one.value <= one.high
