"""AdaRound and GPTQ against nearest rounding and a naive second derivation."""

import pytest
import torch
from torch import nn

from quantskew.errors import UserError
from quantskew.quantization.affine import code_range, dequantize, quantize
from quantskew.quantization.ptq import quantize_weight
from quantskew.quantization.rounding import AdaRound, Gptq, Seen, second_moment
from quantskew.quantization.weighting import WorstGroup
from quantskew.quantization.weights import IntegerWeights

LAYERS = {
    "linear": lambda: (nn.Linear(12, 7), (96, 12)),
    "tokens": lambda: (nn.Linear(12, 7), (48, 5, 12)),
    "conv": lambda: (nn.Conv2d(5, 6, 3, stride=2, padding=1), (48, 5, 8, 8)),
    "grouped": lambda: (nn.Conv2d(6, 8, 3, groups=2, dilation=2), (48, 6, 8, 8)),
    "depthwise": lambda: (nn.Conv2d(6, 6, 3, padding="same", groups=6), (48, 6, 8, 8)),
}


def case(name, bits=3, granularity="tensor"):
    torch.manual_seed(0)
    layer, shape = LAYERS[name]()
    inputs = torch.randn(shape)
    mixing = torch.randn(shape[1], shape[1]) if len(shape) != 3 else torch.eye(5)
    inputs = torch.einsum("nc...,cd->nd...", inputs, mixing).relu()  # correlated, as in a network
    nearest = quantize_weight(
        layer.weight, bits=bits, weights=IntegerWeights(granularity=granularity, range="mse")
    )
    return layer, inputs, nearest


def seen(inputs, targets=None):
    return Seen(inputs, targets, torch.Generator().manual_seed(0))


@torch.no_grad()
def output_error(layer, weight, inputs):
    made = torch.func.functional_call(layer, {"weight": weight.dequantize()}, (inputs,))
    return (made - layer(inputs)).square().mean().item()


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("name", LAYERS)
def test_gptq_beats_nearest_on_the_same_grid(name, granularity):
    layer, inputs, nearest = case(name, granularity=granularity)
    made = Gptq()(layer, nearest, seen(inputs))
    assert output_error(layer, made, inputs) < output_error(layer, nearest, inputs)
    low, high = code_range(made.bits, made.scheme)
    assert low <= made.codes.min()
    assert made.codes.max() <= high
    assert torch.equal(made.scale, nearest.scale)


@pytest.mark.parametrize("name", LAYERS)
def test_adaround_beats_nearest_on_the_same_grid(name):
    layer, inputs, nearest = case(name)
    before = layer.weight.detach().clone()
    made = AdaRound(steps=300)(layer, nearest, seen(inputs, layer(inputs).detach()))
    assert output_error(layer, made, inputs) < output_error(layer, nearest, inputs)
    # down or up, never further
    exact = layer.weight / made.scale + made.zero_point
    low, high = code_range(made.bits, made.scheme)
    assert ((made.codes - exact.clamp(low, high)).abs() < 1.001).all()
    assert torch.equal(layer.weight, before)


def test_second_moment_is_that_of_the_patches():
    layer, inputs, _ = case("grouped")
    moment = second_moment(layer, inputs)
    total, count = torch.zeros(2, 27, 27, dtype=torch.double), 0
    for image in inputs:
        for row in range(4):
            for column in range(4):
                patch = image[:, row : row + 5 : 2, column : column + 5 : 2].reshape(2, 27).double()
                total += patch[:, :, None] * patch[:, None]
                count += 1
    torch.testing.assert_close(moment, total / count, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
@torch.no_grad()
def test_second_moment_pads_as_the_layer_does(mode):
    layer = nn.Conv2d(1, 5, 3, padding=1, padding_mode=mode, bias=False)
    inputs = torch.rand(6, 1, 7, 7) + 1
    moment = second_moment(layer, inputs)[0].float()
    rows = layer.weight.flatten(1)
    expected = torch.einsum("om,mn,on->o", rows, moment, rows)
    torch.testing.assert_close(layer(inputs).square().mean((0, 2, 3)), expected)


def test_gptq_is_the_update_by_the_inverse_hessian():
    """The original formulation: after each column, remove it from the inverse (OBQ)."""
    layer, inputs, nearest = case("linear", granularity="channel")
    moment = second_moment(layer, inputs)[0]
    moment += 0.01 * moment.diagonal().mean() * torch.eye(12)
    weight = layer.weight.detach().double().clone()
    inverse = moment.inverse()
    codes = torch.empty(7, 12, dtype=torch.int16)
    for i in range(12):
        column = weight[:, i : i + 1]
        codes[:, i : i + 1] = quantize(column, nearest.scale, nearest.zero_point, 0, 7)
        kept = dequantize(codes[:, i : i + 1], nearest.scale, nearest.zero_point)
        error = (column - kept) / inverse[i, i]
        weight -= error * inverse[i]
        inverse -= torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    assert torch.equal(Gptq()(layer, nearest, seen(inputs)).codes, codes)


def test_gptq_survives_dead_inputs():
    layer, inputs, nearest = case("linear")
    made = Gptq()(layer, nearest, seen(torch.zeros_like(inputs)))
    assert torch.equal(made.codes, nearest.codes)
    inputs[:, 3] = 0
    assert Gptq()(layer, nearest, seen(inputs)).dequantize().isfinite().all()


def unlike_groups(seed=0):
    """Few images look along other directions than the many, in the same inputs."""
    torch.manual_seed(seed)
    layer = nn.Linear(16, 12)
    groups = torch.arange(160) % 16 // 15  # a sixteenth of them are of the second group
    many, few = torch.randn(16, 6), torch.randn(16, 6)
    inputs = torch.randn(160, 6)
    inputs = torch.where(groups[:, None] == 0, inputs @ many.T, inputs @ few.T)
    inputs += 0.1 * torch.randn(160, 16)
    nearest = quantize_weight(layer.weight, bits=2, weights=IntegerWeights(range="mse"))
    return layer, inputs, groups, nearest


def group_errors(layer, weight, inputs, groups):
    return [output_error(layer, weight, inputs[groups == g]) for g in (0, 1)]


@pytest.mark.parametrize("kind", ["balanced", "worst_group"])
@pytest.mark.parametrize("rounding", [Gptq, AdaRound])
def test_weighting_by_group_lowers_the_error_of_the_worst_against_groups_dealt_at_random(
    rounding, kind
):
    worst = {"weighted": [], "control": [], "even": []}
    for seed in range(6):
        layer, inputs, groups, nearest = unlike_groups(seed)
        targets = layer(inputs).detach()
        options = {} if rounding is Gptq else {"steps": 150}
        for name, weighting in (
            ("weighted", {"kind": kind}), ("control", {"kind": kind, "shuffle": True}),
            ("even", {"kind": "even"}),
        ):  # fmt: skip
            made = rounding(weighting=weighting, **options)(
                layer, nearest,
                Seen(inputs, targets, torch.Generator().manual_seed(seed), groups),
            )  # fmt: skip
            worst[name].append(max(group_errors(layer, made, inputs, groups)))
    means = {name: sum(values) / len(values) for name, values in worst.items()}
    assert means["weighted"] < 0.85 * means["control"]
    assert means["weighted"] < 0.85 * means["even"]


def test_the_weight_of_a_group_follows_its_error():
    weighting = WorstGroup(step=0.5)
    groups = torch.tensor([0, 0, 0, 2, -1])
    shares = weighting.shares(groups, 5, torch.Generator())
    assert shares.of_groups.tolist() == [0.5, 0.5]
    torch.testing.assert_close(shares.of_images, torch.tensor([5 / 6] * 3 + [2.5, 0.0]))
    weighting.update(shares, torch.tensor([1.0, 2.0, 3.0, 6.0, 100.0]))
    raw = torch.tensor([0.5, 1.5]).mul(0.5).exp()
    torch.testing.assert_close(shares.of_groups, raw / raw.sum())


def test_weights_that_are_alike_change_no_code():
    layer, inputs, _, nearest = unlike_groups()
    same = torch.zeros(160, dtype=torch.long)
    for weighting in ("balanced", "worst_group"):
        given = Seen(inputs, None, torch.Generator().manual_seed(0), same)
        made = Gptq(weighting=weighting)(layer, nearest, given)
        assert torch.equal(made.codes, Gptq()(layer, nearest, seen(inputs)).codes)


def test_inputs_of_unknown_groups_are_refused():
    layer, inputs, groups, nearest = unlike_groups()
    for known in (None, groups[:100]):
        with pytest.raises(UserError, match="gets 160 inputs"):
            Gptq(weighting="balanced")(layer, nearest, Seen(inputs, None, torch.Generator(), known))


def test_channels_that_are_kept_make_no_error_for_the_weights_of_groups(monkeypatch):
    torch.manual_seed(0)
    layer, inputs = nn.Linear(8, 3), torch.randn(40, 8)
    found = []
    monkeypatch.setattr(WorstGroup, "update", lambda _self, _shares, errors: found.append(errors))
    nearest = quantize_weight(layer.weight, bits=(4, 4, 32), weights=IntegerWeights())
    given = Seen(
        inputs, layer(inputs).detach(), torch.Generator().manual_seed(0), torch.arange(40) % 2
    )
    AdaRound(steps=1, weighting="worst_group")(layer, nearest, given)
    # the soft choices begin at the float weights
    assert found[0].max() < 1e-3
