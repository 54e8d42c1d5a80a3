"""The gate fails what harms a group, passes what does not, and knows when it cannot tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, multinomial
from statsmodels.stats.proportion import proportion_confint

from quantskew.analysis.gate import (
    Evidence,
    Policy,
    as_json,
    as_markdown,
    by_group,
    heading,
    judge,
    overall,
)
from quantskew.data.groups import Grouping
from quantskew.fairness.catalogue import CATALOGUE
from quantskew.fairness.certificate import loss_bound, loss_floor
from quantskew.fairness.paired import measure
from quantskew.fairness.parity import Answers
from quantskew.sections import ParamsError, read


def evidence(sizes, lost, *, accuracy=0.9, minimum=30, size=1000):
    """Two classes; of each group a share is right at first, and some of those are lost."""
    labels, before, after, codes = [], [], [], []
    for group, (n, gone) in enumerate(zip(sizes, lost, strict=True)):
        truth = np.arange(n) % 2
        right = np.arange(n) < round(accuracy * n)
        kept = right & (np.arange(n) >= gone)
        labels.append(truth)
        before.append(np.where(right, truth, 1 - truth))
        after.append(np.where(kept, truth, 1 - truth))
        codes.append(np.full(n, group))
    names = ["ink", "pencil", "chalk"][: len(sizes)]
    division = Grouping("tool", np.concatenate(codes), names, np.array(sizes) >= minimum)
    joined = (np.concatenate(part) for part in (labels, before, after))
    return Evidence("int8", "fp32", *joined, 2, [division], size)


LOSS = Policy(largest_group_loss=0.05, draws=200)


def test_it_fails_and_names_the_group_that_pays():
    (found,) = judge(evidence([2000, 2000], [0, 300]), LOSS)
    assert found.verdict == "fail"
    assert found.value == pytest.approx(0.15)
    assert found.low > 0.05
    assert "tool pencil (2000 images)" in found.note
    assert "ink" not in found.note
    (both,) = judge(evidence([2000, 2000], [400, 300]), LOSS)
    assert both.note == "tool ink (2000 images); fails too: tool pencil"


def test_it_passes_what_loses_nothing():
    policy = LOSS.model_copy(update={"accuracy": 0.85, "fvo_increase": 0.02, "bytes": 1000})
    found = judge(evidence([2000, 2000], [2, 1]), policy)
    assert [f.rule for f in found] == ["largest_group_loss", "fvo_increase", "accuracy", "bytes"]
    assert {f.verdict for f in found} == {"pass"}
    assert overall(found) == "pass"


def test_too_few_samples_cannot_tell():
    (found,) = judge(evidence([40, 40], [1, 1]), LOSS)
    assert found.verdict == "could not tell"
    assert found.low <= 0.05 < found.high
    (none,) = judge(evidence([10, 10], [0, 9]), LOSS)
    assert none.verdict == "could not tell"
    assert none.note == "no group could be judged: 2 groups under 30 images"


def test_one_rule_that_fails_decides():
    policy = LOSS.model_copy(update={"bytes": 999})
    found = judge(evidence([40, 40], [1, 1]), policy)
    assert [f.verdict for f in found] == ["could not tell", "fail"]
    assert overall(found) == "fail"
    assert as_json(evidence([40], [0]), policy, found)["verdict"] == "fail"
    text = as_markdown(evidence([40], [0]), policy, found)
    assert "### Gate: **fail**" in text
    assert "| fail | bytes | 1,000 (asked ≤ 999) |" in text


def test_parity_rules_bound_the_level_and_its_interval():
    rng = np.random.default_rng(0)
    labels, codes = rng.integers(0, 2, 4000), rng.integers(0, 2, 4000)
    answers = np.where(rng.random(4000) < 0.3 * codes, 1, labels)
    division = Grouping("tool", codes, ["ink", "pencil"], np.array([True, True]))
    given_ = Evidence("int8", "fp32", labels, labels, answers, 2, [division], 1)
    counts = Answers(labels, answers[None], codes, division.counted, 2).counts
    expected = {
        name: metric.value(counts)[0] for name, metric in CATALOGUE.items() if metric.by_class
    }
    for bound, verdict in ((0.05, "fail"), (0.14, "could not tell"), (0.3, "pass")):
        (found,) = judge(given_, Policy(demographic_parity=bound, draws=500))
        assert found.value == pytest.approx(expected["demographic_parity_worst"])
        assert found.verdict == verdict, found
    (odds,) = judge(given_, Policy(equalized_odds=0.5, draws=500))
    assert odds.value == pytest.approx(expected["equalized_odds_worst"])
    assert odds.verdict == "pass"


def test_the_interval_of_parity_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(100):
        codes = np.arange(1000) % 2
        answers = (rng.random(1000) < np.where(codes, 0.5, 0.3)).astype(int)
        labels = rng.integers(0, 2, 1000)
        network = Answers(labels, answers[None], codes, np.array([True, True]), 2)
        found = measure(network, draws=200, confidence=0.9, rng=rng)["demographic_parity_worst"]
        low, high = found.low, found.high
        covered += bool(low <= 0.2 <= high)
    assert 80 <= covered <= 98


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.data())
def test_the_floor_is_below_the_loss_and_the_bound_above(n, data):
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    low = loss_floor(lost, gained, n, alpha=0.05)
    assert -1 <= low <= (lost - gained) / n + 1e-6 <= loss_bound(lost, gained, n, alpha=0.05) + 1e-5


@pytest.mark.parametrize(("loss", "gain"), [(0.1, 0.0), (0.1, 0.05), (0.3, 0.2), (0.02, 0.04)])
def test_the_floor_errs_no_more_often_than_it_says(loss, gain):
    n, alpha = 60, 0.05
    rng = np.random.default_rng(2)
    draws = multinomial.rvs(n, [loss, gain, 1 - loss - gain], size=400, random_state=rng)
    floors = {(a, b): loss_floor(a, b, n, alpha=alpha) for a, b, _ in {*map(tuple, draws)}}
    too_high = np.mean([floors[a, b] > loss - gain for a, b, _ in draws])
    assert too_high <= alpha + 0.02


def persons(rng, shares, people, images, likeness):
    """Answers of groups, by shares of (both right, lost, gained, both wrong).

    An image is answered as its person is with a chance of ``likeness``: the correlation within a
    person is its square.
    """
    size = (people, images)
    kinds = [
        np.where(
            rng.random(size) < likeness,
            rng.choice(4, (people, 1), p=share),
            rng.choice(4, size, p=share),
        ).ravel()
        for share in shares
    ]
    kind = np.concatenate(kinds)
    labels = np.arange(kind.size) % 2
    before, after = (
        np.where(np.isin(kind, right), labels, 1 - labels) for right in ((0, 1), (0, 2))
    )
    codes = np.repeat(np.arange(len(shares)), people * images)
    names = ["ink", "pencil", "chalk"][: len(shares)]
    division = Grouping("tool", codes, names, np.full(len(shares), people >= 30))
    units = np.repeat(np.arange(len(shares) * people), images)
    return Evidence("a", "b", labels, before, after, 2, [division], 1, units=units, unit="person")


def test_persons_are_counted_and_not_their_images():
    """At bounds that are exactly true a rule passes in 5 % of samples at most."""
    shares = [(0.86, 0.02, 0.02, 0.1), (0.8, 0.1, 0.0, 0.1)]
    rules = {"largest_group_loss": 0.1, "fvo_increase": 0.06, "accuracy": 0.84}
    rng, samples = np.random.default_rng(5), 60
    passed, by_image = dict.fromkeys(rules, 0), 0
    for _ in range(samples):
        given_ = persons(rng, shares, 50, 10, likeness=0.5**0.5)
        for found in judge(given_, Policy(**rules)):
            passed[found.rule] += found.verdict == "pass"
        (alone,) = judge(given_._replace(units=None), Policy(accuracy=rules["accuracy"]))
        by_image += alone.verdict == "pass"
    most = binom.ppf(0.999, samples, 0.05)
    assert all(count <= most for count in passed.values()), passed
    assert by_image > most


def test_a_verdict_by_person_says_how_many_there_are():
    given_ = persons(np.random.default_rng(0), [(0.9, 0.05, 0.0, 0.05)] * 2, 40, 10, likeness=0.5)
    policy = Policy(largest_group_loss=0.3, accuracy=0.5, unit="person")
    by_person = judge(given_, policy)
    assert "(400 images of 40 person units)" in by_person[0].note
    assert "person units are counted, not images: there are 80" in heading(given_, policy)
    groups = by_group(given_, policy)
    assert groups["units"].tolist() == [40, 40]
    by_image = judge(given_._replace(units=None), policy)
    for one, other in zip(by_person, by_image, strict=True):
        assert one.value == other.value
        assert one.high - one.low > 1.2 * (other.high - other.low)
    said = as_json(given_, policy, by_person)
    assert (said["unit"], said["groups"][0]["units"]) == ("person", 40)
    assert "| units |" in as_markdown(given_, policy, by_person)
    few = persons(np.random.default_rng(0), [(1, 0, 0, 0)] * 2, 20, 40, likeness=0)
    wrong = few.labels.copy()
    wrong[:2] = 1 - wrong[:2]
    (none,) = judge(few._replace(before=wrong), Policy(largest_group_loss=0.1))
    assert none.note == "no group could be judged: 2 groups under 30 person units"


def test_an_accuracy_of_images_has_the_limits_of_clopper_and_pearson():
    (found,) = judge(evidence([300], [9]), Policy(accuracy=0.8))
    low, high = proportion_confint(261, 300, alpha=0.1, method="beta")
    assert (found.low, found.high) == pytest.approx((low, high))


def test_wrong_policies_are_refused_with_close_names(tmp_path):
    path = tmp_path / "policy.yaml"
    for text, message in (
        ("largest_grop_loss: 0.1", "unknown key.*did you mean 'largest_group_loss'"),
        ("accuracy: 90", "accuracy: got 90"),
        ("confidence: 0.9", "no rule is given; there are largest_group_loss, .*fvo_increase"),
        ("- accuracy", "holds no sections"),
        ("a: [", "is not YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ParamsError, match=message):
            read(Policy, path, "")
    with pytest.raises(ParamsError, match=r"none.yaml: no such file; write one"):
        read(Policy, tmp_path / "none.yaml", "write one")
