"""What the analysis says of the samples, groups and classes that are easily lost on the way."""

from pathlib import Path

import numpy as np
import pytest

from quantskew.analysis import answer
from quantskew.analysis.effects import Predictions, analyze
from quantskew.analysis.frontier import frontier, recommendations
from quantskew.analysis.sampled import sample
from quantskew.analysis.study import Targets
from quantskew.data.groups import Grouping
from quantskew.fairness import catalogue
from quantskew.fairness.certificate import smallest_detectable_drop
from quantskew.fairness.parity import Answers
from quantskew.names import Point
from quantskew.params import load

STUDY = load(Path(__file__).parents[1] / "params.yaml").judged()
STUDY = STUDY.model_copy(
    update={
        "datasets": ("faces",),
        "models": ("net",),
        "methods": {"ptq": STUDY.methods["ptq"]},
        "mitigations": {},
        "bits": (8, 4),
        "seeds": (0, 1),
        "statistics": STUDY.statistics.model_copy(update={"draws": 100}),
        "groups": STUDY.groups.model_copy(update={"by": {"faces": ("race",)}}),
    }
)
SIZES = {"a": 400, "b": 300, "tiny": 2}
CODES = np.concatenate([np.repeat(np.arange(3), list(SIZES.values())), np.full(60, -1)])
DIVISION = Grouping("race", CODES, [*SIZES], np.array([True, True, False]))
FP32, INT8, INT4 = (
    Point("faces", "net", method, bits) for method, bits in (("fp32", 32), ("ptq", 8), ("ptq", 4))
)


@pytest.fixture(scope="module")
def predictions():
    """No sample has class 2, which is answered; int4 loses 60 of group b and all of two."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, len(CODES))
    before = np.where(rng.random((2, len(CODES))) < 0.9, labels, rng.integers(0, 3, len(CODES)))
    before[:, CODES == 2] = labels[CODES == 2]
    before[:, CODES < 0] = 2
    after = before.copy()
    after[:, 400:460] = 2
    after[:, CODES == 2] = 2
    return Predictions(labels, 3, [0, 1], {FP32: before, INT8: before, INT4: after})


def analyzed(predictions, division):
    return analyze(predictions, [division], STUDY)


def resampled(predictions, division):
    right = {point: p == predictions.labels for point, p in predictions.predicted.items()}
    return sample(right, division, np.ones(3, int), STUDY.statistics)


@pytest.fixture(scope="module")
def frames(predictions):
    return analyzed(predictions, DIVISION)


def test_who_has_no_group_counts_in_the_overall_accuracy(predictions, frames):
    right = {point: p == predictions.labels for point, p in predictions.predicted.items()}
    levels = frames.levels.query("metric == 'overall'").set_index(["method", "bits"])
    sampled = resampled(predictions, DIVISION)
    for place, point in enumerate(sampled.points):
        row = levels.loc[(point.method, point.bits)]
        assert row["value"] == pytest.approx(right[point].mean())
        assert row["low"] <= row["value"] <= row["high"]
        assert row["n"] == len(CODES)
        assert sampled.overall[0, place] == pytest.approx(right[point].mean(-1))
    (change,) = frames.effects.query("metric == 'overall' and bits == 4")["change"]
    assert change == pytest.approx(right[INT4].mean() - right[FP32].mean())


def test_a_class_that_no_test_sample_has_is_a_class_all_the_same(predictions, frames):
    found = frames.effects.query("bits == 4").set_index("metric")["change"]
    before, after = (
        catalogue.values(
            Answers(predictions.labels, predictions.predicted[point], CODES, DIVISION.counted, 3)
        )
        for point in (FP32, INT4)
    )
    for name in ("demographic_parity_worst", "disparate_impact_macro", "predictive_equality_worst"):
        expected = (after[name] - before[name]).mean()
        assert found[name] == pytest.approx(expected)


def test_what_is_detectable_is_so_after_the_adjustment_for_all_tests(frames):
    found = frames.effects.query("bits == 8 and metric == 'accuracy'").set_index("group")
    for group, n in SIZES.items():  # three groups at two widths
        expected = smallest_detectable_drop(n, 0.0, alpha=0.05 / 6)
        np.testing.assert_allclose(found.loc[group, "detectable"], expected)


def test_the_group_that_loses_most_is_one_of_those_known_to_lose(frames):
    rows = answer.headline(frames.effects, STUDY).set_index("bits")
    assert rows.loc[4, ["groups", "groups_harmed", "most_harmed"]].tolist() == [3, 1, "b"]
    assert rows.loc[4, "most_harmed_change"] == pytest.approx(-0.2, abs=0.03)
    assert "race b loses most" in answer.sentences(rows.reset_index(), STUDY)[0]


def test_with_one_large_group_there_is_no_gap_to_speak_of(predictions):
    alone = DIVISION._replace(counted=np.array([False, True, False]))
    found = analyzed(predictions, alone)
    (told,) = answer.sentences(answer.headline(found.effects, STUDY), STUDY)
    assert "race b loses most" in told
    sizes = {point: 1000.0 * point.bits for point in predictions.predicted}
    for most in (0.001, 0.03, 0.9):  # none, only as observed, certainly
        study = STUDY.model_copy(update={"targets": Targets(worst_group_loss=most)})
        sampled = resampled(predictions, alone)
        rows = frontier(sampled, sizes, found.levels, found.certificates, study)
        told += recommendations(rows, study)[0]
    assert "comes closest" in told
    assert "ship ptq" in told
    assert "by what was observed" in told
    assert "nan" not in told
