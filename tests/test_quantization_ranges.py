"""Clipping ranges: min–max by hand, MSE against a search of its own."""

import pytest
import torch

from quantskew.quantization.affine import code_range, dequantize, quantize, scale_and_zero_point
from quantskew.quantization.ranges import MinMax, Mse, Percentile, WeightRange


def error(weight, ends, bits, scheme):
    grid = scale_and_zero_point(*ends, bits, scheme)
    codes = quantize(weight, *grid, *code_range(bits, scheme))
    return (dequantize(codes, *grid) - weight).square().flatten(1).sum(1)


@pytest.fixture
def weight():
    made = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    made[2] *= 10
    made[3] = 0
    return made


def test_min_max_spans_the_tensor_or_each_channel(weight):
    options = {"bits": 4, "scheme": "asymmetric"}
    low, high = MinMax().ends(weight, per_channel=False, **options)
    assert (low.item(), high.item()) == (weight.min().item(), weight.max().item())
    low, high = MinMax().ends(weight, per_channel=True, **options)
    assert low.shape == (6, 1, 1, 1)
    assert low.flatten().tolist() == [w.min().item() for w in weight]
    assert high.flatten().tolist() == [w.max().item() for w in weight]


@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric", "symmetric_narrow"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_is_never_worse_than_min_max(weight, bits, scheme):
    options = {"bits": bits, "scheme": scheme}
    for per_channel in (True, False):
        best, plain = (
            error(weight, m.ends(weight, per_channel=per_channel, **options), bits, scheme)
            for m in (Mse(), MinMax())
        )  # fmt: skip
        if per_channel:
            assert (best <= plain).all()
        assert best.sum() <= plain.sum() * (1 + 1e-6)
    assert best.sum() < plain.sum() or bits == 8


def test_mse_finds_the_best_of_a_hundred_candidates(weight):
    channel = weight[:1]
    low, high = Mse().ends(channel, bits=3, scheme="symmetric", per_channel=True)
    ends = channel.min(), channel.max()
    errors = [error(channel, [e * k / 100 for e in ends], 3, "symmetric") for k in range(1, 101)]
    found = error(channel, (low, high), 3, "symmetric")
    torch.testing.assert_close(found, torch.stack(errors).min(0).values)


def test_percentile_is_that_of_the_weights(weight):
    channel = weight[:1]
    low, high = Percentile(percentile=90).ends(
        weight,
        bits=4,
        scheme="asymmetric",
        per_channel=True,
    )
    assert low[0].item() == pytest.approx(channel.quantile(0.05, interpolation="nearest").item())
    assert high[0].item() == pytest.approx(channel.quantile(0.95, interpolation="nearest").item())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("method", ["aciq_gauss", "aciq_laplace"])
def test_aciq_is_close_to_the_best_range_for_its_distribution(method, bits):
    torch.manual_seed(0)
    normal = torch.distributions.Normal(0.3, 2.0)
    laplace = torch.distributions.Laplace(0.3, 2.0)
    sample = (normal if method == "aciq_gauss" else laplace).sample((1, 20000))
    options = {"bits": bits, "scheme": "asymmetric", "per_channel": False}
    found, best, plain = (
        error(sample, WeightRange.kinds[m]().ends(sample, **options), bits, "asymmetric").item()
        for m in (method, "mse", "minmax")
    )
    assert found < 1.15 * best
    assert found < plain
