"""Output channels with widths of their own: chosen, kept, dealt at random, stored."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from quantization_networks import network

from quantskew.quantization.layers import fold_batch_norm, quantizable
from quantskew.quantization.method import Method
from quantskew.quantization.packing import load, read, save
from quantskew.quantization.policies import (
    Allocation,
    ByImportance,
    ChannelUnit,
    LayerUnit,
    Taylor,
    allocate_bits,
)
from quantskew.quantization.ptq import quantize_network, quantize_weight
from quantskew.quantization.qat import LearnedScale
from quantskew.quantization.rounding import AdaRound, Gptq, Seen
from quantskew.quantization.sensitivity import importance
from quantskew.quantization.weights import IntegerWeights
from quantskew.quantization.widths import keep_most_important

LABELS, GROUPS = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0, 1])
MIXED = (4, 2, 32, 8, 2, 4, 32, 3)


SALIENT = {"kind": "salient_channel"}


def chosen(uniform=4, setting=None, kind="channel", **unit):
    original, images = network("vgg_bn")
    setting = setting or IntegerWeights(rgb_first=None)
    widths = allocate_bits(
        original, images, images, LABELS, GROUPS, bits=uniform, weights=setting,
        policy=ByImportance(unit={"kind": kind, **unit}),
    )  # fmt: skip
    return original, images, widths


def spent(original, widths):
    layers = quantizable(original).items()
    return sum(sum(widths[n]) * layer.weight[0].numel() for n, layer in layers)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric_narrow"])
def test_channels_of_a_width_are_quantized_as_a_tensor_of_that_width(granularity, scheme):
    weight = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    setting = IntegerWeights(granularity=granularity, scheme=scheme)
    made = quantize_weight(weight, bits=MIXED, weights=setting).dequantize()
    for width in (2, 3, 4, 8):
        rows = [row for row, bits in enumerate(MIXED) if bits == width]
        alone = quantize_weight(weight[rows], bits=width, weights=setting).dequantize()
        assert torch.equal(made[rows], alone)
    assert torch.equal(made[[2, 6]], weight[[2, 6]])


@pytest.mark.parametrize("bits", [4, MIXED])
def test_no_quantizer_mixes_devices(bits):
    """Tensors without content refuse to meet those of a CPU, as those of a GPU do."""
    layer = torch.nn.Conv2d(3, 8, 2, device="meta")
    inputs, targets = torch.empty(4, 3, 6, 6, device="meta"), torch.empty(4, 8, 5, 5, device="meta")
    for method in ("minmax", "mse", "percentile", "aciq_gauss"):
        setting = IntegerWeights(range=method, bias_correction="weights")
        nearest = quantize_weight(layer.weight, bits=bits, weights=setting)
        assert nearest.dequantize().is_meta
    for rounding in (Gptq(), AdaRound(steps=3)):
        seen = Seen(inputs, targets, torch.Generator())
        assert rounding(layer, nearest, seen).codes.is_meta
    learned = LearnedScale(layer.weight, 4, per_channel=True)
    learned(layer.weight).sum().backward()
    assert learned.scale.grad.is_meta


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias_correction": "weights"},
        {"bias_correction": "outputs"},
        {"rounding": "gptq", "granularity": "channel"},
        {"rounding": {"kind": "adaround", "steps": 5}},
    ],
    ids=str,
)
@torch.no_grad()
def test_kept_channels_are_those_of_the_original_and_the_file_keeps_them(options, tmp_path):
    setting = IntegerWeights(rgb_first=None, **options)
    original, images, widths = chosen(setting=setting, **SALIENT, share=0.05, bits=32)
    with torch.enable_grad():
        made = quantize_network(
            original, images, bits=4, weights=setting, widths=widths, calibration=images
        )
    folded, _ = fold_batch_norm(original, images)
    kept = 0
    for name, layer in quantizable(folded).items():
        same = torch.tensor(widths[name]) == 32
        kept += int(same.sum())
        made_weight = made.network.get_submodule(name).weight
        assert torch.equal(made_weight[same], layer.weight[same])
        assert (made_weight[~same] != layer.weight[~same]).flatten(1).any(1).all()
        if same.any():
            told = made.notes["left_out"][name]
            assert told.startswith(f"{int(same.sum())} of {len(same)} channels")
    assert kept == 4  # a twentieth of 8 + 16 + 16 + 32 + 5 channels
    save(tmp_path / "a", made)
    loaded = load(tmp_path / "a", network("vgg_bn")[0])
    assert torch.equal(loaded(images), made.network(images))
    assert {name: weight.bits for name, weight in read(tmp_path / "a")[0].items()} == widths


@pytest.mark.parametrize("parts", [{}, SALIENT, {**SALIENT, "share": 0.05, "bits": 32}], ids=str)
def test_the_control_has_the_same_size_and_other_channels(parts, tmp_path):
    sizes = []
    original, images, widths = chosen(**parts)
    _, _, control = chosen(**parts, shuffle=True)
    for each in (widths, control):
        made = quantize_network(original, images, bits=4, weights=IntegerWeights(), widths=each)
        save(tmp_path / "a", made)
        sizes.append((tmp_path / "a").stat().st_size)
    assert sizes[0] == sizes[1]
    assert control != widths
    assert all(sorted(control[name]) == sorted(widths[name]) for name in widths)
    uniform = 4 * sum(layer.weight.numel() for layer in quantizable(original).values())
    assert 0.95 * uniform < spent(original, widths) <= uniform


def test_the_most_important_channels_are_the_wide_ones():
    original, images, widths = chosen(**SALIENT)
    folded, _ = fold_batch_norm(original, images)
    layers = quantizable(folded)
    problem = Allocation(folded, layers, images, LABELS, GROUPS, 4, IntegerWeights(), seed=0)
    table = importance(problem, kind=Taylor(), unit=ChannelUnit()).mean(1)
    flat = torch.tensor([bits for name in layers for bits in widths[name]])
    assert table[flat == 8].min() > table[flat < 8].max()
    assert int((flat == 8).sum()) == round(0.1 * len(flat))
    whole = importance(problem, kind=Taylor(), unit=LayerUnit())
    first = len(layers["0"].weight)
    torch.testing.assert_close(table[:first].mean(), whole[0].mean())


def test_a_width_of_two_leaves_nothing_to_pay_with():
    _, _, widths = chosen(uniform=2, **SALIENT)
    assert {bits for name in widths for bits in widths[name]} == {2}


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=15), st.integers(2, 8),
    st.sampled_from([2, 5, 8, 32]), st.floats(0.01, 0.99), st.integers(0, 99),
)  # fmt: skip
def test_what_is_kept_is_paid_for_in_equal_parts(sizes, bits, width, share, seed):
    scores = torch.rand(len(sizes), generator=torch.Generator().manual_seed(seed))
    widths = keep_most_important(scores, sizes, share=share, width=width, bits=bits)
    room = bits * sum(sizes) - sum(n * b for n, b in zip(sizes, widths, strict=True))
    order = scores.argsort().tolist()
    rising = [widths[unit] for unit in order]
    assert rising == sorted(rising)
    assert min(widths) >= 2
    assert 0 <= room <= max(sizes)
    others = [b for b in widths if b < max(width, bits)]
    assert not others or max(others) - min(others) <= 1 or width <= bits


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"policy": {"kind": "hawq", "unit": "channel"}}, "unit"),
        ({"policy": {"kind": "importance", "unit": {"kind": "layer", "share": 0.1}}}, "share"),
        (
            {"policy": {"kind": "importance", "unit": "channel"}, "training": "qat"},
            "QAT gives all channels of a layer one width",
        ),
        (
            {"weights": {"quantize_biases": True}, "training": "qat"},
            "weights.quantize_biases acts with training: none alone",
        ),
        (
            {"weights": {"quantize_norms": True, "format": "float16"}},
            "quantize_norms",
        ),
    ],
    ids=str,
)
def test_parts_that_cannot_act_are_refused(parts, message):
    with pytest.raises(ValidationError, match=message):
        Method.model_validate(parts)
