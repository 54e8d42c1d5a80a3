"""Post-training quantization of whole networks."""

import copy

import pytest
import torch
from quantization_networks import network
from torch import nn

from quantskew import models
from quantskew.quantization.layers import LayerError, fold_batch_norm, quantizable
from quantskew.quantization.packing import in_half
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.rounding import AdaRound, Gptq, Nearest
from quantskew.quantization.weights import Float16, IntegerWeights, Weights


def quantized(name="resnet18", channels=3, bits=4, **weights):
    original, images = network(name, channels)
    return quantize_network(original, images, bits=bits, weights=IntegerWeights(**weights))


def test_weights_are_min_max_of_the_folded_network():
    original, images = network("resnet18")
    made = quantize_network(original, images, bits=4, weights=IntegerWeights())
    folded, _ = fold_batch_norm(original, images)
    for name, layer in quantizable(folded).items():
        w, bits = layer.weight.detach(), 8 if name == "conv1" else 4
        scale = ((w.max() - w.min()) / (2**bits - 1)).item()
        expected = torch.fake_quantize_per_tensor_affine(
            w, scale, round(-w.min().item() / scale), 0, 2**bits - 1
        )
        torch.testing.assert_close(made.network.get_submodule(name).weight.data, expected)
        assert made.weights[name].bits == bits


def test_input_is_not_changed():
    original, images = network("resnet18")
    original.train()
    before = {key: value.clone() for key, value in original.state_dict().items()}
    for setting in (IntegerWeights(), IntegerWeights(fold_bn=False), Float16()):
        quantize_network(original, images, bits=2, weights=setting)
    assert all(torch.equal(before[key], value) for key, value in original.state_dict().items())
    assert original.training
    assert list(before) == list(original.state_dict())


@pytest.mark.parametrize(
    ("channels", "options", "first", "last"),
    [
        (3, {}, 8, 2),
        (1, {}, 2, 2),  # the reference looks at the number of channels
        (3, {"rgb_first": None}, 2, 2),
        (1, {"first_last": 8}, 8, 8),
        (3, {"first_last": 4}, 8, 4),
    ],
)
def test_exempt_layers(channels, options, first, last):
    widths = {n: w.bits for n, w in quantized(channels=channels, bits=2, **options).weights.items()}
    assert (widths.pop("conv1"), widths.pop("fc")) == (first, last)
    assert set(widths.values()) == {2}


def test_an_exemption_never_lowers_a_width():
    assert {w.bits for w in quantized(bits=8, first_last=4).weights.values()} == {8}


def test_per_channel_is_closer_than_per_tensor_and_more_bits_are_closer():
    original, images = network("mobilenetv2_035")
    folded, _ = fold_batch_norm(original, images)

    def distance(bits, granularity):
        made = quantize_network(
            original, images, bits=bits, weights=IntegerWeights(granularity=granularity)
        )
        return sum(
            (w.dequantize() - folded.get_submodule(n).weight).square().sum().item()
            for n, w in made.weights.items()
        )

    assert distance(4, "channel") < distance(4, "tensor")
    assert distance(8, "tensor") < distance(4, "tensor") < distance(2, "tensor")


def test_notes_say_what_was_folded_and_left_out():
    notes = quantized(fold_bn=False).notes
    assert notes["folded"] == []
    assert notes["left_out"]["bn1"].startswith("a batch norm that was not folded")
    assert ["conv1", "bn1"] in quantized().notes["folded"]


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@torch.no_grad()
def test_half_precision_computes_in_half(precision):
    original, images = network("resnet18")
    made = quantize_network(original, images, bits=8, weights=Weights.kinds[precision]())
    dtypes = {p.dtype for p in made.network.parameters()}
    assert dtypes == {getattr(torch, precision)}
    torch.testing.assert_close(made.network(images), original(images), rtol=0.1, atol=0.1)


def test_weights_that_are_not_finite_are_refused():
    original, images = network("vgg")
    original[3].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="weight of 3 holds values that are not finite"):
        quantize_network(original, images, bits=4, weights=IntegerWeights())


def test_banners_bias_correction_keeps_the_mean_of_each_channel():
    original, images = network("vgg")
    made = quantize_network(
        original, images, bits=2, weights=IntegerWeights(bias_correction="weights")
    )
    for name, weight in made.weights.items():
        means = weight.dequantize().flatten(1).mean(1)
        torch.testing.assert_close(
            means,
            original.get_submodule(name).weight.flatten(1).mean(1).detach(),
            atol=1e-6,
            rtol=0,
        )


@torch.no_grad()
def test_output_bias_correction_keeps_the_mean_of_each_logit():
    original, images = network("vgg")
    images = torch.randn(64, 3, 32, 32)
    plain, corrected = (
        quantize_network(
            original,
            images,
            bits=3,
            weights=IntegerWeights(bias_correction=how),
            calibration=images,
        ).network(images)
        for how in ("none", "outputs")
    )
    target = original(images).mean(0)
    torch.testing.assert_close(corrected.mean(0), target, atol=1e-5, rtol=1e-4)
    assert (plain.mean(0) - target).abs().max() > 1e-3


def test_better_roundings_bring_the_logits_closer():
    original, _ = network("vgg_bn")
    images = torch.randn(64, 3, 32, 32)
    target = original(images)
    errors = {}
    for rounding in (Nearest(), Gptq(), AdaRound(steps=150)):
        setting = IntegerWeights(rounding=rounding, granularity="channel")
        made = quantize_network(original, images, bits=3, weights=setting, calibration=images)
        errors[rounding.kind] = (made.network(images) - target).square().mean().item()
    assert errors["gptq"] < errors["nearest"]
    assert errors["adaround"] < errors["nearest"]


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_that_would_act_twice_is_refused(register):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    getattr(net[2], register)(lambda _layer, *given: 3 * given[-1] if len(given) > 1 else given[0])
    images = torch.rand(20, 6)
    for weights in (IntegerWeights(rounding="gptq"), IntegerWeights(bias_correction="outputs")):
        with pytest.raises(LayerError, match="layer '2' has a hook of its own"):
            quantize_network(net, images, bits=4, weights=weights, calibration=images)
    quantize_network(net, images, bits=4, weights=IntegerWeights())


def test_given_widths_are_used():
    original, images = network("vgg")
    widths = dict(zip(quantizable(original), (8, 2, 3, 4, 5), strict=True))
    made = quantize_network(original, images, bits=4, weights=IntegerWeights(), widths=widths)
    assert {name: weight.bits for name, weight in made.weights.items()} == widths


@pytest.mark.parametrize(("bits", "last"), [(2, 8), (3, 3)])
def test_biases_and_norms_are_quantized_per_tensor_where_asked(bits, last):
    original, images = network("resnet18")
    setting = IntegerWeights(
        fold_bn=False, quantize_biases=True, quantize_norms=True, first_last=last,
        rgb_first=None, granularity="channel",
    )  # fmt: skip
    made = quantize_network(original, images, bits=bits, weights=setting)
    parameters = dict(original.named_parameters())
    vectors = {name for name, value in parameters.items() if value.ndim == 1}
    assert set(made.vectors) == vectors
    for name in vectors:
        w, width = parameters[name].detach(), last if name == "fc.bias" else bits
        scale = (w.max() - w.min()) / (2**width - 1)
        zero = (-w.min() / scale).round()
        codes = ((w / scale).round() + zero).clamp(0, 2**width - 1)
        expected = (codes - zero) * scale
        torch.testing.assert_close(made.network.get_parameter(name).data, expected)
    assert made.notes["left_out"] == {}
    plain = quantize_network(original, images, bits=bits, weights=IntegerWeights(fold_bn=False))
    assert plain.vectors == {}
    assert torch.equal(plain.network.fc.bias, original.fc.bias)


@pytest.mark.parametrize(("precision", "step"), [("float16", 2**-10), ("bfloat16", 2**-7)])
def test_layers_of_half_precision_compute_in_float32_and_round_once(precision, step, monkeypatch):
    seen, forward = [], nn.Conv2d._conv_forward
    monkeypatch.setattr(
        nn.Conv2d, "_conv_forward",
        lambda self, given, *rest: [seen.append(given.dtype), forward(self, given, *rest)][1],
    )  # fmt: skip
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 4, 3)
    original = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    half = in_half(copy.deepcopy(original), precision)
    images = torch.rand(200, 1, 8, 8)
    found = models.logits(half, images)
    assert {*seen} == {torch.float32}
    exact = copy.deepcopy(half[:1]).double()(images.to(half[0].weight.dtype).double())
    inner = exact.to(half[0].weight.dtype).relu().double().flatten(1)
    expected = copy.deepcopy(half[3]).double()(inner)
    assert found.dtype == torch.float32
    assert ((found - expected).abs() <= step * expected.abs() + 1e-3 * step).all()
    assert {p.dtype for p in half.parameters()} == {half[0].weight.dtype}
    whole = half(images)  # in half precision throughout
    assert ((found - whole).abs() <= 20 * step * whole.abs().amax()).all()
