"""A study whose answer is known before it is run.

Three cameras photograph a bright block that is left or right. Those of ``wide`` and ``old`` show it
above, those of ``night`` below, where the network looks with weights fifty times smaller. At 4 bits
one range for the whole tensor rounds these to zero, so ``night`` is left with a guess; a range a
channel keeps them exactly. A quarter of the labels of ``old`` are wrong, which nothing can repair.
"""

import numpy as np
import pandas as pd
import pytest
from conftest import Project

from quantskew import tables
from quantskew.analysis.remedies import side_by_side

pytestmark = pytest.mark.slow

NETWORK = """
import torch
from torch import nn


class Gain(nn.Module):
    def forward(self, features):
        return features * torch.tensor([1.0, 50.0]).view(1, 2, 1, 1)


def make(classes, channels, size):
    see, judge = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2 * size * size, 2)
    with torch.no_grad():
        see.weight.copy_(torch.tensor([1.0, 0.02]).view(2, 1, 1, 1))
        side = torch.full((2, size, size), 0.1)
        side[:, :, : size // 2] = -0.1
        side[0, size // 2 :] = side[1, : size // 2] = 0  # above, and below
        judge.weight.copy_(torch.stack([-side.flatten(), side.flatten()]))
        judge.bias.copy_(torch.tensor([0.01, 0.0]))
    return nn.Sequential(see, Gain(), nn.Flatten(), judge)
"""


@pytest.fixture(scope="module")
def photographs():
    random = np.random.default_rng(0)
    n = 1200
    cameras = np.resize(["wide", "old", "night"], n)
    right = random.integers(0, 2, n)
    images = random.integers(0, 60, (n, 8, 8))
    for image, camera, side in zip(images, cameras, right, strict=True):
        image[4 * (camera == "night") :, 4 * side :][:4, :4] += 120
    wrong = (cameras == "old") & (random.random(n) < 1 / 4)
    return pd.DataFrame(
        {
            "image": [image.astype(np.uint8).tolist() for image in images],
            "side": np.array(["left", "right"])[np.where(wrong, 1 - right, right)],
            "camera": cameras,
            "part": np.where(np.arange(n) < 300, "train", "test"),
        }
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory, photographs):
    """Every table of the analysis."""
    project = Project(
        tmp_path_factory.mktemp("known"),
        datasets=["photographs"],
        models=["mine"],
        seeds=[0],
        bits=[8, 4],
        sources={"photographs": {"reader": "parquet", "path": "photographs.parquet",
                                 "label": "side", "split": "part", "size": 8,
                                 "channels": 1}},
        architectures={"mine": {"factory": "my_networks:make"}},
        training={"epochs": 1, "optimizer": "sgd", "lr": 1e-4},
        methods={"ptq": {"weights": {"granularity": "tensor"}}},
        mitigations={
            "channel": {"weights": {"granularity": "channel"}},
            "mse": {"weights": {"range": "mse"}},
            "uo": {"recipe": {"sampling": {"kind": "oversample", "by": "camera"}}},
        },
        groups={"by": {"photographs": ["camera"]}},
        curvature={"methods": ["fp32"], "samples": 2, "layers": False},
        statistics={"draws": 500},
        targets={"worst_group_loss": 0.05},
    )  # fmt: skip
    photographs.to_parquet(project.folder / "photographs.parquet")
    (project.folder / "my_networks.py").write_text(NETWORK)
    for stage in ("download", "train", "quantize", "mitigate", "deploy", "evaluate", "analyze"):
        names = {"download": ["photographs"], "analyze": []}.get(stage, ["photographs", "mine"])
        project.run("python", f"stages/{stage}.py", *names)
    folder = project.folder / "data/analysis"
    return {path.stem: tables.read(path.stem, path).to_pandas() for path in folder.iterdir()}


def verdicts(effects, reference, bits=4):
    """Verdict on the accuracy of each group, by method."""
    rows = effects[(effects["reference"] == reference) & (effects["bits"] == bits)]
    return rows[rows["metric"] == "accuracy"].pivot(
        index="group", columns="method", values="verdict"
    )


def test_the_group_that_was_built_to_be_hurt_is_named(study):
    found = verdicts(study["effects"], "fp32")["ptq"].to_dict()
    same = "equivalent"
    assert found == {"night": "worse", "old": same, "wide": same}
    levels = study["levels"].query("metric == 'accuracy'").set_index(["method", "bits", "group"])
    assert levels.loc[("fp32", 32, "night"), "value"] > 0.99
    # one answer for all of its images, of which half are right
    assert levels.loc[("ptq", 4, "night"), "value"] == pytest.approx(0.5, abs=0.07)
    assert set(verdicts(study["effects"], "fp32", bits=8)["ptq"]) == {same}


def test_the_remedies_rank_as_they_were_built(study):
    found = verdicts(study["effects"], "ptq")
    same = "equivalent"
    assert found.loc["night"].to_dict() == {"channel": "better", "mse": same, "uo": same}
    assert set(found.loc["old"]) == {same}  # wrong labels have no remedy
    at4 = side_by_side(study["remedies"].query("bits == 4"), ["worst_group"]).set_index("method")
    assert at4["worst_group"].idxmax() == "channel"
    assert at4.loc["channel", "worst_group"] == pytest.approx(3 / 4, abs=0.08)
    assert at4["worst_group_verdict"].to_dict() == {
        "channel": "better", "mse": same, "ptq": "", "uo": same,
    }  # fmt: skip
    assert (at4["training"] > 0).to_dict() == {
        "channel": False, "mse": False, "ptq": False, "uo": True,
    }  # fmt: skip


def test_the_cheapest_remedy_is_the_one_that_was_built(study):
    rows = side_by_side(study["remedies"], [])
    chosen = rows[rows["cheapest"]].set_index("bits")
    assert chosen["method"].to_dict() == {8: "ptq", 4: "channel"}
    assert chosen["meets"].all()
