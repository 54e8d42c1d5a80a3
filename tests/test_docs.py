"""What the documents say is so: commands run, links lead somewhere, lists are complete."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from torch import nn

from quantskew.analysis.report.words import FURTHER, GLOSSARY
from quantskew.analysis.typeset import escape_markdown
from quantskew.errors import UserError
from quantskew.fairness.catalogue import CATALOGUE
from quantskew.fairness.score_catalogue import SCORES
from quantskew.params import Params

DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
REFRESH = runpy.run_path(str(DOCS / "refresh.py"))
PLAYED = ("docs/compare.md", "docs/reproduce.md", "README.md", "docs/ship.md", "docs/sure.md")
"""In the order of a reader; any order works, as each page leaves the default study behind."""
ALONE = ("docs/python.md", "docs/extend.md")
"""Their code needs no study."""
OF_LONG_RUNS = {"docs/faults.md", "docs/architectures.md", "docs/benchmarks.md", "docs/coverage.md"}
"""They show what hours of measuring printed. Pages of results say how theirs is made."""
OF_KEPT = ("README.md", "docs/benchmark.md")
"""They print numbers of kept tables."""


def metrics_table() -> str:
    """The table of docs/metrics.md; run ``python tests/test_docs.py`` to write it anew."""
    rows = [
        f"| `{m.name}` | {m.title} | {m.sentence} | {m.of} | {m.better} |"
        for m in CATALOGUE.values()
    ]
    head = "| name | what it is called | what it is | of | better |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def scores_table() -> str:
    """The table of scores of docs/metrics.md, written anew in the same way."""
    rows = [
        f"| `{s.name}` | {s.title} | {s.sentence} | {s.of} | {s.better} |" for s in SCORES.values()
    ]
    head = "| score | what it is called | what it is | of | better |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def glossary() -> str:
    """docs/glossary.md, written anew in the same way: the words of the report, and others."""
    words = sorted((GLOSSARY | FURTHER).items(), key=lambda pair: pair[0].lower())
    rows = "".join(f"| {term} | {escape_markdown(said)} |\n" for term, said in words)
    return f"# Glossary\n\n| term | meaning |\n| --- | --- |\n{rows}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_the_list_of_metrics_is_the_catalogue():
    text = text_of("docs/metrics.md")
    assert metrics_table() in text
    assert scores_table() in text


def test_the_glossary_is_that_of_the_report():
    assert text_of("docs/glossary.md") == glossary()
    assert not GLOSSARY.keys() & FURTHER.keys()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole site, in which any warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT / "mkdocs.yml", folder)
    assert built.returncode == 0, built.stderr
    return folder


def build(configuration: Path, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-f", configuration, "-d", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_page_is_on_the_site(site):
    names = {"README.md": "index.html"}
    for page in PAGES:
        name = page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT)
        built = names.get(str(name), str(name.with_suffix(".html")).lower())
        assert (site / built).exists(), page


def test_a_dead_link_fails(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "params.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    shutil.copyfile(DOCS / "hooks.py", tmp_path / "docs/hooks.py")
    settings = text_of("mkdocs.yml").partition("\nnav:")[0]
    validation = "\nvalidation:" + text_of("mkdocs.yml").partition("\nvalidation:")[2]
    validation = re.sub(r"  - mkdocstrings:\n(    .*\n)*", "", validation)
    (tmp_path / "mkdocs.yml").write_text(settings + validation, encoding="utf-8")
    built = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert built.returncode != 0
    assert "'index.md' contains a link 'glossary.md', but the target is not found" in built.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_in_the_repository(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_manual_has_every_key_with_its_default(site):
    page = (site / "parameters.html").read_text(encoding="utf-8")
    for key in Params.model_fields:
        assert f"<code>{key}</code>" in page
    text = re.sub(r"<[^>]+>", "", page)
    for said in (
        "worst_group_loss\nnumber ≥ 0 ≤ 1\n0.02",
        "One of minmax, mse, percentile",
        "step_size\nnumber &gt; 0\n0.01",
        "draws\nwhole number ≥ 100",
    ):
        assert said in text, said


def test_the_interface_is_that_of_the_docstrings(site):
    page = (site / "interface.html").read_text(encoding="utf-8")
    for said in ("Measure how much accuracy each group loses", "Widths of the weights, 2 to 8"):
        assert said in page
    assert ":func:" not in page


def test_the_readme_takes_little_to_read():
    assert len(text_of("README.md").split()) <= 1000


@pytest.mark.parametrize("page", sorted((DOCS / "results").glob("*.md")), ids=lambda p: p.stem)
def test_what_was_found_is_said_in_short(page):
    text = page.read_text(encoding="utf-8")
    (short,) = re.findall(r"^## In short\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    assert 20 < len(short.split()) <= 120
    for paragraph in re.split(r"\n\n|\n- ", short):
        assert len(paragraph.split()) <= 60, paragraph


def test_every_command_is_run():
    """A page whose commands no test runs shows them as ``sh`` or ``text``."""
    have = {
        str(page.relative_to(ROOT))
        for page in PAGES
        if any(block.kind == "console" for block in REFRESH["blocks"](page.read_text("utf-8")))
    }
    results = {name for name in have if name.startswith("docs/results/")}
    assert have - results == {*PLAYED, *OF_KEPT} | OF_LONG_RUNS


@pytest.mark.parametrize("page", ALONE)
def test_the_code_of_a_page_runs_as_it_stands(page, tmp_path):
    REFRESH["play"](text_of(page), tmp_path)


def test_the_kinds_of_the_page_on_extending_can_be_named(tmp_path):
    page = text_of("docs/extend.md")
    REFRESH["play"](page, tmp_path)
    (shown,) = [b.text for b in REFRESH["blocks"](page) if b.text.startswith("extensions:")]
    study = yaml.safe_load(text_of("params.yaml")) | yaml.safe_load(shown)
    study |= {"mitigations": {}, "curvature": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    program = """
from quantskew import params
from quantskew.fairness.catalogue import CATALOGUE
assert params.load().methods["inner"].weights.range.share == 0.8
assert CATALOGUE["evenness"].title == "evenness of groups"
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


@pytest.fixture
def given():
    """What the README takes as given: a network, and images of people."""
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.random((400, 1, 8, 8)), dtype=torch.float32)
    people = {"race": rng.choice(["a", "b"], 400), "gender": rng.choice(["f", "m"], 400)}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    answers = model(images).argmax(1).numpy()
    labels = np.where(rng.random(400) < 0.9, answers, 1 - answers)
    return {"model": model, "test_loader": (images, labels, people)}


def test_the_audit_of_the_readme_runs(given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = [b.text for b in REFRESH["blocks"](text_of("README.md")) if b.kind == "python"]
    exec(compile(code, "README.md", "exec"), given)
    assert "At int8 ptq" in capsys.readouterr().out
    assert {*given["result"].to_frame()["attribute"]} == {"race", "race*gender"}


@pytest.mark.parametrize("page", OF_KEPT)
def test_numbers_of_kept_results_are_those_printed(page):
    kept = [b for b in REFRESH["blocks"](text_of(page)) if "docs/results/" in b.text and b.marked]
    assert kept
    for block in kept:
        alone = f"<!-- refresh -->\n```console\n{block.text}```\n"
        assert REFRESH["play"](alone, ROOT) == alone


def test_the_caption_of_the_readme_is_what_is_printed():
    kept = [b for b in REFRESH["blocks"](text_of("README.md")) if "docs/results/" in b.text]
    caption = text_of("README.md").partition("*Race groups")[2].partition("*")[0]
    told = re.findall(r"(\d+ %) of\s+(\w+)", caption)
    assert len(told) == 2
    for share, group in told:
        assert f"{share} ({group})" in kept[0].text


@pytest.mark.slow
@pytest.mark.parametrize("page", REFRESH["OF_THEMSELVES"])
def test_a_page_of_its_own_data_shows_what_is_printed(page, tmp_path):
    assert REFRESH["play"](text_of(page), tmp_path) == text_of(page)


def test_pages_are_refreshed_after_a_study_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no finished study here; run `make` first"):
        REFRESH["main"]()
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/report.html").touch()
    (tmp_path / "docs").mkdir()
    marked = "<!-- refresh -->\n```console\n$ pwd\nbefore\n```\n```console\n$ false\n```\n"
    for name in (*REFRESH["OF_THE_STUDY"], *REFRESH["OF_THEMSELVES"]):
        (tmp_path / name).write_text(marked.replace("false", "true"))
    REFRESH["main"]()
    told = {name: (tmp_path / name).read_text() for name in REFRESH["OF_THE_STUDY"]}
    assert {*told.values()} == {marked.replace("before", str(tmp_path)).replace("false", "true")}
    assert "before" not in (tmp_path / "docs/compare.md").read_text()


@pytest.fixture
def installed(project):
    """The tiny study as `make` leaves it, with the documents; it is given back without them."""
    mark = project.folder / ".venv/installed"
    mark.parent.mkdir()
    mark.touch()
    shutil.copytree(DOCS, project.folder / "docs")
    yield project
    shutil.rmtree(mark.parent)
    project.git("clean", "-dfq")


@pytest.mark.slow
def test_following_the_pages_works(installed, given, monkeypatch):
    """Every command of the pages, in the folder of one study, which stays as it was committed."""
    monkeypatch.setenv("PYTHONPATH", installed.environment()["PYTHONPATH"])
    for page in PLAYED:
        REFRESH["play"](text_of(page), installed.folder, given=given)
        changed = installed.git("status", "--porcelain", "--untracked-files=no")
        assert changed == "", f"{page} changed tracked files"


def test_a_page_is_run_block_by_block(tmp_path):
    page = """text
```yaml
# one.yaml
a: 1
```
```python
from pathlib import Path
```
```python
Path("two").write_text("2")
```
<!-- refresh -->
```console
$ cat one.yaml \\
>   two
old
```
rest
```console
$ echo kept > three
as written
```
"""
    played = REFRESH["play"](page, tmp_path)
    assert played == page.replace("old\n", "# one.yaml\na: 1\n2\n")
    assert (tmp_path / "three").read_text() == "kept\n"
    (tmp_path / "three").unlink()
    assert REFRESH["play"](played, tmp_path, marked_alone=True) == played
    assert not (tmp_path / "three").exists()


def test_a_failing_command_is_named(tmp_path):
    for command, ends in (("false | cat", 1), ("exit 2", 2)):
        with pytest.raises(UserError, match=rf"{re.escape(command)}\nended with {ends}"):
            REFRESH["play"](f"```console\n$ {command}\n```\n", tmp_path)


def test_the_citation_is_valid():
    cited = yaml.safe_load(text_of("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version"} <= {*cited}
    version = re.search(r'^version = "(.*)"', text_of("pyproject.toml"), re.MULTILINE)[1]
    assert cited["version"] == version


if __name__ == "__main__":
    page = ROOT / "docs/metrics.md"
    text = page.read_text(encoding="utf-8")
    for table in (metrics_table(), scores_table()):
        head, _, rest = text.partition(table[:9])
        text = head + table + rest.partition("|\n\n")[2].join(["\n", ""])
    page.write_text(text.rstrip() + "\n", encoding="utf-8")
    (ROOT / "docs/glossary.md").write_text(glossary(), encoding="utf-8")
