"""Freezing of oscillating weights, one step at a time."""

import pytest
import torch
from torch import nn

from quantskew.quantization.fitting import Freeze
from quantskew.quantization.freezing import Freezer
from quantskew.quantization.qat import prepare, quantizers
from quantskew.quantization.weights import IntegerWeights
from quantskew.training.loop import fit
from quantskew.training.training import Training


def linear():
    net = nn.Sequential(nn.Linear(3, 1))
    trained = prepare(net, torch.randn(1, 3), bits=3, weights=IntegerWeights())
    ((weight, quantizer),) = quantizers(trained).values()
    quantizer.scale.data.fill_(1.0)
    weight.data = torch.zeros(1, 3)
    return trained, weight


def frozen(freezer):
    (state,) = freezer.states
    return state.frozen_at.isfinite().tolist()


def test_only_what_flips_back_and_forth_is_frozen():
    trained, weight = linear()
    freezer = Freezer(trained, momentum=0.5)
    # 0 → 1 → 0 → 1: two reversals; 0 → 1 → 2 → 3: none; still
    for step, values in enumerate([(0.9, 0.9, 0.1), (0.1, 1.9, 0.1), (0.9, 2.9, 0.1)]):
        weight.data = torch.tensor([values])
        freezer.step(threshold=0.6)
        assert frozen(freezer) == [[step == 2, False, False]]
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
    assert frozen(freezer) == [[True] * 3]
    assert torch.equal(quantizer(weight), weight)


def test_an_interrupted_training_freezes_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr("quantskew.training.loop.CHECKPOINT_SECONDS", -1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 1, 4, 4), generator=generator).byte()
    labels = torch.randint(0, 3, (64,), generator=generator)
    freeze = Freeze(threshold=(0.0, 0.0))

    def run(stop=None, **options):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        trained = prepare(net, torch.randn(2, 1, 4, 4), bits=2, weights=IntegerWeights())
        parts = freeze(trained)

        def order(epoch):
            if epoch == stop:
                raise KeyboardInterrupt
            return torch.arange(64)

        settings = Training(epochs=6, batch_size=8, lr=0.03)
        fit(trained, images, labels, settings=settings, order=order, **parts, **options)
        return trained.state_dict(), parts["kept"].state_dict()

    whole = run()
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(stop=3, checkpoint=path)
    resumed = run(checkpoint=path)
    assert 0 < whole[1]["states.0.frozen_at"].isfinite().float().mean() < 1
    for first, second in zip(whole, resumed, strict=True):
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=0, atol=0, equal_nan=True)
