"""A study of all stages that is as small as it can be, for the campaigns that disturb it.

Its network is one convolution of the user's own. It has trainings of several epochs, with and
without the quantizers, a remedy that retrains, files that ship, surveys of the loss, and a report.
A checkpoint is kept after every epoch.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RESULTS = ("data", "metrics", "plots")
OF_THE_MACHINE = ("seconds", "inputs", "downloads")
"""Folders of measured times, and of times of the user's files."""
SETTINGS: dict[str, Any] = {
    "datasets": ["digits"],
    "models": ["tiny"],
    "architectures": {"tiny": {"factory": "tiny_network:make"}},
    "bits": [4],
    "seeds": [0],
    "methods": {"ptq": {}, "qat": {"training": "qat"}},
    "mitigations": {
        "fair": {
            "recipe": {"sampling": "balanced"},
            "training": "qat",
            "oscillations": "dampen",
            "post": "class_biases",
        },
    },
    "groups": {"minimum": 30, "by": {"digits": ["digit"]}},
    "deploy": {"seeds": 1, "calibrations": {"random": {"choice": "random"}}},
}
CHANGES: dict[str, dict[str, Any]] = {
    "training": {"epochs": 12},
    "qat": {"epochs": 6},
    "statistics": {"draws": 100},
    "curvature": {"samples": 2, "bits": [4]},
    "compute": {"workers": 2},
}
NETWORK = """
from torch import nn


def make(classes, channels, size):
    side = (size - 1) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * side**2, classes),
    )
"""


class Study:
    """A repository with the program of this one, in which ``dvc repro`` runs the small study."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for name in filter(None, listed.split("\0")):
            if not name.startswith(("tests/", "docs/", "studies/", *RESULTS)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        (folder / "tiny_network.py").write_text(NETWORK, encoding="utf-8")
        loop = folder / "src/quantskew/training/loop.py"
        often, changes = re.subn(
            r"^CHECKPOINT_SECONDS = \d+$", "CHECKPOINT_SECONDS = -1", loop.read_text(), flags=re.M
        )
        assert changes == 1
        loop.write_text(often, encoding="utf-8")
        (folder / "dvc.lock").unlink(missing_ok=True)
        self.default = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        self.set(**settings)
        who = ["-c", "user.name=study", "-c", "user.email=study@example.com"]
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
            subprocess.run(["git", *who, *arguments], cwd=folder, check=True)

    def set(self, **settings: Any) -> None:
        """Write ``params.yaml``: the small study, with some sections of one's own."""
        changed = {name: self.default[name] | change for name, change in CHANGES.items()}
        text = yaml.safe_dump(self.default | SETTINGS | changed | settings, sort_keys=False)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")

    def start(self, *prefix: str, **variables: str) -> subprocess.Popen[str]:
        """Start ``dvc repro`` as the leader of a group of processes."""
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": tools, "PYTHONPATH": str(self.folder / "src")}
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [*prefix, "dvc", "repro"], cwd=self.folder, env=environment | variables,
                start_new_session=True, text=True, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def output(self) -> str:
        """What the last run printed."""
        return (self.folder / "output.txt").read_text(errors="replace")

    def contents(self) -> dict[str, str]:
        """Digest of every file of the results that must not depend on how they came about."""
        files = (file for name in RESULTS for file in (self.folder / name).rglob("*"))
        return {
            str(file.relative_to(self.folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
            if file.is_file()
            and file.name != ".gitignore"
            and not {*OF_THE_MACHINE} & {*file.relative_to(self.folder).parts}
        }

    def cells(self) -> dict[str, int]:
        """Finished cells of the store, and when each was made."""
        found = [path for path in self.folder.glob(".cells/??/*") if not path.suffix]
        return {path.name: path.stat().st_mtime_ns for path in found}

    def forget(self) -> None:
        """Remove all results, also those of the store and of DVC's cache."""
        for name in (*RESULTS, ".cells", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "dvc.lock").unlink(missing_ok=True)
