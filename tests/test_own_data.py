"""An own Parquet file and an own network go through the whole pipeline."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, Project

from quantskew import tables

pytestmark = pytest.mark.slow

NETWORK = """
from torch import nn


def make(classes, channels, size, width):
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Flatten(), nn.Linear(width * (size // 2) ** 2, classes),
    )
"""


@pytest.fixture(scope="module")
def badges():
    """Bright halves of three kinds, from two sites of which one has the noisier camera."""
    random = np.random.default_rng(0)
    grades = random.integers(0, 3, 240)
    sites = random.choice(["north", "south"], 240, p=[0.7, 0.3])
    images = random.integers(0, 60, (240, 16, 16)) + 60 * (sites == "south")[:, None, None]
    for image, grade in zip(images, grades, strict=True):
        image[4 * grade : 4 * grade + 6] += 100
    return pd.DataFrame(
        {
            "image": [image.astype(np.uint8).tolist() for image in images],
            "grade": np.array(["a", "b", "c"])[grades],
            "site": sites,
        }
    )


@pytest.fixture(scope="module")
def own_method():
    """The file and the parameters of a method as the page of extensions writes them."""
    text = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
    code, parameters = re.search(
        r"`my_method\.py`:\n\n```python\n(.*?)```\n\n```yaml\n(.*?)```", text, re.S
    ).groups()
    return code, yaml.safe_load(parameters)["mitigations"]


def test_own_data_network_and_method_need_no_code_of_ours(tmp_path, badges, own_method):
    code, mitigations = own_method
    project = Project(
        tmp_path / "own",
        datasets=["badges"],
        models=["mine"],
        seeds=[0],
        bits=4,
        sources={"badges": {"reader": "parquet", "path": "badges.parquet", "label": "grade",
                            "size": 16}},
        architectures={"mine": {"factory": "my_networks:make", "options": {"width": 4}}},
        groups={"by": {"badges": ["grade", "site"]}, "minimum": 5},
        mitigations=mitigations,
    )  # fmt: skip
    badges.to_parquet(project.folder / "badges.parquet")
    (project.folder / "my_networks.py").write_text(NETWORK)
    (project.folder / "my_method.py").write_text(code)
    project.dvc("repro")
    summary = json.loads((project.folder / "metrics/summary.json").read_text())
    assert set(summary["mine"]) == {"int4"}
    groups = tables.read("groups", project.folder / "data/evaluations/badges/mine/groups.parquet")
    names = groups.to_pandas().groupby("attribute")["group"].agg(set)
    assert names["site"] == {"north", "south"}
    assert names["grade"] == {"a", "b", "c"}
    remedies = tables.read("remedies", project.folder / "data/analysis/remedies.parquet")
    assert set(remedies["method"].to_pylist()) == {
        "ptq", "qat", "static", "static_balanced", "clipped"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("label", "by", "told"),
    [
        ("grad", "site", "did you mean 'grade'"),
        (
            "grade",
            "grade*sit",
            "groups.by.badges: no attribute is named 'sit'; did you mean 'site'",
        ),
    ],
)
def test_a_wrong_column_is_told_in_one_line_before_any_training(tmp_path, badges, label, by, told):
    project = Project(
        tmp_path / "wrong",
        datasets=["badges"],
        sources={"badges": {"reader": "parquet", "path": "badges.parquet", "label": label}},
        groups={"by": {"badges": [by]}},
    )
    badges.to_parquet(project.folder / "badges.parquet")
    result = project.run("python", "stages/download.py", "badges", check=False)
    assert result.returncode == 1
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert not (project.folder / "data/samples").exists()
