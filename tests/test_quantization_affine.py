"""The affine grid against torch's own fake quantization and against Banner's definition."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantskew.quantization.affine import (
    code_range,
    dequantize,
    fake_quantize,
    quantize,
    scale_and_zero_point,
)

BITS = range(2, 9)
SCHEMES = ("asymmetric", "symmetric", "symmetric_narrow")
REALS = st.floats(-100, 100, width=32, allow_subnormal=False)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", BITS)
def test_per_tensor_equals_torch_bit_by_bit(bits, scheme):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(bits)) * 3
    low, high = code_range(bits, scheme)
    scale, zero = scale_and_zero_point(x.min() * 0.7, x.max() * 0.7, bits, scheme)
    ours = dequantize(quantize(x, scale, zero, low, high), scale, zero)
    theirs = torch.fake_quantize_per_tensor_affine(x, scale.item(), zero.item(), low, high)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", BITS)
def test_per_channel_equals_torch_bit_by_bit(bits, scheme):
    x = torch.randn(7, 5, 3, 3, generator=torch.Generator().manual_seed(bits))
    low, high = code_range(bits, scheme)
    ends = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    scale, zero = scale_and_zero_point(*ends, bits, scheme)
    ours = dequantize(quantize(x, scale, zero, low, high), scale, zero)
    theirs = torch.fake_quantize_per_channel_affine(
        x, scale.flatten(), zero.flatten(), 0, low, high
    )
    assert torch.equal(ours, theirs)


def banner(values, bits):
    """The definition, one number at a time in float64."""
    low, high = min(values), max(values)
    scale = (high - low) / (2**bits - 1)
    zero = round(-low / scale)
    codes = [round(min(max(v / scale + zero, 0), 2**bits - 1)) for v in values]
    return [(code - zero) * scale for code in codes]


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_min_max_is_banners_definition(bits):
    x = torch.randn(500, generator=torch.Generator().manual_seed(1))
    grid = scale_and_zero_point(x.min(), x.max(), bits, "asymmetric")
    ours = dequantize(quantize(x, *grid, *code_range(bits, "asymmetric")), *grid)
    torch.testing.assert_close(ours.double(), torch.tensor(banner(x.tolist(), bits)).double())


@given(st.lists(REALS, min_size=1, max_size=30), st.sampled_from(BITS), st.sampled_from(SCHEMES))
def test_error_is_at_most_half_a_step_inside_the_range(values, bits, scheme):
    x = torch.tensor(values)
    grid = scale_and_zero_point(x.min(), x.max(), bits, scheme)
    low, high = code_range(bits, scheme)
    codes = quantize(x, *grid, low, high)
    assert codes.min() >= low
    assert codes.max() <= high
    # an asymmetric grid moves by up to half a step to put zero on a code
    steps = 1 if scheme == "asymmetric" else 0.5
    slack = 1e-5 * x.abs().max()
    assert ((dequantize(codes, *grid) - x).abs() <= steps * grid[0] * 1.001 + slack).all()


@given(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), st.sampled_from(BITS))
def test_degenerate_asymmetric_range_leaves_the_tensor_unchanged(value, bits):
    x = torch.full((3,), value)
    if abs(value) < 2.0**-100:  # below what a scale can resolve
        x.zero_()
    grid = scale_and_zero_point(x.min(), x.max(), bits, "asymmetric")
    assert torch.equal(dequantize(quantize(x, *grid, *code_range(bits, "asymmetric")), *grid), x)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_stay_zeros(scheme):
    x = torch.zeros(4)
    scale, zero = scale_and_zero_point(x.min(), x.max(), 4, scheme)
    assert scale > 0
    assert math.isfinite(1 / scale)
    assert torch.equal(dequantize(quantize(x, scale, zero, *code_range(4, scheme)), scale, zero), x)


def test_symmetric_scales():
    low, high = torch.tensor([-1.0, -4.0]), torch.tensor([3.5, 1.0])
    full, _ = scale_and_zero_point(low, high, 4, "symmetric")
    narrow, _ = scale_and_zero_point(low, high, 4, "symmetric_narrow")
    assert full.tolist() == [0.5, 0.5]
    assert narrow.tolist() == pytest.approx([0.5, 4 / 7])


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_width_out_of_range_is_refused(bits):
    with pytest.raises(ValueError, match=f"bits is {bits}"):
        code_range(bits, "symmetric")


def test_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="'log'"):
        code_range(4, "log")


@given(st.lists(REALS, min_size=1, max_size=30), st.sampled_from(BITS), st.sampled_from(SCHEMES))
def test_fake_quantization_is_both_steps_in_one(values, bits, scheme):
    x = torch.tensor(values)
    grid = scale_and_zero_point(x.min() * 0.8, x.max() * 0.8, bits, scheme)
    codes = quantize(x, *grid, *code_range(bits, scheme))
    assert torch.equal(fake_quantize(x, *grid, *code_range(bits, scheme)), dequantize(codes, *grid))


@pytest.mark.parametrize("bits", BITS)
def test_brevitas_agrees_at_its_scale(bits):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = pytest.importorskip("brevitas.nn")
        layer = layers.QuantConv2d(5, 6, 3, weight_bit_width=bits)
        theirs = layer.quant_weight()
    zero = torch.zeros((), dtype=torch.int32)
    limits = code_range(bits, "symmetric_narrow")
    made = fake_quantize(layer.weight.detach(), theirs.scale.detach(), zero, *limits)
    assert torch.equal(made, theirs.value.detach())
