"""What one network or step cannot do is missing in the report; everything else is there."""

import pytest
import yaml
from conftest import Project

from quantskew import tables

pytestmark = pytest.mark.slow

NETWORKS = '''
from torch import nn


def pyramid(classes, channels, size):
    """Pooling to 3 × 3 where 3 does not divide the size: ONNX has no operator for it."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, classes),
    )


def steep(classes, channels, size):
    """An operator that has no second derivative."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardsigmoid(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, classes),
    )


def too_many_outputs(classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, classes + 2))
'''
FUNCTIONS = """
def broken(network, *, bits, **given):
    if bits == 2:
        raise RuntimeError("two bits are too few for me")
    return network
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = Project(
        tmp_path_factory.mktemp("partial"),
        models=["pyramid", "steep", "too_many"],
        seeds=[0],
        architectures={
            "pyramid": {"factory": "networks:pyramid"},
            "steep": {"factory": "networks:steep"},
            "too_many": {"factory": "networks:too_many_outputs"},
        },
        methods={"ptq": {}, "own": {"function": "functions:broken"}},
        mitigations={},
        curvature={"methods": ["ptq"], "samples": 4},
    )
    (made.folder / "networks.py").write_text(NETWORKS, encoding="utf-8")
    (made.folder / "functions.py").write_text(FUNCTIONS, encoding="utf-8")
    made.result = made.dvc("repro", check=False)
    return made


def test_the_report_has_all_that_could_be_done(study):
    page = (study.folder / "plots/report.html").read_text(encoding="utf-8")
    assert "pyramid" in page
    rows = tables.read("levels", study.folder / "data/analysis/levels.parquet").to_pandas()
    points = set(map(tuple, rows[["model", "method", "bits"]].drop_duplicates().to_numpy()))
    assert points == {
        (model, *rest)
        for model in ("pyramid", "steep")
        for rest in (("fp32", 32), ("ptq", 4), ("ptq", 2), ("own", 4))
    }


def test_what_could_not_be_done_is_told_with_its_reason(study):
    path = study.folder / "data/analysis/failures.parquet"
    failures = tables.read("failures", path).to_pandas()
    told = failures.set_index(["model", "method", "bits", "step"])["reason"]
    assert "two bits are too few for me" in told["pyramid", "own", 2, "quantize"]
    assert "hardsigmoid" in told["steep", "ptq", 4, "curvature"].lower()
    assert "12" in told["too_many", "fp32", 32, "train"]
    assert ("pyramid", "fp32", 32, "deploy") in told.index
    assert ("steep", "fp32", 32, "deploy") not in told.index


def test_dvc_ends_with_the_failures(study):
    assert study.result.returncode != 0
    assert "failed to reproduce 'check'" in study.result.stderr
    assert "steps could not be done" in study.result.stderr
    assert "`dvc repro -f` tries these again" in study.result.stderr
    assert "Traceback" not in study.result.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"ptq": {}, "own": {"function": "functons:broken"}}}, "methods.own.function"),
        ({"methods": {"ptq": {}, "own": {"function": "functions:brokn"}}}, "functions:brokn"),
        ({"architectures": {"pyramid": {"factory": "networks:pyramd"}}}, "networks:pyramd"),
    ],
)
def test_code_that_is_not_there_is_refused_before_any_work(study, changes, words):
    path = study.folder / "params.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(yaml.safe_dump(yaml.safe_load(text) | changes, sort_keys=False))
    result = study.dvc("repro", check=False)
    path.write_text(text, encoding="utf-8")
    assert "failed to reproduce 'inputs'" in result.stderr
    assert words in result.stderr
