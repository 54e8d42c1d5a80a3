"""The whole pipeline, as its users run it, on the smallest data set."""

import json
import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, TINY, Project

from quantskew import tables
from quantskew.schemas import TABLES

pytestmark = pytest.mark.slow


def hashes(project: Project) -> dict:
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text(encoding="utf-8"))
    return {stage: entry.get("outs") for stage, entry in lock["stages"].items()}


def test_every_table_is_as_its_schema_says(project):
    found = set()
    for path in (project.folder / "data").rglob("*.parquet"):
        name = pq.read_schema(path).metadata[b"table"].decode()
        table = tables.read(name, path)
        found.add(name)
        keys = table.select(list(TABLES[name].key)).to_pandas()
        assert not keys.duplicated().any(), path
    assert found == set(TABLES) - {"file_layers", "runtimes", "slices"}  # which commands write


def test_a_variant_is_evaluated_for_every_seed_method_and_width(project):
    path = project.folder / "data/evaluations/digits/resnet18_quarter/groups.parquet"
    rows = tables.read("groups", path).to_pandas()
    widths = {key: set(part["bits"]) for key, part in rows.groupby(["seed", "method"])}
    assert widths[0, "fp32"] == {32}
    assert widths[1, "fp16"] == {16}
    assert widths[1, "fair_qat"] == {2}
    assert widths[0, "uo_wcr"] == {32, 4, 2}
    assert set(rows["attribute"]) == {"digit", "slant", "stroke", "slant*stroke"}


def test_the_training_behind_a_variant_is_counted_and_timed(project):
    place = "digits/resnet18_quarter"
    images, ratios = {}, {}
    for stage, folder in (
        ("train", "baselines"),
        ("quantize", "quantized"),
        ("retrain", "retrained"),
        ("mitigate", "mitigated"),
    ):
        path = project.folder / "data" / folder / place / "variants.parquet"
        rows = tables.read("variants", path).to_pandas()
        images |= rows.groupby(["method", "bits"])["images_trained"].first().to_dict()
        path = project.folder / "metrics/seconds" / place / f"{stage}.json"
        for method, widths in json.loads(path.read_text()).items():
            ratios |= {(method, int(k.split()[0])): value["ratio"] for k, value in widths.items()}
    samples = pq.read_table(project.folder / "data/samples/digits.parquet", columns=["split"])
    epoch = samples.to_pandas()["split"].eq("train").sum()
    assert images["fp32", 32] == 2 * epoch
    assert images["ptq", 4] == images["fp16", 16] == 0
    assert images["qat", 4] == images["mpqat", 2] == epoch
    assert images["uo_wcr", 32] == images["uo_wcr", 2] == pytest.approx(2 * epoch, abs=10)
    assert images["fair_qat", 2] == pytest.approx(epoch, abs=10)
    assert ratios["fp32", 32] == 1
    assert ratios.keys() == images.keys()
    assert {key for key, ratio in ratios.items() if ratio == 0} == {
        key for key, count in images.items() if count == 0
    }


def answers(folder: Path) -> pd.DataFrame:
    """What all networks of a folder answered."""
    paths = sorted((folder / "predictions").iterdir())
    return pd.concat(tables.read("predictions", path).to_pandas() for path in paths)


def test_logits_explain_the_group_table(project):
    folder = project.folder / "data/evaluations/digits/resnet18_quarter"
    logits = answers(folder)
    samples = pq.read_table(project.folder / "data/samples/digits.parquet", columns=["id", "slant"])
    joined = logits.merge(samples.to_pandas(), on="id")
    right = joined["prediction"] == joined["label"]
    keys = ["seed", "method", "bits", "slant"]
    by_hand = right.groupby([joined[key] for key in keys]).mean().rename("by_hand")
    groups = tables.read("groups", folder / "groups.parquet").to_pandas()
    groups = groups[groups["attribute"] == "slant"].rename(columns={"group": "slant"})
    merged = groups.set_index(keys).join(by_hand)
    assert len(merged) > 0
    pd.testing.assert_series_equal(merged["accuracy"], merged["by_hand"], check_names=False)


def test_what_ships_is_measured_on_the_files(project):
    folder = project.folder / "data/deployed/digits/resnet18_quarter"
    files = tables.read("deployed", folder / "deployed.parquet").to_pandas()
    assert {*files["method"]} == {"fp32", "int8_random", "int8_balanced"}
    assert (files["agreement_pytorch"] > 0.9).all()
    answered = answers(folder)
    groups = tables.read("deployed_groups", folder / "deployed_groups.parquet").to_pandas()
    for _, file in files.iterrows():
        path = folder / file["file"]
        assert path.stat().st_size == file["bytes"]
        rows = answered[answered["method"] == file["method"]]
        right = rows["prediction"] == rows["label"]
        assert right.mean() == file["accuracy"]
        by_hand = right.groupby(rows["label"]).mean()
        shown = groups[(groups["method"] == file["method"]) & (groups["attribute"] == "digit")]
        assert shown["accuracy"].tolist() == by_hand.tolist()
        text = path.with_suffix(".md").read_text()
        front = yaml.safe_load(text.split("---")[1])
        (metric, *_) = front["model-index"][0]["results"][0]["metrics"]
        assert metric["value"] == round(file["accuracy"], 4)
        for group in shown.itertuples():
            line = f"| {group.group}{'' if group.counted else ' †'} | {group.n} | "
            assert f"{line}{100 * group.fp32:.1f} | {100 * group.accuracy:.1f} |" in text


def test_the_gate_reads_the_study(project):
    (project.folder / "policy.yaml").write_text("accuracy: 0.01\nbytes: 900_000\n")
    gate = ["python", "-m", "quantskew", "gate", "policy.yaml"]
    assert "gate: pass" in project.run(*gate, "int8_balanced-8bit-seed0").stdout
    assert "gate: pass" in project.run(*gate, "ptq-2bit-seed1").stdout
    result = project.run(*gate, "fp32-32bit-seed0", check=False)
    assert result.returncode == 1
    assert "fail            bytes: 2,8" in result.stdout
    result = project.run(*gate, "ptq-3bit-seed1", check=False)
    assert result.returncode == 64
    assert "did you mean" in result.stderr
    assert "'ptq-2bit-seed1'" in result.stderr
    (project.folder / "policy.yaml").unlink()


def test_metrics_and_plots_can_be_read(project):
    summary = json.loads((project.folder / "metrics/summary.json").read_text())
    assert set(summary["resnet18_quarter"]) == {"int4", "int2"}
    shown = project.dvc("metrics", "show").stdout
    assert "resnet18_quarter.int2.fvo" in shown
    project.dvc("plots", "show")
    page = (project.folder / "dvc_plots/index.html").read_text()
    for name in ("accuracy_by_group", "fvo_by_width", "trade_off", "loss_by_group"):
        assert name in page
    assert "<DVC_METRIC" not in page
    for path in (project.folder / "plots/rows").iterdir():
        # columns that DVC adds, over any of the same name
        assert not {"rev", "field", "filename"} & set(json.loads(path.read_text())[0]), path


def test_the_report_needs_nothing_from_outside(project):
    page = (project.folder / "plots/report.html").read_text()
    assert "<h1>" in page
    assert "resnet18_quarter" in page
    assert 'src="' not in page
    assert "<link" not in page
    assert page.count("<svg") >= 4


def test_the_report_can_be_written_again(project):
    again = project.folder / "again.html"
    assert project.run("quantskew", "report", "--output", again.name).stdout == "again.html\n"
    pages = [
        re.sub("<svg.*?</svg>", "", path.read_text(encoding="utf-8"), flags=re.S)
        for path in (project.folder / "plots/report.html", again)
    ]
    assert pages[0] == pages[1]
    again.unlink()


def test_every_number_of_the_report_stands_in_a_table(project):
    stored = set()
    for path in (project.folder / "data").rglob("*.parquet"):
        for _, column in pq.read_table(path).to_pandas().select_dtypes("number").items():
            stored |= set(column.dropna().astype(float))
    page = (project.folder / "plots/report.html").read_text()
    shown = [
        value
        for value in re.findall(r'data-value="([^"]*)"', page)
        if value not in ("nan", "None", "True", "False")
    ]
    assert len(shown) > 500
    files = project.folder / "data/deployed/digits/resnet18_quarter/deployed_groups.parquet"
    judged = pq.read_table(files).to_pandas()
    stored |= set(judged["accuracy"] - judged["fp32"])  # the mean over one seed
    # how many samples flipped and how many files had a defect is counted
    told = {value for value in shown if float(value) not in stored and float(value) % 1}
    assert told == set()


def test_tables_of_papers_are_written(project):
    names = {path.name for path in (project.folder / "plots/tables").iterdir()}
    for name in ("baseline", "ptq_int4", "qat", "mitigation", "groups", "evidence"):
        assert {f"{name}.tex", f"{name}.md"} <= names


def test_a_second_run_does_nothing(project):
    text = project.dvc("repro").stdout
    assert re.findall("Running stage '(.*)'", text) == ["inputs"]


def test_one_width_for_an_experiment_trains_nothing(project):
    before = {p.name for p in (project.folder / ".cells").glob("*/*") if p.is_dir()}
    result = project.dvc("exp", "run", "-S", "bits=2")
    text = result.stdout + result.stderr
    for stage in ("download@", "train@", "deploy@"):  # files ship in widths of their own
        assert f"Running stage '{stage}" not in text
    for stage in ("quantize@", "mitigate@", "evaluate@", "analyze"):
        assert f"Running stage '{stage}" in text
    after = {p for p in (project.folder / ".cells").glob("*/*") if p.is_dir()}
    new = [path for path in after if path.name not in before]
    # figures are drawn anew, and nothing else is done
    assert {file.name for path in new for file in path.iterdir()} == {"figure.svg"}
    difference = project.dvc("metrics", "diff").stdout
    assert "int4" in difference
    project.dvc("plots", "diff", "HEAD", "workspace")
    project.git("checkout", "-q", ".")
    project.dvc("checkout")


@pytest.mark.parametrize("change", ["bits=1", "bits=12", "training.epochs=0", "+training.wrong=1"])
def test_a_wrong_parameter_stops_before_any_work(project, change):
    result = project.dvc("exp", "run", "-S", change, check=False)
    assert result.returncode != 0
    assert change.split("=")[0].strip("+").split(".")[-1] in result.stderr
    assert "Traceback" not in result.stderr
    project.git("checkout", "-q", ".")
    project.dvc("checkout")  # DVC takes away what a stage made before it runs the stage


def test_a_study_killed_in_two_stages_goes_on_and_gives_the_same_bytes(project, tmp_path):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    other = Project(tmp_path, compute=params["compute"])
    cells, baselines = other.folder / ".cells", other.folder / "data/baselines"

    def finished() -> dict[Path, int]:
        names = [path for path in cells.glob("*/*") if path.is_dir() and not path.suffix]
        return {path: path.stat().st_mtime_ns for path in names}

    other.kill_when(lambda: any(cells.glob("*/*.part")), "dvc", "repro")
    assert not baselines.exists()  # it was training
    other.kill_when(lambda: len(finished()) > len(TINY["seeds"]), "dvc", "repro")
    kept = finished()
    assert baselines.exists()
    assert not (other.folder / "data/mitigated").exists()  # it was quantizing
    other.dvc("repro")
    assert kept.items() <= finished().items()
    assert hashes(other) == hashes(project)


def test_where_cells_run_is_no_dependency_of_any_stage(project):
    result = project.dvc("exp", "run", "-S", "compute.where=processes", "-S", "compute.workers=2")
    text = result.stdout + result.stderr
    assert re.findall("Running stage '(.*)'", text) == ["inputs"]
    project.git("checkout", "-q", ".")
