"""ONNX files are what they were made from, run anywhere, and are refused when they are broken."""

import sys

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from torch import nn

from quantskew import models
from quantskew.baselines import train
from quantskew.data.loading import load
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.deployment import onnx_files, shipping
from quantskew.deployment.onnx_files import FileError, OnnxNetwork
from quantskew.errors import UserError
from quantskew.quantization.calibration import BalancedChoice, Calibration
from quantskew.subject import Subject
from quantskew.training.recipe import Recipe
from quantskew.training.training import Training

# isort: split
import timm


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    prepare("digits", Source(), folder).write(folder / "samples.parquet")
    train(
        folder, subject=Subject(samples=folder / "samples.parquet", model="resnet18_quarter"),
        seed=0, training=Training(epochs=3), recipe=Recipe(),
    )  # fmt: skip
    return folder


def shipped(digits, folder, calibration, ranges="minmax", bits=None):
    folder.mkdir()
    weights = digits / "network.safetensors"
    subject = Subject(samples=digits / "samples.parquet", model="resnet18_quarter", weights=weights)
    shipping.ship(
        folder, subject=subject, seed=0, bits=bits or (8 if calibration else 32),
        calibration=calibration,
        bins={}, ranges=ranges, reduce_range=True, notes={"dataset": "digits"},
    )  # fmt: skip
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_fp32_file_answers_as_the_network(digits, tmp_path):
    shipped(digits, tmp_path / "fp32", None)
    test = load(digits / "samples.parquet").test
    network = models.build("resnet18_quarter", classes=10, channels=1, size=8)
    models.load_checkpoint(network, digits / "network.safetensors")
    expected = models.logits(network, test.images)
    file = OnnxNetwork(tmp_path / "fp32/network.onnx")
    torch.testing.assert_close(models.logits(file, test.images), expected, atol=1e-4, rtol=1e-4)
    assert file.file.classes == tuple("0123456789")
    assert file.file.shape == (1, 8, 8)


def test_the_int8_file_is_what_the_simulation_says_and_is_the_same_twice(digits, tmp_path):
    first, again = (shipped(digits, tmp_path / name, Calibration()) for name in "ab")
    assert first == again
    found = onnx_files.check(tmp_path / "a/network.onnx")
    assert found.layers == found.integer_layers == 22
    assert found.integer_bytes == found.integer_operations == 1
    assert {"QuantizeLinear", "DequantizeLinear"} <= {*found.operators}
    outputs = safetensors.numpy.load_file(tmp_path / "a/logits.safetensors")
    same = outputs["logits"].argmax(1) == outputs["pytorch"].argmax(1)
    assert same.mean() > 0.95
    assert 0 < np.abs(outputs["logits"] - outputs["pytorch"]).max() < 1.5


@pytest.mark.parametrize("ranges", ["percentile", "entropy"])
def test_other_ranges_take_any_number_of_images(digits, tmp_path, ranges):
    shipped(digits, tmp_path / "a", Calibration(samples=40), ranges)
    outputs = safetensors.numpy.load_file(tmp_path / "a/logits.safetensors")
    same = outputs["logits"].argmax(1) == outputs["pytorch"].argmax(1)
    assert same.mean() > 0.9


def test_a_balanced_calibration_set_gives_another_file(digits, tmp_path):
    some = shipped(digits, tmp_path / "a", Calibration(samples=40))
    balanced = shipped(digits, tmp_path / "b", Calibration(samples=40, choice=BalancedChoice()))
    assert some["network.onnx"] != balanced["network.onnx"]
    assert b'"9": 4' in balanced["facts.json"]


def test_stored_weights_are_seven_bits_on_a_grid_a_channel(digits, tmp_path):
    shipped(digits, tmp_path / "int8", Calibration())
    model = onnx.load(tmp_path / "int8/network.onnx")
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    network = models.build("resnet18_quarter", classes=10, channels=1, size=8)
    models.load_checkpoint(network, digits / "network.safetensors")
    (name,) = [n for n in stored if n.startswith("fc.weight") and n.endswith("_quantized")]
    codes = stored[name]
    scale = stored[name.replace("_quantized", "_scale")]
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max() <= 64
    weight = network.fc.weight.detach().numpy()
    codes = codes if codes.shape == weight.shape else codes.T
    by_hand = codes * scale[:, None]
    assert len(scale) == len(weight)
    assert np.abs(by_hand - weight).max() <= scale.max() / 2 + 1e-6


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        tokens = self.norm(self.embed(images).flatten(2).transpose(1, 2))
        return self.head((tokens + self.mix(tokens)).mean(1))


class Amplify(nn.Module):
    """Makes the tokens of the brightest images large."""

    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def forward(self, tokens):
        mean = tokens.mean((1, 2), keepdim=True)
        return tokens * (1 + self.gain * torch.relu(mean - 1.2))


def attention(tmp_path, gain):
    """A file with three layers, and images of which one has tokens that are outliers."""
    torch.manual_seed(0)
    network, images = Attention().eval(), torch.rand(60, 1, 8, 8)
    images[0] += 1
    with torch.no_grad():
        network.norm = Amplify(gain)
        network.embed.weight.copy_(torch.rand(8, 1, 4, 4) / 8)
    onnx_files.export(network, images[:2], tmp_path / "network.onnx", {})
    return network, images, tmp_path / "network.onnx"


def test_ranges_of_products_are_those_that_agree_more_with_fp32(tmp_path):
    network, images, path = attention(tmp_path, gain=1000)
    int8 = tmp_path / "int8.onnx"
    assert onnx_files.quantize(path, int8, images) == "dynamic"
    facts = onnx_files.check(int8)
    assert (facts.layers, facts.integer_layers, facts.integer_bytes) == (3, 3, 1)
    assert "DynamicQuantizeLinear" in facts.operators
    simulated = {
        kind: shipping.simulate(
            network, images[:2], images, products=kind, ranges="minmax", reduce_range=True
        )
        for kind in ("static", "dynamic")
    }
    expected = models.logits(OnnxNetwork(path), images)
    error = {
        kind: (models.logits(one, images) - expected).square().mean()
        for kind, one in simulated.items()
    }
    assert error["dynamic"] < error["static"]
    one = images[1:2]  # ranges are those of the image there, of the batch here
    torch.testing.assert_close(OnnxNetwork(int8)(one), simulated["dynamic"](one), atol=0.05, rtol=0)


def test_a_layer_norm_leaves_no_convolution_in_fp32(tmp_path):
    torch.manual_seed(0)
    block = nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), nn.LayerNorm([16, 4, 4]), nn.Conv2d(16, 64, 3, padding=1),
        nn.GELU(), nn.Conv2d(64, 16, 1), nn.Flatten(), nn.Linear(256, 5),
    ).eval()  # fmt: skip
    images, path = torch.rand(20, 3, 16, 16), tmp_path / "network.onnx"
    onnx_files.export(block, images[:2], path, {})
    assert onnx_files.check(path).integer_bytes == 0
    assert onnx_files.quantize(path, path, images) == "static"  # one product alone
    facts = onnx_files.check(path)
    assert (facts.layers, facts.integer_layers, facts.integer_bytes) == (4, 4, 1)


@pytest.mark.parametrize(
    "name",
    ["convnext_atto", "mobilevit_xxs", "edgenext_xx_small", "efficientnet_b0", "deit_tiny"],
)
def test_hybrids_and_transformers_are_integers_throughout(tmp_path, name):
    torch.manual_seed(0)
    options = {"img_size": 64, "patch_size": 8} if name == "deit_tiny" else {}
    architecture = {"deit_tiny": "deit_tiny_patch16_224"}.get(name, name)
    network = timm.create_model(architecture, num_classes=3, **options).eval()
    images, path = torch.rand(4, 3, 64, 64), tmp_path / "network.onnx"
    onnx_files.export(network, images[:2], path, {})
    onnx_files.quantize(path, path, images)
    facts = onnx_files.check(path)
    assert facts.integer_layers == facts.layers > 40
    assert facts.integer_bytes == 1


def test_a_file_that_stays_in_floating_point_is_not_called_int8(tmp_path, monkeypatch):
    _, images, path = attention(tmp_path, gain=0)
    whole = onnx_files.quantization.quantize_static

    def no_convolution(*arguments, op_types_to_quantize, **options):
        whole(*arguments, op_types_to_quantize=["Add"], **options)

    monkeypatch.setattr(onnx_files.quantization, "quantize_static", no_convolution)
    monkeypatch.setattr(onnx_files, "PRODUCTS", ("Gemm",))  # one of the three layers
    with pytest.raises(
        FileError, match=r"is no file of 8 bits: .* 0 of 3 layers so, 0 % .*and 50 %"
    ):
        onnx_files.quantize(path, tmp_path / "int8.onnx", images)


def test_weights_beside_a_file_are_part_of_it(tmp_path):
    path = tmp_path / "network.onnx"
    onnx_files.export(Attention(), torch.rand(2, 1, 8, 8), path, {})
    assert OnnxNetwork(path).file.parts() == [path]
    beside = {"save_as_external_data": True, "location": "weights.data", "size_threshold": 0}
    onnx.save_model(onnx.load(path), path, **beside)
    assert OnnxNetwork(path).file.parts() == [path, tmp_path / "weights.data"]


def test_broken_files_are_refused(tmp_path):
    path = tmp_path / "network.onnx"
    with pytest.raises(FileError, match=r"network.onnx: no such file"):
        OnnxNetwork(path)
    onnx_files.export(Attention(), torch.rand(2, 1, 8, 8), path, {})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FileError, match=r"is not a file that ONNX Runtime can run"):
        OnnxNetwork(path)
    with pytest.raises(FileError, match="is not a valid ONNX file"):
        onnx_files.check(path)


def test_a_network_that_is_no_classifier_of_images_is_refused(tmp_path):
    path = tmp_path / "network.onnx"
    with pytest.raises(FileError, match=r"a classifier takes one tensor of numbers, \(N, C"):
        onnx_files.export(nn.Conv2d(1, 2, 3), torch.rand(2, 1, 8, 8), path, {})


def test_operators_outside_the_standard_are_refused(tmp_path):
    path = tmp_path / "network.onnx"
    onnx_files.export(Attention(), torch.rand(2, 1, 8, 8), path, {})
    model = onnx.load(path)
    model.opset_import.append(onnx.helper.make_opsetid("maker.own", 1))
    model.graph.node[-1].domain = "maker.own"
    onnx.save(model, path)
    with pytest.raises(FileError, match=r"needs maker\.own\.Gemm.*standard operators of opset 17"):
        onnx_files.check(path)


def test_a_network_of_convolutions_is_no_file_of_4_bits(digits, tmp_path):
    pytest.importorskip("onnx_ir")
    with pytest.raises(FileError, match=r"of 4 bits: .* packs 1 of 22 layers so, 0\.0\d+ % of"):
        shipped(digits, tmp_path / "int4", None, bits=4)


def test_a_weight_of_a_transposed_convolution_is_used_once_for_each_input():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        files (float[N, 1, 4, 4] images) => (float[N, 3] logits)
        <float[1, 2, 2, 2] first = {1, 1, 1, 1, 1, 1, 1, 1}, float scale = {0.1}, uint8 zero = {0},
         int8[3, 2, 1, 1] second = {1, 1, 1, 1, 1, 1}, float width = {0.1}, int8 middle = {0}>
        {
            larger = ConvTranspose <strides = [2, 2]> (images, first)
            codes = QuantizeLinear (larger, scale, zero)
            values = DequantizeLinear (codes, scale, zero)
            weights = DequantizeLinear (second, width, middle)
            mixed = Conv (values, weights)
            pooled = GlobalAveragePool (mixed)
            logits = Flatten (pooled)
        }
    """)
    in_floats, in_integers = 8 * 4 * 4, 6 * 8 * 8
    share = in_integers / (in_floats + in_integers)
    assert onnx_files.integer_operations(model) == pytest.approx(share)


def test_products_of_4_bits_are_what_the_simulation_says(tmp_path):
    pytest.importorskip("onnx_ir")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 4, 4), nn.Flatten(), nn.Linear(32, 40), nn.ReLU(), nn.Linear(40, 3)
    ).eval()
    images, path = torch.rand(60, 1, 8, 8), tmp_path / "network.onnx"
    onnx_files.export(network, images[:2], path, {"classes": "a\nb\nc"})
    onnx_files.pack(path, path)
    file, facts = OnnxNetwork(path), onnx_files.check(path)
    assert "MatMulNBits" in facts.operators
    assert (facts.layers, facts.integer_layers, facts.integer_operations) == (3, 2, 0)
    weights = 32 * 40 + 2 * 32 * 3  # a row of 40 fills two blocks
    assert facts.integer_bytes == pytest.approx(weights / 2 / (weights / 2 + 8 * 16 * 4))
    assert file.file.classes == ("a", "b", "c")
    whole, answers = models.logits(network, images), models.logits(file, images)
    expected = models.logits(shipping.simulate_blocks(network), images)
    near = 0.02 * whole.std().item()
    torch.testing.assert_close(answers, expected, atol=near, rtol=0)
    assert (answers - whole).abs().max() > near


def test_what_packs_weights_is_named_where_it_is_not_installed(tmp_path, monkeypatch):
    for name in ("onnx_ir", "onnxruntime.quantization.matmul_nbits_quantizer"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(onnx_files.quantization, "matmul_nbits_quantizer", raising=False)
    monkeypatch.delitem(sys.modules, "onnxruntime.quantization.matmul_nbits_quantizer")
    with pytest.raises(UserError, match=r"needs onnx_ir, .* pip install 'quantskew\[convert\]'"):
        onnx_files.pack(tmp_path / "a.onnx", tmp_path / "b.onnx")
