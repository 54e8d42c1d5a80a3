"""A trained network through every runtime, in fp32 and in integers: who is answered rightly.

What converters need that are not installed is skipped; docs/ship.md says how to install them.
"""

import copy
import importlib.util
import json

import numpy as np
import onnx
import pytest
import torch
from network_files import classifier, pictures
from test_cli import run
from torch import nn
from torch.nn import functional

from quantskew import models
from quantskew.deployment import onnx_files
from quantskew.deployment.converting import convert
from quantskew.deployment.runtimes import FileError, open_file, share_by_type, torch_export
from quantskew.quantization.logit_maps import attach
from quantskew.quantization.packing import in_half

CLASSES = ("none", "left", "right")
SUFFIXES = (".onnx", ".pt2", ".xml", ".tflite")
NEEDED = {".xml": ["openvino"], ".tflite": ["ai_edge_litert", "litert_torch"]}
PACKS = {(".onnx", 4): "onnx_ir", (".xml", 8): "nncf", (".xml", 4): "nncf"}
rng = np.random.default_rng(0)


def digits(n):
    """Grey images with a bar at the left, at the right, or none; half of them are dark."""
    labels, dark = np.arange(n) % 3, np.arange(n) // 3 % 2
    images = rng.random((n, 1, 16, 16), np.float32) * 0.5
    images[labels == 1, :, :, 2:5] += 0.35
    images[labels == 2, :, :, 11:14] += 0.35
    return (images * np.where(dark, 0.5, 1)[:, None, None, None]).astype(np.float32), labels, dark


class Attention(nn.Module):
    """A block whose linear layers are matrix products in every format, behind patches."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 4, 4)
        self.mix, self.out, self.head = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 3)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head((tokens + self.out(torch.relu(self.mix(tokens)))).mean(1))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3),
    )  # fmt: skip


def trained(network):
    torch.manual_seed(0)
    images, labels, _ = digits(192)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {"convolutions": trained(convolutions()), "attention": trained(Attention())}


@pytest.fixture(scope="module")
def test_images():
    return digits(120)


def written(network, suffix, folder):
    """Write a network for a runtime, by way of what its file is made of."""
    for library in NEEDED.get(suffix, []):
        pytest.importorskip(library)
    source = folder / {".xml": "fp32.onnx", ".tflite": "fp32.pt2"}.get(suffix, f"fp32{suffix}")
    export = onnx_files.export if source.suffix == ".onnx" else torch_export.export
    example = torch.from_numpy(digits(2)[0])
    export(network, example, source, {"classes": "\n".join(CLASSES)})
    if source.suffix == suffix:
        return source
    return convert(source, source.with_suffix(suffix)).file.path


def by_hand(path, images):
    """What the runtime itself gives, without this package."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {"images": images})[0]
    if path.suffix == ".pt2":
        with torch.no_grad():
            return torch.export.load(path).module()(torch.from_numpy(images)).numpy()
    if path.suffix == ".xml":
        import openvino

        return openvino.Core().compile_model(path, "CPU")([images])[0]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    given, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scores = []
    for image in images:
        if given["dtype"] == np.int8:
            scale, zero = given["quantization"]
            image = np.clip(np.rint(image / scale + zero), -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        scores.append(interpreter.get_tensor(answer["index"])[0])
    return np.stack(scores)


def accuracies(scores, labels, dark):
    return [(scores.argmax(1) == labels)[dark == group].mean() for group in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_groups_are_answered_as_by_the_runtime_called_by_hand(
    networks, test_images, tmp_path, suffix, bits
):
    images, labels, dark = test_images
    network = networks["attention"]
    path = written(network, suffix, tmp_path)
    if bits and suffix == ".pt2":
        with pytest.raises(FileError, match=r"nothing packs files of its runtime into"):
            convert(path, tmp_path / "int.pt2", bits=bits, images=images)
        return
    if bits:
        pytest.importorskip(PACKS.get((suffix, bits), "ai_edge_quantizer" * (suffix == ".tflite")
                            or "onnxruntime"))  # fmt: skip
        made = convert(path, tmp_path / f"int{suffix}", bits=bits, images=digits(64)[0])
        path = made.file.path
        assert made.agreement > 0.9
        assert made.ranges
        shares = share_by_type(made.file.weights())
        assert shares[f"int{bits}"] > (0.9 if bits == 8 else 0.5)
    file = open_file(path)
    assert file.classes == CLASSES
    assert file.takes_pixels
    expected = accuracies(by_hand(path, images), labels, dark)
    assert accuracies(file(images), labels, dark) == expected
    with torch.no_grad():
        of_torch = accuracies(network(torch.from_numpy(images)).numpy(), labels, dark)
    assert min(of_torch) > 0.9
    np.testing.assert_allclose(expected, of_torch, atol=0.05 if bits else 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18_quarter", "mobilenetv2_narrow"])
def test_a_network_whose_channels_lie_last_goes_to_litert_whole(model, tmp_path):
    """Where nothing is done about it, the converter may give one layer the weights of another."""
    pytest.importorskip("litert_torch")
    torch.manual_seed(0)
    network = models.build(model, classes=10, channels=3, size=16).eval()
    for module in network.modules():  # as in a trained network: folding them scales the weights
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
    images = torch.rand(4, 3, 16, 16)
    source = tmp_path / "fp32.pt2"
    torch_export.export(network, images, source, {})
    loaded = torch.export.load(source).module()
    assert not all(weight.is_contiguous() for weight in loaded.parameters())
    path = convert(source, tmp_path / "fp32.tflite").file.path
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(by_hand(path, images.numpy()), expected, atol=1e-4 * expected.std())
    pytest.importorskip("ai_edge_quantizer")  # whose large buffers lie behind the flatbuffer
    packed = convert(path, tmp_path / "int8.tflite", bits=8, images=images.numpy()).file
    assert share_by_type(packed.weights())["int8"] > 0.9
    np.testing.assert_allclose(packed(images.numpy()), expected, atol=0.2 * expected.std())


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_network_whose_layers_are_not_packed_in_4_bits_is_refused(networks, tmp_path, suffix):
    pytest.importorskip(PACKS[suffix, 4])
    path = written(networks["convolutions"], suffix, tmp_path)
    with pytest.raises(FileError, match=r"is no file of 4 bits: .* packs [01] of 3 layers so"):
        convert(path, tmp_path / f"int4{suffix}", bits=4, images=digits(8)[0])
    assert not (tmp_path / f"int4{suffix}").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["affine", "scaled"])
def test_a_map_of_the_logits_behind_the_network_goes_into_every_file(
    networks, test_images, tmp_path, suffix, kind
):
    images, *_ = test_images
    torch.manual_seed(1)
    network = convolutions().eval()
    network.load_state_dict(networks["convolutions"].state_dict())
    weight = torch.randn(3, 3) if kind == "affine" else torch.tensor([0.25])
    with torch.no_grad():
        before = network(torch.from_numpy(images))
    attach(network, weight, torch.tensor([0.5, -1.0, 2.0]))
    expected = (before @ weight.T if kind == "affine" else before * weight) + torch.tensor(
        [0.5, -1.0, 2.0]
    )
    file = open_file(written(network, suffix, tmp_path))
    spread = expected.std()
    np.testing.assert_allclose(file(images), expected, atol=0.02 * spread)  # bfloat16 of OpenVINO
    assert not np.allclose(file(images), before, atol=0.2 * spread)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".xml"])
def test_a_network_in_half_precision_is_stored_so_in_every_file(
    networks, test_images, tmp_path, suffix
):
    images, *_ = test_images
    network = in_half(copy.deepcopy(networks["convolutions"]), "float16")
    attach(network, torch.tensor([[0.5, 1, 0], [0, -1, 2], [1, 1, 1.0]]), torch.ones(3))
    with torch.no_grad():
        expected = network(torch.from_numpy(images))
    file = open_file(written(network, suffix, tmp_path))
    np.testing.assert_allclose(file(images), expected, atol=0.02 * expected.std())
    assert share_by_type(file.weights())["float16"] > 0.9


@pytest.mark.parametrize(("outputs", "answer"), [(1, ()), (1, ("Sigmoid",)), (2, ("ArgMax",))])
def test_single_scores_and_labels_are_converted_and_quantized(tmp_path, outputs, answer):
    images = np.linspace(0, 1, 64, dtype=np.float32)[:, None, None, None] * np.ones((1, 8, 8), "f")
    source = classifier(tmp_path / "a.onnx", outputs=outputs, answer=answer)
    if answer == ("ArgMax",):
        model = onnx.load(source)
        model.graph.node[-1].attribute.append(onnx.helper.make_attribute("axis", 1))
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
        onnx.save(model, source)
    expected = open_file(source)(images)
    if importlib.util.find_spec("openvino"):
        made = convert(source, tmp_path / "a.xml").file(images)
        np.testing.assert_allclose(made, expected, atol=0.05 * expected.std())
    made = convert(source, tmp_path / "int8.onnx", bits=8, images=images)
    labels = open_file(source).gives_labels
    alike = (made.file(images) == expected).mean()
    assert made.agreement == alike if labels else np.isnan(made.agreement)


def test_codes_of_a_fixed_batch_are_calibrated_in_their_layout(tmp_path):
    images = np.random.default_rng(0).random((9, 1, 8, 8), np.float32)
    source = classifier(tmp_path / "a.onnx", axes=(4, 8, 8, 1))
    assert [part.shape for part in open_file(source).batches(images, 2)] == 3 * [(4, 8, 8, 1)]
    assert convert(source, tmp_path / "int8.onnx", bits=8, images=images).agreement == 1


def test_what_cannot_be_converted_is_refused_with_what_would_be_right(networks, tmp_path):
    path = written(networks["convolutions"], ".onnx", tmp_path)
    for target, options, message in (
        ("b.onnx", {}, "state --bits 8 or 4, or another runtime"),
        ("b.onnx", {"bits": 8}, "8 bits need calibration images"),
        ("b.pt2", {}, "a file of torch.export is made of a network of a study$"),
        ("b.pb", {}, "no runtime takes files that end in '.pb'"),
    ):
        with pytest.raises(FileError, match=message):
            convert(path, tmp_path / target, **options)
    assert [one.name for one in tmp_path.iterdir()] == ["fp32.onnx"]


def test_a_converter_that_is_not_installed_is_named(networks, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "litert_torch", None)
    path = written(networks["convolutions"], ".pt2", tmp_path)
    with pytest.raises(FileError, match=r"for LiteRT cannot .*pip install litert-torch"):
        convert(path, tmp_path / "b.tflite")


def test_the_output_and_the_layout_of_the_policy_are_those_that_are_converted(tmp_path, capsys):
    source = classifier(tmp_path / "a.onnx", axes=("N", 1, 8, 3))  # NHWC, of one row of pixels
    model = onnx.load(source)
    model.graph.node.append(onnx.helper.make_node("Neg", ["logits"], ["other"]))
    shape = ["N", 2]
    other = onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, shape)
    model.graph.output.insert(0, other)
    onnx.save(model, source)
    pictures(shape=(1, 8)).to_parquet(tmp_path / "seen.parquet")
    policy, target = tmp_path / "policy.yaml", tmp_path / "int8.onnx"
    fed = {"scale": 255, "mean": 0, "std": 1, "layout": "NHWC"}
    policy.write_text(json.dumps({"preprocess": fed, "output": "logits"}))
    asked = "convert", source, target, "--bits", 8, "--data", tmp_path / "seen.parquet"
    status, _, said = run(capsys, *asked)
    assert (status, target.exists()) == (64, False)
    assert "has 2 outputs, other, logits; name the one that answers" in said
    status, said, _ = run(capsys, *asked, "--policy", policy)
    assert status == 0
    assert "100.0 % of the calibration images answered as in floating point" in said
    images = np.linspace(0.1, 0.9, 5, dtype=np.float32)[:, None, None, None] * np.ones(
        (3, 1, 8), "f"
    )
    read = {"output": "logits", "layout": "NHWC"}
    made, before = (open_file(path, **read)(images) for path in (target, source))
    np.testing.assert_allclose(made, before, atol=0.2)
    status, _, said = run(capsys, "convert", "fp32-32bit-seed0", target, "--policy", policy)
    assert status == 64
    assert "--data and --policy are for files" in said
