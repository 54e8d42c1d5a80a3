from dataclasses import replace

import numpy as np
import pytest
from fairlearn.metrics import (
    demographic_parity_difference,
    demographic_parity_ratio,
    equalized_odds_difference,
    false_positive_rate_difference,
    true_positive_rate_difference,
)
from hypothesis import given
from hypothesis import strategies as st

from quantskew.fairness import catalogue
from quantskew.fairness.null import equal_rates_p_value, smallest
from quantskew.fairness.parity import PARITY, Answers
from quantskew.fairness.resampling import observe, tabulate


def of(labels, predictions, groups, *, n_groups=3, n_classes=3, counted=None):
    labels, groups = np.asarray(labels), np.asarray(groups)
    counted = np.ones(n_groups, bool) if counted is None else np.asarray(counted)
    return Answers(labels, np.atleast_2d(predictions), groups, counted, n_classes)


def parity(answers):
    """Parity metrics by name, of the first seed."""
    metrics = catalogue.CATALOGUE
    return {n: v[0] for n, v in catalogue.values(answers).items() if metrics[n].by_class}


def test_parity_is_fairlearns_on_every_class_against_the_rest(four_classes):
    labels, predictions, groups = four_classes
    ours = of(labels, predictions, groups, n_classes=4).counts.parity
    theirs = {
        "demographic_parity": demographic_parity_difference,
        "equalized_odds": equalized_odds_difference,
        "equal_opportunity": true_positive_rate_difference,
        "predictive_equality": false_positive_rate_difference,
        "disparate_impact": demographic_parity_ratio,
    }
    assert set(theirs) == set(ours) == set(PARITY)
    for name, metric in theirs.items():
        for v in range(2):
            for k in range(4):
                expected = metric(labels == k, predictions[v] == k, sensitive_features=groups)
                assert ours[name][v, k] == pytest.approx(expected), (name, v, k)


@given(st.integers(0, 2**32 - 1))
def test_the_counts_that_are_drawn_again_are_those_of_fairlearn(seed):
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(4, size=60), rng.integers(-1, 3, size=60)
    answers = of(labels, rng.integers(4, size=(2, 60)), groups, n_classes=4)
    cells = tabulate(labels, answers.predictions[None], answers.places, 4, 4)
    drawn = observe(cells, answers.counted)
    for name in ("positives", "selected", "hits"):
        theirs, ours = getattr(answers.counts, name), getattr(drawn, name)[0, 0]
        np.testing.assert_array_equal(np.broadcast_to(ours, theirs.shape), theirs)


def test_macro_is_the_mean_and_worst_the_least_fair_class(four_classes):
    labels, predictions, groups = four_classes
    answers = of(labels, predictions, groups, n_classes=4)
    assert answers.left_out == ""
    values, each = catalogue.values(answers), answers.counts.parity
    for name in PARITY:
        np.testing.assert_allclose(values[f"{name}_macro"], each[name].mean(-1))
        worst = each[name].min(-1) if name == "disparate_impact" else each[name].max(-1)
        np.testing.assert_allclose(values[f"{name}_worst"], worst)


def test_of_two_classes_only_the_positive_one_is_looked_at():
    labels = np.array([1, 0, 1, 0, 1, 0, 0, 0])
    predictions = np.array([1, 1, 0, 0, 1, 0, 0, 0])
    groups = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = parity(of(labels, predictions, groups, n_groups=2, n_classes=2))
    for part in ("macro", "worst"):
        assert found[f"demographic_parity_{part}"] == pytest.approx(2 / 4 - 1 / 4)
        assert found[f"disparate_impact_{part}"] == pytest.approx(1 / 2)
        assert found[f"equal_opportunity_{part}"] == pytest.approx(1 / 2)
        assert found[f"predictive_equality_{part}"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    "groups", [[0, 0, 1, 1, 2, 2], [3, 0, 4, 1, 2, 2]], ids=["the class", "the class and more"]
)
def test_where_the_group_tells_the_class_parity_has_no_meaning(groups):
    answers = of([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 2], groups, n_groups=max(groups) + 1)
    values = catalogue.values(answers)
    for name, metric in catalogue.CATALOGUE.items():
        assert ("the group tells the class" in metric.missing(answers)) == metric.by_class
        assert np.isnan(values[name]).all() == metric.by_class
    assert values["recall_gap"] == 0.5


def test_a_rate_of_nobody_is_left_out_and_noted():
    # group 2 has no sample of class 1: fairlearn would give it a true positive rate of 0
    labels = np.array([1, 0, 1, 0, 0, 0])
    predictions = np.array([1, 0, 1, 1, 0, 0])
    groups = np.array([0, 0, 1, 1, 2, 2])
    answers = of(labels, predictions, groups, n_classes=2)
    assert true_positive_rate_difference(labels, predictions, sensitive_features=groups) == 1
    assert parity(answers)["equal_opportunity_macro"] == 0
    wanted = "true positives in 1, false positives in 1 of 6 (group, class)"
    assert answers.left_out == f"rates undefined, left out: {wanted}"


def test_the_test_of_chance_asks_about_the_classes_that_the_value_is_taken_of():
    """Of class 2 each group has 4 samples, of which one group hits all and the other none."""
    labels = np.tile(np.repeat([0, 1, 2], [30, 30, 4]), 2)
    groups = np.repeat([0, 1], 64)
    predictions = np.where(np.arange(128) % 5 == 0, (labels + 1) % 2, labels)
    predictions[labels == 2] = np.where(groups[labels == 2] == 0, 2, 0)
    every = of(labels, predictions, groups, n_groups=2)
    few = replace(every, least=20).counts
    asked = np.isnan(few.parity["equalized_odds"][0])
    assert asked.tolist() == [False, False, True]
    true, false = (
        equal_rates_p_value(*every.counts.rates[rate], every.counted) for rate in ("true", "false")
    )
    found = few.gap_p_values
    assert found["equal_opportunity"] == smallest(true[:, :2])
    assert found["predictive_equality"] == smallest(false)
    assert found["equalized_odds"] == smallest(np.concatenate([true, false], -1)[:, [0, 1, 3, 4]])
    assert every.counts.gap_p_values["equalized_odds"] < found["equalized_odds"]


def test_one_group_has_no_parity():
    answers = of([0, 1], [0, 1], [0, 0], n_groups=2, n_classes=2, counted=[True, False])
    assert "1 of them is large enough" in catalogue.find("equalized_odds_macro").missing(answers)
    assert np.isnan(parity(answers)["demographic_parity_worst"])


@given(st.integers(0, 2**32 - 1))
def test_swapping_names_of_groups_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(3, size=(2, 40))
    groups = rng.integers(-1, 3, size=40)
    order = np.append(rng.permutation(3), -1)
    one, two = (parity(of(labels, predictions, g)) for g in (groups, order[groups]))
    for name in one:
        np.testing.assert_allclose(one[name], two[name])
