"""Figures and the page: what is drawn, and what the page shows with its script and without."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from quantskew.analysis import figures, report
from quantskew.analysis.figures import FIGURES, figure
from quantskew.analysis.figures.drawing import BarsByGroup, HeatMap, Points, TradeOff, looks
from quantskew.analysis.figures.registry import dvc_plots
from quantskew.analysis.frontier import shipped
from quantskew.analysis.report import decision
from quantskew.analysis.report.sections import Section, every_metric, limits, sections
from quantskew.analysis.report.tables import LONGEST, count, p, table, text
from quantskew.analysis.report.words import GLOSSARY, explained
from quantskew.analysis.run import flipped
from quantskew.analysis.study import Statistics, Study
from quantskew.analysis.typeset import groups_named, p_value, points
from quantskew.data.groups import Groups
from quantskew.data.people import People, read_people
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.files import write_json
from quantskew.layout import empty, samples_path
from quantskew.tables import read as read_table

ROOT = Path(__file__).parents[1]
STUDY = Study(
    datasets=("d",), models=("m",), bits=(8, 4), seeds=(0, 1), methods={}, reference="ptq",
    groups=Groups(by={"d": ("race", "sex")}),
)  # fmt: skip
WIDTHS = {8: {"a": 0.0, "b": -0.005, "tiny": -0.9}, 4: {"a": -0.10, "b": 0.001, "tiny": 0.0}}


def audited(widths=WIDTHS, sexes=("worse", "equivalent")) -> dict[str, pd.DataFrame]:
    """Tables of a network at two widths: of three races one has few samples, and of two sexes."""
    effects, levels = [], []
    for bits, changes in widths.items():
        groups = {("race", name): value for name, value in changes.items()}
        groups |= {("sex", f"s{i}"): -0.01 for i in range(len(sexes))}
        for (attribute, group), value in groups.items():
            small = abs(value) < 0.01
            verdict = "equivalent" if small else "worse"
            if attribute == "sex":
                verdict = sexes[int(group[1:])] if bits == 4 else "equivalent"
            effects.append(
                {"bits": bits, "attribute": attribute, "group": group, "metric": "accuracy",
                 "counted": group != "tiny", "change": value, "low": value - 0.01,
                 "high": value + 0.01, "high_all": value + 0.015,
                 "may_lose_most": group == "a" if bits == 4 else group != "tiny",
                 "verdict": verdict}
            )  # fmt: skip
    for method, bits in (("fp32", 32), ("ptq", 8), ("ptq", 4)):
        levels.append({"method": method, "bits": bits, "attribute": "race", "group": "all",
                       "metric": "overall", "n": 900, "value": 0.9 + bits / 1000})  # fmt: skip
        levels += [
            {"method": method, "bits": bits, "attribute": "race", "group": group,
             "metric": "accuracy", "n": n, "value": 0.9}
            for group, n in (("a", 500), ("b", 400), ("tiny", 5))
        ]  # fmt: skip
    place = {"dataset": "d", "model": "m"}
    certificates = [
        {**place, "seed": seed, "method": "ptq", "bits": 4, "attribute": "race", "group": group,
         "n": 100, "lost": lost, "gained": 0, "still_wrong": 0, "bound": 0.2}
        for seed, lots in ((0, (9, 1)), (1, (3, 5))) for group, lost in zip("ab", lots, strict=True)
    ]  # fmt: skip
    return {
        "levels": pd.DataFrame(levels).assign(
            **place, counted=lambda rows: rows["group"] != "tiny", collapsed=False, low=0.8,
            high=0.95, seed_sd=0.0, chance_mean=np.nan, chance_upper=np.nan, p_chance=np.nan,
            note="",
        ),
        "effects": pd.DataFrame(effects).assign(
            **place, method="ptq", reference="fp32", p_holm=np.nan, fdr=0.01, decide=np.nan,
            about="these networks",
        ),
        "certificates": pd.DataFrame(certificates),
    }  # fmt: skip


def shipping(lost=(3, 1), n=(2000, 2000)) -> dict[str, pd.DataFrame]:
    """Tables of an fp32 file and an int8 file, by race."""
    place = {"dataset": "d", "model": "m", "seed": 0, "attribute": "race"}
    groups = pd.DataFrame(
        {**place, "method": "int8_random", "bits": 8, "group": group, "n": size, "counted": True,
         "fp32": 0.9, "accuracy": 0.9 - share / size, "lost": share, "gained": 0,
         "low": 0.8, "high": 0.95, "pytorch": 0.9, "bound": share / size + 0.004}
        for group, share, size in zip("ab", lost, n, strict=True)
    )  # fmt: skip
    files = pd.DataFrame(
        {"dataset": "d", "model": "m", "seed": 0, "base": "fp32", "method": ["fp32", "int8_random"],
         "bits": [32, 8], "bytes": [4000, 1000], "accuracy": [0.9, 0.899],
         "integer_layers": [0, 2], "integer_bytes": [0.0, 1.0], "integer_operations": [0.0, 0.9],
         "agreement_fp32": 1.0, "agreement_pytorch": 0.99}
    )  # fmt: skip
    return {"deployed": files, "deployed_groups": groups}


def placed() -> pd.DataFrame:
    rows = pd.DataFrame({"method": ["fp32", "ptq", "ptq"], "bits": [32, 8, 4]})
    return rows.assign(
        dataset="d", model="m", attribute="race", bytes=[4000.0, 900, 500], accuracy=0.9, fvo=0.1,
        fvo_high=0.1, loss=0.0, loss_bound=[0.0, 0.001, 0.2], floor=0.0, on_frontier=True,
        probability=1.0, excess=[0, 0, 0.1], meets=[True, True, False],
        recommended=[False, True, False],
    )  # fmt: skip


def test_the_first_screen_says_for_each_width_who_is_harmed():
    int8, int4 = decision.decisions(audited(), STUDY)
    assert (int8.verdict, int4.verdict) == ("safe within the margin", "harms someone")
    assert int4.counts == [
        "race: 1 worse, 1 safe of 2; 1 under 30 images not judged", "sex: 1 worse, 1 safe of 2"
    ]  # fmt: skip
    assert int4.worst[0] == "race group a: −10.0 [−11.0, −8.5]"
    assert int8.worst[0] == "race group b or a (cannot be told apart): −0.5 [−1.5, +1.0]"
    assert int4.more == "loses most with seed 0: a; 1: b"
    assert int4.accuracy == "90.4 % (fp32 93.2 %)"
    assert int4.lowest == "worst group a: 90.0 %"


def test_harm_in_a_later_grouping_alone_is_harm():
    calm = {bits: dict.fromkeys(groups, 0.0) for bits, groups in WIDTHS.items()}
    harmed = decision.decisions(audited(calm), STUDY)[1]
    assert harmed.verdict == "harms someone"
    open_ = decision.decisions(audited(calm, ("cannot tell", "better")), STUDY)[1]
    assert open_.verdict == "cannot tell"
    safe = decision.decisions(audited(calm, ("equivalent", "better")), STUDY)[1]
    assert safe.verdict == "safe within the margin"


def test_against_a_network_that_is_no_basis_nobody_is_called_safe():
    calm = {8: WIDTHS[8], 4: WIDTHS[8]}
    frames = audited(calm, ("equivalent", "better"))
    assert decision.decisions(frames, STUDY)[1].verdict == "safe within the margin"
    frames["certificates"]["bound"] = np.nan
    row = decision.decisions(frames, STUDY)[1]
    assert row.verdict == "cannot tell"
    assert row.counts == [decision.NO_BASIS]
    assert "Other groupings" in report.render(frames, STUDY, drawn={})
    made = shipping()
    made["deployed_groups"]["bound"] = np.nan
    (*_, file) = decision.decisions(frames | {"frontier": placed()} | made, STUDY)
    assert (file.verdict, file.counts) == ("cannot tell", [decision.NO_BASIS])


def test_where_no_group_is_large_enough_the_verdict_is_open():
    frames = audited()
    frames["effects"]["counted"] = False
    row = decision.decisions(frames, STUDY)[0]
    assert row.verdict == "cannot tell"
    assert row.worst == []
    assert row.counts[0] == "no race group could be judged; 3 under 30 images not judged"


def test_what_ships_is_recommended_and_what_is_simulated_is_not():
    study = STUDY.model_copy(update={"methods": {"ptq": {"weights": {}, "training": "none"}}})
    frames = audited() | {"frontier": placed()}
    alone = decision.decisions(frames, study)
    int4 = "simulated, mean of 2 seeds"
    assert [(row.note, row.recommended) for row in alone] == [("simulated", True), (int4, False)]
    both = decision.decisions(frames | shipping(), study)
    assert [(row.note, row.recommended) for row in both] == [
        ("ONNX file, seed 0", True), ("simulated", False), (int4, False),
    ]  # fmt: skip
    single = study.model_copy(update={"seeds": (0,)})  # nothing to mix, nothing to tell
    assert decision.decisions(frames | shipping(), single)[0].note == "ONNX file"
    assert both[0].accuracy == "89.9 % (fp32 90.0 %)"
    assert both[0].verdict == "safe within the margin"
    told = decision.sentence(both, frames | shipping(), study)
    assert told == (
        "Ship m as int8_random: accuracy 89.9 % (fp32 90.0 %); no race group loses over 2 "
        "points, certified."
    )
    # of a width that the reference does not keep, another variant is what ships
    other = placed().iloc[2:].assign(method="static", loss_bound=0.01, recommended=True)
    variants = pd.concat([placed().assign(recommended=False), other])
    static = {"method": "static", "bits": 4, "group": "all", "metric": "overall", "value": 0.88}
    levels = pd.concat([frames["levels"], pd.DataFrame([{"dataset": "d", "model": "m", **static}])])
    study = study.model_copy(update={"methods": study.methods | {"static": {}}})
    found = frames | {"frontier": variants, "levels": levels}
    rows = decision.decisions(found, study)
    assert decision.sentence(rows, found, study) == (
        "Ship m as static int4 (simulated): accuracy 88.0 % (fp32 93.2 %); no race group loses "
        "over 2 points, certified."
    )
    poor = shipping(lost=(400, 1))
    rows = decision.decisions(frames | poor, study)
    assert not any(row.recommended for row in rows)
    assert rows[0].verdict == "harms someone"
    assert rows[0].worst[0].startswith("race group a: −20.0 [")
    told = decision.sentence(rows, frames | poor, study)
    assert told == (
        "No file is sure to keep every race group's loss within 2 points: m's best is certified to "
        "20.4."
    )


def test_of_files_whose_groups_are_all_too_small_nothing_is_certified_or_recommended():
    frames = audited() | shipping() | {"frontier": placed()}
    frames["deployed_groups"]["counted"] = False
    (file,) = shipped(frames, STUDY).to_dict("records")
    assert (file["bytes"], file["meets"], file["recommended"]) == (1000, False, False)
    assert np.isnan([file["loss"], file["loss_bound"], file["fvo"], file["fvo_high"]]).all()
    row = decision.decisions(frames, STUDY)[0]
    assert (row.verdict, row.recommended) == ("cannot tell", False)
    assert row.counts == ["no race group could be judged; 2 under 30 images not judged"]


def test_counts_of_samples_bound_nothing_where_several_are_of_one_person():
    """The same file: with samples its FVO and who loses most are known, with persons they are not.

    Of a group with many samples but few persons nothing is said either.
    """
    people = STUDY.model_copy(update={"groups": Groups(by={"d": ("race",)}, unit={"d": "person"})})
    frames = audited() | shipping(lost=(400, 1))
    for study, known in ((STUDY, True), (people, False)):
        (file,) = shipped(frames, study).to_dict("records")
        assert file["fvo"] == pytest.approx(0.1995)
        assert np.isnan(file["fvo_high"]) != known
        row = decision.decisions(frames, study)[0]
        assert row.worst[0].startswith("race group a:" if known else "race group a or b (cannot")
    assert decision.decisions(frames, people)[1].counts == [
        "race: 2 safe of 2; 1 under 30 person units not judged"
    ]
    rows = frames["certificates"]
    frames["certificates"] = pd.concat(
        [rows, rows[rows["group"] == "a"].assign(group="tiny", lost=99)]
    )
    int4 = decision.decisions(frames, STUDY)[2]
    assert int4.more == "loses most with seed 0: a; 1: b"


def test_few_images_leave_the_verdict_on_a_file_open():
    rows = decision.decisions(audited() | shipping(lost=(1, 0), n=(100, 100)), STUDY)
    assert rows[0].verdict == "cannot tell"
    assert rows[0].worst[0].startswith("race group a or b (cannot be told apart): −1.0 [")


@pytest.mark.parametrize("networks", [1, 2, 12])
def test_the_sentence_has_at_most_thirty_words(networks):
    names = [f"m{i}" for i in range(networks)]
    study = STUDY.model_copy(update={"models": tuple(names)})
    parts = [{k: v.assign(model=name) for k, v in (audited() | shipping() | {"frontier": placed()})
              .items()} for name in names]  # fmt: skip
    frames = {key: pd.concat([part[key] for part in parts]) for key in parts[0]}
    for tables in (frames, {key: frames[key] for key in ("levels", "effects", "certificates")}):
        told = decision.sentence(decision.decisions(tables, study), tables, study)
        assert 5 < len(told.split()) <= decision.LONGEST, told


def test_tables_of_answers_are_named_by_themselves_and_each_is_judged():
    one, other = audited(), audited()
    for frames, name in ((one, "phone"), (other, "pruned")):
        effects = frames["effects"]
        frames["effects"] = effects[effects["bits"] == 4].assign(bits=0, method=name)
        levels = frames["levels"].query("method == 'fp32' or bits == 4")
        frames["levels"] = levels.assign(
            bits=levels["bits"].replace(4, 0), method=levels["method"].replace("ptq", name)
        )
    study = STUDY.model_copy(update={"bits": (32,), "reference": "fp32"})
    frames = {
        key: pd.concat([one[key], other[key]]).drop_duplicates() for key in ("levels", "effects")
    }
    rows = decision.decisions(frames, study)
    assert [(row.width, row.verdict) for row in rows] == [
        ("phone", "harms someone"), ("pruned", "harms someone"),
    ]  # fmt: skip
    page = report.render(frames, study)
    assert "int0" not in page
    assert "what lifts the worst group" not in page
    alone = {key: one[key] for key in ("levels", "effects")}
    told = decision.sentence(decision.decisions(alone, study), alone, study)
    assert told == "Someone is harmed: phone, race group a: −10.0 [−11.0, −8.5] points."


def test_free_remedies_are_named_first_and_every_one_with_its_price():
    wide = [
        {"method": method, "change": change if metric == "worst_group" else -0.05, "free": free,
         "training": training, "images_trained": 100 * training, "metric": metric, "labels": labels}
        for method, change, free, training, labels in (
            ("qat", 0.5, False, 0.5, 0), ("again", 0.2, True, 0, 256),
        )
        for metric in ("overall", "worst_group")
    ]  # fmt: skip
    rows = pd.DataFrame(wide).assign(
        dataset="d", model="m", bits=4, attribute="race", bytes=5000, value=0.5, low=0.1, high=0.6,
        verdict="better", excess=0.0, meets=True, cheapest=False,
    )  # fmt: skip
    int4 = decision.decisions(audited() | {"remedies": rows}, STUDY)[1]
    change = "[+10.0, +60.0], accuracy −5.0 [+10.0, +60.0]"
    assert int4.help == f"again: worst group +20.0 {change}, no training, 256 labels, 5 kB"
    int4 = decision.decisions(audited() | {"remedies": rows.assign(free=False)}, STUDY)[1]
    assert int4.help == f"qat: worst group +50.0 {change}, 0.5 × training, 5 kB"
    known = ["method", "metric", "bits", "attribute", "change", "low", "high", "verdict"]
    wanted = rows[known].assign(dataset="d", model="m", reference="ptq", group="all", counted=True)
    frames = audited()
    frames["effects"] = pd.concat([frames["effects"], wanted])  # as in an audit
    assert decision.decisions(frames, STUDY)[1].help == f"qat: worst group +50.0 {change}"
    page = report.render(frames, STUDY, drawn={})
    assert "what lifts the worst group most (mean of 2 seeds, points against ptq)" in page


def test_every_width_has_its_figure_on_the_first_screen_with_the_margin():
    study = STUDY.model_copy(update={"statistics": Statistics(margin=0.03)})
    rows = FIGURES["change_by_group"].rows(audited(), study)
    assert rows["drawing"].tolist() == ["int8", "int8", "int4", "int4"]
    assert rows["y"].tolist() == ["b", "a", "a", "b"]  # from the largest loss on, tiny left out
    assert rows["x"].tolist() == pytest.approx([-0.5, 0, -10, 0.1])
    assert set(rows["margin"]) == {3.0}
    canvas = FIGURES["change_by_group"].drawing.canvas(rows)
    band = canvas.axes[0].patches[0].get_extents().transformed(canvas.axes[0].transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-3, 3))
    one, other = canvas.axes  # networks and widths are compared along one axis
    assert one.get_xlim() == other.get_xlim()
    assert one.get_xlim()[0] < -10


def band_of(ax, number: int = 0) -> list[float]:
    """Corners of a patch, in data: left, bottom, right, top."""
    box = ax.patches[number].get_extents().transformed(ax.transData.inverted())
    return [box.x0, box.y0, box.x1, box.y1]


def test_every_figure_of_a_change_of_accuracy_or_fvo_shows_the_margin():
    study = STUDY.model_copy(update={"statistics": Statistics(margin=0.03)})
    place = {"dataset": "d", "model": "m", "attribute": "race", "group": "all"}
    values = {("overall", "fp32"): 0.9, ("overall", "ptq"): 0.8,
              ("fvo", "fp32"): 0.2, ("fvo", "ptq"): 0.3}  # fmt: skip
    levels = pd.DataFrame(
        {**place, "metric": metric, "method": method, "bits": 32 if method == "fp32" else 4,
         "value": value, "low": value - 0.1, "high": value + 0.1, "chance_upper": 0.05}
        for (metric, method), value in values.items()
    )  # fmt: skip
    canvas = FIGURES["fvo_by_width"].drawing.canvas(FIGURES["fvo_by_width"].select(study, levels))
    assert band_of(canvas.axes[0])[1::2] == pytest.approx([17, 23])
    effects = levels[levels["method"] == "ptq"].rename(columns={"value": "change"})
    effects = effects.assign(reference="fp32")
    for name, metric in (("trade_off", "fvo"), ("free_and_trained", "worst_group")):
        rows = FIGURES[name].select(study, effects.replace({"metric": {"fvo": metric}}))
        ax = FIGURES[name].drawing.canvas(rows).axes[0]
        assert band_of(ax, 0)[0::2] == pytest.approx([-3, 3])
        assert band_of(ax, 1)[1::2] == pytest.approx([-3, 3])
    frames = audited()
    levels = frames["levels"].assign(attribute="race")
    measured = levels[["dataset", "model", "method", "bits", "attribute", "group"]]
    rows = FIGURES["accuracy_by_group"].select(
        study, levels, measured.assign(seed=0, accuracy=0.9)
    )  # fmt: skip
    band = rows.drop_duplicates("group")[["group", "margin_low", "margin_high"]]
    assert band.set_index("group").loc["a"].tolist() == pytest.approx([87, 93])


def flowing(lost=(0.3, 0.1)) -> dict[str, pd.DataFrame]:
    """Tables of a network at fp32 and at int4: groups a and b, of which a loses more."""
    place = {"dataset": "d", "model": "m", "seed": 0, "attribute": "race"}
    rows = [
        {**place, "method": method, "bits": bits, "group": group, "n": 50, "counted": True,
         "accuracy": 0.9 - quantized * down, "cosine_distance": quantized * down,
         "true_probability": 0.8 - quantized * down, "loss": 0.2 + quantized * 5 * down,
         "gradient_plain": 1 + quantized * 100 * down,
         "largest_eigenvalue": 50 - 40 * quantized * down}
        for quantized, (method, bits) in enumerate((("fp32", 32), ("ptq", 4)))
        for group, down in zip("ab", lost, strict=True)
    ]  # fmt: skip
    surface = ["gradient_plain", "largest_eigenvalue"]
    table = pd.DataFrame(rows)
    layers = pd.DataFrame(
        {"dataset": "d", "model": "m", "seed": 0, "method": ["fp32", "ptq"], "bits": [32, 4],
         "layer": "all", "relative_error": [0, 0.5]}
    )  # fmt: skip
    return {
        "groups": table.drop(columns=surface), "layers": layers,
        "curvature": table.drop(columns=["counted", "accuracy", "cosine_distance",
                                         "true_probability", "loss"]),
    }  # fmt: skip


def test_the_impact_flow_is_one_figure_of_six_steps_that_is_read_out_and_prints():
    study = STUDY.model_copy(update={"bits": (4,)})
    one = FIGURES["impact_flow"]
    rows = one.rows(flowing(), study)
    assert rows["panel"].unique().tolist() == ["d · m at int4"]
    assert rows["drawing"].unique().tolist() == ["a lost most, b lost least"]
    assert rows["step"].str.replace("\n", " ").unique().tolist() == [
        "change of the weights", "turn of the logits", "fall of the true class's probability",
        "rise of the loss", "rise of the gradient norm", "rise of the largest eigenvalue",
        "accuracy lost",
    ]  # fmt: skip
    assert rows.loc[rows["role"].str.contains("most"), "text"].tolist() == [
        "50.0 %", "0.30", "30.0 points", "1.50 nats", "30.0", "−12.0", "30.0 points",
    ]  # fmt: skip
    assert rows.loc[rows["role"].str.contains("least"), "share"].tolist() == pytest.approx(
        [1, *[1 / 3] * 6]
    )
    page = report.render(audited() | flowing(), study, drawn={"impact_flow": one.drawing.svg(rows)})
    (told,) = re.findall(r'<desc id="impact_flow-desc">(.*?)</desc>', page)
    assert told.startswith(one.alternative)
    assert "accuracy lost 30.0 points 10.0 points" in told
    assert '<figure id="figure-impact_flow">' in page  # those of class "screen" are not printed
    assert page.index('id="why"') < page.index("figure-impact_flow")
    other = flowing((0.1, 0.3))  # another network, in which another group lost most
    both = {name: pd.concat([part, other[name].assign(model="m2")])
            for name, part in flowing().items()}  # fmt: skip
    axes = one.drawing.canvas(one.rows(both, study)).axes
    assert [ax.get_title("left") for ax in axes] == [
        "d · m at int4: a lost most, b lost least", "d · m2 at int4: b lost most, a lost least",
    ]  # fmt: skip


@pytest.mark.parametrize("missing", ["groups", "layers", "curvature"])
def test_without_one_of_its_tables_there_is_no_flow(missing):
    tables = flowing()
    tables[missing] = tables[missing][:0]
    assert FIGURES["impact_flow"].rows(tables, STUDY).empty
    assert FIGURES["impact_flow"].rows(flowing((0.0, 0.0)), STUDY)["share"].max() == 1


def test_the_classes_that_end_lowest_on_test_samples_look_alike_in_both_fields():
    ends = {"train": [1.0, 0.9, 1.0, 0.8, 1.0], "test": [0.2, 0.9, 0.4, 0.8, 0.3]}
    history = pd.DataFrame(
        {"dataset": "d", "model": "m", "method": "fp32", "bits": 32, "seed": 0, "split": split,
         "group": group, "epoch": epoch, "n": 9, "accuracy": value * epoch / 2}
        for split, values in ends.items()
        for group, value in zip("abcde", values, strict=True)
        for epoch in (1, 2)
    )  # fmt: skip
    one = FIGURES["example_difficulty"]
    rows = one.drawing.described(one.select(STUDY, history))
    looks_of = rows.groupby("series")[["rank", "colour"]].agg(lambda values: {*values})
    assert looks_of["rank"].map(min).to_dict() == {"a": 0, "e": 1, "c": 2, "d": 3, "b": 4}
    assert looks_of["colour"].map(len).eq(1).all()
    assert looks_of.loc["d", "colour"] == looks_of.loc["b", "colour"]
    assert len({min(colour) for colour in looks_of["colour"]}) == 4


def test_the_page_is_made_of_whatever_tables_there_are(tmp_path):
    report.write(tmp_path / "page.html", audited(), STUDY)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "harms someone" in page
    assert re.findall(r'<section id="(.*?)"', page) == [
        "decision", "groups", "limits", "words", "provenance",
    ]  # fmt: skip
    failures = pd.DataFrame({"dataset": ["d"], "model": "m", "seed": 0, "method": "q", "bits": 4,
                             "step": "quantize", "reason": "no <layers>"})  # fmt: skip
    whole = report.render(audited() | shipping() | {"failures": failures}, STUDY)
    assert "no &lt;layers&gt;" in whole
    assert "ONNX file" in whole
    assert "file int8_random, seed 0</button>" in whole  # beside means of 2 seeds
    assert "means of 2 seeds, but for files" in re.sub(r"<[^>]*>", "", whole)


def test_limits_count_what_is_judged():
    people = STUDY.model_copy(update={"groups": Groups(by={"d": ("race",)}, unit={"d": "person"})})
    for study, counted in ((STUDY, "test samples"), (people, "person units")):
        assert limits(audited(), study)[-1] == (
            f"Groups with fewer than 30 {counted} enter no maximum: race tiny."
        )


def test_figures_say_what_they_show_to_those_who_do_not_see_them():
    page = report.render(audited(), STUDY)
    root = ElementTree.fromstring(re.search(r"<svg.*?</svg>", page, re.S)[0])
    assert root.get("role") == "img"
    assert [root[0].text, root[1].text] == [
        FIGURES["change_by_group"].title, FIGURES["change_by_group"].alternative,
    ]  # fmt: skip
    assert root.get("aria-labelledby").split() == [root[0].get("id"), root[1].get("id")]


def test_terms_are_explained_where_they_stand_and_in_the_glossary():
    page = report.render(audited(), STUDY)
    for term in re.findall(r'class="term" href="#([^"]*)"', page):
        assert f'<dt id="{term}">' in page
    assert explained("FVO & FVO of PTQ").count('class="term"') == 2
    assert "&amp;" in explained("FVO & FVO of PTQ")
    assert {"FVO", "PTQ", "QAT", "Holm", "certificate", "margin"} <= GLOSSARY.keys()


def test_a_method_is_described_in_its_own_words_or_by_its_parts():
    methods = {
        "ours": {"about": "What the camera does.", "weights": {}, "training": "none"},
        "fine": {
            "about": "", "weights": {"granularity": "channel", "rounding": "gptq"},
            "training": {"kind": "none"}, "activations": {"kind": "static"},
        },
    }  # fmt: skip
    told = report.words.methods_described(STUDY.model_copy(update={"methods": methods}))
    assert told["ours"] == "What the camera does."
    assert told["fine"] == (
        "after training; weights asymmetric per channel; rounding gptq; static activations"
    )


def test_defects_are_counted_by_reason_and_by_group():
    people = People(
        labels=np.zeros(3, int), ids=np.array(["a", "b", "c"], object),
        split=np.array(["test"] * 3), classes=("l",), metadata={},
        attributes=pd.DataFrame({"race": ["x", "y", "y"], "label": "l"}),
    )  # fmt: skip
    rejects = pd.DataFrame(
        {"id": ["z1", "z2", "b", "broken"],
         "reason": ["same pixels as a", "same pixels as c; these disagree in race",
                    "same pixels as a", "not an image"],
         "kept": [False, False, True, False]}
    )  # fmt: skip
    rows = report.rejects_by_group(rejects, people, STUDY, "d").set_index(["group", "reason"])["n"]
    assert rows.to_dict() == {
        ("x", "same pixels as another sample"): 1,
        ("y", "same pixels as another sample"): 1,
        ("y", "same pixels, other label or attribute"): 1,
        ("not known", "not an image"): 1,
    }


def test_pictures_of_flipped_samples_are_shown_with_their_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = samples_path("digits")
    path.parent.mkdir(parents=True)
    prepare("digits", Source(), tmp_path).write(path)
    people = read_people(path).test
    rows = pd.DataFrame(
        {"dataset": "digits", "model": "m", "method": "ptq", "bits": [8, 4, 4],
         "id": [*people.ids[:2], people.ids[0]], "label": 3, "before": 3, "after": [5, 6, 7],
         "flips": [1, 2, 4]}
    )  # fmt: skip
    pictures = flipped(STUDY, rows)
    assert [*pictures] == [
        f"digits {people.ids[0]}: 3, answered 3, at int4 7",
        f"digits {people.ids[1]}: 3, answered 3, at int4 6",
    ]  # fmt: skip
    (_, code), *_ = (address.split(",") for address in pictures.values())
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))
    kept = read_table("samples", path, ["id", "image"]).to_pandas().set_index("id")["image"]
    assert shown.tobytes() == kept[people.ids[0]]
    rows = rows.assign(taxicab=1.0)
    (each,) = (
        one for part in sections(audited() | {"exemplars": rows}, STUDY) for one in part.tables
        if one.title == "Each of them"
    )  # fmt: skip
    changed = [line[each.heads.index("seeds changed")].value for line in each.rows]
    assert len(changed) > 1
    assert changed == sorted(changed, reverse=True)  # as the note says
    page = report.render(audited() | {"exemplars": rows}, STUDY, drawn={}, pictures=pictures)
    assert page.count('<img src="data:image/png') == 2
    assert "answered 3, at int4 7</figcaption>" in page
    assert "<img" not in report.render(audited() | {"exemplars": rows}, STUDY, drawn={})


def test_numbers_are_written_for_readers():
    assert points(-0.00001) == "+0.0"
    assert groups_named("digit", ["6", "9"]) == "digit group 6 or 9 (cannot be told apart)"
    page = report.render(audited(), STUDY)
    body = re.sub(r"<svg.*?</svg>|<style>.*?</style>|<script>.*?</script>", "", page, flags=re.S)
    words = re.sub(r"<[^>]*>", " ", body)
    assert not re.findall(r"\d\.\d{3,}|\de[+-]?\d|\bnan\b|\bNone\b", words)


ROWS = pd.DataFrame({"group": [f"group {i:02}" for i in range(60)]})
ROWS["p_holm"] = [*np.random.default_rng(0).permutation(57) / 57, np.nan, np.nan, np.nan]


def test_a_long_table_keeps_what_matters_most_in_its_order():
    chance = np.random.default_rng(0).permutation(5 * LONGEST) / (5 * LONGEST)
    chance[7] = np.nan
    rows = pd.DataFrame({"group": np.arange(len(chance)), "p_holm": chance})
    columns = {"group": count("group"), "p": p("p_holm")}
    short = table("t", rows, columns, "A note.")
    kept = [line[0].value for line in short.rows]
    assert kept == sorted(kept)
    assert {*kept} == {*rows["group"][np.argsort(chance)[:LONGEST]]}
    assert short.note == (
        "A note. 300 of 1,500 rows, those of the smallest p holm; all are in the tables of the "
        "study."
    )
    assert table("t", rows[:LONGEST], columns, "A note.").note == "A note."
    assert len(table("t", rows[["group"]], {"group": count("group")}).rows) == LONGEST


def test_a_method_looks_the_same_in_every_figure():
    few, many = looks(["ptq", "qat"]), looks(["fp32", "ptq", "qat", *map(str, range(30))])
    assert few.items() <= many.items()
    assert len({colour for colour, _ in many.values()}) == len(many)
    rows = TradeOff().described(pd.DataFrame({"method": [*many]}))
    assert dict(zip(rows["method"], rows["colour"], strict=True)) == {
        name: colour for name, (colour, _) in many.items()
    }


def test_every_network_is_a_dot_on_its_bar():
    rows = pd.DataFrame({"panel": "p", "group": ["a", "b"], "n": 9, "width": "int2"})
    rows = rows.assign(value=50, low=40, high=60)
    bars = BarsByGroup(y_label="accuracy, %")
    canvas = bars.canvas(rows.assign(seeds=[[10, 90], [50, 50]]))
    dots = [
        np.column_stack(line.get_data())
        for line in canvas.axes[0].lines
        if len(line.get_xdata()) > 1
    ]
    assert [[*one[:, 1]] for one in dots if one[0, 0] == one[1, 0]] == [[10, 90], [50, 50]]
    plain = bars.canvas(rows)
    assert len(plain.axes[0].lines) == len(canvas.axes[0].lines) - 2


def test_long_names_of_bars_stand_below_and_mean_the_same_in_every_field():
    rows = pd.DataFrame({"panel": [*"pppqq"], "group": "a", "n": 9, "value": 50.0})
    rows = rows.assign(width=[f"file number {i}.onnx" for i in (0, 1, 2, 1, 2)], low=40, high=60)
    canvas = BarsByGroup().canvas(rows)
    first, second = ([bar.get_facecolor() for bar in ax.patches] for ax in canvas.axes)
    assert second == first[1:]
    assert [text.get_text() for text in canvas.legends[0].texts] == [*rows["width"][:3]]
    assert not any(ax.get_legend() for ax in canvas.axes)
    short = BarsByGroup().canvas(rows.assign(width=rows["width"].str[12]))
    assert all(ax.get_legend() for ax in short.axes)
    assert not short.legends


def test_what_fairness_costs_is_drawn_on_the_same_axes_at_every_width():
    rows = pd.DataFrame({"panel": "p", "method": ["ptq", "qat"], "bits": [8, 4], "margin": 2.0})
    rows = rows.assign(drawing=["int8", "int4"], series=rows["method"])
    for name, change in (("x", [-0.1, -60.0]), ("y", [0.2, 40.0])):
        rows[[name, f"{name}_low", f"{name}_high"]] = np.array([change] * 3).T
    canvas = TradeOff().canvas(rows)
    first, second = canvas.axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()
    assert [text.get_text() for text in canvas.legends[0].texts] == ["ptq", "qat"]


def test_a_heatmap_without_any_number_is_drawn():
    rows = pd.DataFrame({"panel": "p", "drawing": "d", "x": ["a", "b"], "y": "c", "value": np.nan})
    HeatMap(signed=True).canvas(rows)


def test_signed_numbers_are_white_at_0_and_alike_in_all_fields():
    rows = pd.DataFrame({"panel": "p", "drawing": ["a", "a", "b", "b"], "x": "x", "y": [*"uvuv"]})
    canvas = HeatMap(signed=True).canvas(rows.assign(value=[-1.0, 0.5, 0.0, 4.0]))
    images = [image for ax in canvas.axes for image in ax.images if ax.get_title("left")]
    assert [image.get_clim() for image in images] == [(-4, 4)] * 2
    assert images[1].norm(0.0) == 0.5
    for nothing in (np.nan, 0.0):
        assert "<svg" in HeatMap(signed=True).svg(rows.assign(value=nothing))


@pytest.fixture(scope="module")
def page() -> str:
    """A page with a short and a long table, and without figures."""
    columns = {"group": text("group"), "p": p("p_holm")}
    shown = [table("t", rows, columns, open=True) for rows in (ROWS[:2], ROWS)]
    section = Section("long", "Long", "", shown)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "sections", lambda frames, study: [section])
        return report.render(audited(), STUDY, drawn={})


def test_a_figure_is_one_function_that_reaches_the_rows_the_report_and_dvc(tmp_path, monkeypatch):
    monkeypatch.setattr(figures.registry, "FIGURES", dict(FIGURES))
    known = figures.registry.FIGURES
    monkeypatch.setattr("quantskew.analysis.report.FIGURES", known)

    @figure(
        order=15, section="results", title="Size of each group", alternative="Points of size.",
        caption="Counted, not estimated.", drawing=Points("place", "samples"),
    )  # fmt: skip
    def sizes(study: Study, groups: pd.DataFrame) -> pd.DataFrame:
        return groups.assign(panel=study.datasets[0], drawing="sizes", series="all", x=[0.0, 1.0])

    assert "sizes" not in FIGURES
    assert [*known][2] == "sizes"  # after the figure of order 10, before that of order 20
    tables = {"groups": pd.DataFrame({"group": ["young", "old"], "y": [7.0, 5.0]})}
    drawn = {}
    for name, one in known.items():
        if {*one.tables} <= {*tables} and name == "sizes":
            rows = one.rows(tables, STUDY)
            write_json(tmp_path / f"{name}.json", rows.to_dict("records"))
            drawn[name] = one.drawing.svg(rows)
    assert [row["y"] for row in json.loads((tmp_path / "sizes.json").read_text())] == [7, 5]
    page = report.render(audited(), STUDY, drawn=drawn)
    assert "Size of each group.</strong> Counted, not estimated." in page
    assert page.index('id="groups"') < page.index(">young</text>") < page.index('id="limits"')
    (entry,) = [plot for plot in dvc_plots() if "plots/rows/sizes.json" in plot]
    assert entry["plots/rows/sizes.json"] == {
        "template": "points", "title": "Size of each group",
        "x": "x", "y": "y", "x_label": "place", "y_label": "samples",
    }  # fmt: skip
    with pytest.raises(ValueError, match="a figure 'sizes' already"):
        figure()(sizes)


def test_every_file_of_the_folder_is_a_figure_and_dvc_draws_it():
    files = {path.stem for path in Path(figures.__file__).parent.glob("*.py")}
    assert {*FIGURES} == files - {"__init__", "registry", "drawing"}
    written = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    assert written == dvc_plots(), yaml.safe_dump({"plots": dvc_plots()}, sort_keys=False)
    templates = {path.stem for path in (ROOT / ".dvc/plots").glob("*.json")}
    assert {one.drawing.template for one in FIGURES.values()} == templates


ODD = ["$10%-$20%", "A$#$B", "two\nlines", "a|b", "<script>", "=1+1", "_x", "\\$", "a & b", "x_1"]


@pytest.mark.parametrize("drawing", [BarsByGroup(), HeatMap(), Points()])
def test_odd_names_are_drawn_as_they_are(drawing):
    rows = pd.DataFrame({"panel": "$p$", "drawing": "_d", "group": ODD, "series": ODD, "y": ODD})
    rows = rows.assign(x="a", width="int4", n=1, value=0.5, low=0.4, high=0.6)
    if drawing.template == "points":
        rows = rows.drop(columns=["low", "high"]).assign(x=0.1, y=0.2)
    drawn = "\n".join(ElementTree.fromstring(drawing.svg(rows)).itertext())
    drawn = drawn.replace("\N{WORD JOINER}", "")
    for name in [*ODD, "$p$"]:
        assert all(f"\n{line}" in drawn for line in name.split("\n")), name


def test_a_shortened_drawing_is_the_same_drawing():
    rows = pd.DataFrame({"panel": "p", "drawing": "d", "x": [*"ab"], "y": "c", "value": [1.0, 2]})
    svg = HeatMap().svg(rows)
    assert svg == HeatMap().svg(rows)
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    assert {"1", "2", "a", "b", "c"} <= {text.text for text in root.iter(f"{space}text")}
    marks = {mark.get("id") for mark in root.iter() if mark.get("id")}
    link = "{http://www.w3.org/1999/xlink}href"
    used = {use.get(link) for use in root.iter(f"{space}use")}
    assert used
    assert used <= {f"#{mark}" for mark in marks}


def test_the_page_shows_odd_names_as_they_are():
    changes = dict.fromkeys(ODD, -0.5)
    page = report.render(audited({8: changes, 4: changes}), STUDY, drawn={})
    assert page.count("<script>") == 1
    assert "<td>&lt;script&gt;</td>" in page
    assert "<td>A$#$B</td>" in page


def test_every_metric_of_every_grouping_is_listed_where_it_has_a_meaning():
    effects = pd.DataFrame(
        {
            "dataset": "d", "model": "m", "method": method, "bits": bits, "reference": reference,
            "attribute": attribute, "group": group, "metric": metric, "change": -bits / 10,
            "verdict": "worse" if bits == 4 else "cannot tell",
        }
        for attribute, metrics in (
            ("label", ["overall", "fvo"]), ("sex", ["overall", "fvo", "equalized_odds_worst"]),
        )
        for metric in [*metrics, "accuracy"]
        for group in (["a", "b"] if metric == "accuracy" else ["all"])
        for method, bits, reference in (
            ("ptq", 8, "fp32"), ("ptq", 4, "fp32"), ("qat", 4, "fp32"), ("qat", 4, "ptq"),
        )
    )  # fmt: skip
    levels = pd.DataFrame(
        {"dataset": "d", "model": "m", "method": "fp32", "group": "all", "value": 0.9,
         "attribute": ["label", "sex"], "metric": "overall"}
    )  # fmt: skip
    rows = every_metric(levels, effects, STUDY)
    assert rows[["attribute", "metric"]].agg(" ".join, axis=1).tolist() == [
        "label overall", "label fvo", "sex overall", "sex fvo", "sex equalized_odds_worst",
    ]  # fmt: skip
    assert [*rows.columns[4:]] == [
        "fp32", "int8_change", "int8_verdict", "int4_change", "int4_verdict", "note",
    ]  # fmt: skip
    odds = rows.iloc[-1]
    assert (odds["int8_change"], odds["int4_change"]) == (-0.8, -0.4)
    assert odds["int4_verdict"] == "worse"
    assert rows["fp32"].notna().tolist() == [True, False, True, False, False]
    assert every_metric(levels, effects[:0], STUDY).empty
    unknown = effects.replace({"method": {"ptq": "phone", "qat": "camera"}})  # of one width, both
    rows = every_metric(levels, unknown, STUDY)
    assert [name for name in rows if name.endswith("change")] == [
        "int8_change", "phone int4_change", "camera int4_change",
    ]  # fmt: skip


def test_without_its_script_the_page_has_all_rows_and_no_pager(page):
    body = page[page.index("<main>") : page.index("<script>")]
    assert re.findall(r"<td>(group \d\d)</td>", body)[2:] == [*ROWS["group"]]
    assert re.findall(r"<([^>]*) hidden>", body) == ['div class="pager"'] * 2


DRIVER = """
<script>
const pagers = [...document.querySelectorAll(".pager")], long = pagers.at(-1).parentElement;
const [previous, next, told, filter] = pagers.at(-1).children;
const seen = {hidden: pagers.map(pager => pager.hidden), live: told.ariaLive, steps: []};
const shown = cell => cell.offsetHeight > 0;
const look = () => seen.steps.push([
  told.textContent,
  [...long.querySelectorAll("td:first-child")].filter(shown).map(cell => cell.textContent),
  [previous, next].map(button => button.ariaDisabled === "true"),
]);
const press = element => { element.click(); look(); };
const type = text => { filter.value = text; filter.dispatchEvent(new Event("input")); look(); };
const p = long.querySelectorAll("th button")[1];
look(); [previous, next, next, next, previous, p, p, next, next].forEach(press);
["P 4", "nobody", ""].forEach(type);
document.body.textContent = JSON.stringify(seen);
</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_long_table_is_paged_sorted_and_filtered(page, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", DRIVER + "</body>"), encoding="utf-8")
    dom = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    seen = json.loads(dom[dom.index('{"hidden"') : dom.rindex("</body>")])
    assert seen["hidden"] == [True, False]
    assert seen["live"] == "polite"
    rising, falling = (
        ROWS.sort_values("p_holm", ascending=order, kind="stable") for order in (True, False)
    )
    fours = falling[
        falling["group"].str.contains("4") | falling["p_holm"].map(p_value).str.contains("4")
    ]
    pages = [  # after each step: the rows in their order, and which page of them
        (ROWS, 0), (ROWS, 0), (ROWS, 1), (ROWS, 2), (ROWS, 2), (ROWS, 1),
        (rising, 0), (falling, 0), (falling, 1), (falling, 2),
        (fours, 0), (ROWS[:0], 0), (falling, 0),
    ]  # fmt: skip
    for (told, names, disabled), (rows, number) in zip(seen["steps"], pages, strict=True):
        shown = rows["group"][25 * number :][:25]
        assert names == [*shown]
        start = 25 * number + 1
        assert told == (
            f"rows {start}–{start + len(shown) - 1} of {len(rows)}" if names else "no rows"
        )
        assert disabled == [number == 0, 25 * (number + 1) >= len(rows)]


@pytest.mark.parametrize(
    "name", [name for name, one in FIGURES.items() if not {"levels", "effects"} & {*one.tables}]
)
def test_a_figure_of_what_was_not_measured_has_no_rows(name):
    """Networks with weights of their own have no history, and tables of answers no weights."""
    one = FIGURES[name]
    assert not len(one.rows({name: empty(name) for name in one.tables}, STUDY))
