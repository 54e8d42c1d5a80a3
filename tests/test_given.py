"""Answers of networks made elsewhere (``answers:``) go through the stages as a study's own do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Project, Repository
from scipy.special import softmax

from quantskew import tables
from quantskew.answers.given import Given
from quantskew.evaluation.given import write_given
from quantskew.params import ParamsError, parse
from quantskew.sections import checked

CLASSES = ["cat", "dog", "owl"]
STUDY = {
    "datasets": ["people"], "models": [], "bits": [8], "seeds": [0], "methods": {"ptq": {}},
    "sources": {"people": {"reader": "labels", "path": "people.csv"}},
    "groups": {"by": {"people": ["race"]}},
    "answers": {"phone": {"dataset": "people", "reference": "fp32.parquet",
                          "tables": {"int8": "int8.csv", "pruned": "pruned.jsonl"}}},
}  # fmt: skip


def write_tables(folder: Path) -> pd.DataFrame:
    """Answers of three networks in three formats; the third answers group c wrongly more often."""
    rng = np.random.default_rng(0)
    codes, race = rng.integers(3, size=900), rng.choice([*"abc"], 900)
    people = pd.DataFrame({"id": [f"s{i}" for i in range(900)], "race": race})
    people["label"] = np.array(CLASSES)[codes]
    people.to_csv(folder / "people.csv", index=False)
    logits = rng.normal(size=(900, 3)) + 2.5 * np.eye(3)[codes]
    people.assign(logits=list(logits)).to_parquet(folder / "fp32.parquet")
    shares = softmax(logits + 0.1 * rng.normal(size=(900, 3)), axis=1)
    columns = [f"p_{name}" for name in CLASSES]
    int8 = people[["id"]].join(pd.DataFrame(shares, columns=columns))
    int8.sample(frac=1, random_state=0).to_csv(folder / "int8.csv", index=False)
    wrong = (race == "c") & (rng.random(900) < 0.3)
    answers = np.array(CLASSES)[np.where(wrong, (codes + 1) % 3, logits.argmax(1))]
    pruned = people[["id"]].assign(prediction=answers)
    pruned.to_json(folder / "pruned.jsonl", orient="records", lines=True)
    return people


def frames(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of what was found."""
    files = (folder / "data/analysis").glob("*.parquet")
    return {file.stem: tables.read(file.stem, file).to_pandas() for file in files}


@pytest.mark.slow
def test_tables_alone_are_a_study(tmp_path):
    project = Project(tmp_path, **STUDY)
    write_tables(tmp_path)
    told = project.dvc("repro").stdout
    assert "models: none, so nothing is trained, quantized or shipped" in told
    summary = json.loads((tmp_path / "metrics/summary.json").read_text())
    assert summary["phone"]["int8"]["harmed"] == 0
    assert summary["phone"]["pruned"]["harmed"] == 1
    found = frames(tmp_path)
    # of one table answers alone are known, and neither file nor training of any
    assert {*found["scores"]["method"]} == {"int8"}
    assert found["frontier"].set_index("method")["meets"].to_dict() == {
        "fp32": True, "int8": True, "pruned": False,
    }  # fmt: skip
    assert found["frontier"]["bytes"].isna().all()
    assert not len(found["claims"])
    assert not len(found["remedies"])
    shown = json.loads((tmp_path / "plots/rows/change_by_group.json").read_text())
    assert {row["drawing"] for row in shown} == {"int8", "pruned"}
    page = (tmp_path / "plots/report.html").read_text(encoding="utf-8")
    assert "Ship phone as int8" in page
    assert "With pruned it is worse for 1 of 3 groups" in (
        tmp_path / "plots/tables/answer.md"
    ).read_text(encoding="utf-8")
    project.git("add", "-A")
    project.git("commit", "-qm", "run")
    pruned = tmp_path / "pruned.jsonl"
    lines = pruned.read_text().splitlines()
    pruned.write_text("\n".join([*lines[:-1], lines[-1].replace("owl", "cat")]))
    again = project.dvc("repro").stdout
    assert "Running stage 'given'" in again
    assert "Running stage 'download" not in again


def exported(project: Project, folder: Path) -> dict[str, dict]:
    """Write the predictions of the tiny study as tables of answers, and describe them."""
    source = project.folder / "data/evaluations/digits/resnet18_quarter/predictions"
    names: dict[str, list[str]] = {}
    for path in sorted(source.iterdir()):
        rows = tables.read("predictions", path).to_pandas()
        shares = softmax(np.stack([*rows["logits"]]).astype(float), axis=1)
        columns = {f"p_{digit}": shares[:, digit] for digit in range(10)}
        rows[["id", "label", "prediction"]].assign(**columns).to_csv(
            folder / f"{path.stem}.csv", index=False
        )
        names.setdefault(path.stem.rpartition("-seed")[0], []).append(f"{path.stem}.csv")
    reference = names.pop("fp32-32bit")
    return {"dataset": "digits", "reference": reference, "tables": names}


@pytest.mark.slow
def test_predictions_given_as_tables_are_judged_as_by_their_own_study(project, tmp_path):
    given = exported(project, tmp_path)
    answers = {"resnet18_quarter": given}
    alone = Project(tmp_path / "study", models=[], answers=answers)
    for path in tmp_path.glob("*.csv"):
        shutil.move(path, alone.folder / path.name)
    shutil.copytree(project.folder / "data/samples", alone.folder / "data/samples")
    for stage in ("inputs", "given", "analyze"):
        alone.run("python", f"stages/{stage}.py")
    own, theirs = frames(project.folder), frames(alone.folder)
    for name in ("levels", "effects", "certificates", "exemplars"):
        assert len(own[name])
        pd.testing.assert_frame_equal(own[name], theirs[name])
    close = {"rtol": 1e-4, "atol": 1e-5}  # probabilities of single precision
    pd.testing.assert_frame_equal(own["scores"], theirs["scores"], **close)
    same = ["method", "bits", "accuracy", "fvo", "fvo_high", "loss", "loss_bound", "excess"]
    pd.testing.assert_frame_equal(own["frontier"][same], theirs["frontier"][same])


@pytest.mark.slow
def test_tables_stand_beside_a_network(project, tmp_path):
    study = Repository(Path(shutil.copytree(project.folder, tmp_path / "study")))
    given = exported(project, study.folder)
    tables_of = {
        "int8": [given["tables"]["ptq-4bit"][0]],
        "broken": [given["tables"]["ptq-2bit"][0]],
    }
    phone = {"dataset": "digits", "reference": given["reference"][0], "tables": tables_of}
    params = study.folder / "params.yaml"
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace("answers: {}", f"answers: {json.dumps({'phone': phone})}"))
    told = study.dvc("repro").stdout
    assert "Running stage 'evaluate" not in told
    summary = json.loads((study.folder / "metrics/summary.json").read_text())
    before = json.loads((project.folder / "metrics/summary.json").read_text())
    assert summary["phone"].keys() == {"int8", "broken"}
    assert summary["resnet18_quarter"].keys() == before["resnet18_quarter"].keys()
    assert "phone.broken.worst" in study.dvc("metrics", "diff").stdout
    effects = frames(study.folder)["effects"]
    assert {*effects["model"]} == {"resnet18_quarter", "phone"}
    own, theirs = frames(project.folder)["levels"], frames(study.folder)["levels"]
    same = theirs[theirs["model"] == "resnet18_quarter"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, same)
    rows = json.loads((study.folder / "plots/rows/change_by_group.json").read_text())
    assert {row["panel"] for row in rows} == {"digits · resnet18_quarter", "digits · phone"}
    (study.folder / "policy.yaml").write_text("largest_group_loss: 0.02\n")
    gate = ("quantskew", "gate", "policy.yaml")
    failed = study.run(*gate, "broken-seed0", "--model", "phone", check=False)
    assert failed.returncode in (1, 2), failed.stdout + failed.stderr  # by how many images differ
    assert "digits phone broken-seed0 against fp32-32bit-seed0" in failed.stdout
    unknown = study.run(*gate, "brocken-seed0", "--model", "phone", check=False)
    assert "did you mean 'broken-seed0'" in unknown.stderr
    sliced = study.run("quantskew", "slices", "--model", "phone", "--variant", "broken")
    assert "digits phone broken against fp32" in sliced.stdout


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answers": {}}, "models: none is given, nor tables of answers"),
        ({"models": ["resnet18_quarter"]}, "people has no images .reader: labels."),
        ({"answers": {"phone": {**STUDY["answers"]["phone"], "dataset": "peple"}}},
         "'peple' is none of the datasets.*people"),
        ({"answers": {"a b": STUDY["answers"]["phone"]}}, "'a b' becomes a file name"),
        ({"datasets": ["people", "digits"], "sources": {**STUDY["sources"], "digits": {}}},
         "digits has neither models nor tables"),
    ],
)  # fmt: skip
def test_entries_that_have_no_place_are_named(change, told):
    with pytest.raises(ParamsError, match=told):
        parse({**STUDY, **change})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tables": {}}, "none is given to compare"),
        ({"tables": {"fp32": "b.csv"}}, "'fp32' names a method"),
        ({"tables": {"int 8": "b.csv"}}, "'int 8' names a method"),
        ({"tables": {"int8": ["b.csv", "c.csv"]}}, "int8 has 2 files, and reference 1"),
        ({"tables": {"int8": "a.csv"}}, "a.csv is given more than once"),
    ],
)
def test_tables_that_do_not_fit_together_are_named(change, told):
    given = {"dataset": "d", "reference": "a.csv", "tables": {"int8": "b.csv"}}
    with pytest.raises(ParamsError, match=told):
        checked(Given, {**given, **change}, "answers")


def test_a_name_may_say_method_and_width():
    given = {
        "dataset": "d",
        "reference": "a.csv",
        "tables": {"ptq-4bit": "b.csv", "trt-8": "c.csv"},
    }
    assert [*checked(Given, given, "answers").files()] == [
        ("fp32", 32, 0), ("ptq", 4, 0), ("trt-8", 0, 0)
    ]  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of tables alone, of which the samples are there."""
    monkeypatch.chdir(tmp_path)
    people = write_tables(tmp_path)
    from quantskew.data.prepare import prepare

    made = parse(STUDY)
    prepare("people", made.source("people"), "downloads").write("data/samples/people.parquet")
    return made, people


def test_samples_may_be_missing_by_a_stated_share(study, tmp_path, capsys):
    made, people = study
    some = pd.read_parquet("fp32.parquet").iloc[9:]
    some.to_parquet("fp32.parquet")
    with pytest.raises(Exception, match=r"answers.phone: .*lacks? 9 of .* 900 samples"):
        write_given(made)
    phone = {**STUDY["answers"]["phone"], "missing": 0.01}
    write_given(parse({**STUDY, "answers": {"phone": phone}}))
    assert "lacks 9" in capsys.readouterr().out
    path = tmp_path / "data/given/people/phone/predictions/int8-seed0.parquet"
    assert {*tables.read("predictions", path)["id"].to_pylist()} == {*people["id"][9:]}


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("label", "dog", "label differs in"),
        ("id", "stranger", "lacks 1 of .* such as 'stranger'"),
    ],
)
def test_tables_that_contradict_the_samples_are_named(study, column, value, told):
    made, _ = study
    table = pd.read_parquet("fp32.parquet")
    table.loc[table["label"] == "cat", column] = value if column == "label" else table["id"]
    if column == "id":
        table.loc[0, "id"] = value
    table.to_parquet("fp32.parquet")
    with pytest.raises(Exception, match=f"answers.phone: .*{told}"):
        write_given(made)
