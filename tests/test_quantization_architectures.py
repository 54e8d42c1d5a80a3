"""The architectures of the papers at their full depth and width, as the study builds them."""

import importlib.util
from pathlib import Path

import pytest
import torch

from quantskew import models
from quantskew.quantization.layers import quantizable
from quantskew.quantization.packing import load, save
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.weights import IntegerWeights

pytestmark = pytest.mark.slow

LAYERS_AND_LEFT_OUT = {
    "resnet18": (21, set()),
    "resnet50": (54, set()),
    "vgg19": (17, set()),
    "mobilenetv2": (53, set()),
    "efficientnet_b0": (82, set()),
    "vit_small": (50, {"cls_token", "pos_embed", "norm"}),
    "squeezenet1_1": (26, set()),
}


def build(name):
    torch.manual_seed(0)
    return models.build(name, classes=3, channels=1, size=16)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("name", LAYERS_AND_LEFT_OUT)
@torch.no_grad()
def test_quantized_packed_loaded_with_every_parameter_accounted_for(name, granularity, tmp_path):
    original = build(name).eval()
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    # 3 bits, that no code lies on the border of a byte; grouped layers and attention alike
    made = quantize_network(
        original, images, bits=3, weights=IntegerWeights(granularity=granularity)
    )
    save(tmp_path / "a", made)
    logits = made.network(images)
    assert torch.equal(load(tmp_path / "a", build(name))(images), logits)
    assert not torch.equal(logits, original(images))
    count, outside = LAYERS_AND_LEFT_OUT[name]
    assert list(made.weights) == list(quantizable(made.network))
    assert len(made.weights) == count
    left = made.notes["left_out"]
    assert {part for part in left if "blocks" not in part} == outside
    assert all(reason for reason in left.values())
    for parameter in dict(made.network.named_parameters()):
        layer = parameter.rpartition(".")[0]
        assert layer in made.weights or layer in left or parameter in left
    bits = sum(3 * weight.codes.numel() for weight in made.weights.values())
    channels = sum(len(weight.codes) for weight in made.weights.values())
    floats = sum(p.numel() for p in made.network.parameters()) - bits // 3
    # a scale of 4 bytes and a zero point of 1 a channel at most, and the description
    assert (tmp_path / "a").stat().st_size < bits / 8 + 5 * channels + 4 * floats + 5e4


@pytest.fixture(scope="module")
def program():
    """The program that walks networks nobody tuned this package for through every step."""
    path = Path(__file__).parents[1] / "benchmarks" / "architectures.py"
    spec = importlib.util.spec_from_file_location("strange_architectures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "layers", "refused"),
    [
        ("convnext_atto", 20, {}),
        ("mobilenetv3_small_050", 54, {"curvature": "the operator 'hardsigmoid'"}),
    ],
)
def test_strange_networks_work_whole_or_say_why_not(program, name, layers, refused):
    found = program.walk(name)
    assert program.faults(found) == []
    reasons = {step: facts["refused"] for step, facts in found.items() if "refused" in facts}
    assert reasons.keys() == refused.keys()
    assert all(refused[step] in reason for step, reason in reasons.items())
    for step in ("ptq", "static", "qat", "file"):
        assert found[step]["share"] == 1
    assert found["ptq"]["layers"] == found["static"]["inputs"] == layers
    assert found["static"]["agreement"] > 0.5
    assert found["file"]["agreement"] > 0.5


def test_what_fails_or_is_quantized_in_name_alone_is_a_fault(program):
    def fails():
        raise IndexError("out of range")

    found = {
        "ptq": {"share": 0, "left": {"0": "why"}},
        "qat": program.outcome(fails),
        "reload": {"same": {"ptq": False, "static": True}},
    }
    assert program.faults(found) == [
        "qat: IndexError: out of range", "ptq: no weight has codes", "reload of ptq: other logits"
    ]  # fmt: skip
