"""Every stage sees all that it depends on, and nothing that lies outside of the study is missed."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, TINY, Project, Repository
from PIL import Image

from quantskew.engine import fingerprint
from quantskew.outside import write_inputs
from quantskew.params import parse

pytestmark = pytest.mark.slow

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
ITEM = {"${item.dataset}": TINY["datasets"][0], "${item.model}": TINY["models"][0]}
OTHER = {
    "bits": [3],
    "compute": {"cpus": 2, "where": "here"},
    "curvature": {"methods": ["fp32"], "samples": 3},
    "deploy": {"networks": ["fp32"], "reduce_range": False},
    "downloads": "elsewhere",
    "groups": {"minimum": 3, "by": {"digits": ["stroke"]}, "bins": {"age": [50]}},
    "methods": {"ptq": {"weights": {"granularity": "channel"}}},
    "mitigations": {},
    "qat": {"epochs": 7},
    "reference": "ptq",
    "seeds": [5],
    "sources": {"digits": {"size": 12}},
    "statistics": {"alpha": 0.2, "draws": 150, "seed": 3},
    "targets": {"worst_group_loss": 0.3},
    "training": {"epochs": 1, "lr": 0.1},
}
"""Another value for every parameter that a result could depend on."""


def filled(text: str) -> str:
    for place, value in ITEM.items():
        text = text.replace(place, value)
    return text


def paths(stage: str, kind: str) -> list[str]:
    given = STAGES[stage].get(kind, [])
    return [filled(next(iter(item)) if isinstance(item, dict) else item) for item in given]


def contents(root: Path, names: list[str]) -> dict[str, str]:
    files = [file for name in names for file in (root / name, *(root / name).rglob("*"))]
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file() and file.name != ".gitignore"
    }


def with_all_else_changed(params: dict, declared: list[str]) -> dict:
    """Parameters in which all that a stage does not declare has another value."""
    changed = {**params, **OTHER}
    for key in declared:
        section, _, name = key.partition(".")
        if name and section in params:
            inner = params[section].get(name)
            changed[section] = {**changed[section], **({name: inner} if inner is not None else {})}
        elif section in params:
            changed[section] = params[section]
        else:
            changed.pop(section, None)
    return changed


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "inputs"])
def test_a_stage_needs_no_more_than_it_declares(project, stage, tmp_path):
    for name in ["src/quantskew", *paths(stage, "deps")]:
        source, target = project.folder / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, target)
    (tmp_path / "metrics").mkdir()
    params = yaml.safe_load((project.folder / "params.yaml").read_text(encoding="utf-8"))
    declared = STAGES[stage].get("params", [])
    # names of data sets and models stand in the command
    kept = [*declared, "datasets", "models"]
    given = with_all_else_changed(params, kept)
    if "reference" in declared and "methods" not in declared:
        given["methods"] = params["methods"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    Repository(tmp_path).run(*filled(STAGES[stage]["cmd"]).split())
    outs = [name for name in paths(stage, "outs") if name != "plots/report.html"]
    assert contents(project.folder, outs) == contents(tmp_path, outs)


def test_every_stage_depends_on_the_whole_package():
    for name, stage in STAGES.items():
        if name != "inputs":
            assert {f"stages/{name}.py", "data/inputs/quantskew.json"} <= {*stage["deps"]}


@pytest.mark.parametrize("stage", ["train", "quantize", "mitigate", "deploy", "evaluate"])
def test_workers_import_little_with_the_file_of_a_stage(stage):
    code = (
        f"import runpy, sys; runpy.run_path('stages/{stage}.py', run_name='__mp_main__'); "
        "print({'pandas', 'torch', 'quantskew.params'} & {*sys.modules})"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "set()\n"


def test_the_digest_of_the_package_follows_its_code(tmp_path):
    made = Project(tmp_path)
    digest = made.folder / "data/inputs/quantskew.json"
    code = made.folder / "src/quantskew/names.py"
    made.run("python", "stages/inputs.py")
    first = digest.read_text(encoding="utf-8")
    code.touch()
    made.run("python", "stages/inputs.py")
    assert digest.read_text(encoding="utf-8") == first
    code.write_text(code.read_text(encoding="utf-8") + "\nOTHER = 1\n", encoding="utf-8")
    made.run("python", "stages/inputs.py")
    assert digest.read_text(encoding="utf-8") != first


def test_a_changed_checkpoint_and_changed_code_are_seen_by_the_stages_of_the_network(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    weights, code = tmp_path / "weights.safetensors", tmp_path / "loaded_networks.py"
    code.write_text("def make(**given): return 1\n")
    own = {"factory": "loaded_networks:make", "checkpoint": str(weights), "mean": [0], "std": [1]}
    study = parse(
        {
            "datasets": ["digits"], "models": ["mine"], "bits": 4, "seeds": 0,
            "sources": {"digits": {}}, "methods": {"ptq": {}}, "architectures": {"mine": own},
        }
    )  # fmt: skip
    digests = set()
    for content, number in (("one", 1), ("two!", 1), ("two!", 2)):
        weights.write_text(content)
        code.write_text(f"def make(**given): return {number}\n")
        for function in (fingerprint.code_hash, fingerprint._read):
            function.cache_clear()
        write_inputs(study)
        digests.add(Path("data/inputs/models/mine.json").read_text(encoding="utf-8"))
    assert len(digests) == 3
    network = "data/inputs/models/${item.model}.json"
    for stage in ("train", "quantize", "mitigate", "deploy", "evaluate"):
        assert network in STAGES[stage]["deps"]


def own_study(folder: Path) -> Project:
    """Images and a CSV of one's own, a network of one's own with its weights, an own function."""
    made = Project(
        folder,
        datasets=["own"],
        models=["mine"],
        seeds=[0],
        bits=[4],
        sources={"own": {"reader": "folder", "path": "pictures", "size": 8, "channels": 1,
                         "label": "label", "attributes": ["site"]}},
        architectures={"mine": {"factory": "networks:make"}},
        methods={"ptq": {}, "repaired": {"function": "repairs:repair"}},
        mitigations={},
        curvature={"seeds": 0},
        deploy={"networks": []},
        groups={"by": {"own": ["site"]}},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    (made.folder / "pictures").mkdir()
    rows = []
    for number in range(80):
        pixels = rng.integers(0, 100, (8, 8)) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(made.folder / f"pictures/{number}.png")
        rows.append((f"{number}.png", "ab"[number % 2], "xy"[number % 3 == 0]))
    frame = pd.DataFrame(rows, columns=["image", "label", "site"])
    frame.to_csv(made.folder / "pictures/own.csv", index=False)
    (made.folder / "networks.py").write_text(
        "from torch import nn\n\n\ndef make(classes, channels, size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, classes))\n"
    )
    (made.folder / "repairs.py").write_text("def repair(network, **given):\n    return network\n")
    return made


def test_what_lies_outside_of_the_study_is_seen(tmp_path):
    study = own_study(tmp_path)
    study.dvc("repro")
    again = study.dvc("repro").stdout
    assert re.findall("Running stage '(.*)'", again) == ["inputs"]
    firsts = {"download", "train", "quantize"}
    for name, old, new, first in (
        ("repairs.py", "return network", "return network.eval()", "quantize"),
        ("networks.py", "nn.Flatten()", "nn.Flatten(1)", "train"),  # the code of the network
        ("pictures/own.csv", "a,x", "a,y", "download"),  # a row of the user's own table
    ):
        file = study.folder / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        study.run("python", "stages/inputs.py")
        stale = json.loads(study.dvc("status", "--json").stdout)
        stages = {stage.partition("@")[0] for stage in stale}
        firsts.remove(first)
        assert first in stages, name
        assert not firsts & stages, name
