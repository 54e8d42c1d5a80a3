from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mode

from quantskew.analysis.effects import Predictions, analyze, references
from quantskew.analysis.exemplars import exemplar_rows, exemplars
from quantskew.analysis.frontier import frontier, judged, recommendations
from quantskew.analysis.sampled import sample
from quantskew.analysis.study import Targets
from quantskew.data.groups import Grouping
from quantskew.fairness.certificate import certified_losses
from quantskew.names import Point
from quantskew.params import load
from quantskew.quantization.method import Method

STUDY = load(Path(__file__).parents[1] / "params.yaml").judged()
CODES = np.repeat([0, 1], [300, 200])
DIVISION = Grouping("digit", CODES, ["a", "b"], np.array([True, True]))
BITS = {"fp32": 32, "good": 8, "bad": 4}
STUDY = STUDY.model_copy(
    update={
        "datasets": ("faces",),
        "models": ("net",),
        "methods": {},
        "mitigations": {},
        "bits": (8, 4),
        "seeds": (0, 1),
        "statistics": STUDY.statistics.model_copy(update={"draws": 200}),
        "groups": STUDY.groups.model_copy(update={"by": {"faces": ("digit",)}}),
    }
)


def aiming(**targets):
    return STUDY.model_copy(update={"targets": Targets(**targets)})


@pytest.fixture(scope="module")
def studied():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, len(CODES))
    base = np.where(rng.random((2, len(CODES))) < 0.9, labels, (labels + 1) % 3)
    bad = base.copy()
    bad[:, 300:360] = (labels[300:360] + 2) % 3  # 60 of the 200 of group b
    predicted = {
        Point("faces", "net", method, BITS[method]): answers
        for method, answers in (("fp32", base), ("good", base), ("bad", bad))
    }
    predictions = Predictions(labels, 3, [0, 1], predicted)
    correct = {point: answers == labels for point, answers in predicted.items()}
    sampled = sample(correct, DIVISION, np.array([300, 200]), STUDY.statistics)
    frames = analyze(predictions, [DIVISION], STUDY)
    sizes = {point: 1000.0 * point.bits for point in predicted}
    return predictions, sampled, frames, sizes


def placed(studied, study):
    _, sampled, frames, sizes = studied
    return frontier(sampled, sizes, frames.levels, frames.certificates, study)


def test_numbers_of_the_frontier_are_those_of_the_levels(studied):
    rows = placed(studied, STUDY).set_index("method")
    levels = studied[2].levels.set_index(["method", "metric"])["value"]
    for method in BITS:
        assert rows.loc[method, "fvo"] == pytest.approx(levels[method, "fvo"])
        assert rows.loc[method, "accuracy"] == pytest.approx(levels[method, "overall"])
    assert rows.loc["bad", "loss"] == pytest.approx(-studied[2].effects.query(
        "method == 'bad' and metric == 'accuracy'")["change"].min())  # fmt: skip


def test_against_a_reference_that_one_class_would_beat_nothing_is_certified_or_recommended(studied):
    predictions, sampled, _, sizes = studied
    study, base = aiming(worst_group_loss=0.5), Point("faces", "net", "fp32", 32)
    assert placed(studied, study)["recommended"].any()
    most = np.bincount(predictions.labels).argmax()
    answers = predictions.predicted[base].copy()
    answers[1] = most  # of one seed
    hollow = predictions._replace(predicted=predictions.predicted | {base: answers})
    frames = analyze(hollow, [DIVISION], study)
    assert frames.certificates["bound"].isna().all()
    rows = frontier(sampled, sizes, frames.levels, frames.certificates, study)
    assert not rows[rows["method"] != "fp32"]["recommended"].any()
    (told,) = recommendations(rows, study)
    assert "it is no basis and nothing is certified" in told
    assert "ship" not in told


def test_a_choice_of_channels_is_compared_with_its_shuffled_control():
    unit = {"kind": "salient_channel", "share": 0.1}
    policies = [{"kind": "importance", "unit": unit | {"shuffle": s}} for s in (False, True)]
    parts = {"ptq": {}, "kept": {"policy": policies[0]}, "dealt": {"policy": policies[1]}}
    parts["dealt"] |= {"about": "the control", "bits": [4]}  # which do not part it from its method
    methods = {name: Method.model_validate(given).model_dump() for name, given in parts.items()}
    study = STUDY.model_copy(update={"methods": methods})
    points = [Point("d", "m", name, 4) for name in parts]
    found = {point.method: references(study, point, points, "digit") for point in points}
    usual = [("fp32", 32), ("ptq", 4)]
    assert found == {"ptq": usual[:1], "kept": [*usual, ("dealt", 4)], "dealt": usual}
    assert references(study, points[1], points[:2], "digit") == usual


def test_a_method_of_which_nothing_is_said_is_no_remedy_and_not_retrained():
    methods = {"ptq": {}, "post": {"post": ["temperature"]}, "qat": {"training": "qat"}}
    study = STUDY.model_copy(update={"methods": methods})
    assert study.free_remedies() == ["post"]
    assert [name for name in methods if study.retrained(name)] == ["qat"]
    points = [Point("d", "m", name, 4) for name in methods]
    assert references(study, points[2], points, "label") == [("fp32", 32), ("ptq", 4), ("post", 4)]


def test_a_rounding_by_group_is_compared_with_groups_dealt_at_random_and_the_control_is_no_bar():
    rounding = {"kind": "gptq", "weighting": {"kind": "balanced"}}
    control = {"kind": "gptq", "weighting": {"kind": "balanced", "shuffle": True}}
    parts = {
        "ptq": {}, "spared": {"weights": {"rounding": rounding}},
        "dealt": {"weights": {"rounding": control}}, "even": {"weights": {"rounding": "gptq"}},
        "qat": {"training": "qat"},
    }  # fmt: skip
    methods = {name: Method.model_validate(given).described() for name, given in parts.items()}
    study = STUDY.model_copy(update={"methods": methods})
    assert study.free_remedies() == ["spared"]
    assert (methods["spared"]["labels"], methods["even"]["labels"]) == (256, 0)
    points = [Point("d", "m", name, 4) for name in parts]
    usual = [("fp32", 32), ("ptq", 4)]
    found = {point.method: references(study, point, points, "label") for point in points}
    assert found["spared"] == [*usual, ("dealt", 4)]
    assert found["qat"] == [*usual, ("spared", 4)]
    assert references(study, points[-1], points, "race") == usual  # priced on the first grouping


def test_equal_but_larger_is_dominated_and_smallest_never_is(studied):
    rows = placed(studied, STUDY).set_index("method")
    assert rows["on_frontier"].to_dict() == {"fp32": False, "good": True, "bad": True}
    assert rows["probability"].to_dict() == {"fp32": 0.0, "good": 1.0, "bad": 1.0}


def test_the_smallest_that_meets_the_targets_is_recommended(studied):
    strict = placed(studied, aiming(worst_group_loss=0.05)).set_index("method")
    assert strict["recommended"].to_dict() == {"fp32": False, "good": True, "bad": False}
    assert strict.loc["bad", "excess"] == pytest.approx(strict.loc["bad", "loss_bound"] - 0.05)
    loose = placed(studied, aiming(worst_group_loss=0.9)).set_index("method")
    assert loose["recommended"].to_dict() == {"fp32": False, "good": False, "bad": True}
    (told,) = recommendations(strict.reset_index(), aiming())
    assert "ship good at int8" in told
    assert "Each of the 2 variants is certified by itself" in told


def test_what_no_variant_meets_is_said_with_how_far_off_it_is(studied):
    study = aiming(worst_group_loss=0.05, bytes=5000)
    rows = placed(studied, study)
    assert not rows["recommended"].any()
    off = rows.set_index("method").loc["bad", "excess"]
    assert f"Closest is bad at int4, {100 * off:.1f} points off" in recommendations(rows, study)[0]


def test_a_test_set_too_small_for_the_target_is_named(studied):
    study = aiming(worst_group_loss=0.001)
    rows = placed(studied, study)
    text = recommendations(rows, study)[0]
    # exactly one-sided 1 − α^(1/n) at 0.05/2; a tenth of it buys the limit of answers that change
    floor = rows["floor"].iloc[0]
    assert 1 - 0.025 ** (1 / 200) < floor < 1 - 0.0025 ** (1 / 200)
    assert "too small for the promise" in text
    assert "without that certainty: good at int8" in text


def test_of_answers_whose_files_are_not_known_no_size_is_spoken_of(studied):
    _, sampled, frames, sizes = studied
    told = []
    for loss in (0.001, 0.05):
        study = aiming(worst_group_loss=loss)
        unknown = dict.fromkeys(sizes, np.nan)
        rows = frontier(sampled, unknown, frames.levels, frames.certificates, study)
        told += recommendations(rows, study)
    assert "Closest is good at int8" in told[0]
    assert "On target by what was observed, without that certainty: good at int8" in told[0]
    assert "ship good at int8" in told[1]
    assert not any("nan" in text or "bytes" in text for text in told)


def test_without_a_large_group_nothing_is_recommended(studied):
    _, sampled, frames, sizes = studied
    nobody = sampled._replace(division=DIVISION._replace(counted=np.array([False, False])))
    unknown = frames.certificates.assign(bound=np.nan)
    rows = frontier(nobody, sizes, frames.levels, unknown, STUDY)
    assert "no digit group has the 30 test samples" in recommendations(rows, STUDY)[0]


def test_what_could_be_certified_at_best_counts_units_where_there_are_any(studied):
    predictions, sampled, frames, sizes = studied
    correct = {p: answers == predictions.labels for p, answers in predictions.predicted.items()}
    units = np.arange(len(CODES)) // 5
    of_people = sample(correct, DIVISION, np.array([300, 200]), STUDY.statistics, units)
    floors = [
        frontier(one, sizes, frames.levels, frames.certificates, STUDY)["floor"].iloc[0]
        for one in (sampled, of_people)
    ]
    alone = np.ones(len(CODES), bool)
    bounds = certified_losses(
        alone, alone, CODES, counted=DIVISION.counted, alpha=0.05, units=units
    )
    assert floors[1] == bounds.max() > 2 * floors[0]


def test_an_unknown_bound_meets_no_target():
    rows = pd.DataFrame(
        {
            "loss_bound": [np.nan, 0.0],
            "fvo_high": [0.1, 0.1],
            "bytes": [1.0, 2.0],
            "accuracy": 0.9,
            "method": "ptq",
            "bits": [4, 8],
        }
    )
    assert judged(rows, aiming())["recommended"].tolist() == [False, True]
    assert judged(rows, aiming(fvo=0.05))["recommended"].tolist() == [False, False]


def test_of_a_width_the_free_ones_are_recommended_first():
    study = load(Path(__file__).parents[1] / "params.yaml").judged()
    facts = {"loss_bound": 0.0, "fvo_high": 0.1, "accuracy": 0.9}
    rows = pd.DataFrame(
        {
            "method": ["fair_qat", "logit_adjusted", "mpqat", "ptq"],
            "bits": [4, 4, 2, 8],
            "bytes": [1.0, 2.0, 3.0, 0.5],
        }
    ).assign(**facts)
    assert judged(rows, study)["recommended"].tolist() == [False, False, True, False]
    assert judged(rows[:2], study)["recommended"].tolist() == [False, True]


def test_exemplars_are_the_samples_whose_usual_answer_changed(studied):
    ids = np.array([f"s{i}" for i in range(len(CODES))], object)
    rows = exemplar_rows(studied[0], ids)
    assert set(rows["method"]) == {"bad"}
    predictions = studied[0]
    before, after = (
        predictions.predicted[Point("faces", "net", method, BITS[method])]
        for method in ("fp32", "bad")
    )
    # two seeds: an answer they share before, and another that they share after
    agreed = {
        f"s{i}"
        for i in range(300, 360)
        if not set(before[:, i]) & set(after[:, i])
    }  # fmt: skip
    assert set(rows["id"]) == agreed
    assert len(agreed) > 50
    assert rows["flips"].eq(2).all()


def test_how_many_images_would_decide_stands_beside_what_is_not_decided(studied):
    effects = studied[2].effects
    told = effects[effects["decide"].notna()]
    assert (told["verdict"] == "cannot tell").all()
    assert (told["decide"] > 0).all()
    assert effects.loc[effects["verdict"] == "cannot tell", "decide"].notna().all()


def test_exemplars_are_where_the_usual_answer_changed():
    rng = np.random.default_rng(0)
    before, after = rng.integers(3, size=(2, 7, 200))
    found = exemplars(before, after, 3)
    for t in range(200):
        counts = [np.bincount(p[:, t], minlength=3) / 7 for p in (before, after)]
        tops = [set(np.flatnonzero(c == c.max())) for c in counts]
        assert found.modal[t] == (not tops[0] & tops[1])
        assert found.before[t] in tops[0]
        assert found.after[t] in tops[1]
        assert found.modal[t] == (found.before[t] != found.after[t])
        np.testing.assert_allclose(found.taxicab[t], abs(counts[0] - counts[1]).sum())
    clear = (np.sort(counts_of(before), axis=0)[-1] > 3) & (np.sort(counts_of(after), 0)[-1] > 3)
    expected = mode(before, axis=0).mode != mode(after, axis=0).mode
    np.testing.assert_array_equal(found.modal[clear], expected[clear])


def counts_of(predictions):
    return np.stack([(predictions == k).sum(0) for k in range(3)])
