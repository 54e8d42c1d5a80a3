"""A metric is written in one place, and acts wherever group metrics are shown or judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from quantskew import tables
from quantskew.analysis.effects import Predictions, analyze, joined
from quantskew.analysis.gate import Evidence, Policy, judge
from quantskew.analysis.remedies import remedies, side_by_side
from quantskew.data.groups import Grouping
from quantskew.errors import UserError
from quantskew.fairness import catalogue
from quantskew.fairness.catalogue import metric
from quantskew.fairness.paired import holm
from quantskew.fairness.parity import Answers
from quantskew.fairness.verdicts import false_discovery_rate
from quantskew.names import Point
from quantskew.params import load, parse

STUDY = load(Path(__file__).parents[1] / "params.yaml").judged()
STUDY = STUDY.model_copy(
    update={
        "datasets": ("faces",),
        "models": ("net",),
        "bits": (4,),
        "statistics": STUDY.statistics.model_copy(update={"draws": 300}),
        "groups": STUDY.groups.model_copy(update={"by": {"faces": ("side",)}}),
    }
)
SIDE = Grouping("side", np.repeat([0, 1], 300), ["left", "right"], np.array([True, True]))


FP32, PTQ, WORSE, ALIKE = (
    Point("faces", "net", method, bits)
    for method, bits in (("fp32", 32), ("ptq", 4), ("qat", 4), ("alike", 4))
)


@pytest.fixture(scope="module")
def _added():
    """Register two metrics of one gap: of one a lower value is better, of the other a higher."""

    @metric(of="grouping", better="lower", title="squared gap")
    def squared_gap(counts):
        """Square of the gap of accuracy between two groups."""
        return (counts.accuracy.max(-1) - counts.accuracy.min(-1)) ** 2

    @metric(of="grouping", better="higher", title="evenness")
    def evenness(counts):
        """Lowest over highest accuracy of a group."""
        return counts.accuracy.min(-1) / counts.accuracy.max(-1)

    yield
    for name in ("squared_gap", "evenness"):
        del catalogue.CATALOGUE[name]


@pytest.fixture(scope="module")
def answered(_added):
    """Quantization costs the right side 90 of 300 answers, ``qat`` 180, ``alike`` neither."""
    labels = np.tile([0, 1], 300)
    answers = {}
    for point, lost in ((FP32, 0), (PTQ, 90), (WORSE, 180), (ALIKE, 0)):
        wrong = (SIDE.codes == 1) & (np.arange(600) < 300 + lost)
        answers[point] = np.where(wrong, 1 - labels, labels)[None]
    return Predictions(labels, 2, [0], answers)


@pytest.fixture(scope="module")
def frames(answered):
    return analyze(answered, [SIDE], STUDY)


def test_a_new_metric_has_levels_with_intervals(frames, tmp_path):
    rows = frames.levels.query("method == 'ptq'").set_index("metric")
    assert rows.loc["squared_gap", "value"] == pytest.approx(0.3**2)
    assert rows.loc["evenness", "value"] == pytest.approx(0.7)
    for name in ("squared_gap", "evenness"):
        assert rows.loc[name, "low"] < rows.loc[name, "value"] < rows.loc[name, "high"]
    for name, table in frames._asdict().items():
        tables.write(name, table, tmp_path / f"{name}.parquet")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (lambda counts: 2 + counts.accuracy.sum(-1), "gives 4, beyond its span of 0 to 1"),
        (lambda counts: np.logical_not(counts.counted, out=counts.counted), "read-only"),
        (lambda counts: counts.accuracy, r"values of shape \(1, 2\); of='grouping' needs \(1,\)"),
    ],
)
def test_what_a_metric_must_not_give_is_named(value, problem):
    answers = Answers(np.array([0, 1]), np.array([[0, 1]]), np.arange(2), np.array([True] * 2), 2)
    wrong = replace(catalogue.CATALOGUE["fvo"], name="mine", value=value)
    with pytest.raises(UserError, match=f"the metric 'mine' .*{problem}"):
        wrong.of_counts(answers.counts)


@pytest.mark.parametrize("name", ["squared_gap", "evenness"])
def test_its_direction_makes_the_verdict(frames, name):
    rows = frames.effects.query("metric == @name").set_index(["method", "reference"])["verdict"]
    assert rows["ptq", "fp32"] == rows["qat", "ptq"] == "worse"
    assert rows["alike", "ptq"] == "better"
    assert rows["alike", "fp32"] == "equivalent"


def test_it_stands_beside_every_remedy(frames):
    placed = pd.DataFrame([p._asdict() for p in (PTQ, WORSE, ALIKE)])
    placed = placed.assign(attribute="side", bytes=1.0, excess=0.0, meets=True)
    images = dict.fromkeys((FP32, PTQ, WORSE, ALIKE), 1.0)
    rows = remedies(placed, images, frames.levels, frames.effects, STUDY)
    wide = side_by_side(rows, ["squared_gap", "evenness"]).set_index("method")
    assert wide.loc["qat", "squared_gap_change"] == pytest.approx(0.6**2 - 0.3**2)
    assert wide["evenness_verdict"].to_dict() == {"ptq": "", "qat": "worse", "alike": "better"}


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ({"squared_gap": 0.01}, "fail"),
        ({"squared_gap": 0.3}, "pass"),
        ({"squared_gap_increase": 0.01}, "fail"),
        ({"evenness": 0.9}, "fail"),
        ({"evenness": 0.5}, "pass"),
        ({"evenness_decrease": 0.1}, "fail"),
        ({"evenness_decrease": 0.5}, "pass"),
    ],
)
def test_the_gate_has_rules_for_it(answered, rule, verdict):
    before, after = (answered.predicted[point][0] for point in (FP32, PTQ))
    evidence = Evidence("int4", "fp32", answered.labels, before, after, 2, [SIDE], 1)
    (found,) = judge(evidence, Policy(draws=300, **rule))
    assert found.verdict == verdict
    assert ("≥" in found.line()) == (rule.keys() == {"evenness"})


def test_a_metric_that_nobody_registered_is_an_error_and_no_guess(frames):
    unknown = frames.effects.head(1).assign(metric="fvo_of_nobody")
    with pytest.raises(UserError, match="no metric is named 'fvo_of_nobody'"):
        joined([frames._replace(effects=unknown)], STUDY)
    with pytest.raises(ValueError, match="there is a metric 'fvo' already"):
        metric(of="grouping", better="lower", title="", name="fvo")(lambda counts: counts.accuracy)


def test_of_every_metric_the_worse_of_two_networks_is_called_worse(frames):
    """Losing the answers of one group alone is better by no metric."""
    rows = frames.effects.query("method == 'qat' and reference == 'ptq'")
    judged = rows[rows["group"].isin(["all", "right"])]
    assert set(judged["verdict"]) <= {"worse", "cannot tell", "undefined"}
    assert set(judged.loc[judged["verdict"] == "worse", "metric"]) >= {
        "accuracy", "overall", "fvo", "worst_group", "equalized_odds_worst",
    }  # fmt: skip


def test_a_second_integer_ptq_above_the_reference_changes_no_table(answered):
    """All that it changes are ``p_holm``, ``fdr``, and ``verdict`` and ``decide``, made of them.

    Its own outcomes are headline outcomes too, and its other tests are explored too, so both
    families have more tests. Adjusted without them, the other methods have the same p.
    """
    study = {
        "datasets": ["faces"], "models": ["net"], "bits": [4], "seeds": [0],
        "sources": {"faces": {"reader": "digits"}}, "statistics": {"draws": 200},
    }  # fmt: skip
    plain = parse({**study, "methods": {"ptq": {}}}).judged()
    careful = {"careful": {"weights": {"range": "mse"}}, "ptq": {}}
    crowded = parse({**study, "methods": careful}).judged()
    assert list(crowded.methods) == ["careful", "ptq"]
    alone = analyze(answered, [SIDE], plain)
    more = answered.predicted | {Point("faces", "net", "careful", 4): answered.predicted[ALIKE]}
    both = analyze(answered._replace(predicted=more), [SIDE], crowded)
    for one, other in zip(alone, both, strict=True):
        rest = other[other["method"] != "careful"].reset_index(drop=True)
        adjusted = ["p_holm", "fdr", "verdict", "decide"] if "p_holm" in one else []
        pd.testing.assert_frame_equal(one.drop(columns=adjusted), rest.drop(columns=adjusted))
    one, rest = alone.effects, both.effects.query("method != 'careful'").reset_index(drop=True)
    headline = rest["family"] == "headline"
    assert holm(rest["p_value"].where(headline)) == pytest.approx(one["p_holm"], nan_ok=True)
    explored = false_discovery_rate(rest["p_value"].where(~headline))
    assert explored == pytest.approx(one["fdr"], nan_ok=True)
    before, after = (rows["p_holm"].fillna(rows["fdr"]) <= 0.05 for rows in (one, rest))
    same = before == after
    assert one["verdict"][same].tolist() == rest["verdict"][same].tolist()
