"""The layer that was broken is found, and the group that it hurts, in files of several makers."""

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import helper, numpy_helper
from test_cli import run
from torch import nn

from quantskew import tables
from quantskew.analysis.gate import Feeding
from quantskew.deployment import onnx_files, onnx_graph
from quantskew.deployment.feeding import EvidenceError
from quantskew.deployment.restoring import (
    EVERY,
    Graph,
    check_source,
    layer_damage,
    restorable,
    worst_layers,
)
from quantskew.deployment.runtimes import FileError

PIXELS = {"scale": 255, "mean": 0, "std": 1}
N = 120


class Branches(nn.Module):
    """Sees the first channel and the last by layers of their own."""

    def __init__(self):
        super().__init__()
        self.red = nn.Conv2d(1, 8, 3, padding=1)
        self.blue = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, images):
        red, blue = self.red(images[:, :1]), self.norm(self.blue(images[:, 2:]))
        mixed = torch.relu(self.mix(torch.relu(torch.cat([red, blue], 1))))
        return self.head(mixed.mean((2, 3)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file in fp32, one in int8, and pictures that are red or blue, labelled as in fp32."""
    folder = tmp_path_factory.mktemp("layers")
    torch.manual_seed(1)
    network = Branches().eval()
    bright = torch.linspace(0.2, 1, N).reshape(N, 1, 1, 1)
    pixels = (bright * torch.randint(0, 256, (N, 3, 8, 8))).to(torch.uint8)
    pixels[::2, 1:] = 0
    pixels[1::2, :2] = 0
    images = pixels / 255
    with torch.no_grad():  # answers are spread over the classes
        network.head.bias -= network(images).mean(0)
        labels = network(images).argmax(1)
    onnx_files.export(network, images[:2], folder / "fp32.onnx", {})
    onnx_files.quantize(folder / "fp32.onnx", folder / "int8.onnx", images, reduce_range=False)
    rows = pd.DataFrame(
        {
            "image": [one.permute(1, 2, 0).numpy().tolist() for one in pixels],
            "label": labels.numpy(),
            "hue": np.where(np.arange(N) % 2, "blue", "red"),
        }
    )
    rows.to_parquet(folder / "test.parquet")
    return folder


def layer_of(model, part):
    (node,) = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm") and part in n.name]
    return node


def broken(made, part, factor=4.0):
    """Write the int8 file with wrong scales of one weight, and return the name of its layer."""
    model = onnx.load(made / "int8.onnx")
    node = layer_of(model, part)
    (dequantize,) = [n for n in model.graph.node if n.output[0] == node.input[1]]
    (scale,) = [i for i in model.graph.initializer if i.name == dequantize.input[1]]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * factor, scale.name))
    onnx.save(model, made / "broken.onnx")
    return node.name


def damage(made, name="broken", **options):
    policy = Feeding(groups=("hue",), minimum=1, **options.pop("policy", {}))
    paths = made / "fp32.onnx", made / f"{name}.onnx", made / "test.parquet"
    return layer_damage(*paths, policy, **options)


@pytest.mark.parametrize(("part", "group"), [("red", "red"), ("blue", "blue")])
def test_a_broken_layer_is_found_with_the_group_that_it_hurts(made, part, group):
    name = broken(made, part)
    found = damage(made)
    assert not found.left
    worst = worst_layers(found.rows)
    assert len(worst) == 4
    assert (worst["layer"][0], worst["group"][0]) == (name, group)
    assert worst["nearer"][0] > 5 * worst["nearer"][1]
    assert worst["weight_error"][0] == pytest.approx(3, abs=0.02)  # four times the weight
    assert (worst["weight_error"][1:] < 0.02).all()
    rows = found.rows.set_index(["layer", "group"])
    (other,) = {"red", "blue"} - {group}
    hurt, spared = rows.loc[(name, group)], rows.loc[(name, other)]
    assert hurt["distance_int8"] > 5 * spared["distance_int8"]
    assert hurt["fp32"] == spared["fp32"] == 1
    assert hurt["restored"] > hurt["int8"] == hurt["agreement_int8"]
    assert hurt["regained"] - hurt["lost"] == round(N / 2 * (hurt["restored"] - hurt["int8"]))
    every = rows.loc[EVERY]
    assert (every["distance_restored"] < every["distance_int8"]).all()
    # with the layer restored, the file is as good as the one that is not broken
    whole = damage(made, "int8").rows.set_index(["layer", "group"])
    unbroken = whole.loc[(name, group), "distance_int8"]
    assert hurt["distance_restored"] < 1.2 * unbroken


class Scaled(nn.Module):
    """A convolution that a small scale follows, as in ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 1)
        self.scale = nn.Parameter(torch.full((1, 8, 1, 1), 0.01))
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        first = torch.relu(self.first(images))
        return self.head((first + self.second(first) * self.scale).mean((2, 3)))


def test_a_scale_that_was_folded_into_a_weight_is_no_damage(made, tmp_path):
    torch.manual_seed(0)
    images = torch.rand(20, 3, 8, 8)
    onnx_files.export(Scaled().eval(), images[:2], tmp_path / "fp32.onnx", {})
    onnx_files.quantize(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", images)
    files = [onnx.load(tmp_path / f"{name}.onnx") for name in ("fp32", "int8")]
    layers, left = restorable(*files)
    assert [name.split("/")[1] for name in left] == ["second"]
    data = made / "test.parquet"
    found = layer_damage(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", data, Feeding())
    assert not found.left
    assert found.rows["weight_error"].max() < 0.03
    assert {*found.rows["layer"]} > {layer.name for layer in layers}


def test_of_images_that_are_looked_at_few_may_be_unusable(made):
    frame = pd.read_parquet(made / "test.parquet")
    frame.loc[np.linspace(0, N - 1, 10).astype(int)[:5], "image"] = None
    frame.to_parquet(made / "holes.parquet")
    with pytest.raises(EvidenceError, match=r"5 of 10 images of .* are unusable: .*allows 10 %"):
        layer_damage(
            made / "fp32.onnx", made / "int8.onnx", made / "holes.parquet",
            Feeding(groups=("hue",), max_rejects=0.1), images=10,
        )  # fmt: skip


def test_the_ends_of_an_input_are_those_of_every_version_of_clip():
    old = helper.make_node("Clip", ["x"], ["old"], min=0.0, max=6.0)
    new = helper.make_node("Clip", ["x", "", "six"], ["new"])
    six = [numpy_helper.from_array(np.float32(6), "six")]
    graph = Graph(helper.make_model(helper.make_graph([old, new], "clips", [], [], six)))
    assert (graph.clipped("old"), graph.clipped("new")) == ((0, 6), (-np.inf, 6))


def test_images_are_spread_over_the_file(made):
    broken(made, "red")
    rows = damage(made, images=31).rows
    assert rows.groupby("layer")["n"].sum().eq(31).all()


def test_weights_that_a_file_rounds_as_it_runs_are_its_own(made):
    model = onnx.load(made / "int8.onnx")
    fp32 = onnx.load(made / "fp32.onnx")
    node, before = (layer_of(one, "mix") for one in (model, fp32))
    (weight,) = [i for i in fp32.graph.initializer if i.name == before.input[1]]
    (dequantize,) = [n for n in model.graph.node if n.output[0] == node.input[1]]
    codes = dequantize.input[0]
    kept = [item for item in model.graph.initializer if item.name != codes]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, weight])
    weight.name = "own weight"
    model.graph.initializer[-1].name = "own weight"
    scale = helper.make_node(
        "QuantizeLinear", ["own weight", *dequantize.input[1:]], [codes], axis=0
    )
    model.graph.node.insert(0, scale)
    onnx.checker.check_model(model)
    del fp32.graph.initializer[:]  # nothing to take it from
    layers, left = restorable(fp32, model)
    assert [layer.name for layer in layers] == [node.name]
    assert np.isnan(layers[0].weight_error)
    assert len(left) == 3
    np.testing.assert_array_equal(layers[0].weight, numpy_helper.to_array(weight))
    assert [bits for _, bits, _ in onnx_graph.stored(model)] == [8, 8, 32, 8]


def test_layers_on_integers_stay_and_are_named(made, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(made / "fp32.onnx", tmp_path / "int8.onnx", op_types_to_quantize=["Conv"])
    layers, left = restorable(*(onnx.load(f / n) for f, n in (
        (made, "fp32.onnx"), (tmp_path, "int8.onnx"))))  # fmt: skip
    assert (layers, len(left)) == ([], 3)


def test_what_cannot_be_restored_is_refused_by_name(made, tmp_path):
    with pytest.raises(FileError, match=r"fp32.onnx has no quantized layers"):
        damage(made, "fp32")
    scores = np.random.default_rng(0).normal(size=(9, 3))
    files = made / "fp32.onnx", made / "int8.onnx"
    check_source(*files, scores, scores + 0.1, scores + 0.15)
    with pytest.raises(FileError, match=r"is further from its answers .* with all layers rest"):
        check_source(*files, scores, scores + 0.1, scores + 0.3)
    torch.manual_seed(7)
    onnx_files.export(Branches().eval(), torch.rand(2, 3, 8, 8), tmp_path / "other.onnx", {})
    paths = tmp_path / "other.onnx", made / "int8.onnx", made / "test.parquet"
    with pytest.raises(FileError, match=r"weights of .*int8.onnx are not .*other.onnx rounded"):
        layer_damage(*paths, Feeding())


def test_the_command_prints_the_worst_layers_and_writes_all(made, tmp_path, capsys):
    name = broken(made, "blue")
    policy, target = tmp_path / "policy.yaml", tmp_path / "layers.parquet"
    policy.write_text("groups: [hue]\n")
    files = [f"--fp32={made}/fp32.onnx", f"--int8={made}/broken.onnx"]
    arguments = "layers", *files, "--data", made / "test.parquet", "--policy", policy
    status, said, _ = run(capsys, *arguments, "-o", target)
    assert status == 0
    first = said.splitlines()[1]
    assert first.startswith(name[-40:])
    assert " hue blue: " in first
    assert len(tables.read("file_layers", target)) == (4 + 1) * 2
    assert "--images: got 0" in run(capsys, *arguments, "--images", 0)[2]
