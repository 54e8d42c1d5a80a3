"""Quantization of a network trained on real digits: what each method is for."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from quantskew.quantization.activations import StaticActivations
from quantskew.quantization.calibration import BalancedChoice
from quantskew.quantization.layers import fold_batch_norm, inputs_and_outputs, quantizable
from quantskew.quantization.ptq import quantize_network, quantize_weight
from quantskew.quantization.qat import (
    convert,
    prepare,
    reestimate_batch_norm,
    scale_parameters,
)
from quantskew.quantization.rounding import AdaRound, Gptq, Seen
from quantskew.quantization.weights import IntegerWeights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits():
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], torch.tensor(labels)[order]
    return (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def block(before, after, groups=1):
    conv = nn.Conv2d(before, after, 3, padding=1, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.ReLU()]


def train(net, data, groups, epochs):
    images, labels = data
    optimizer = torch.optim.AdamW(groups)
    generator = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(epochs):
        for picked in torch.randperm(len(images), generator=generator).split(64):
            optimizer.zero_grad()
            cross_entropy(net(images[picked]), labels[picked]).backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    layers = [*block(1, 16), *block(16, 16, 16), *block(16, 32), nn.MaxPool2d(2), *block(32, 32)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    return train(net, digits[0], [{"params": net.parameters(), "lr": 5e-3}], 6)


@torch.no_grad()
def accuracy(net, data):
    return (net(data[0]).argmax(1) == data[1]).float().mean().item()


@pytest.mark.parametrize("bits", [4, 3])
@torch.no_grad()
def test_adaround_and_gptq_leave_less_output_error_in_every_layer(digits, trained, bits):
    images = digits[0][0][BalancedChoice().choose(digits[0][1], samples=256, seed=0)]
    folded, _ = fold_batch_norm(trained, images)
    setting = IntegerWeights(granularity="channel", range="mse")
    generator = torch.Generator().manual_seed(0)
    for name, layer in quantizable(folded).items():
        inputs, targets = inputs_and_outputs(folded, name, images)
        nearest = quantize_weight(layer.weight, bits=bits, weights=setting)
        with torch.enable_grad():
            learned = AdaRound(steps=300)(layer, nearest, Seen(inputs, targets, generator))
        errors = []
        for weight in (nearest, Gptq()(layer, nearest, Seen(inputs, targets, generator)), learned):
            made = torch.func.functional_call(layer, {"weight": weight.dequantize()}, (inputs,))
            errors.append((made - targets).square().mean().item())
        assert max(errors[1:]) < errors[0], name


def test_lsq_keeps_four_bits_and_saves_two(digits, trained):
    plain = accuracy(trained, digits[1])
    assert plain > 0.95
    setting = IntegerWeights()
    found = {}
    for bits in (4, 2):
        net = prepare(trained, digits[0][0][:8], bits=bits, weights=setting)
        scales = scale_parameters(net)
        rest = [p for p in net.parameters() if all(p is not scale for scale in scales)]
        groups = [
            {"params": rest, "lr": 2e-3},
            {"params": scales, "lr": 1e-3, "weight_decay": 0.0},
        ]
        train(net, digits[0], groups, 4)
        reestimate_batch_norm(net, digits[0][0])
        found[bits] = accuracy(convert(net).network, digits[1])
    rounded = quantize_network(trained, digits[0][0][:8], bits=2, weights=setting)
    assert found[4] > plain - 0.01
    assert found[2] > accuracy(rounded.network, digits[1]) + 0.3


def test_better_calibration_and_equalization_help(digits, trained):
    images = digits[0][0][:256]
    # uneven channels, as depthwise networks have them: the function stays the same
    uneven = copy.deepcopy(trained)
    factors = torch.logspace(-1.5, 1.5, 16)
    with torch.no_grad():
        uneven[1].weight.mul_(factors)
        uneven[1].bias.mul_(factors)
        uneven[3].weight.div_(factors.view(-1, 1, 1, 1))
    assert accuracy(uneven, digits[1]) == pytest.approx(accuracy(trained, digits[1]), abs=0.01)

    def logits_error(**parts):
        made = quantize_network(uneven, images[:2], bits=4, calibration=images, **parts)
        with torch.no_grad():
            return (made.network(digits[1][0]) - trained(digits[1][0])).square().mean().item()

    plain = logits_error(weights=IntegerWeights())
    assert logits_error(weights=IntegerWeights(equalize=True)) < 0.5 * plain
    setting = IntegerWeights(equalize=True)
    coarse = logits_error(weights=setting, activations=StaticActivations(bits=4))
    finer = logits_error(weights=setting, activations=StaticActivations(bits=4, range="mse"))
    assert finer < coarse
