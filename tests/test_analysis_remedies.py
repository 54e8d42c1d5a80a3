from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from quantskew.analysis.answer import metrics
from quantskew.analysis.figures import FIGURES
from quantskew.analysis.remedies import against_free, cheapest, remedies, side_by_side
from quantskew.analysis.study import Targets
from quantskew.names import Point
from quantskew.params import load

STUDY = load(Path(__file__).parents[1] / "params.yaml").judged()
IMAGES = {"fp32": 700.0, "ptq": 0.0, "free": 0.0, "qat": 100.0, "long": 800.0}
EXCESS = {"ptq": 0.3, "free": 0.2, "qat": 0.0, "long": 0.0}


def study(**targets):
    return STUDY.model_copy(update={"bits": (4,), "targets": Targets(**targets)})


def table(excess=EXCESS, *, images=IMAGES, size=None, **targets):
    """The table of networks of 4 bits, with what fills it."""
    placed, levels, effects = [], [], []
    for i, (method, off) in enumerate(excess.items()):
        place = {"dataset": "d", "model": "m", "method": method, "bits": 4, "attribute": "a"}
        bytes_ = float((size or {}).get(method, 1000))
        placed.append({**place, "bytes": bytes_, "excess": off, "meets": off == 0})
        for j, metric in enumerate(("overall", "fvo", "worst_group")):
            levels.append({**place, "metric": metric, "value": i + j / 10})
            for reference in ("fp32", "ptq"):
                change = i - j / 10 if reference == "ptq" else np.nan
                rest = {"low": change - 1, "high": change + 1, "verdict": "better"}
                own = {"metric": metric, "group": "all", "reference": reference, "change": change}
                if method != reference:
                    effects.append({**place, **own, **rest})
    counts = {Point("d", "m", method, 4): count for method, count in images.items()}
    counts[Point("d", "m", "fp32", 32)] = images["fp32"]
    frames = (pd.DataFrame(rows).assign(group="all") for rows in (levels, effects))
    return remedies(pd.DataFrame(placed), counts, *frames, study(**targets))


def wide(*args, **options):
    return side_by_side(table(*args, **options), ["overall", "fvo", "worst_group"])


def test_of_those_that_meet_the_targets_the_least_trained_is_cheapest():
    rows = wide()
    assert rows.loc[rows["cheapest"], "method"].tolist() == ["qat"]
    np.testing.assert_allclose(rows["training"], [0, 0, 1 / 7, 8 / 7])
    assert cheapest(table(), study()) == [
        "Cheapest remedies for d, m: at int4 qat meets the targets, for 0.14 times the training of "
        "fp32 and 1,000 bytes (worst group +180.0 points [+80.0, +280.0] against ptq: better)."
    ]


def test_changes_are_those_against_plain_which_has_none():
    rows = wide().set_index("method")
    assert rows.loc["long", "overall"] == 3
    assert rows.loc["long", "fvo_change"] == pytest.approx(2.9)
    assert rows.loc["long", "worst_group_low"] == pytest.approx(1.8)
    assert rows.loc["ptq", "fvo_verdict"] == ""
    assert np.isnan(rows.loc["ptq", "fvo_change"])


def test_where_none_meets_the_targets_the_nearest_is_named_and_then_the_cheapest_of_equals():
    rows = table({"ptq": 0.3, "long": 0.1, "qat": 0.1})
    assert rows.loc[rows["cheapest"], "method"].unique().tolist() == ["qat"]
    assert "at int4 none does, and qat is nearest, 10.0 points off" in cheapest(rows, study())[0]


def test_what_needs_no_remedy_gets_none():
    met = table(dict.fromkeys(EXCESS, 0.0), size={"free": 999})
    assert "none is needed: ptq meets the targets" in cheapest(met, study())[0]
    best = table({"ptq": 0.1, "qat": 0.2})
    assert "none gets nearer to the targets than ptq, 10.0 points off" in cheapest(best, study())[0]


def test_a_file_too_large_or_a_bound_unknown_is_never_cheapest():
    rows = table(size={"qat": 2000, "long": 3000}, bytes=1500)
    assert rows.loc[rows["cheapest"], "method"].unique().tolist() == ["free"]
    assert "for no training and 1,000 bytes" in cheapest(rows, study())[0]
    assert not table(dict.fromkeys(EXCESS, np.nan))["cheapest"].any()


def test_own_weights_have_no_training_to_compare_with():
    rows = table(images=IMAGES | {"fp32": 0.0})
    assert rows["training"].isna().all()
    assert "for training on 100 images" in cheapest(rows, study())[0]


def test_metrics_tell_what_the_cheapest_leaves_and_takes():
    head = pd.DataFrame({"dataset": "d", "model": "m", "method": "ptq", "bits": [8, 4]}).assign(
        accuracy_change=0.0, fvo_change=0.0, groups_harmed=0, most_harmed_change=0.0
    )
    found = metrics(head, table())["d"]["m"]
    assert found["int4"]["off"] == 0
    assert found["int4"]["training"] == 0.14
    assert "off" not in found["int8"]


PRICED = {"ptq": 0.3, "repaired": 0.2, "logit_adjusted": 0.2, "qat": 0.1, "fair_qat": 0.0}
TRAINED = {"fp32": 700.0, "qat": 100.0, "fair_qat": 800.0}


def priced():
    """Worst group and FVO rise in this order, so fair_qat leads in one and lags in the other."""
    placed, levels, effects = [], [], []
    for i, (method, off) in enumerate(PRICED.items()):
        place = {"dataset": "d", "model": "m", "method": method, "bits": 4, "attribute": "a"}
        placed.append({**place, "bytes": 1000.0, "excess": off, "meets": off == 0})
        for metric in ("overall", "fvo", "worst_group"):
            levels.append({**place, "metric": metric, "value": i / 100})
            for j, reference in enumerate(PRICED):
                if reference != method:
                    change = (i - j) / 100
                    limits = {"low": change - 0.01, "high": change + 0.01, "verdict": "better"}
                    own = {"metric": metric, "group": "all", "reference": reference}
                    effects.append({**place, **own, "change": change, **limits})
    counts = {Point("d", "m", method, 4): TRAINED.get(method, 0.0) for method in PRICED}
    counts[Point("d", "m", "fp32", 32)] = TRAINED["fp32"]
    frames = (pd.DataFrame(rows).assign(group="all") for rows in (levels, effects))
    return remedies(pd.DataFrame(placed), counts, *frames, study())


def test_what_is_trained_is_priced_against_the_best_free_one_of_each_metric():
    rows = side_by_side(priced(), ["worst_group", "fvo"], bars=True).set_index("method")
    assert rows["free"].to_dict() == {
        "ptq": True, "repaired": True, "logit_adjusted": True, "qat": False, "fair_qat": False,
    }  # fmt: skip
    assert rows.loc["fair_qat", ["worst_group_bar", "fvo_bar"]].tolist() == [
        "logit_adjusted", "ptq",
    ]  # fmt: skip
    assert rows.loc["fair_qat", "worst_group_over_change"] == pytest.approx(0.02)
    assert rows.loc["fair_qat", "fvo_over_change"] == pytest.approx(0.04)
    assert rows.loc["qat", "worst_group_over_low"] == pytest.approx(0.0)
    assert (rows.loc[["ptq", "repaired"], "worst_group_bar"] == "").all()
    assert rows.loc["repaired", "images"] == 64
    assert (rows["labels"] == 0).all()
    assert rows.loc["fair_qat", "worst_group_change"] == pytest.approx(0.04)  # against plain


def test_what_training_adds_is_said_with_its_price():
    assert against_free(priced(), study()) == [
        "What training adds to free remedies on d, m: at int4 fair_qat, for 1.1 times the training "
        "of fp32, changes the worst group by +2.0 points [+1.0, +3.0] against logit_adjusted "
        "(better), changes FVO by +4.0 points [+3.0, +5.0] against ptq (better)."
    ]
    nothing = priced().query("free")
    assert against_free(nothing, study()) == []


def test_at_equal_distance_from_the_targets_the_free_one_is_cheapest():
    equal = table({"ptq": 0.3, "qat": 0.0, "free": 0.0})
    assert equal.loc[equal["cheapest"], "method"].unique().tolist() == ["free"]


def test_the_figure_marks_what_is_free_and_what_is_trained():
    rows = [
        {
            "dataset": "mnist5k", "model": "m", "method": method, "bits": 4, "group": "all",
            "attribute": "digit", "reference": "fp32", "metric": metric, "change": change,
            "low": -0.3, "high": 0.1,
        }
        for method in ("ptq", "static", "mpqat", "logit_adjusted")
        for metric, change in (("overall", -0.1), ("worst_group", -0.2), ("fvo", 0.3))
    ]  # fmt: skip
    shown = FIGURES["free_and_trained"].select(study(), pd.DataFrame(rows))
    assert shown["series"].tolist() == ["plain: ptq", "free: logit_adjusted", "trained: mpqat"]
    assert (shown["drawing"] == "int4").all()
    assert shown[["x", "y"]].drop_duplicates().to_numpy().tolist() == [[-10, -20]]
    assert "free: logit_adjusted" in FIGURES["free_and_trained"].drawing.svg(shown)
