"""What tables of answers say beyond answers: scores by group, and slices that nobody listed."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from test_answers import CLASSES, QUICK, ROOT, run

from quantskew import tables
from quantskew.answers.judging import compare_answers
from quantskew.answers.reading import AnswersError
from quantskew.errors import UserError

COLUMNS = [f"p_{name}" for name in CLASSES]


def said(n=1200, seed=0):
    """People of two groups and three cameras, and the logits of two networks.

    The second is less sure of group b, and is wrong more often for an old camera.
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(3, size=n)
    people = pd.DataFrame(
        {"id": [f"i{row:04d}" for row in range(n)], "label": np.array(CLASSES)[label],
         "race": rng.choice(["a", "b"], n), "camera": rng.choice(["old", "web", "phone"], n),
         "light": rng.random(n), "file": [f"{row}.png" for row in range(n)]}
    )  # fmt: skip
    before = 3 * np.eye(3)[label] + rng.normal(size=(n, 3))
    after = np.where((people["race"] == "b").to_numpy()[:, None], before / 4, before)
    lost = (people["camera"] == "old") & (rng.random(n) < 0.4)
    after[lost] = after[lost][:, [1, 2, 0]]
    return people, before, after


def shares(logits):
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def of_group(found, name="nll"):
    rows = found.decisions[0].scores
    return rows[rows["score"] == name].set_index("group")


def test_scores_are_those_of_scikit_learn_from_every_form_of_a_table(tmp_path):
    people, before, after = said()
    base = people.assign(logits=list(before.astype(np.float32)))
    own = people[["id"]].sample(frac=1, random_state=1)
    given = after[own.index]
    columns = pd.DataFrame(shares(given), own.index, COLUMNS)
    pd.concat([own, columns], axis=1).to_csv(tmp_path / "a.csv", index=False)
    own.assign(logits=list(given + 7)).to_parquet(tmp_path / "b.parquet")
    listed = own.assign(probabilities=list(shares(given)))
    listed.to_json(tmp_path / "c.jsonl", orient="records", lines=True, double_precision=15)
    answers = np.array(CLASSES)[given.argmax(1)]
    own.assign(prediction=answers, logits=list(given)).to_parquet(tmp_path / "d.parquet")
    others = {path.name: path for path in sorted(tmp_path.iterdir())}
    found = compare_answers(base, others, by="race", classes=CLASSES, scores=True, statistics=QUICK)
    first, *more = (one.scores for one in found.decisions)
    for other in more:
        assert list(other["verdict"]) == list(first["verdict"])
        numbers = ["before", "after", "low", "high", "p_value"]
        np.testing.assert_allclose(other[numbers], first[numbers], rtol=1e-4, atol=1e-6)
    for race in ("a", "b"):
        rows = (people["race"] == race).to_numpy()
        truth = people.loc[rows, "label"]
        for side, logits in (("before", before), ("after", after)):
            probabilities = np.maximum(shares(logits)[rows], 1e-4)
            loss = -np.log(probabilities[np.arange(rows.sum()), truth.map(CLASSES.index)]).mean()
            assert of_group(found).loc[race, side] == pytest.approx(loss, rel=1e-5)
            plain = log_loss(truth, shares(logits)[rows], labels=CLASSES)
            assert plain == pytest.approx(loss, rel=0.02)
            area = roc_auc_score(truth, shares(logits)[rows], multi_class="ovr", labels=CLASSES)
            assert of_group(found, "auc").loc[race, side] == pytest.approx(area, rel=1e-5)
    assert of_group(found, "brier").loc["b", "verdict"] == "worse"
    tables.write("scores", found.to_frame("scores"), tmp_path / "scores.parquet")
    assert len(tables.read("scores", tmp_path / "scores.parquet")) == 4 * len(first)


def test_scores_of_all_tables_are_one_family_and_change_no_verdict():
    people, before, after = said()
    base = people.assign(logits=list(before))
    both = {"same": base, "less": people.assign(logits=list(after))}
    of = {"by": "race", "classes": CLASSES, "statistics": QUICK}
    alone = compare_answers(base, both, **of)
    found = compare_answers(base, both, scores=True, **of)
    assert [one.sentence for one in found.decisions] == [one.sentence for one in alone.decisions]
    assert alone.decisions[0].scores is None
    assert "scores" not in alone.frames
    one = found.decisions[1].scores
    p = found.frames["scores"]["p_value"].dropna()
    least = one["p_value"].idxmin()
    assert one.loc[least, "fdr"] >= one.loc[least, "p_value"]
    assert found.frames["scores"]["fdr"].max() <= 1
    assert len(p) > one["p_value"].notna().sum()
    people.loc[:9, "race"] = "rare"
    few = compare_answers(
        people.assign(logits=list(before)), both["less"].drop(columns="race"), scores=True, **of
    )
    assert set(of_group(few)["verdict"]) >= {"not judged", "worse"}
    assert not of_group(few).loc["rare", "judged"]


def test_a_score_is_a_probability_or_a_logit_and_its_threshold_that_of_recall():
    rng = np.random.default_rng(3)
    n = 400
    label = np.array(["no", "yes"] * (n // 2))
    # exactly at the threshold, which float32 cannot hold, stands many a sample
    sides = [rng.choice([0.1, 0.3, 0.7, 0.9], n) for _ in range(2)]
    people = pd.DataFrame({"id": range(n), "label": label, "race": rng.choice(["a", "b"], n)})
    of = {"by": "race", "classes": ["no", "yes"], "scores": True, "statistics": QUICK}
    for cut in (0.3, 0.7):
        as_shares, as_logits, as_columns = (
            compare_answers(*(people.assign(**write(p)) for p in sides), threshold=at, **of)
            for write, at in (
                (lambda p: {"score": p}, cut),
                (lambda p: {"score": np.log(p / (1 - p))}, np.log(cut / (1 - cut))),
                (lambda p: {"p_no": 1 - p, "p_yes": p}, cut),
            )
        )
        assert as_logits.threshold == pytest.approx(cut)
        for race in ("a", "b"):
            rows = (people["race"] == race).to_numpy() & (label == "yes")
            for found in (as_shares, as_columns):
                recall = of_group(found, "recall").loc[race]
                assert recall["before"] == pytest.approx((sides[0][rows] >= cut).mean())
                assert recall["after"] == pytest.approx((sides[1][rows] >= cut).mean())
            for name in ("nll", "brier", "auc"):
                values = [of_group(f, name).loc[race, "after"] for f in (as_shares, as_logits)]
                assert values[0] == pytest.approx(values[1])


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda p: {"prediction": "no"}, "after: scores need logits, probabilities, p_<class>"),
        (lambda p: {"score": np.log(p / (1 - p))},
         "each score of before lies within 0..1, .* and some of after do not"),
        (lambda p: {"prediction": "no", "p_yes": p, "p_no": 1 - p}, "the classes or their order"),
        (lambda p: {"prediction": "no", "score": p, "logits": [[0, 1]] * 60},
         "states them as logits and as score"),
        (lambda p: {"prediction": "no", "p_no": p, "p_yes": p}, "with the sum"),
    ],
)  # fmt: skip
def test_what_has_no_scores_is_refused_by_name(after, message):
    p = np.linspace(0.02, 0.98, 60)
    base = pd.DataFrame({"id": range(60), "label": ["no", "yes"] * 30})
    first = base.assign(score=p) if "each score" in message else base.assign(p_no=1 - p, p_yes=p)
    of = {"threshold": 0.5, "scores": True, "statistics": QUICK}
    of["classes"] = ["no", "yes"] if "each score" in message else ()
    with pytest.raises(AnswersError, match=message):
        compare_answers(first, base.assign(**after(p)), **of)


def test_names_of_classes_are_not_guessed_for_lists_beside_predictions():
    """Sorted texts are no order of outputs: the network says dog, cat, cow."""
    people, before, _ = said(300)
    order = [2, 0, 1]
    own = people.assign(prediction=np.array(CLASSES)[before.argmax(1)],
                        logits=list(before[:, order]))  # fmt: skip
    with pytest.raises(AnswersError, match=r"none of the classes 0, 1, 2.*--classes"):
        compare_answers(own, own, scores=True, statistics=QUICK)
    found = compare_answers(own, own, scores=True, classes=[CLASSES[at] for at in order],
                            statistics=QUICK)  # fmt: skip
    assert of_group(found).loc["all", "before"] < 0.5


def test_a_slice_that_nobody_listed_is_found_and_noise_is_not(tmp_path):
    people, before, after = said(3000)
    names = np.array(CLASSES)
    people["image"] = b"\xff"
    people.assign(prediction=names[before.argmax(1)]).to_parquet(tmp_path / "before.parquet")
    answered = people[["id"]].assign(prediction=names[after.argmax(1)])
    found = compare_answers(
        tmp_path / "before.parquet", answered, by="race", find_slices=True, statistics=QUICK
    )
    columns, rows = found.decisions[0].slices
    assert columns == ("race", "camera", "light", "label")
    first = rows.iloc[0]
    assert (first["slice"], first["verdict"]) == ("camera old", "worse")
    assert first["fdr"] < 0.05
    assert first["n"] == pytest.approx(500, abs=80)
    assert sum("camera old" not in text for text in rows.loc[rows["fdr"] <= 0.05, "slice"]) == 0
    tables.write("slices", found.to_frame("slices"), tmp_path / "slices.parquet")
    hidden = people.drop(columns="camera").assign(prediction=names[before.argmax(1)])
    none = compare_answers(hidden, answered, by="race", find_slices=True, statistics=QUICK)
    assert (none.decisions[0].slices.tested["fdr"] > 0.05).all()
    assert none.frames["slices"].columns.tolist() == found.frames["slices"].columns.tolist()


def test_slices_of_people_count_people_and_clusters_come_of_numbers():
    people, before, after = said(1500)
    base = people.assign(person=np.arange(1500) // 50, logits=list(before))
    own = people[["id"]].assign(logits=list(after))
    of = {"by": "race", "classes": CLASSES, "find_slices": True, "statistics": QUICK}
    alone = compare_answers(base.drop(columns="person"), own, **of).decisions[0].slices
    assert alone.columns == ("logit cluster", "race", "camera", "light", "label")
    assert alone.tested["fdr"].min() < 0.05
    by_person = compare_answers(base, own, unit="person", **of).decisions[0].slices
    assert "person" not in by_person.columns
    assert by_person.tested.empty  # thirty people, fifteen in each half


def test_a_column_on_which_tables_disagree_describes_nothing():
    people, before, after = said(600)
    names = np.array(CLASSES)
    base, own = (
        people.assign(prediction=names[logits.argmax(1)], confidence=shares(logits).max(1))
        for logits in (before, after)
    )
    found = compare_answers(base, own, by="race", find_slices=True, statistics=QUICK)
    assert "confidence" not in found.decisions[0].slices.columns
    assert any(
        text.startswith("confidence differs in") and text.endswith("it describes no slice")
        for text in found.warnings
    )


def test_the_command_shows_and_keeps_scores_and_slices(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    people, before, after = said()
    names = (
        pd.DataFrame(shares(before), columns=COLUMNS),
        pd.DataFrame(shares(after), columns=COLUMNS),
    )
    pd.concat([people, names[0]], axis=1).to_csv("before.csv", index=False)
    pd.concat([people[["id"]], names[1]], axis=1).to_parquet("after.parquet")
    asked = ["compare", "before.csv", "after.parquet", "--by", "race", "--scores", "--find-slices"]
    kept = ["--json", "v.json", "--markdown", "v.md", "--evidence", "e.json", "--report", "r.html"]
    status, shown, _ = run(capsys, *asked, *kept)
    assert status == 1
    assert "Scores of after.parquet against before.csv" in shown
    assert "Slices by logit cluster, race, camera, light, label" in shown
    assert "camera old" in shown
    schema = json.loads((ROOT / "docs" / "compare.schema.json").read_text())
    content = json.loads(Path("v.json").read_text())
    jsonschema.validate(content, schema)
    one = content["tables"][0]
    assert {row["score"] for row in one["scores"]} >= {"nll", "brier", "auc", "recall"}
    assert one["slices"]["tested"][0]["slice"] == "camera old"
    page = Path("v.md").read_text()
    assert "| nll | race b |" in page
    assert "| camera old |" in page
    report = Path("r.html").read_text()
    assert "Parts of the samples that nobody listed" in report
    assert "Scores of each group against" in report
    assert "camera old" in report
    assert run(capsys, "verify", "e.json")[:2] == (0, "e.json: files and results are the same\n")
    people.assign(prediction=people["label"]).to_csv("named.csv", index=False)
    status, _, wrong = run(capsys, "compare", "before.csv", "named.csv", "--scores")
    assert status == 64
    assert "named.csv: scores need logits" in wrong


@pytest.mark.parametrize(
    ("worse", "text"),
    [
        ("b", "1 of 2 groups is worse than with before, race b: −"),
        ("ab", "2 of 2 groups are worse than with before, most of all race "),
    ],
)
def test_one_group_is_and_several_are(worse, text):
    people = said(2000)[0]
    hit = people["race"].isin([*worse]) & (people["light"] < 0.3)
    base = people.assign(prediction=people["label"])
    own = base.assign(prediction=np.where(hit, "cat", people["label"]))
    found = compare_answers(base, own, by="race", statistics=QUICK)
    assert text in found.decisions[0].sentence
    few = base.assign(race=["rare"] * 3 + ["a"] * 1997)
    alone = compare_answers(few, few, by="race", statistics=QUICK).decisions[0].sentence
    assert "the only group is equivalent to" in alone
    assert "1 group of fewer than 30 is not judged" in alone


def ages(n=600, seed=0):
    """True ages and those that two networks say; the second errs more for group c."""
    rng = np.random.default_rng(seed)
    people = pd.DataFrame({"id": range(n), "race": rng.choice([*"abc"], n)})
    people["label"] = rng.integers(1, 90, n)
    before = people["label"] + rng.normal(scale=5, size=n)
    after = before + rng.normal(size=n) * np.where(people["race"] == "c", 12, 0.1)
    return people.assign(prediction=before.round(3)), people.assign(prediction=after.round(3))


def test_numbers_are_judged_by_their_absolute_error(tmp_path):
    before, after = ages(1200)
    before.to_csv(tmp_path / "before.csv", index=False)
    after.assign(label=after["label"].astype(float)).to_parquet(tmp_path / "after.parquet")
    files = (tmp_path / "before.csv", tmp_path / "after.parquet")
    found = compare_answers(*files, by="race", numeric=(0, 116), margin=2)
    groups = found.decisions[0].groups.set_index("group")
    assert groups["verdict"].to_dict() == {"a": "equivalent", "b": "equivalent", "c": "worse"}
    for name, part in before.groupby("race"):
        for side, table in (("before", part), ("after", after.loc[part.index])):
            error = (table["prediction"] - table["label"]).abs().mean()
            assert groups.loc[name, side] == pytest.approx(error)
    assert found.verdict == "fail"
    assert found.margin == pytest.approx(2)
    assert "race c: +" in found.sentences()[0]
    assert "in absolute error" in found.sentences()[0]
    tables.write("scores", found.to_frame(), tmp_path / "scores.parquet")
    frame = found.metric_frame("race", answers=str(found.predictions.columns[-1]))
    assert frame.by_group["c"] == pytest.approx(groups.loc["c", "after"])
    assert "worse" in found._repr_html_()
    with pytest.raises(UserError, match="there are none of these tables"):
        found.plot()
    with pytest.raises(AnswersError, match="the report is about classes"):
        found.report(tmp_path / "report.html")


def test_the_command_judges_numbers_and_its_evidence_is_verified(tmp_path, capsys):
    for name, table in zip(("before.csv", "after.csv"), ages(), strict=True):
        table.to_csv(tmp_path / name, index=False)
    of = ("--by", "race", "--numeric", "0", "116", "--margin", "2")
    kept = {name: str(tmp_path / f"found.{name}") for name in ("json", "junit", "evidence")}
    options = [text for name, path in kept.items() for text in (f"--{name}", path)]
    files = (tmp_path / "before.csv", tmp_path / "after.csv")
    status, shown, _ = run(capsys, "compare", *files, *of, *options)
    assert status == 1
    assert "race c " in shown
    content = json.loads(Path(kept["json"]).read_text())
    schema = json.loads((ROOT / "docs" / "compare.schema.json").read_text())
    jsonschema.validate(content, schema)
    assert (content["margin"], content["numeric"], content["classes"]) == (2, [0, 116], [])
    assert "points" not in Path(kept["junit"]).read_text()
    assert run(capsys, "verify", kept["evidence"])[0] == 0


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"margin": None}, "margin: got nothing; of a numeric target"),
        ({}, {"margin": 116}, "margin: got 116"),
        ({}, {"numeric": (116, 0)}, "give the lowest number, then the highest"),
        ({}, {"numeric": (0, 50)}, "the label of id '?[0-9]+'? is [0-9]+, outside of 0 to 50"),
        ({}, {"scores": True}, "a numeric target has none"),
        (
            {"prediction": "old"},
            {},
            "the prediction of after of id .* is 'old', which is no number",
        ),
        ({"label": "old"}, {}, "label differs in 600 of 600"),
        ({"logits": [[0, 1]] * 600, "prediction": None}, {}, "after: .*prediction"),
    ],
)
def test_numbers_that_cannot_be_judged_are_named(change, options, message):
    before, after = ages()
    after = after.assign(**change)
    if "logits" in change:
        after = after.drop(columns="prediction")
    with pytest.raises(AnswersError, match=message):
        compare_answers(
            before, after, **{"by": "race", "numeric": (0, 116), "margin": 2, **options}
        )


def test_each_question_of_a_network_with_several_labels_is_judged():
    """A row a question and image; a question alone is judged as its own table of images is."""
    rng = np.random.default_rng(0)
    n, questions = 500, ["Smiling", "Young", "Male"]
    truth = rng.integers(2, size=(n, 3))
    before = np.clip(0.1 + 0.8 * truth + 0.25 * rng.normal(size=(n, 3)), 0.01, 0.99)
    race = rng.choice(["a", "b"], n)
    lost = (race == "b") & (rng.random(n) < 0.3)
    after = before.copy()
    after[lost, 0] = 1 - after[lost, 0]

    def table(shares):
        wide = pd.DataFrame(shares, columns=questions).assign(image=range(n), race=race)
        rows = wide.melt(["image", "race"], questions, "question", "score")
        return rows.assign(
            id=rows["question"] + "/" + rows["image"].astype(str), label=truth.T.ravel().astype(str)
        )

    by = ["question", "question*race"]
    of = {"threshold": 0.5, "scores": True, "statistics": QUICK}
    found = compare_answers(table(before), table(after), by=by, unit="image", **of)
    worse = found.decisions[0].groups.query("verdict == 'worse'")["group"]
    assert [*worse] == ["Smiling", "Smiling*b"]
    alone = [table(shares).query("question == 'Smiling'") for shares in (before, after)]
    one = compare_answers(*alone, by="race", **of).decisions[0].groups.set_index("group")
    rows = found.decisions[0].groups.query("attribute == 'question*race'").set_index("group")
    numbers = ["before", "after", "change", "low", "high", "p_value"]
    np.testing.assert_allclose(
        rows.loc[["Smiling*a", "Smiling*b"], numbers].to_numpy(float), one[numbers].to_numpy(float)
    )
