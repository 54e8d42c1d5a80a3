"""Pages of results are made from the tables that a finished study left."""

import json
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from quantskew import tables
from quantskew.errors import UserError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results"
PAGES = sorted(path.name.removesuffix(".md.j2") for path in RESULTS.glob("*.md.j2"))


@pytest.fixture(scope="module")
def exported(project):
    target = project.folder / "docs/results"
    target.mkdir(parents=True)
    for path in [*RESULTS.glob("*.py"), *RESULTS.glob("*.j2")]:
        shutil.copyfile(path, target / path.name)
    project.run("quantskew", "latency", "--seconds", "0.1")
    project.run("python", "docs/results/export.py", "digits")
    yield target
    shutil.rmtree(project.folder / "docs")
    shutil.rmtree(project.folder / "metrics/latency")


@pytest.mark.slow
def test_what_is_kept_is_small_and_says_where_it_is_from(exported, project):
    kept = exported / "digits"
    assert sum(path.stat().st_size for path in kept.iterdir()) < 1_500_000
    effects = tables.read("effects", kept / "effects.parquet").to_pandas()
    whole = tables.read("effects", project.folder / "data/analysis/effects.parquet").to_pandas()
    assert set(effects["attribute"]) == {"digit"}
    assert 0 < len(effects) < len(whole)
    found = json.loads((kept / "provenance.json").read_text(encoding="utf-8"))
    noted = {" ".join(stage["command"]) for stage in found["stages"]}
    stages = ("train", "quantize", "mitigate", "evaluate")
    assert noted >= {f"{stage} digits resnet18_quarter" for stage in stages}
    assert noted >= {"download digits", "analyze"}
    assert all(stage["peak_bytes"] > 1e7 for stage in found["stages"])
    assert found["training"]["ratio"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAGES if name != "footing"])
def test_every_template_finds_what_it_names(exported, project, name):
    """The page of the footing names arms that no small study has: it is held to its own tables."""
    text = (exported / f"{name}.md.j2").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("{% set") and "results(" in line:
            folder = line.split('results("')[1].split('"')[0]
            shutil.copytree(exported / "digits", exported / folder)
    project.run("python", "docs/results/build.py", name)
    page = (exported / f"{name}.md").read_text(encoding="utf-8")
    claims = tables.read("claims", exported / "digits/claims.parquet").to_pandas()
    verdicts = claims.set_index("claim")["verdict"]
    if 'claim("disparity_grows")' in text:
        assert f"| {verdicts['disparity_grows']} |" in page
    for link in [part.split(")")[0] for part in page.split("](")[1:]]:
        assert (exported / link).exists() or link.removesuffix(".md") in PAGES, link


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*.parquet")), ids=lambda p: p.parent.name)
def test_kept_tables_have_the_columns_of_today(path):
    assert len(tables.read(path.stem, path))


def test_what_is_kept_is_what_pages_show(monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = runpy.run_path(str(RESULTS / "export.py"))["shown"]
    for provenance in RESULTS.glob("*/provenance.json"):
        folder = provenance.parent
        assert sorted(path.stem for path in folder.glob("*.svg")) == shown(folder.name), folder


def test_a_figure_is_drawn_from_kept_tables_alone(tmp_path, monkeypatch):
    shutil.copytree(RESULTS / "utkface_gender", tmp_path / "docs/results/utkface_gender")
    monkeypatch.chdir(tmp_path)
    draw = runpy.run_path(str(RESULTS / "draw.py"))["main"]
    draw("utkface_gender", "loss_by_group")
    drawn = Path("docs/results/utkface_gender/loss_by_group.svg").read_text(encoding="utf-8")
    assert ">loss, nats</text>" in drawn
    with pytest.raises(UserError, match=r"distributions: .*weight_histograms.parquet.* not kept"):
        draw("utkface_gender", "distributions")
    with pytest.raises(UserError, match="did you mean 'trade_off'"):
        draw("utkface_gender", "tradeoff")


def test_results_of_changed_code_are_not_kept(tmp_path, monkeypatch):
    export = runpy.run_path(str(RESULTS / "export.py"))["main"]
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    kept = tmp_path / "docs/results/digits/levels.parquet"
    for path in (kept, tmp_path / "src/changed.py"):
        path.parent.mkdir(parents=True)
        path.touch()
    subprocess.run(["git", "init", "-q"], check=True)
    with pytest.raises(UserError, match=r"commit first.*\n.*src"):
        export("digits")
    assert kept.exists()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_tables_say(name, tmp_path, monkeypatch):
    page = RESULTS / f"{name}.md"
    if not page.exists():
        pytest.skip("the study of this page has not been run yet")
    shutil.copytree(RESULTS, tmp_path / "docs/results")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("docs/results/build.py")["main"](name)
    assert (tmp_path / f"docs/results/{name}.md").read_bytes() == page.read_bytes()
    for link in [part.split(")")[0] for part in page.read_text(encoding="utf-8").split("](")[1:]]:
        path = link.partition("#")[0]
        assert not path or "://" in path or (RESULTS / path).exists(), link
