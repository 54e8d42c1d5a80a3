"""Freezing of oscillating weights, one step at a time."""

import pytest
import torch
from torch import nn

from quantskew.params import Weights
from quantskew.quantization.freezing import Freezer
from quantskew.quantization.qat import prepare, quantizers


def linear():
    net = nn.Sequential(nn.Linear(3, 1))
    trained = prepare(net, torch.randn(1, 3), bits=3, weights=Weights())
    ((weight, quantizer),) = quantizers(trained).values()
    quantizer.scale.data.fill_(1.0)
    weight.data = torch.zeros(1, 3)
    return trained, weight


def test_only_what_flips_back_and_forth_is_frozen():
    trained, weight = linear()
    freezer = Freezer(trained, momentum=0.5)
    # 0 → 1 → 0 → 1: two reversals; 0 → 1 → 2 → 3: none; still
    for step, values in enumerate([(0.9, 0.9, 0.1), (0.1, 1.9, 0.1), (0.9, 2.9, 0.1)]):
        weight.data = torch.tensor([values])
        freezer.step(threshold=0.6)
        assert freezer.frozen() == pytest.approx(1 / 3 if step == 2 else 0)
    # the average of its codes is 0.5·1 + 0.25·0 + 0.125·1 = 0.625
    assert weight.tolist() == [[1.0, pytest.approx(2.9), pytest.approx(0.1)]]
    weight.data = torch.tensor([[-3.0, -3.0, -3.0]])
    freezer.step(threshold=0.6)
    assert weight.tolist() == [[1.0, -3.0, -3.0]]


def test_frozen_weights_follow_the_scale():
    trained, weight = linear()
    freezer = Freezer(trained, momentum=1.0)
    for value in (0.9, 0.1):
        weight.data.fill_(value)
        freezer.step(threshold=0.5)
    weight.data.fill_(0.9)
    ((_, quantizer),) = quantizers(trained).values()
    freezer.step(threshold=0.5)
    quantizer.scale.data.fill_(2.0)
    freezer.step(threshold=0.5)
    assert freezer.frozen() == 1
    assert torch.equal(quantizer(weight), weight)
