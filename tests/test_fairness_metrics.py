import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from scipy.special import softmax
from sklearn.metrics import accuracy_score

from quantskew.fairness.metrics import calibration_error, fvo, group_accuracy, worst_group


def test_accuracy_of_groups_is_fairlearns(four_classes):
    labels, predictions, groups = four_classes
    found = group_accuracy(predictions == labels, groups, 3)
    for v in range(2):
        frame = MetricFrame(
            metrics=accuracy_score,
            y_true=labels,
            y_pred=predictions[v],
            sensitive_features=groups,
        )
        np.testing.assert_allclose(found.accuracy[v], frame.by_group.to_numpy())
        assert fvo(found.accuracy[v], [True] * 3) == pytest.approx(frame.difference())
        assert worst_group(found.accuracy[v], [True] * 3).accuracy == frame.group_min()


def test_who_has_no_group_counts_in_none_and_an_empty_group_has_no_accuracy():
    correct = [True, False, True, True]
    found = group_accuracy(correct, [0, 0, -1, 2], 3)
    np.testing.assert_array_equal(found.sizes, [2, 0, 1])
    np.testing.assert_array_equal(found.hits, [1, 0, 1])
    np.testing.assert_array_equal(found.accuracy, [0.5, np.nan, 1])


def test_small_groups_stay_out_of_the_extremes():
    accuracy = np.array([[0.9, 0.8, 0.1], [np.nan, 0.5, 0.7]])
    np.testing.assert_allclose(fvo(accuracy, [True, True, False]), [0.1, np.nan])
    np.testing.assert_allclose(fvo(accuracy, [True, True, True]), [0.8, 0.2])
    worst = worst_group(accuracy, [True, True, False])
    np.testing.assert_array_equal(worst.accuracy, [0.8, 0.5])
    np.testing.assert_array_equal(worst.group, [1, 1])
    nobody = worst_group(accuracy, [False] * 3)
    assert np.isnan(nobody.accuracy).all()
    assert (nobody.group == -1).all()


def test_calibration_by_hand():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 90, 4)) * 3
    labels, groups = rng.integers(4, size=90), rng.integers(-1, 3, size=90)
    probabilities = softmax(logits, -1)
    found = calibration_error(probabilities, labels, groups, 3, bins=15)
    for v in range(2):
        for g in range(3):
            rows = probabilities[v, groups == g]
            top, right = rows.max(1), rows.argmax(1) == labels[groups == g]
            expected = 0.0
            for low in np.arange(15) / 15:
                inside = (top > low) & (top <= low + 1 / 15)
                if inside.any():
                    expected += inside.mean() * abs(right[inside].mean() - top[inside].mean())
            assert found[v, g] == pytest.approx(expected)
