"""Tables of answers: read, joined by id, judged by group; whatever does not fit is named."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from quantskew import cli
from quantskew.analysis.effects import Predictions, analyze
from quantskew.analysis.gate import Policy
from quantskew.analysis.study import Statistics, Study
from quantskew.answers.judging import compare_answers
from quantskew.answers.reading import AnswersError
from quantskew.data.groups import Groups, groupings, unit_codes
from quantskew.errors import UserError
from quantskew.names import Point

ROOT = Path(__file__).parents[1]
CLASSES = ["cat", "cow", "dog"]
QUICK = Statistics(draws=100)


def made(n=900, harmed=0.0, seed=0):
    """Samples of three groups, with the answers of two networks; the second errs more on b."""
    rng = np.random.default_rng(seed)
    label, race = rng.choice(CLASSES, n), rng.choice(["a", "b", "c"], n)
    frame = pd.DataFrame(
        {"id": [f"i{row:04d}" for row in range(n)], "label": label, "race": race,
         "gender": rng.choice(["f", "m"], n), "person": np.arange(n) // 3}
    )  # fmt: skip
    frame["before"] = np.where(rng.random(n) < 0.9, label, rng.choice(CLASSES, n))
    hit = (rng.random(n) < harmed) & (race == "b")
    frame["after"] = np.where(hit, rng.choice(CLASSES, n), frame["before"])
    return frame


def before_of(frame):
    return frame.drop(columns=["before", "after"]).assign(prediction=frame["before"])


def after_of(frame):
    return frame[["id"]].assign(prediction=frame["after"])


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    shown = capsys.readouterr()
    return ended.value.code, shown.out, shown.err


@pytest.fixture
def harmed():
    return made(harmed=0.4)


@pytest.fixture
def files(tmp_path, harmed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before_of(harmed).to_parquet("before.parquet")
    shuffled = after_of(harmed).sample(frac=1, random_state=0)
    shuffled.to_json("after.jsonl", orient="records", lines=True)
    return tmp_path


def test_every_form_of_a_table_gives_the_same_verdicts(harmed, tmp_path):
    base, tables = before_of(harmed), {}
    after = after_of(harmed).sample(frac=1, random_state=1)
    hot = pd.get_dummies(after["prediction"])[CLASSES].to_numpy(float) * 0.7 + 0.1
    lists, logits = list(hot), list(np.log(hot) + 3)
    columns = pd.DataFrame(hot, after.index, [f"p_{name}" for name in CLASSES])
    index = after.assign(prediction=after["prediction"].map(CLASSES.index))
    after.to_csv(tmp_path / "a.csv", index=False)
    after.to_csv(tmp_path / "b.csv.gz", index=False)
    after.to_csv(tmp_path / "c.tsv", index=False, sep="\t")
    after.to_csv(tmp_path / "bom.csv", index=False, encoding="utf-8-sig")
    after.to_json(tmp_path / "d.jsonl", orient="records", lines=True)
    after.to_parquet(tmp_path / "e.parquet")
    after.astype("category").to_parquet(tmp_path / "f.parquet")
    pd.concat([after[["id"]], columns], axis=1).to_csv(tmp_path / "g.csv", index=False)
    after[["id"]].assign(logits=logits).to_parquet(tmp_path / "h.parquet")
    listed = after[["id"]].assign(probabilities=lists)
    listed.to_json(tmp_path / "i.jsonl", orient="records", lines=True, double_precision=15)
    index.to_csv(tmp_path / "j.csv", index=False)
    tables = {path.name: path for path in sorted(tmp_path.iterdir())}
    found = compare_answers(
        base, {**tables, "frame": after}, by="race", classes=CLASSES, statistics=QUICK
    )
    first, *others = (one.groups for one in found.decisions)
    assert len(others) == 11
    assert list(first["verdict"]) == ["equivalent", "worse", "equivalent"]
    for other in others:
        pd.testing.assert_frame_equal(first, other)


def test_texts_of_a_csv_stay_as_written(tmp_path):
    ids = [f"{i:03d}" for i in range(100)]
    frame = pd.DataFrame({"id": ids, "label": ["01", "1"] * 50, "prediction": ["01", "1"] * 50,
                          "site": ["NA", "007"] * 50})  # fmt: skip
    frame.to_csv(tmp_path / "t.csv", index=False)
    found = compare_answers(tmp_path / "t.csv", frame, by="site", statistics=QUICK)
    assert list(found.predictions["label"].cat.categories) == ["01", "1"]
    assert list(found.decisions[0].groups["group"]) == ["007", "NA"]
    assert found.predictions["id"].iloc[7] == "007"


def test_whole_numbers_are_the_same_text_in_every_form(tmp_path):
    frame = pd.DataFrame({"id": range(90), "label": [0, 1, 2] * 30, "prediction": [0, 1, 2] * 30})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.astype(float).to_parquet(tmp_path / "b.parquet")
    frame.to_json(tmp_path / "c.jsonl", orient="records", lines=True)
    others = {path.name: path for path in tmp_path.iterdir()}
    found = compare_answers(frame, others, statistics=QUICK)
    assert all((one.groups["after"] == 1).all() for one in found.decisions)


def test_scores_answer_from_the_threshold_on_and_labels_may_stand_in_a_third_table(tmp_path):
    labels = pd.DataFrame(
        {"id": [f"i{k}" for k in range(200)], "label": ["no", "yes"] * 100,
         "site": [None, "x", "x", None] * 50}
    )  # fmt: skip
    labels.to_csv(tmp_path / "labels.csv", index=False)
    scores = pd.DataFrame({"id": labels["id"], "score": [0.2, 0.5] * 100})[::-1]
    scores.to_parquet(tmp_path / "before.parquet")
    off = scores.assign(score=[0.4, 0.2] * 100)
    of = {"labels": tmp_path / "labels.csv", "classes": ["no", "yes"], "statistics": QUICK}
    found = compare_answers(tmp_path / "before.parquet", off, by="site", threshold=0.5, **of)
    groups = found.decisions[0].groups.set_index("group")
    assert list(groups.index) == ["x", "unknown"]
    assert (groups["before"] == 1).all()
    assert (groups["after"] == 0.5).all()
    shifted = compare_answers(tmp_path / "before.parquet", off, by="site", threshold=0.3, **of)
    assert (shifted.decisions[0].groups["after"] == 1).all()


def test_group_names_come_in_the_order_of_numbers_and_bins(harmed):
    frame = before_of(harmed).assign(age=np.arange(900) % 80, day=np.arange(900) % 12)
    found = compare_answers(
        frame, after_of(harmed), by=["age", "day", "race*gender"], statistics=QUICK
    )
    groups = found.decisions[0].groups.groupby("attribute", sort=False)["group"].agg(list)
    assert groups["age"] == ["0-18", "19-39", "40-59", "60+"]
    assert groups["day"] == [*map(str, range(12))]
    assert groups["race*gender"] == ["a*f", "a*m", "b*f", "b*m", "c*f", "c*m"]


def test_the_p_value_is_that_of_mcnemar_and_the_counts_those_of_fairlearn(harmed):
    found = compare_answers(before_of(harmed), after_of(harmed), by=["race", "gender"])
    groups = found.decisions[0].groups.set_index("attribute").loc["race"].set_index("group")
    for name, part in harmed.groupby("race"):
        right = [part[side] == part["label"] for side in ("before", "after")]
        table = pd.crosstab(*right).reindex(index=[False, True], columns=[False, True]).fillna(0)
        assert groups.loc[name, "p_value"] == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert groups.loc[name, "lost"] == table.loc[True, False]
        assert groups.loc[name, "gained"] == table.loc[False, True]
    for side, column in (("before", "before"), ("after", "after")):
        frame = found.metric_frame("race", answers=side)
        assert frame.by_group.to_dict() == pytest.approx(groups[column].to_dict())
    crossed = found.metric_frame("race*gender")
    assert crossed.by_group.index.nlevels == 2


def test_a_study_judged_from_its_own_answers_gives_the_verdicts_of_its_stage(tmp_path):
    frame = made(n=1500, harmed=0.3, seed=4)
    codes = {name: code for code, name in enumerate(CLASSES)}
    labels, before, after = (frame[c].map(codes).to_numpy() for c in ("label", "before", "after"))
    by, groups = ("race", "race*gender"), Groups()
    units = unit_codes(frame, "person")
    study = Study(
        datasets=("d",), models=("m",), bits=(8,), seeds=(0,), methods={"ptq": {"weights": {}}},
        reference="ptq", groups=groups.model_copy(update={"by": {"d": by}}), statistics=QUICK,
    )  # fmt: skip
    predicted = {Point("d", "m", "fp32", 32): before[None], Point("d", "m", "ptq", 8): after[None]}
    for unit, who in ((None, None), ("person", units)):
        divisions = groupings(frame[["race", "gender"]], by, groups, who)
        answers = Predictions(labels, 3, [0], predicted)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Study, "retrained", lambda *_: False)
            stage = analyze(answers, divisions, study, who).effects
        before_of(frame).to_csv(tmp_path / "before.csv", index=False)
        after_of(frame).to_csv(tmp_path / "after.csv", index=False)
        found = compare_answers(
            tmp_path / "before.csv", tmp_path / "after.csv", by=by, unit=unit, statistics=QUICK
        )
        key = ["attribute", "group", "metric"]
        numbers = ["change", "low", "high", "high_all", "p_value", "p_holm", "fdr", "decide"]
        one, other = (
            rows.sort_values(key)[[*key, "verdict", *numbers]].reset_index(drop=True)
            for rows in (stage, found.frames["effects"])
        )
        pd.testing.assert_frame_equal(one, other, check_dtype=False)


def test_two_networks_at_least_as_good_pass_and_a_harm_fails_and_few_samples_cannot_tell(harmed):
    same = compare_answers(before_of(harmed), before_of(harmed), by="race", statistics=QUICK)
    assert same.verdict == "pass"
    assert "answers every sample as" in str(same)
    few = made(n=120)
    few.loc[:2, "after"] = "cat"
    untold = compare_answers(before_of(few), after_of(few), by="race", statistics=QUICK)
    assert untold.verdict == "could not tell"
    groups = untold.decisions[0].groups
    assert (groups.loc[groups["verdict"] == "cannot tell", "decide"] > 30).all()
    both = {"same": before_of(harmed), "worse": after_of(harmed)}
    found = compare_answers(before_of(harmed), both, by="race", statistics=QUICK)
    assert [one.verdict for one in found.decisions] == ["pass", "fail"]
    assert found.verdict == "fail"


def test_small_groups_are_named_and_not_judged(harmed):
    frame = before_of(harmed)
    frame.loc[:9, "race"] = "rare"
    found = compare_answers(frame, after_of(harmed), by="race", statistics=QUICK)
    groups = found.decisions[0].groups.set_index("group")
    assert groups.loc["rare", "verdict"] == "not judged"
    assert "1 group of fewer than 30 is not judged" in str(found)
    alone = compare_answers(frame[:20], after_of(harmed)[:20], by="race", statistics=QUICK)
    assert alone.verdict == "could not tell"


def test_units_widen_limits_and_are_counted(harmed):
    repeated = pd.concat([harmed.assign(id=harmed["id"] + f"-{k}") for k in range(5)])
    of = {"by": "race", "statistics": QUICK}
    loose = compare_answers(before_of(repeated), after_of(repeated), **of)
    tight = compare_answers(before_of(repeated), after_of(repeated), unit="person", **of)
    once = compare_answers(before_of(harmed), after_of(harmed), unit="person", **of)
    width = [(one.decisions[0].groups.eval("high - low")).to_numpy() for one in (loose, tight)]
    assert (width[1] > 1.5 * width[0]).all()
    # repeating each person's images tells nothing new
    a, b = (one.decisions[0].groups.set_index("group").loc["b", "p_value"] for one in (tight, once))
    assert a == pytest.approx(b, rel=1e-6)


def test_a_policy_decides_and_knows_units(harmed):
    def policy(**rules):
        return Policy.model_validate({"groups": ["race"], "draws": 100, **rules})

    of = {"statistics": QUICK}
    strict = policy(largest_group_loss=0.05, accuracy=0.5)
    found = compare_answers(before_of(harmed), after_of(harmed), policy=strict, **of)
    assert [(f.rule, f.verdict) for f in found.decisions[0].findings] == [
        ("largest_group_loss", "fail"),
        ("accuracy", "pass"),
    ]
    assert found.verdict == "fail"
    lax = policy(largest_group_loss=0.9)
    assert compare_answers(before_of(harmed), after_of(harmed), policy=lax, **of).verdict == "pass"
    repeated = pd.concat([harmed.assign(id=harmed["id"] + f"-{k}") for k in range(9)])
    bounds = [
        compare_answers(before_of(repeated), after_of(repeated), policy=lax, unit=unit, **of)
        .decisions[0].findings[0]
        for unit in (None, "person")
    ]  # fmt: skip
    assert bounds[1].high > bounds[0].high
    assert bounds[1].low < bounds[0].low
    with pytest.raises(AnswersError, match="bytes in the policy"):
        compare_answers(before_of(harmed), after_of(harmed), policy=policy(bytes=10), **of)


def test_the_result_is_looked_at_drawn_and_kept(harmed, tmp_path):
    found = compare_answers(before_of(harmed), after_of(harmed), by="race", statistics=QUICK)
    assert list(found.predictions) == ["id", "label", "before", "after"]
    assert (found.predictions["after"].astype(str) == harmed["after"]).all()
    assert "worse" in found._repr_html_()
    assert repr(found) == str(found)
    found.to_csv(tmp_path / "effects.csv", "effects")
    assert set(pd.read_csv(tmp_path / "effects.csv")["reference"]) == {"fp32"}
    assert found.plot().axes
    with pytest.raises(UserError, match=r"no table 'effect'; .* did you mean"):
        found.to_frame("effect")
    with pytest.raises(UserError, match=r"there is no 'rac'; .* did you mean 'race'"):
        found.metric_frame("rac")
    found.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "race" in page
    assert "after" in page


def test_the_command_ends_with_the_verdict_and_writes_every_form(files, capsys, harmed):
    kept = ["--json", "v.json", "--junit", "v.xml", "--markdown", "v.md", "--evidence", "e.json"]
    asked = ["before.parquet", "after.jsonl", "--by", "race", "--by", "race*gender"]
    status, shown, _ = run(capsys, "compare", *asked, *kept, "--date", "today", "--unit", "person")
    assert status == 1
    assert shown.startswith("after.jsonl: fail: ")
    content = json.loads(Path("v.json").read_text())
    schema = json.loads((ROOT / "docs" / "compare.schema.json").read_text())
    jsonschema.validate(content, schema)
    assert (content["exit"], content["date"], content["by"]) == (
        1,
        "today",
        ["race", "race*gender"],
    )
    assert content["tables"][0]["groups"][1]["verdict"] == "worse"
    assert set(content["sha256"]) == {"before.parquet", "after.jsonl"}
    suite = ET.parse("v.xml").getroot().find("testsuite")
    assert int(suite.get("tests")) == len(suite.findall("testcase")) == 9
    assert int(suite.get("failures")) == len(suite.findall(".//failure")) >= 1
    assert "### Answers by group: **fail**" in Path("v.md").read_text()
    status, shown, _ = run(capsys, "compare", *asked, "--markdown", "-")
    assert shown.startswith("### Answers by group: **fail**")
    status, shown, _ = run(capsys, "compare", "before.parquet", "before.parquet", "--by", "race")
    assert status == 0
    assert "before.parquet answers every sample as before.parquet (reference) does" in shown
    before_of(harmed).to_csv("same.csv", index=False)
    assert run(capsys, "compare", "before.parquet", "same.csv", "--by", "race")[0] == 0


def test_the_schema_describes_every_verdict_and_policies(files, capsys, harmed):
    schema = json.loads((ROOT / "docs" / "compare.schema.json").read_text())
    few = made(n=120)
    few.loc[:2, "after"] = "cat"
    few.loc[3:9, "race"] = "rare"
    before_of(few).to_csv("b.csv", index=False)
    after_of(few).to_csv("a.csv", index=False)
    Path("p.yaml").write_text("largest_group_loss: 0.1\ndraws: 100\n")
    for more in ([], ["--policy", "p.yaml"]):
        asked = ["b.csv", "a.csv", "--by", "race", "--json", "v.json", "--junit", "v.xml", *more]
        status, shown, _ = run(capsys, "compare", *asked)
        assert status == 2
        content = json.loads(Path("v.json").read_text())
        jsonschema.validate(content, schema)
        assert content["tables"][0]["groups"][-1]["verdict"] == "not judged"
        suite = ET.parse("v.xml").getroot().find("testsuite")
        assert int(suite.get("skipped")) == 1
        assert int(suite.get("errors")) >= 1
    assert "samples that would do" in shown
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "verdict": "perhaps"}, schema)


def test_evidence_is_verified_and_a_changed_file_is_named(files, capsys, harmed):
    Path("p.yaml").write_text("largest_group_loss: 0.05\ndraws: 100\n")
    asked = ["before.parquet", "after.jsonl", "--by", "race", "--policy", "p.yaml"]
    assert run(capsys, "compare", *asked, "--evidence", "kept/e.json", "--missing", "0.1")[0] == 1
    Path("other").mkdir()
    before_of(harmed).to_csv("other/same.csv", index=False)
    before_of(harmed).to_csv("same.csv", index=False)
    both = ["before.parquet", "same.csv", "other/same.csv", "--by", "race", "--by", "race"]
    assert run(capsys, "compare", *both, "--evidence", "both.json")[0] == 0
    assert run(capsys, "verify", "both.json")[0] == 0
    status, shown, _ = run(capsys, "verify", "kept/e.json")
    assert (status, shown) == (0, "kept/e.json: files and results are the same\n")
    lines = Path("after.jsonl").read_text().splitlines()
    Path("after.jsonl").write_text("\n".join(lines[1:]))
    status, shown, _ = run(capsys, "verify", "kept/e.json")
    assert status == 1
    assert "after.jsonl: the file was changed since" in shown
    assert "samples: was 900, is 899" in shown
    Path("after.jsonl").unlink()
    assert "does not exist" in run(capsys, "verify", "kept/e.json")[2]
    content = json.loads(Path("kept/e.json").read_text())
    content["found"]["tables"][0]["verdict"] = "pass"
    Path("after.jsonl").write_text("\n".join(lines))
    Path("kept/e.json").write_text(json.dumps(content))
    assert "tables[0].verdict: was 'pass', is 'fail'" in run(capsys, "verify", "kept/e.json")[1]
    other = {"schema": "x", "asked": {}, "found": {}}
    unknown = {**other, "schema": "quantskew/evidence/1", "asked": {"x": 1}}
    for wrong in ("{", "[]", json.dumps(other), json.dumps(unknown)):
        Path("e.json").write_text(wrong)
        status, _, said = run(capsys, "verify", "e.json")
        assert status == 64
        assert "e.json" in said


def test_a_plan_takes_two_tables_as_its_pilot(files, capsys):
    status, shown, _ = run(
        capsys, "plan", "before.parquet", "after.jsonl", "--by", "race", "--loss", 0.02
    )
    assert status == 0
    lines = shown.splitlines()
    assert lines[0] == "after.jsonl against before.parquet, race:"
    assert "b: no number of images, as it may lose 2 points" in lines[2]
    asked = ["before.parquet", "after.jsonl", "after.jsonl", "--loss", 0.02]
    assert "one table or two" in run(capsys, "plan", *asked)[2]


def test_samples_that_a_table_lacks_are_counted_and_refused_beyond_a_share(harmed):
    before, after = before_of(harmed), after_of(harmed)
    of = {"by": "race", "statistics": QUICK}
    with pytest.raises(AnswersError, match=r"after lacks 10 of the 900 samples of before, such as "
                       r"'i0000', 'i0001', 'i0002'; 0 % may be missing"):  # fmt: skip
        compare_answers(before, after[10:], **of)
    with pytest.raises(AnswersError, match="before lacks 10 of the 900 samples of after"):
        compare_answers(before[10:], after, **of)
    found = compare_answers(before, after[10:], missing=0.02, **of)
    assert len(found.predictions) == 890
    assert "10 of the 900" in found.warnings[0]
    # a table of labels may hold more
    labels = before.drop(columns="prediction")
    less = compare_answers(after[10:], after[10:].assign(), labels=labels, **of)
    assert len(less.predictions) == 890


def test_comparing_answers_loads_neither_torch_nor_fairlearn():
    code = (
        "import sys, quantskew, quantskew.answers.output; quantskew.compare_answers;"
        "print([m for m in ('torch', 'dvc', 'onnx', 'fairlearn', 'sklearn') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_unit_may_stand_in_the_policy():
    labels = ["cat", "dog"] * 200
    person = [str(row // 4) for row in range(400)]
    before = pd.DataFrame({"id": range(400), "label": labels, "prediction": labels, "who": person})
    after = before[["id"]].assign(prediction=["cat", "cat", *labels[2:]])
    rule = {"largest_group_loss": 0.2}
    stated = compare_answers(before, after, policy=Policy(**rule, unit="who"))
    given = compare_answers(before, after, policy=Policy(**rule), unit="who")
    assert stated.decisions[0].findings == given.decisions[0].findings
    alone = compare_answers(before, after, policy=Policy(**rule))
    assert stated.decisions[0].findings[0].high > alone.decisions[0].findings[0].high
    assert "of 100 who units" in stated.decisions[0].findings[0].note
