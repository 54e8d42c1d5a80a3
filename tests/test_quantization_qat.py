"""LSQ: gradients against the definition, dampening, conversion, training."""

import copy

import pytest
import torch
from quantization_networks import SMALL, network
from torch import nn

from quantskew.quantization.packing import load, save
from quantskew.quantization.ptq import quantize_weight
from quantskew.quantization.qat import (
    LearnedScale,
    convert,
    damp,
    prepare,
    quantizers,
    scale_parameters,
)
from quantskew.quantization.starts import ScaleStart
from quantskew.quantization.weights import IntegerWeights


def lsq(weight, scale, low, high, gradient_scale):
    """The pseudo-code of Esser et al., by straight-through tricks and plain autograd."""
    scale = scale * gradient_scale + (scale - scale * gradient_scale).detach()
    steps = (weight / scale).clamp(low, high)
    rounded = steps + (steps.round() - steps).detach()
    return rounded * scale


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gradients_are_those_of_the_definition(bits, per_channel, memory_format):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, 3, 3, generator=generator).to(memory_format=memory_format)
    upstream = torch.randn(6, 5, 3, 3, generator=generator)
    quantizer = LearnedScale(weight, bits, per_channel=per_channel)
    weight.requires_grad_()
    quantizer(weight).backward(upstream)

    other, scale = weight.detach().clone().requires_grad_(), quantizer.scale.detach().clone()
    scale.requires_grad_()
    high = 2 ** (bits - 1) - 1
    count = weight.numel() / scale.numel()
    lsq(other, scale, -high - 1, high, (count * high) ** -0.5).backward(upstream)
    torch.testing.assert_close(weight.grad, other.grad)
    torch.testing.assert_close(quantizer.scale.grad, scale.grad, rtol=1e-4, atol=1e-5)


def test_golden_gradient_of_the_scale():
    quantizer = LearnedScale(torch.ones(4), 3)
    quantizer.scale.data.fill_(0.5)
    weight = torch.tensor([0.6, -0.2, 9.0, -9.0], requires_grad=True)  # 1.2, −0.4, above, below
    quantizer(weight).sum().backward()
    assert quantizer(weight).tolist() == [0.5, 0.0, 1.5, -2.0]
    assert weight.grad.tolist() == [1, 1, 0, 0]
    by_hand = (-1.2 + 1) + (0.4 - 0) + 3 - 4
    assert quantizer.scale.grad.item() == pytest.approx(by_hand / (4 * 3) ** 0.5, rel=1e-5)


def test_scale_starts_at_twice_the_mean_over_the_root():
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    assert LearnedScale(weight, 4).scale.item() == pytest.approx(
        2 * weight.abs().mean().item() / 7**0.5
    )
    assert LearnedScale(weight, 4, per_channel=True).scale.shape == (4, 1)
    assert LearnedScale(torch.zeros(3), 4).scale > 0


@pytest.mark.parametrize("per_channel", [False, True])
def test_scale_may_start_at_the_least_squared_error(per_channel):
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    errors = {
        start: (q(weight) - weight).square().sum().item()
        for start in ("lsq", "mse")
        for q in [LearnedScale(weight, 3, per_channel=per_channel, start=ScaleStart.kinds[start]())]
    }
    assert errors["mse"] < errors["lsq"]
    setting = IntegerWeights(
        range="mse", scheme="symmetric", granularity="channel" if per_channel else "tensor"
    )
    best = quantize_weight(weight, bits=3, weights=setting).dequantize()
    assert errors["mse"] == pytest.approx((best - weight).square().sum().item(), rel=1e-5)


def test_scale_is_kept_above_zero():
    quantizer = LearnedScale(torch.ones(4), 4)
    quantizer.scale.data.fill_(-1.0)
    assert quantizer.grid() > 0
    assert quantizer(torch.ones(4)).isfinite().all()


def test_dampening_is_the_definition_and_its_gradient():
    made, images = network("vgg_bn")
    made = prepare(made, images, bits=2, weights=IntegerWeights(granularity="channel"))
    loss = damp(made)
    loss.backward()
    expected = 0.0
    for weight, quantizer in quantizers(made).values():
        w, s = weight.detach().clone().requires_grad_(), quantizer.scale.detach()
        nearest = lsq(w, s, quantizer.low, quantizer.high, 1).detach()
        clipped = torch.clamp(w, s * quantizer.low, s * quantizer.high)
        each = (nearest - clipped).square().flatten(1).mean(1).sum()
        each.backward()
        expected += each.item()
        torch.testing.assert_close(weight.grad, w.grad)
        assert quantizer.scale.grad is None
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_conversion_is_exactly_what_was_trained(name, tmp_path):
    original, images = network(name)
    trained = prepare(original, images, bits=3, weights=IntegerWeights(first_last=8))
    for scale in scale_parameters(trained):
        scale.mul_(1.1)
    made = convert(trained)
    logits = trained.eval()(images)
    assert torch.equal(made.network(images), logits)
    assert torch.equal(trained(images), logits)
    assert list(dict(made.network.named_modules())) == list(dict(original.named_modules()))
    save(tmp_path / "a", made)
    assert torch.equal(load(tmp_path / "a", network(name)[0])(images), logits)
    widths = [weight.bits for weight in made.weights.values()]
    assert widths.count(8) == 2
    assert set(widths) == {3, 8}


def test_preparing_does_not_change_the_network_and_copies_are_apart():
    original, images = network("resnet18")
    before = copy.deepcopy(original.state_dict())
    trained = prepare(original.train(), images, bits=4, weights=IntegerWeights())
    other = copy.deepcopy(trained)
    for parameter in other.parameters():
        parameter.data.add_(1)
    convert(other)
    assert trained.training
    assert quantizers(trained).keys() == quantizers(other).keys()
    assert all(torch.equal(before[key], value) for key, value in original.state_dict().items())
    assert all(torch.equal(w, before[f"{n}.weight"]) for n, (w, _) in quantizers(trained).items())


def test_a_shared_weight_is_quantized_wherever_it_is_used():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False))
    net[2].weight = net[0].weight
    images = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    trained = prepare(net, images, bits=2, weights=IntegerWeights())
    ((weight, quantizer),) = quantizers(trained).values()
    by_hand = quantizer(weight)
    expected = (images @ by_hand.T).relu() @ by_hand.T
    torch.testing.assert_close(trained(images), expected)
    expected.square().sum().backward()
    gradient, weight.grad = weight.grad, None
    trained(images).square().sum().backward()
    torch.testing.assert_close(weight.grad, gradient)
    made = convert(trained).network
    assert made[2].weight is made[0].weight
    torch.testing.assert_close(made(images), expected)


def test_two_bits_can_be_trained():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    images = torch.randn(256, 1, 8, 8, generator=generator)
    labels = (images[:, 0, 2:6, 2:6].mean((1, 2)) > 0).long()
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
    trained = prepare(net, images, bits=2, weights=IntegerWeights())
    start = nn.functional.cross_entropy(trained(images), labels).item()
    optimizer = torch.optim.Adam(trained.parameters(), 5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(trained(images), labels) + 0.01 * damp(trained)
        loss.backward()
        optimizer.step()
    made = convert(trained)
    assert nn.functional.cross_entropy(made.network(images), labels).item() < 0.5 * start
    assert {weight.codes.unique().numel() for weight in made.weights.values()} <= {3, 4}
