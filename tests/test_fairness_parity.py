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

from quantskew.fairness.parity import PARITY, class_counts, fairness_differences, parity_by_class


def test_parity_is_fairlearns_on_every_class_against_the_rest(four_classes):
    labels, predictions, groups = four_classes
    counts = class_counts(labels, predictions, groups, n_groups=3, n_classes=4)
    ours = parity_by_class(counts, [True] * 3)
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


def test_macro_is_the_mean_and_worst_the_least_fair_class(four_classes):
    labels, predictions, groups = four_classes
    sizes = {"n_groups": 3, "n_classes": 4}
    found = fairness_differences(labels, predictions, groups, counted=[True] * 3, **sizes)
    each = parity_by_class(class_counts(labels, predictions, groups, **sizes), [True] * 3)
    assert found.reason == ""
    assert found.note == ""
    for name in PARITY:
        np.testing.assert_allclose(found.values[f"{name}_macro"], each[name].mean(-1))
        worst = each[name].min(-1) if name == "disparate_impact" else each[name].max(-1)
        np.testing.assert_allclose(found.values[f"{name}_worst"], worst)


def test_of_two_classes_only_the_positive_one_is_looked_at():
    labels = np.array([1, 0, 1, 0, 1, 0, 0, 0])
    predictions = np.array([1, 1, 0, 0, 1, 0, 0, 0])
    groups = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = fairness_differences(
        labels, predictions, groups, n_groups=2, n_classes=2, counted=[True, True]
    ).values
    for part in ("macro", "worst"):
        assert found[f"demographic_parity_{part}"] == pytest.approx(2 / 4 - 1 / 4)
        assert found[f"disparate_impact_{part}"] == pytest.approx(1 / 2)
        assert found[f"equal_opportunity_{part}"] == pytest.approx(1 / 2)
        assert found[f"predictive_equality_{part}"] == pytest.approx(1 / 2)


def test_where_the_group_is_the_class_only_recall_is_compared():
    labels = np.array([0, 0, 1, 1, 2, 2])
    found = fairness_differences(
        labels, [0, 1, 1, 1, 2, 2], labels, n_groups=3, n_classes=3, counted=[True] * 3
    )
    assert "the group is the class" in found.reason
    assert found.values.pop("recall_gap") == 0.5
    assert all(np.isnan(value) for value in found.values.values())


def test_a_rate_of_nobody_is_left_out_and_noted():
    # group 2 has no sample of class 1: fairlearn would give it a true positive rate of 0
    labels = np.array([1, 0, 1, 0, 0, 0])
    predictions = np.array([1, 0, 1, 1, 0, 0])
    groups = np.array([0, 0, 1, 1, 2, 2])
    found = fairness_differences(
        labels, predictions, groups, n_groups=3, n_classes=2, counted=[True] * 3
    )
    assert true_positive_rate_difference(labels, predictions, sensitive_features=groups) == 1
    assert found.values["equal_opportunity_macro"] == 0
    wanted = "true positives in 1, false positives in 1 of 6 (group, class)"
    assert found.note == f"rates undefined, left out: {wanted}"


def test_one_group_has_no_parity():
    found = fairness_differences(
        [0, 1], [0, 1], [0, 0], n_groups=2, n_classes=2, counted=[True, False]
    )
    assert "1 is large enough" in found.reason
    assert np.isnan(found.values["demographic_parity_worst"])


@given(st.integers(0, 2**32 - 1))
def test_swapping_names_of_groups_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(3, size=(2, 40))
    groups = rng.integers(-1, 3, size=40)
    order = np.append(rng.permutation(3), -1)
    sizes = {"n_groups": 3, "n_classes": 3, "counted": [True] * 3}
    one = fairness_differences(labels, predictions, groups, **sizes).values
    two = fairness_differences(labels, predictions, order[groups], **sizes).values
    for name in one:
        np.testing.assert_allclose(one[name], two[name])
