"""LSQ+ activations: gradients against autograd, conversion, training."""

import copy

import pytest
import torch
from quantization_networks import SMALL, network

from quantskew.quantization.activations import DynamicActivations, StaticActivations
from quantskew.quantization.learned_activations import LearnedGrid, learned_grids
from quantskew.quantization.packing import load, save
from quantskew.quantization.qat import (
    convert,
    prepare,
    reestimate_batch_norm,
    scale_parameters,
)
from quantskew.quantization.weights import IntegerWeights


def ste(x, value):
    return x + (value - x).detach()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradients_are_those_of_lsq_plus(bits):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 50, generator=generator).double().mul_(2).requires_grad_()
    upstream = torch.randn(4, 50, generator=generator).double()
    high = 2**bits - 1
    grid = LearnedGrid(torch.tensor(3.0 / high).double(), torch.tensor(high // 3), bits).double()
    (made,) = grid(None, (x,))
    made.backward(upstream)

    other = x.detach().clone().requires_grad_()
    scale, offset = (p.detach().clone().requires_grad_() for p in grid.parameters())
    steps = ((other - offset) / scale).clamp(0, high)
    expected = ste(steps, steps.round()) * scale + offset
    torch.testing.assert_close(made, expected)
    expected.backward(upstream)
    torch.testing.assert_close(x.grad, other.grad)
    size = (high * 50) ** -0.5
    torch.testing.assert_close(grid.scale.grad, scale.grad * size)
    torch.testing.assert_close(grid.offset.grad, offset.grad * size)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_conversion_is_exactly_what_was_trained(name, tmp_path):
    original, images = network(name)
    trained = prepare(
        original,
        images,
        bits=4,
        weights=IntegerWeights(),
        activations=StaticActivations(bits=5),
        calibration=images,
    ).eval()
    for parameter in scale_parameters(trained):
        parameter.mul_(1.1)
    before = trained(images)
    made = convert(trained)
    assert torch.equal(trained(images), before)
    assert torch.equal(made.network(images), before)
    assert list(made.network.state_dict()) != list(trained.state_dict())
    save(tmp_path / "a", made)
    assert torch.equal(load(tmp_path / "a", network(name)[0])(images), before)


def test_scales_and_offsets_are_trained():
    original, images = network("vgg")
    trained = prepare(
        original,
        images,
        bits=4,
        weights=IntegerWeights(),
        activations=StaticActivations(bits=3),
        calibration=images,
    )
    trained(images).square().sum().backward()
    parameters = scale_parameters(trained)
    assert len(parameters) == 15
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
    apart = copy.deepcopy(trained)
    apart.network[0].input_quantizer.scale.data.mul_(50)
    assert not torch.equal(apart(images), trained(images))


def learned_scales(images, groups=None, **how):
    original, _ = network("vgg")
    settings = StaticActivations(bits=3, range={"kind": "mse", **how})
    given = {"activations": settings, "calibration": images, "groups": groups}
    trained = prepare(original, images, bits=4, weights=IntegerWeights(), **given)
    return torch.stack([grid.scale.detach() for grid in learned_grids(trained).values()])


def test_scales_may_start_where_the_worst_group_is_best_off():
    images = network("vgg")[1]
    images[0] *= 5
    groups = torch.tensor([0, 1, 1, 1])
    fair = learned_scales(images, groups, objective="worst_group")
    assert not torch.equal(fair, learned_scales(images, groups))


def test_a_layer_that_was_dead_in_calibration_can_still_be_trained():
    original, images = network("vgg")
    original[0].weight.data.zero_()
    original[0].bias.data.fill_(-1)
    given = {"activations": StaticActivations(), "calibration": images}
    trained = prepare(original, images, bits=4, weights=IntegerWeights(), **given)
    trained.network[0].bias.data.fill_(1)  # it wakes up
    trained(images).square().sum().backward()
    grid = learned_grids(trained)["network.3"]
    assert grid.scale.item() == pytest.approx(1 / 255)
    grid.scale.data.fill_(1e-38)
    trained(images).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in scale_parameters(trained))


def test_dynamic_activations_cannot_be_learned():
    original, images = network("vgg")
    with pytest.raises(ValueError, match="static"):
        prepare(
            original,
            images,
            bits=4,
            weights=IntegerWeights(),
            activations=DynamicActivations(),
        )


def test_batch_norms_are_reestimated():
    made, images = network("vgg_bn")
    outputs = made[0](images)
    # an image over would have a batch of its own
    reestimate_batch_norm(made, torch.cat([images, images[:1]]), batch_size=2)
    halves = torch.stack([half.transpose(0, 1).flatten(1).mean(1) for half in outputs.split(2)])
    torch.testing.assert_close(made[1].running_mean, halves.mean(0).detach())
    assert not made.training
