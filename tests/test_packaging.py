"""What one installs: distributions, the base package without networks, a study from the wheel."""

import os
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY

import quantskew
from quantskew import starting
from quantskew.errors import UserError

NETWORKS = {
    "torch",
    "torchvision",
    "timm",
    "dvc",
    "onnx",
    "onnxruntime",
    "safetensors",
    "fairlearn",
}
IMPORTED = """
import importlib, pkgutil, quantskew
for half in ("fairness", "analysis", "answers"):
    for module in pkgutil.iter_modules(getattr(quantskew, half).__path__, f"quantskew.{half}."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            print(module.name, error.name)
print(quantskew.__version__, quantskew.tables.__name__, quantskew.quantization.ranges.__name__)
"""
REFUSED = """
import quantskew
try:
    from quantskew import audit
except ImportError as error:
    print(isinstance(error, quantskew.errors.UserError), error)
"""


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_study_is_started_in_a_new_folder(tmp_path):
    folder = tmp_path / "parent" / "mine"
    starting.start(folder)
    assert names(folder) - {"README.md"} == {str(name) for name in starting.listed(ROOT)}
    for name in starting.listed(ROOT):
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()
    assert len((folder / "README.md").read_text(encoding="utf-8").splitlines()) <= 12


def test_a_study_is_complete():
    """Every script of the pipeline and every template of its plots is among the files."""
    listed = {str(name) for name in starting.listed(ROOT)}
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    scripts = {stage["cmd"].split()[1] for stage in pipeline["stages"].values()}
    own = {path.stem for path in (ROOT / ".dvc" / "plots").iterdir()}
    plots = {plot["template"] for entry in pipeline["plots"] for plot in entry.values()}
    assert scripts <= listed
    assert {f".dvc/plots/{name}.json" for name in plots & own} <= listed
    assert plots <= own
    for stage in pipeline["stages"].values():
        assert not any(str(dep).startswith("src") for dep in stage.get("deps", ()))


def test_no_file_is_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not empty: it holds notes\.txt; give a new folder"):
        starting.start(tmp_path)
    assert names(tmp_path) == {"notes.txt"}
    with pytest.raises(UserError, match=r"no study can be written to .*notes\.txt"):
        starting.start(tmp_path / "notes.txt")


def test_a_git_repository_without_files_is_no_obstacle(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert Path("dvc.yaml") in starting.start(tmp_path)


def test_what_is_no_name_of_the_package_is_an_attribute_error():
    assert quantskew.__version__.count(".") == 2
    assert not hasattr(quantskew, "nothing")
    assert not hasattr(quantskew.quantization, "nothing")


class Environment:
    """A virtual environment with programs that run outside of this repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=True)
        self.variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self.variables["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def run(self, *command: str, status: int = 0, cwd: Path | None = None) -> str:
        done = subprocess.run(
            command, cwd=cwd or self.folder, env=self.variables, capture_output=True, text=True
        )
        assert done.returncode == status, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Folder with a sdist of what Git would commit, and the wheel that is built from it."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("docs/", "metrics/", "plots/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    target = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return target


def megabytes(folder: Path) -> float:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


@pytest.fixture(scope="module")
def base(built, tmp_path_factory) -> Environment:
    """An environment in which the wheel alone was installed."""
    made = Environment(tmp_path_factory.mktemp("base"))
    (wheel,) = built.glob("*.whl")
    empty, before = megabytes(made.folder), time.monotonic()
    pinned = ["--constraint", str(ROOT / "constraints.txt")]
    made.run("python", "-m", "pip", "install", *pinned, str(wheel))
    seconds, added = time.monotonic() - before, megabytes(made.folder) - empty
    print(f"\nbase package: {seconds:.0f} s, {added:.0f} MB with bytecode")
    assert added < 500
    return made


@pytest.mark.slow
def test_distributions_hold_types_templates_and_the_files_of_a_study(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    package = ROOT / "src" / "quantskew"
    wanted = {
        f"quantskew/{path.relative_to(package)}": path
        for path in package.rglob("*")
        if path.suffix in (".py", ".j2", ".css", ".js", ".typed")
    }
    study = {f"quantskew/study/{name}": ROOT / name for name in starting.listed(ROOT)}
    with zipfile.ZipFile(wheel) as held:
        inside = {name for name in held.namelist() if ".dist-info/" not in name}
        assert inside == {*wanted, *study}
        for name, path in {**wanted, **study}.items():
            assert held.read(name) == path.read_bytes()
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert {str(name) for name in starting.listed(ROOT)} | {"setup.py", "README.md"} <= sources


@pytest.mark.slow
def test_the_base_judges_without_networks(base):
    listed = base.run("python", "-m", "pip", "list", "--format", "freeze").lower()
    assert not NETWORKS & {line.partition("==")[0] for line in listed.splitlines()}
    said = base.run("python", "-W", "error", "-c", IMPORTED)
    assert said.split() == [
        *("quantskew.analysis.figures", "matplotlib"),
        *("quantskew.analysis.report", "jinja2"),
        *("quantskew.analysis.run", "PIL"),
        quantskew.__version__,
        "quantskew.tables",
        "quantskew.quantization.ranges",
    ]
    assert base.run("quantskew", "--version").split() == ["quantskew", quantskew.__version__]
    assert "init" in base.run("quantskew", "--help")
    assert "1,070 images" in base.run("quantskew", "plan", "--loss", "0.02", "--flips", "0.05")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("quantskew.answers") is None, reason="no command compares tables yet")
def test_the_base_compares_two_tables(base, tmp_path):
    ids, place = range(4000), ("north", "south")
    for name, wrong in (("before", 0), ("same", 0), ("after", 400)):
        rows = [f"{i},{place[i % 2]},{i % 4},{(i + (i % 2 and i < 2 * wrong)) % 4}" for i in ids]
        text = "\n".join(["id,site,label,prediction", *rows])
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    tables = ("before.csv", "after.csv", "--by", "site")
    said = base.run("quantskew", "compare", *tables, status=1, cwd=tmp_path)
    assert "south" in said
    base.run("quantskew", "compare", "before.csv", "same.csv", "--by", "site", cwd=tmp_path)
    page = base.run(
        "quantskew", "compare", *tables, "--report", "page.html", status=64, cwd=tmp_path
    )
    need = "jinja2, which is not installed; pip install 'quantskew[report]'"
    assert page == f"error: this needs {need}\n"  # before the work, so without a verdict


@pytest.mark.slow
def test_what_needs_an_extra_says_how_to_install_it(base):
    need = "which is not installed; pip install 'quantskew[study]'"
    latency = base.run("quantskew", "latency", status=64)
    assert latency == f"error: this needs torch, {need}\n"
    refused = base.run("python", "-c", REFUSED)
    assert refused.startswith("True this needs")
    assert need in refused
    assert "pip install 'quantskew[study]'" in base.run("quantskew", "doctor")


@pytest.mark.slow
def test_a_study_runs_from_the_wheel(built, tmp_path):
    made = Environment(tmp_path / "environment")
    (wheel,) = built.glob("*.whl")
    made.run("python", "-m", "pip", "install", "--no-deps", "--no-compile", str(wheel))
    # the libraries of this environment, behind those of its own
    (site,) = made.folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text("\n".join(p for p in sys.path if "-packages" in p))
    study = tmp_path / "study"
    assert "git init && dvc repro" in made.run("quantskew", "init", str(study))
    params = yaml.safe_load((study / "params.yaml").read_text(encoding="utf-8"))
    params |= TINY | {"bits": [8], "seeds": [0], "mitigations": {}}
    params["methods"] = {"ptq": params["methods"]["ptq"]}
    params["training"] |= {"epochs": 1}
    params["curvature"] |= {"seeds": 0, "bits": None}
    params["statistics"] |= {"draws": 100}
    (study / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    made.run("git", "init", "-q", cwd=study)
    made.run("python", "-m", "dvc", "repro", cwd=study)
    summary = yaml.safe_load((study / "metrics/summary.json").read_text(encoding="utf-8"))
    assert {*summary} == {*params["models"]}
    again = made.run("python", "-m", "dvc", "repro", cwd=study)
    assert again.count("Running stage") == again.count("Running stage 'inputs'") == 1
    where = made.run("python", "-c", "import quantskew; print(quantskew.__file__)", cwd=study)
    assert where.startswith(str(site))
