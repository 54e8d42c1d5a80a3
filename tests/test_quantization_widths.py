"""Precision policies: allocation against brute force, sensitivities against dense truth."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantization_networks import SMALL, network
from torch import nn

from quantskew.quantization import sensitivity
from quantskew.quantization.layers import quantizable
from quantskew.quantization.learned_widths import learn_widths
from quantskew.quantization.objectives import Mean, Objective, WorstGroup
from quantskew.quantization.policies import (
    Allocation,
    ByImportance,
    Hawq,
    Importance,
    LayerUnit,
    Learned,
    Measured,
    Reduction,
    Taylor,
    Uniform,
    allocate_bits,
)
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.qat import prepare, quantizers
from quantskew.quantization.sensitivity import (
    hawq,
    hessian_traces,
    importance,
    measured,
    rounded,
)
from quantskew.quantization.weights import IntegerWeights
from quantskew.quantization.widths import allocate, by_quantile, fit_to_size

CHOICES = (2, 4, 8)


def cost_of(picked, costs, objective):
    groups = sum(costs[layer, CHOICES.index(bits)] for layer, bits in enumerate(picked))
    return groups.sum().item() if objective == "mean" else groups.max().item()


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(["mean", "worst_group"]))
def test_allocation_equals_brute_force(seed, objective):
    generator = torch.Generator().manual_seed(seed)
    layers, groups = 5, 3
    costs = torch.rand(layers, len(CHOICES), groups, generator=generator) - 0.1
    sizes = torch.randint(1, 100, (layers,), generator=generator).tolist()
    capacity = 4 * sum(sizes)
    picked = allocate(costs, sizes, CHOICES, capacity, objective=Objective.kinds[objective]())
    assert sum(n * b for n, b in zip(sizes, picked, strict=True)) <= capacity
    best = min(
        cost_of(widths, costs, objective)
        for widths in itertools.product(CHOICES, repeat=layers)
        if sum(n * b for n, b in zip(sizes, widths, strict=True)) <= capacity
    )
    assert cost_of(picked, costs, objective) == pytest.approx(best, abs=1e-6)


def test_the_fair_allocation_protects_the_worst_group():
    # layer 0 matters to group 0 a little, layer 1 to group 1 a lot less often but more
    costs = torch.zeros(2, 3, 3)
    costs[0, :, 0], costs[0, :, 1] = torch.tensor([5.0, 1, 0]), torch.tensor([5.0, 1, 0])
    costs[1, :, 2] = torch.tensor([8.0, 1, 0])
    sizes, capacity = [10, 10], 100
    assert allocate(costs, sizes, CHOICES, capacity, objective=Mean()) == [4, 4]
    costs[1, :, 2] = torch.tensor([6.0, 5.9, 0])
    assert allocate(costs, sizes, CHOICES, capacity, objective=WorstGroup()) == [2, 8]
    assert allocate(costs, sizes, CHOICES, capacity, objective=Mean()) != [2, 8]


def test_a_size_that_cannot_be_reached_is_refused():
    with pytest.raises(ValueError, match="2 bits in every layer take 40 bits; there are 39"):
        allocate(torch.zeros(2, 3, 1), [10, 10], CHOICES, 39, objective=Mean())
    with pytest.raises(ValueError, match="take 40 bits"):
        fit_to_size(torch.zeros(2).int(), torch.rand(2), [10, 10], CHOICES, 39)


@pytest.mark.parametrize("objective", [Mean(), WorstGroup()])
def test_costs_that_are_not_finite_are_refused(objective):
    costs = torch.rand(2, 3, 2)
    costs[0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinite with a layer at one of the widths"):
        allocate(costs, [10, 10], CHOICES, 100, objective=objective)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(2, 8), st.integers(0, 99))
def test_quantile_widths_fill_the_size_and_follow_importance(sizes, bits, seed):
    scores = torch.rand(len(sizes), generator=torch.Generator().manual_seed(seed))
    capacity = bits * sum(sizes)
    widths = fit_to_size(by_quantile(scores, CHOICES), scores, sizes, CHOICES, capacity)
    used = sum(n * b for n, b in zip(sizes, widths, strict=True))
    assert used <= capacity
    if bits == 8:
        assert set(widths) == {8}
    for n, b in zip(sizes, widths, strict=True):  # none can be raised any more
        wider = [c for c in CHOICES if c > b]
        assert not wider or used + n * (wider[0] - b) > capacity


def test_quantiles_are_equal_shares():
    assert by_quantile(torch.tensor([5.0, 1, 3, 9, 7, 2]), CHOICES).tolist() == [1, 0, 1, 2, 2, 0]


def test_reductions():
    table = torch.tensor([[1.0, 3.0, 2.0, 0.0], [0.0, 1.0, 6.0, 1.0]])
    assert Reduction.kinds["max"]()(table).tolist() == [3, 6]
    assert Reduction.kinds["mean"]()(table).tolist() == [1.5, 2]
    assert Reduction.kinds["cvar"](share=0.5)(table).tolist() == [2.5, 3.5]
    assert Reduction.kinds["balanced"]()(table).tolist() == pytest.approx([0.5, 0.5])


@pytest.fixture
def study():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    images, labels = torch.randn(30, 6), torch.randint(0, 3, (30,))
    return net, images, labels, torch.arange(30) % 3 - 1


def problem(study, weights=None):
    net, images, labels, groups = study
    weights = weights or IntegerWeights()
    return Allocation(net, quantizable(net), images, labels, groups, 4, weights, seed=0)


def dense(net, name, images, labels):
    """Loss of some images as a function of one weight."""
    weight = net.get_submodule(name).weight

    def loss(flat):
        parameters = {f"{name}.weight": flat.view_as(weight)}
        return nn.functional.cross_entropy(
            torch.func.functional_call(net, parameters, (images,)), labels
        )

    return loss, weight.detach().flatten()


def group_losses(net, images, labels, groups):
    losses = nn.functional.cross_entropy(net(images), labels, reduction="none")
    return torch.stack([losses[groups == group].mean() for group in range(groups.max() + 1)])


def test_traces_agree_with_the_dense_hessian(study):
    net, images, labels, groups = study
    layers = quantizable(net)
    traces = hessian_traces(problem(study), probes=400)
    for row, name in enumerate(layers):
        for group in (0, 1):
            mask = groups == group
            loss, flat = dense(net, name, images[mask], labels[mask])
            truth = torch.func.hessian(loss)(flat).trace()
            torch.testing.assert_close(traces[row, group], truth, rtol=0.12, atol=0)


def test_hawq_is_trace_times_distance(study):
    net, images, *_ = study
    layers = quantizable(net)
    setting = IntegerWeights(granularity="channel")
    table = hawq(problem(study, setting), choices=CHOICES, probes=8)
    traces = hessian_traces(problem(study), probes=8).clamp_min(0)
    for column, bits in enumerate(CHOICES):
        made = quantize_network(net, images, bits=bits, weights=setting)
        for row, (name, layer) in enumerate(layers.items()):
            moved = made.weights[name].dequantize() - layer.weight
            expected = traces[row] / layer.weight.numel() * moved.square().sum()
            torch.testing.assert_close(table[row, column], expected.detach())


def test_measured_is_one_layer_at_a_time(study):
    net, images, labels, groups = study
    layers = quantizable(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    table = measured(problem(study), choices=(2, 8))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    for row, name in enumerate(layers):
        widths = {n: 2 if n == name else 32 for n in layers}
        made = quantize_network(net, images, bits=2, weights=IntegerWeights(), widths=widths)
        rise = group_losses(made.network, images, labels, groups) - group_losses(
            net, images, labels, groups
        )
        torch.testing.assert_close(table[row, 0], rise.detach())
    assert (table[:, 1].abs() < table[:, 0].abs()).any()


@pytest.mark.parametrize("name", ["vgg_bn", "vit_tiny_patch16_224", "squeezenet1_1"])
@torch.no_grad()
def test_what_runs_before_a_layer_is_remembered_rightly(name):
    """In place activations, attention, branches."""
    made, images = network(name)
    images = torch.cat([images] * 9 + [-images])  # two batches
    labels, groups = torch.arange(40) % 5, torch.arange(40) % 3 - 1
    layers = dict(list(quantizable(made).items())[::4])
    every = Allocation(made, layers, images, labels, groups, 4, IntegerWeights(), seed=0)
    table = measured(every, choices=(2,))
    plain = group_losses(made, images, labels, groups)
    for row, (key, layer) in enumerate(layers.items()):
        changed = copy.deepcopy(made)
        changed.get_submodule(key).weight.copy_(rounded(layer, 2, IntegerWeights()))
        rise = group_losses(changed, images, labels, groups) - plain
        torch.testing.assert_close(table[row, 0], rise, rtol=1e-3, atol=1e-6)
        assert "forward" not in vars(layer)


@torch.no_grad()
def test_a_layer_with_a_hook_of_its_own_is_run_again():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    net[0].register_forward_hook(lambda _layer, _given, output: 3 * output)
    images, labels, groups = torch.rand(20, 6), torch.arange(20) % 3, torch.arange(20) % 2
    every = Allocation(net, quantizable(net), images, labels, groups, 4, IntegerWeights(), seed=0)
    table = measured(every, choices=(2,))
    plain = group_losses(net, images, labels, groups)
    net[2].weight.copy_(rounded(net[2], 2, IntegerWeights()))
    rise = group_losses(net, images, labels, groups) - plain
    torch.testing.assert_close(table[1, 0], rise)


def test_a_group_without_images_counts_for_nothing(study):
    *rest, groups = study
    gap = problem((*rest, torch.where(groups == 1, 2, groups)))
    for table in (
        importance(gap, kind=Taylor(), unit=LayerUnit()), hessian_traces(gap, probes=1),
    ):  # fmt: skip
        assert table.shape == (2, 3)
        assert (table[:, 1] == 0).all()
        assert table.isfinite().all()


@pytest.mark.parametrize("kind", ["gradient", "taylor"])
def test_importance_is_that_of_the_groups_gradient(study, kind):
    net, images, labels, groups = study
    layers = quantizable(net)
    table = importance(problem(study), kind=Importance.kinds[kind](), unit=LayerUnit())
    for row, name in enumerate(layers):
        mask = groups == 1
        loss, flat = dense(net, name, images[mask], labels[mask])
        gradient = torch.func.grad(loss)(flat)
        each = gradient.abs() if kind == "gradient" else (gradient * flat).square()
        torch.testing.assert_close(table[row, 1], each.mean())


def test_learned_widths_spend_bits_where_they_count(study):
    _, images, _, _ = study
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.Linear(40, 3)).eval()
    net[2].weight.data.copy_(torch.eye(40))  # two bits hold it exactly
    net[3].weight.data.mul_(30)  # confident logits, so that errors cost
    labels = net(images).argmax(1)
    setting = IntegerWeights(granularity="channel")
    three_bits = problem((net, images, labels, labels), setting)._replace(bits=3)
    places = learn_widths(three_bits, choices=CHOICES, steps=60)
    assert places.argmin() == 1
    assert ((places >= 0) & (places <= 2)).all()


POLICIES = [
    Hawq(objective="worst_group"),
    Measured(),
    ByImportance(reduce="cvar"),
    Learned(),
]


@pytest.mark.parametrize("name", [name for name in SMALL if name != "efficientnet_b0"])
def test_policies_keep_the_size_on_every_architecture(name):
    original, images = network(name)
    labels, groups = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0, 1])
    setting = IntegerWeights(first_last=8)
    some = POLICIES if name.startswith("v") else POLICIES[::2]
    layers = quantizable(original)
    plain = allocate_bits(
        original, images, images, labels, groups, bits=4, weights=setting, policy=Uniform()
    )
    for policy in some:
        widths = allocate_bits(
            original, images, images, labels, groups, bits=4, weights=setting, policy=policy
        )
        total, most = (
            sum(layer.weight.numel() * chosen[key] for key, layer in layers.items())
            for chosen in (widths, plain)
        )
        assert 0.6 * most < total <= most
        assert [key for key in widths if plain[key] == 8] == [
            key for key in widths if plain[key] == 8 and widths[key] == 8
        ]
        made = quantize_network(original, images, bits=4, weights=setting, widths=widths)
        assert {key: weight.bits for key, weight in made.weights.items()} == widths


def test_the_probes_of_hawq_follow_the_seed(study):
    net, images, labels, groups = study
    plan = {"bits": 4, "weights": IntegerWeights(), "policy": POLICIES[0]}
    seeds = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "hawq", lambda p, **k: seeds.append(p.seed) or hawq(p, **k))
        allocate_bits(net, images, images, labels, groups, seed=5, **plan)
    assert seeds == [5]


def test_a_classifier_may_stay_in_floating_point():
    original, images = network("vgg")
    setting = IntegerWeights(classifier=32)
    made = quantize_network(original, images, bits=2, weights=setting)
    assert "12" not in made.weights
    assert made.notes["left_out"]["12"].startswith("a layer that the precision policy keeps")
    assert torch.equal(made.network[12].weight, original[12].weight)
    assert "12" not in quantizers(prepare(original, images, bits=2, weights=setting))
    eight = quantize_network(original, images, bits=2, weights=IntegerWeights(classifier=8))
    assert eight.weights["12"].bits == 8


@pytest.mark.parametrize(("bits", "policy"), [(8, POLICIES[1]), (8, POLICIES[2]), (4, POLICIES[1])])
def test_exempt_layers_keep_their_width_whatever_the_uniform_one_is(bits, policy):
    original, images = network("vgg")
    labels, groups = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0, 1])
    plan = {"bits": bits, "weights": IntegerWeights(first_last=bits, rgb_first=None)}
    # wide layers cost: all that may be narrow are, the exempt ones alone are not
    choices = {"choices": (2, 3)}
    if isinstance(policy, ByImportance):
        narrow = policy.model_copy(update={"unit": LayerUnit(**choices)})
    else:
        narrow = policy.model_copy(update=choices)
    widths = allocate_bits(original, images, images, labels, groups, policy=narrow, **plan)
    assert [name for name, width in widths.items() if width == bits] == ["0", "12"]


def test_a_network_of_exempt_layers_alone_leaves_nothing_to_choose():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)).eval()
    images, labels, groups = torch.randn(9, 6), torch.arange(9) % 3, torch.arange(9) % 2
    plan = {"bits": 2, "weights": IntegerWeights(first_last=8)}
    for policy in POLICIES:
        widths = allocate_bits(net, images, images, labels, groups, policy=policy, **plan)
        assert widths == {"0": 8, "1": 8}
