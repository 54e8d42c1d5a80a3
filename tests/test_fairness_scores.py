"""Scores equal what scikit-learn and a second derivation compute, and reach the tables."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from quantskew.data.groups import Grouping
from quantskew.fairness import score_catalogue, scores
from quantskew.fairness.metrics import calibration_error
from quantskew.fairness.score_catalogue import (
    LEAST,
    SCORES,
    Outputs,
    Scored,
    ScoreError,
    probabilities,
    score,
)

RANDOM = np.random.default_rng(0)
N = 400


def drawn(n_classes, n=N, noise=1.0):
    """Labels, and probabilities before and after."""
    logits = 2 * RANDOM.normal(size=(n, n_classes))
    labels = (logits + RANDOM.gumbel(size=logits.shape)).argmax(1)
    after = logits + noise * RANDOM.normal(size=logits.shape)
    return labels, probabilities(logits), probabilities(after)


def everyone(n=N):
    """A division with a group of the first half, one too small, and some of none."""
    codes = np.where(np.arange(n) < n // 2, 0, -1)
    codes[-5:] = 1
    return Grouping("side", codes, ["left", "few"], np.array([True, False]))


def of_all(rows):
    return rows[rows["group"] == "all"].set_index("score")


def outputs(labels, values, reference=None, units=None):
    units = np.arange(len(labels)) if units is None else units
    return Outputs(labels, values, values if reference is None else reference, units)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_values_are_those_of_scikit_learn(n_classes):
    labels, before, after = drawn(n_classes)
    rows = of_all(scores.compare(before, after, labels, [everyone()]))
    every = np.arange(n_classes)
    for side, values in (("before", before), ("after", after)):
        clipped = np.maximum(values, LEAST)
        own = clipped[np.arange(N), labels]
        assert rows.loc["nll", side] == pytest.approx(-np.log(own).mean())
        if (values >= LEAST).all():
            assert rows.loc["nll", side] == pytest.approx(log_loss(labels, values, labels=every))
        assert rows.loc["brier", side] == pytest.approx(
            brier_score_loss(labels, values, labels=every, scale_by_half=True)
            if n_classes > 2
            else brier_score_loss(labels, values[:, 1])
        )
        area = (
            roc_auc_score(labels, values[:, 1])
            if n_classes == 2
            else roc_auc_score(labels, values, multi_class="ovr", average="macro", labels=every)
        )
        assert rows.loc["auc", side] == pytest.approx(area)
    assert rows.loc["agreement", "after"] == (before.argmax(1) == after.argmax(1)).mean()


def test_nll_is_log_loss_where_no_probability_is_small():
    labels = RANDOM.integers(0, 3, 50)
    values = RANDOM.dirichlet([5, 5, 5], 50)
    assert score_catalogue.nll(outputs(labels, values)).mean() == pytest.approx(
        log_loss(labels, values)
    )


def test_divergence_is_that_of_scipy_and_of_its_definition():
    q, p = RANDOM.dirichlet([5, 5, 5], (2, 50))
    found = score_catalogue.divergence(outputs(np.zeros(50, int), p, q))
    assert found == pytest.approx(entropy(q, p, axis=1))
    naive = [
        sum(b * np.log(b / a) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)
    ]
    assert found == pytest.approx(naive)


def test_the_calibration_error_less_what_chance_adds_to_it():
    """Drawn, not computed: what normal errors of every bin's gap add to its size."""
    labels, values, _ = drawn(3)
    found = score_catalogue.calibration_error(outputs(labels, values)).value
    confidence, right = values.max(1), values.argmax(1) == labels
    expected = 0.0
    for bin_ in range(15):
        inside = (confidence > bin_ / 15) & (confidence <= (bin_ + 1) / 15)
        if not inside.any():
            continue
        gaps = right[inside] - confidence[inside]
        error = gaps.std(ddof=1) / np.sqrt(inside.sum()) if inside.sum() > 1 else 0.0
        again = np.random.default_rng(1).normal(gaps.mean(), error, 400_000)
        added = np.abs(again).mean() - abs(gaps.mean())
        expected += inside.mean() * (abs(gaps.mean()) - added)
    assert found == pytest.approx(expected, abs=2e-4)
    plain = calibration_error(values, labels, np.zeros(N, int), 1)[0]
    assert found < plain
    many, big, _ = drawn(2, 400_000)
    debiased = score_catalogue.calibration_error(outputs(many, big)).value
    assert debiased == pytest.approx(0, abs=2e-3)
    assert debiased == pytest.approx(
        calibration_error(big, many, np.zeros(len(many), int), 1)[0], abs=2e-3
    )


def test_the_influence_of_a_unit_on_calibration_is_what_leaving_it_out_changes():
    labels, values, _ = drawn(3, 60)
    units = np.repeat(np.arange(25), [1, 2, 3, 4, 2] * 5)
    found = score_catalogue.calibration_error(outputs(labels, values, units=units))
    without = np.array([
        score_catalogue.calibration_error(outputs(labels[kept], values[kept])).value
        for kept in (units != unit for unit in range(25))
    ])  # fmt: skip
    assert found.influence == pytest.approx(24 / 25 * (without.mean() - without))


def test_the_order_of_the_samples_changes_no_limit():
    labels, before, after = drawn(3, 1000)
    units, order = RANDOM.integers(0, 600, 1000), RANDOM.permutation(1000)
    nobody = Grouping("", np.full(1000, -1), [], np.zeros(0, bool))
    one, other = (
        scores.compare(before[rows], after[rows], labels[rows], [nobody], units[rows])
        for rows in (np.arange(1000), order)
    )
    pd.testing.assert_frame_equal(one, other, check_exact=False)


def test_the_variance_of_auc_is_that_of_delong_by_all_pairs():
    labels, before, after = drawn(2, 120)
    kernels = []
    for values in (before[:, 1], after[:, 1]):
        above = values[labels == 1][:, None] - values[labels == 0]
        kernels.append((above > 0) + (above == 0) / 2)
    change = kernels[1] - kernels[0]
    by_positive, by_negative = change.mean(1), change.mean(0)
    variance = by_positive.var() / len(by_positive) + by_negative.var() / len(by_negative)
    one, other = (
        score_catalogue.auc(outputs(labels, values, before)) for values in (before, after)
    )
    assert other.value - one.value == pytest.approx(change.mean())
    assert ((other.influence - one.influence) ** 2).sum() == pytest.approx(variance)


def test_a_mean_has_students_limits_and_what_the_unseen_could_add():
    labels, before, after = drawn(3)
    row = of_all(scores.compare(before, after, labels, [everyone()])).loc["brier"]
    change = score_catalogue.brier(outputs(labels, after)) - score_catalogue.brier(
        outputs(labels, before)
    )
    low, high = DescrStatsW(change).tconfint_mean()
    half = np.hypot((high - low) / 2, (high - low) / 2 / change.std(ddof=1) * 2 / np.sqrt(N))
    assert row["change"] == pytest.approx(change.mean())
    assert (row["high"] - row["low"]) / 2 == pytest.approx(half)


def test_rates_at_a_threshold_count_those_they_ask_about():
    labels = np.array([1] * 50 + [0] * 150)
    before = np.where(labels == 1, 0.8, 0.1)
    after = np.where(np.arange(200) % 10 == 0, 1 - before, before)
    rows = of_all(scores.compare(before, after, labels, [everyone(200)], threshold=0.6))
    assert rows.loc["recall", ["n", "before", "after"]].tolist() == [50, 1.0, 0.9]
    assert rows.loc["false_positive_rate", ["n", "before", "after"]].tolist() == [150, 0.0, 0.1]
    assert rows.loc["agreement", "n"] == 200
    exact = proportion_confint(15, 150, method="beta")
    found = rows.loc["false_positive_rate", ["low", "high"]]
    assert found.tolist() == pytest.approx(exact, abs=0.01)


def test_no_interval_has_width_zero_and_few_samples_tell_nothing():
    labels, before, _ = drawn(3, 40)
    rows = scores.compare(before, before, labels, [everyone(40)])
    known = rows[rows["verdict"] != "undefined"]
    assert (known["high"] - known["low"] > 1 / known["n"]).all()
    assert set(known["verdict"]) == {"cannot tell"}
    one = scores.compare(before[:1], before[:1], labels[:1], [everyone(1)])
    assert (one.dropna(subset="low").query("score == 'brier'")["high"] == 1).all()
    assert not one[one["score"] == "auc"]["note"].eq("").any()


def test_units_count_and_not_their_images():
    labels, before, after = drawn(2, 100)
    once = of_all(scores.compare(before, after, labels, [everyone(100)]))
    four = [np.repeat(values, 4, axis=0) for values in (before, after, labels)]
    division = everyone(100)
    division = division._replace(codes=np.repeat(division.codes, 4))
    again = of_all(scores.compare(*four, [division], np.repeat(np.arange(100), 4)))
    exact = ["nll", "brier", "divergence", "auc"]
    limits = ["change", "low", "high"]
    assert again.loc[exact, limits].to_numpy() == pytest.approx(once.loc[exact, limits].to_numpy())
    ignored = of_all(scores.compare(*four, [division]))
    width = again["high"] - again["low"]
    assert (width > 1.3 * (ignored["high"] - ignored["low"])).all()


def test_seeds_are_averaged_and_one_that_stands_twice_adds_nothing():
    labels, before, after = drawn(3)
    one = scores.compare(before, after, labels, [everyone()])
    two = scores.compare(np.stack([before, before]), np.stack([after, after]), labels, [everyone()])
    means = ~one["score"].isin(["recall", "false_positive_rate", "agreement"])
    for name in ("before", "after", "low", "high"):
        assert one.loc[means, name].to_numpy() == pytest.approx(
            two.loc[means, name].to_numpy(), nan_ok=True
        )


def test_each_label_of_many_is_a_question_and_all_are_answers_of_one_sample():
    truth = RANDOM.integers(0, 2, (N, 3))
    before = np.where(truth == 1, 0.8, 0.2)
    after = before.copy()
    after[:, 2] = 1 - after[:, 2]
    found = scores.compare(before, after, truth, [everyone()], questions=["hat", "bow", "tie"])
    word = of_all(found).query("score == 'brier'").set_index("question")["verdict"]
    assert word.to_dict() == {
        "hat": "equivalent", "bow": "equivalent", "tie": "worse", "all": "worse",
    }  # fmt: skip
    alone = of_all(scores.compare(before[:, 2], after[:, 2], truth[:, 2], [everyone()]))
    tie = of_all(found[found["question"] == "tie"])
    assert tie["low"].to_dict() == pytest.approx(alone["low"].to_dict())


def test_numbers_have_an_absolute_error_within_their_range():
    ages = RANDOM.integers(0, 100, N).astype(float)
    ages[:2] = 0, 100
    wild = ages + 10
    wild[0] = 1e9
    row = of_all(scores.compare(ages + 1, wild, ages, [everyone()])).loc["absolute_error"]
    assert row["before"] == pytest.approx(1)
    assert row["after"] == pytest.approx((10 * (N - 1) + 100) / N)
    assert row["verdict"] == "worse"
    coarse = scores.compare(ages + 1, ages + 10, ages, [everyone()], margin=0.2)
    assert of_all(coarse).loc["absolute_error", "verdict"] == "equivalent"  # 9 of 100 years


def test_two_networks_that_differ_are_not_worse_for_it_alone():
    labels, before, after = drawn(3, 4000, noise=0.05)
    rows = of_all(scores.compare(before, after, labels, [everyone(4000)], margin=0.1))
    assert set(rows.loc[["divergence", "agreement"], "verdict"]) == {"equivalent"}
    labels, before, after = drawn(3, 4000, noise=3)
    rows = of_all(scores.compare(before, after, labels, [everyone(4000)], margin=0.1))
    assert set(rows.loc[["divergence", "agreement"], "verdict"]) == {"worse"}


def test_direction_is_written_once():
    labels, before, after = drawn(3, 4000, noise=2)
    for one, other, word in ((before, after, "worse"), (after, before, "better")):
        rows = of_all(scores.compare(one, other, labels, [everyone(4000)], margin=0.001))
        assert set(rows.loc[["nll", "brier", "auc", "recall"], "verdict"]) == {word}


def test_a_logit_of_zero_probability_is_clipped_and_what_is_no_logit_refused():
    values = probabilities([[0.0, -np.inf], [1000.0, 0.0]])
    assert values.tolist() == [[1, 0], [1, 0]]
    labels = np.array([1, 1])
    assert score_catalogue.nll(outputs(labels, values)).tolist() == [-np.log(LEAST)] * 2
    rows = scores.compare(values, values[::-1], labels, [everyone(2)])
    assert not np.isinf(rows.select_dtypes(float).to_numpy()).any()
    assert probabilities([[0.0], [2.0]]) == pytest.approx([0.5, 1 / (1 + np.exp(-2))])
    for wrong in ([[0.0, np.nan]], [[0.0, np.inf]], [[-np.inf, -np.inf]]):
        with pytest.raises(ScoreError, match=r"row 0 .*logits must be"):
            probabilities(wrong)


@pytest.mark.parametrize(
    ("before", "labels", "problem"),
    [
        ([[0.5, 0.6]], [0], "row 0 .*sum to 1; are these logits"),
        ([[1.5, -0.5]], [0], "lie in 0..1"),
        ([[0.5, np.nan]], [0], "lie in 0..1"),
        ([[0.5, 0.5]], [2], "labels must be 0..1"),
        ([0.5], [2], "labels must be 0..1"),
        ([[0.5, 0.5]], ["a"], "give integers"),
        ([[0.5, 0.5], [0.5, 0.5]], [0], "must be"),
        ([0.5, 0.5], [0.5], "must be"),
        ([np.inf, 1.0], [0.5, 1.0], "must be finite"),
        ([1.0, 1.0], [1.0, 1.0], "largest_error"),
        ([[0.5, 0.5]], [[0, 1], [1, 0]], "outputs must be"),
    ],
)
def test_what_no_score_can_be_taken_of_is_refused(before, labels, problem):
    division = Grouping("x", np.full(len(labels), -1), [], np.zeros(0, bool))
    with pytest.raises(ScoreError, match=problem):
        scores.compare(np.array(before), np.array(before), np.array(labels), [division])


def test_units_and_divisions_of_other_samples_are_refused():
    labels, before, after = drawn(2, 10)
    with pytest.raises(ScoreError, match="units are"):
        scores.compare(before, after, labels, [everyone(10)], np.arange(9))
    with pytest.raises(ScoreError, match="divides 9 samples"):
        scores.compare(before, after, labels, [everyone(9)])
    with pytest.raises(ScoreError, match="outputs before are"):
        scores.compare(before, np.stack([after, after]), labels, [everyone(10)])


def test_labels_may_be_truth_values_and_nothing_is_no_comparison():
    labels, before, after = drawn(2, 100)
    one = scores.compare(before, after, labels, [everyone(100)])
    other = scores.compare(before[:, 1], after[:, 1], labels == 1, [everyone(100)])
    numbers = one.select_dtypes(float).columns
    assert one[numbers].to_numpy() == pytest.approx(other[numbers].to_numpy(), nan_ok=True)
    with pytest.raises(ScoreError, match="100 samples in 0 divisions"):
        scores.compare(before, after, labels, [])
    with pytest.raises(ScoreError, match="0 samples in 1 divisions"):
        scores.compare(before[:0], after[:0], labels[:0], [everyone(0)])


@pytest.fixture
def _added():
    """Register two scores: a mean over samples, and one of the whole."""

    @score(better="higher", title="probability of the label", span=(0, 1))
    def of_label(outputs):
        """Mean probability of the label."""
        return outputs.of_label

    @score(better="lower", title="largest probability", span=(0, 1))
    def largest(outputs):
        """Mean of the largest probability, by its influence."""
        top = outputs.values.max(-1)
        return Scored(top.mean(), (top - top.mean()) / top.size, 1 / top.size)

    yield
    del SCORES["of_label"], SCORES["largest"]


@pytest.mark.usefixtures("_added")
def test_a_new_score_has_rows_limits_and_a_verdict():
    labels, before, after = drawn(3, 2000, noise=3)
    rows = of_all(scores.compare(before, after, labels, [everyone(2000)]))
    assert rows.loc["of_label", "verdict"] == "worse"
    assert rows.loc["largest", "low"] < rows.loc["largest", "change"] < rows.loc["largest", "high"]
    with pytest.raises(ValueError, match="there is a score 'nll' already"):
        score(better="lower", title="", span=(0, 1))(score_catalogue.nll)


def test_samples_without_a_unit_are_units_of_their_own():
    labels, before, after = drawn(2, 100)
    alone = scores.compare(before, after, labels, [everyone(100)])
    units = np.where(np.arange(100) < 50, np.arange(100).astype(object), None)
    pd.testing.assert_frame_equal(
        scores.compare(before, after, labels, [everyone(100)], units), alone
    )
