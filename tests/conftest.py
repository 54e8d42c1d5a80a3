"""A copy of the project in which the tiny study has been run, made once for all tests."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from hypothesis import settings

# tests run side by side, one process a core: more threads would only stand in each other's way
torch.set_num_threads(1)
# nor does a test fail because the machine is busy
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: one left for the end would keep one core idle.

    While the first of them makes the study that others copy, those that need none are run.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    copying = {item.path for item in items if "project" in getattr(item, "fixturenames", ())}
    copying -= {min(copying, default=None)}
    items.sort(key=lambda item: (item.path not in slow, item.path in copying))


NOT_THE_PROGRAM = ("tests/", "docs/", "data/", "metrics/", "plots/")
TINY = {
    "datasets": ["digits"],
    "models": ["resnet18_quarter"],
    "bits": [4, 2],
    "seeds": [0, 1],
}


class Repository:
    """A folder with a study under git, and the commands that are run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def environment(self) -> dict[str, str]:
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": tools, "PYTHONPATH": str(self.folder / "src")}

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        return self.run("git", *who, *arguments).stdout

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        return self.run("dvc", *arguments, check=check)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True
        )
        if check and result.returncode:
            raise AssertionError(f"{command}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
        return result

    def kill_when(self, reached: Callable[[], bool], *command: str) -> None:
        """Start a command and kill that one process with SIGKILL at a point of its work."""
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not reached():
            assert process.poll() is None, f"{command} ended before it could be killed"
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL


class Project(Repository):
    """A git repository with the files of this one and parameters of its own."""

    def __init__(self, folder: Path, **changes) -> None:
        super().__init__(folder)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if name.startswith(NOT_THE_PROGRAM) or not (ROOT / name).is_file():
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
        (folder / "dvc.lock").unlink(missing_ok=True)
        params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        params |= TINY
        params["training"] |= {"epochs": 2}
        params["qat"] |= {"epochs": 1}
        params["statistics"] |= {"draws": 100}
        params["compute"] |= {"where": "here"}  # the other core tests, too
        retrained = {"recipe": {"sampling": "balanced", "loss": "weighted"}}
        params["mitigations"] |= {"uo_wcr": retrained}
        params |= changes
        (folder / "params.yaml").write_text(
            yaml.safe_dump(params, sort_keys=False), encoding="utf-8"
        )
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
            self.git(*arguments)


@pytest.fixture(scope="module")
def project(tmp_path_factory, worker_id) -> Repository:
    """The tiny study after ``dvc repro``: made once for all processes, copied for each module."""
    run = tmp_path_factory.getbasetemp()
    made = (run if worker_id == "master" else run.parent) / "made"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            study = Project(made.with_name("half_made"))
            study.dvc("repro")
            study.git("add", "-A")
            study.git("commit", "-qm", "run")
            study.folder.rename(made)
    return Repository(Path(shutil.copytree(made, tmp_path_factory.mktemp("study") / "study")))


@pytest.fixture
def four_classes():
    """Labels (600,), two networks' predictions (2, 600), and the codes of three groups (600,)."""
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(4, size=600), rng.integers(3, size=600)
    predictions = np.where(rng.random((2, 600)) < 0.7, labels, rng.integers(4, size=(2, 600)))
    return labels, predictions, groups
