"""A reader of data, a model and a user's own modules: each is written once, and a study runs it."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Project, Repository

from quantskew import tables
from quantskew.params import ParamsError, parse

READER = '''
"""Bright and dark stripes, made as they are read."""

import numpy as np
import pandas as pd

from quantskew.data.sources.registry import Raw, Terms, source


@source("stripes")
def stripes(source, where):
    """400 images of stripes that lie or stand; a fifth of the dark ones has the wrong label."""
    rng = np.random.default_rng(0)
    standing, bright = rng.random((2, 400)) < 0.5
    wrong = ~bright & (rng.random(400) < 0.2)
    wave = 60 * (np.arange(8) % 2)
    images = np.where(standing[:, None, None], wave[None, None, :], wave[None, :, None])
    images = images + np.where(bright, 120, 40)[:, None, None] + rng.integers(0, 70, (400, 8, 8))
    rows = pd.DataFrame(
        {
            "id": [f"s{number:03d}" for number in range(400)],
            "label": np.where(standing ^ wrong, "stand", "lie"),
            "tone": np.where(bright, "bright", "dark"),
        }
    )
    terms = Terms("https://example.org/stripes", "free to use")
    return Raw(rows, [*images.astype(np.uint8)], terms, "stripe", 8, 1)
'''
MODEL = """
def _twofold(classes: int, channels: int, size: int) -> nn.Module:
    layers = [nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6 * (size - 2) ** 2, classes))


"""
ROUNDING = '''
"""Rounding of one's own."""

from quantskew.quantization.rounding import Rounding


class Down(Rounding, kind="down"):
    """Every weight gets the code below its nearest one, or another one further down."""

    needs_images = False
    steps: int = 1

    def __call__(self, layer, nearest, seen):
        low, _ = nearest.limits()
        return type(nearest)(
            (nearest.codes - self.steps).maximum(low).short(), nearest.scale, nearest.zero_point,
            nearest.bits, nearest.scheme,
        )
'''
JUDGING = '''
"""A metric, a score, a figure and a claim of one's own."""

from my_kinds.words import LABEL, SCALE, TITLE
from quantskew.analysis.claims import Contrast
from quantskew.analysis.figures import figure
from quantskew.analysis.figures.fvo_by_width import LinesByWidth
from quantskew.analysis.hypotheses import claim
from quantskew.fairness.catalogue import metric
from quantskew.fairness.score_catalogue import score


@metric(of="grouping", better="higher", title=TITLE)
def evenness(counts):
    """Lowest over highest accuracy of a group."""
    return SCALE * counts.accuracy.min(-1) / counts.accuracy.max(-1)


@score(better="higher", title="probability of the label", span=(0, 1))
def label_probability(outputs):
    """Mean probability of the label."""
    return outputs.of_label


@figure(
    order=25,
    section="remedies",
    title="Evenness by width and method",
    alternative="Lines of evenness against width.",
    caption="One is even.",
    drawing=LinesByWidth(x_label="width", y_label=LABEL),
)
def evenness_by_width(study, levels):
    """Evenness of every method at each width."""
    rows = levels[(levels["metric"] == "evenness") & (levels["attribute"] == "tone")]
    rows = rows.assign(panel=rows["dataset"], width=rows["bits"].astype(str))
    rows = rows.assign(margin=0.02, at_fp32=1.0)
    shares = ["value", "low", "high", "chance_upper", "margin", "at_fp32"]
    return rows[["panel", "method", "width", "bits", *shares]]


@claim("down_hurts", -1, "overall accuracy, down less nearest")
def down_hurts(evidence):
    """Rounding down costs accuracy."""
    return evidence.between(evidence.sampled.overall, "down", evidence.reference)
'''
WORDS = """
SCALE = 1
TITLE = "evenness of groups"
LABEL = "evenness"
"""
POLICY = {
    "groups": ["tone"],
    "draws": 200,
    "evenness": 0.01,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Project:
    """A study of a new data set and a new model, with kinds from modules beside its parameters."""
    made = Project(
        tmp_path_factory.mktemp("study"),
        datasets=["stripes"],
        models=["twofold"],
        seeds=[0, 1],
        bits=[4],
        sources={"stripes": {}},
        extensions=["my_kinds.rounding", "my_kinds.judging"],
        methods={"ptq": {}, "down": {"weights": {"rounding": {"kind": "down", "steps": 2}}}},
        mitigations={},
        curvature={"seeds": 0},
        deploy={"networks": []},
        groups={"by": {"stripes": ["tone"]}},
    )
    package = made.folder / "src/quantskew"
    (package / "data/sources/stripes.py").write_text(READER, encoding="utf-8")
    models = package / "models.py"
    text, start = models.read_text(encoding="utf-8"), "MODELS: Mapping"
    place = text.index("{\n", text.index(start)) + 2
    text = text[:place] + '    "twofold": _twofold,\n' + text[place:]
    models.write_text(text.replace(start, MODEL + start), encoding="utf-8")
    kinds = made.folder / "my_kinds"
    kinds.mkdir()
    (kinds / "rounding.py").write_text(ROUNDING, encoding="utf-8")
    (kinds / "judging.py").write_text(JUDGING, encoding="utf-8")
    (kinds / "words.py").write_text(WORDS, encoding="utf-8")
    made.dvc("repro")
    return made


def table(study: Project, name: str, folder: str = "data/analysis") -> pd.DataFrame:
    return pd.read_parquet(study.folder / folder / f"{name}.parquet")


def cells(study: Project, file: str) -> int:
    return len([*(study.folder / ".cells").glob(f"*/*/{file}")])


def digests(folder: Path) -> dict[str, str]:
    """Hashes of all that a study computed, without its page, which tells where it ran."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for place in ("data", "metrics/summary.json", "plots")
        for file in (folder / place, *(folder / place).rglob("*"))
        if file.is_file() and file.name not in (".gitignore", "report.html")
    }


@pytest.mark.slow
def test_a_reader_is_found_by_its_name_and_its_samples_are_studied(study):
    people = tables.read("samples", study.folder / "data/samples/stripes.parquet").to_pandas()
    assert len(people) == 400
    assert {*table(study, "levels")["group"]} >= {"bright", "dark"}
    page = (study.folder / "plots/report.html").read_text(encoding="utf-8")
    assert "stripes" in page


@pytest.mark.slow
def test_a_model_is_trained_and_quantized(study):
    layers = table(study, "layers", "data/evaluations/stripes/twofold").query("method == 'ptq'")
    assert layers.groupby("layer")["weights"].first().to_dict() == {
        "0": 54, "3": 432, "all": 486,
    }  # fmt: skip
    overall = table(study, "levels").query("metric == 'overall' and method == 'fp32'")
    assert 0.75 < overall["value"].item() < 1


@pytest.mark.slow
def test_a_rounding_of_ones_own_chooses_the_codes(study):
    program = """
from pathlib import Path
import torch
from quantskew import params
from quantskew.quantization.packing import open_variant
from quantskew.subject import Subject
assert params.load().methods["down"].weights.rounding.steps == 2
made = {}
for method in ("ptq", "down"):
    folder = Path("data/quantized/stripes/twofold")
    subject = Subject(samples=Path("data/samples/stripes.parquet"), model="twofold")
    made[method] = open_variant(subject.at(folder / f"{method}-4bit-seed0.safetensors", 4))
for name in ("0", "3"):
    plain, down = (made[m].get_submodule(name).weight for m in ("ptq", "down"))
    step = plain.unique().diff().min()
    expected = (plain - 2 * step).maximum(down.min())
    torch.testing.assert_close(down, expected)
"""
    study.run(sys.executable, "-c", program)


@pytest.mark.slow
def test_a_metric_of_ones_own_reaches_tables_report_and_gate(study):
    levels = table(study, "levels").query("metric == 'evenness' and method == 'ptq'")
    accuracy = table(study, "levels").query(
        "metric == 'accuracy' and method == 'ptq' and attribute == 'tone'"
    )["value"]
    assert 0 < levels["low"].item() <= levels["value"].item() <= levels["high"].item() <= 1
    assert levels["value"].item() == pytest.approx(accuracy.min() / accuracy.max(), abs=0.02)
    assert {*table(study, "effects").query("metric == 'evenness'")["method"]} == {"ptq", "down"}
    page = (study.folder / "plots/report.html").read_text(encoding="utf-8")
    assert "evenness of groups" in page
    scores = table(study, "scores").query("score == 'label_probability'")
    assert {*scores["method"]} == {"ptq", "down"}


@pytest.mark.slow
@pytest.mark.parametrize(("least", "status"), [(0.01, 0), (1.0, 1)])
def test_the_gate_has_its_rule(study, least, status):
    rules = {**POLICY, "evenness": least}
    (study.folder / "policy.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    gate = [sys.executable, "-m", "quantskew", "gate", "policy.yaml", "down-4bit-seed0"]
    result = study.run(*gate, check=False)
    assert result.returncode == status, result.stdout + result.stderr
    assert "evenness" in result.stdout


@pytest.mark.slow
def test_a_figure_of_ones_own_is_drawn_and_shown(study):
    assert "<svg" in (study.folder / "plots/figures/evenness_by_width.svg").read_text()
    rows = json.loads((study.folder / "plots/rows/evenness_by_width.json").read_text())
    assert {row["method"] for row in rows} >= {"ptq", "down"}
    page = (study.folder / "plots/report.html").read_text(encoding="utf-8")
    assert "Evenness by width and method" in page


@pytest.mark.slow
def test_a_claim_of_ones_own_is_tested(study):
    row = table(study, "claims").set_index(["claim", "width"]).loc["down_hurts", "all"]
    assert row["text"] == "Rounding down costs accuracy."
    assert row["missing"] or np.isfinite(row["estimate"])


@pytest.mark.slow
def test_a_changed_module_computes_anew_what_depends_on_it_alone(study, tmp_path):
    changed = Repository(tmp_path / "copy")
    shutil.copytree(study.folder, changed.folder, symlinks=True)
    before = {name: cells(changed, f"{name}*") for name in ("network", "levels", "figure")}
    figure = "plots/figures/evenness_by_width.svg"
    for name, old, new in (
        ("words", "SCALE = 1", "SCALE = 0.5"),  # which the module of the metric imports
        ("words", '"evenness"', '"half of the evenness"'),
        ("rounding", "- self.steps", "- 3 * self.steps"),
    ):
        file = changed.folder / f"my_kinds/{name}.py"
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
    assert "Running stage 'download" not in changed.dvc("repro").stdout
    value, twice = (
        table(one, "levels").query("metric == 'evenness' and method == 'ptq'")["value"].to_numpy()
        for one in (changed, study)
    )
    np.testing.assert_allclose(value, twice / 2)
    after = {name: cells(changed, f"{name}*") for name in before}
    seeds = 2
    assert after["network"] == before["network"] + seeds  # those that are rounded down
    assert after["levels"] == 2 * before["levels"]
    assert after["figure"] > before["figure"]
    assert (changed.folder / figure).read_text() != (study.folder / figure).read_text()
    # a store that served other code gives what an empty one gives, in one process or in several
    grown = digests(changed.folder)
    shutil.rmtree(changed.folder / ".cells")
    params = yaml.safe_load((changed.folder / "params.yaml").read_text(encoding="utf-8"))
    params["compute"] |= {"where": "here"}
    (changed.folder / "params.yaml").write_text(
        yaml.safe_dump(params, sort_keys=False), encoding="utf-8"
    )
    changed.dvc("repro", "--force")
    assert digests(changed.folder) == grown


MINIMAL = {
    "datasets": ["digits"], "models": ["m"], "bits": 4, "seeds": 0,
    "sources": {"digits": {}}, "methods": {"ptq": {}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "nobodys_kinds",
            None,
            "'nobodys_kinds' cannot be found; it must be a module in the folde",
        ),
        ("some_kinds.deeper", None, "'some_kinds.deeper' cannot be found"),
        ("wrong_kinds", "import nothing_there", "wrong_kinds cannot be imported: ModuleNotFound"),
        ("wrong_kinds", "def", "wrong_kinds cannot be imported: SyntaxError"),
        ("wrong_kinds", "raise SystemExit", "wrong_kinds cannot be imported: SystemExit"),
        (
            "wrong_kinds",
            "from quantskew.fairness.catalogue import metric\n"
            "metric(of='grouping', better='lower', title='', name='fvo')(len)",
            "wrong_kinds cannot be imported: ValueError: there is a metric 'fvo' already",
        ),
        (
            "wrong_kinds",
            "from quantskew.data.sources import source\nsource('digits')(len)",
            "wrong_kinds cannot be imported: ValueError: there is a reader 'digits' already",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_by_name(
    name, text, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    if text is not None:
        Path(f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ParamsError, match=r"extensions: ") as refused:
        parse({**MINIMAL, "extensions": name})
    assert said in str(refused.value)


@pytest.mark.parametrize("given", [{"a": 1}, 3, ["my-kinds"], ["json", "json"]])
def test_what_is_no_list_of_modules_is_refused(given):
    with pytest.raises(ParamsError, match="extensions"):
        parse({**MINIMAL, "extensions": given})


def test_the_parameters_of_a_study_without_modules_name_none(tmp_path):
    assert parse(MINIMAL).extensions == ()
    program = "import sys\nfrom quantskew.params import parse\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
