"""How much each layer matters at each width, for each group of people.

All measures are tables over layers and groups, by the mean cross-entropy of a group. They take the
network, its layers and the calibration set from an
:class:`~quantskew.quantization.policies.Allocation`; a group code below 0 takes no part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from quantskew.impact.gradients import naming_operators
from quantskew.quantization.layers import Layer, quantizable, watching
from quantskew.quantization.ptq import quantize_weight
from quantskew.quantization.weights import IntegerWeights

if TYPE_CHECKING:
    from quantskew.quantization.policies import Allocation, Importance, Unit

_BATCH = 32


def _mean_loss(problem: "Allocation", some: Tensor) -> Tensor:
    """Return the mean cross-entropy of some images, 0 of none at all."""
    logits, labels = problem.network(problem.images[some]), problem.labels[some]
    return cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))


def _members(groups: Tensor) -> list[Tensor]:
    """Return the indices of the images of each group; some may have none."""
    return [(groups == group).nonzero().flatten() for group in range(int(groups.max()) + 1)]


@torch.no_grad()
def rounded(layer: Layer, bits: int, weights: IntegerWeights) -> Tensor:
    """Return the weight of a layer as a method rounds it at a width."""
    return quantize_weight(layer.weight, bits=bits, weights=weights).dequantize()


@torch.no_grad()
def measured(problem: "Allocation", *, choices: Sequence[int]) -> Tensor:
    """Return how much each group's loss rises when one layer alone is quantized.

    The table is (layers, choices, groups), in the order of the layers; below 0 where the loss
    falls. What runs before a layer does not change with it, so the layers before give again what
    they gave: that spares half of the work. Batches keep small what is remembered for it.
    """
    network, layers, images, labels, groups, *_ = problem
    versions = {
        name: [rounded(layer, bits, problem.weights) for bits in choices]
        for name, layer in layers.items()
    }
    sizes = torch.tensor([len(some) for some in _members(groups)])
    total = torch.zeros(len(layers), len(choices), len(sizes))
    for some in torch.arange(len(images)).split(_BATCH):

        def losses(some: Tensor = some) -> Tensor:
            each = cross_entropy(network(images[some]), labels[some], reduction="none")
            known = groups[some] >= 0
            return each.new_zeros(len(sizes)).index_add(0, groups[some][known], each[known])

        total += _rises(network, layers, versions, losses).cpu()
    return total / sizes.clamp_min(1)


def _rises(
    network: nn.Module,
    layers: Mapping[str, Layer],
    versions: Mapping[str, list[Tensor]],
    losses: Callable[[], Tensor],
) -> Tensor:
    """Rise of some losses with each version of each layer's weight, in the order they run."""
    outputs: dict[str, list[Tensor]] = {}

    def note(name: str, _layer: nn.Module, _given: Any, output: Tensor) -> None:
        outputs.setdefault(name, []).append(output.clone())  # what runs later may work in place

    with watching(dict(layers), note):
        plain = losses()
    # a weight that two layers share may act before the layer that is listed
    shared = len(quantizable(network)) < sum(isinstance(m, Layer) for m in network.modules())
    # a hook of the layer's own would act on its remembered output once more
    hooked = {name for name, layer in layers.items() if layer._forward_hooks}
    once = [name for name, given in outputs.items() if len(given) == 1]
    known = [] if shared else [name for name in once if name not in hooked]
    rises = {}
    try:
        for name in [*(layers.keys() - {*known}), *known]:
            layer = layers[name]
            original, rows = layer.weight.detach().clone(), []
            for version in versions[name]:
                layer.weight.data.copy_(version)
                rows.append(losses() - plain)
            layer.weight.data.copy_(original)
            rises[name] = torch.stack(rows)
            if name in known:
                vars(layer)["forward"] = partial(_again, *outputs[name])
    finally:
        for name in known:
            vars(layers[name]).pop("forward", None)
    return torch.stack([rises[name] for name in layers])


def _again(given: Tensor, _input: Tensor) -> Tensor:
    return given.clone()


@naming_operators()
def hawq(problem: "Allocation", *, choices: Sequence[int], probes: int) -> Tensor:
    """HAWQ-V2's second-order estimate of the same (Dong et al. 2020), group by group.

    ``Ω = (Tr H / n) · ‖Q(W) − W‖²``, H being the Hessian of the group's loss in the n weights of
    the layer; (layers, choices, groups). A trace estimated below 0 counts as 0, since a minimum has
    none. ``probes`` counts the random sign vectors of Hutchinson's estimate, which layers share.
    """
    moved = [
        [
            (rounded(layer, bits, problem.weights) - layer.weight.detach()).square().mean().item()
            for bits in choices
        ]
        for layer in problem.layers.values()
    ]
    traces = hessian_traces(problem, probes=probes)
    return traces.clamp_min(0)[:, None, :] * torch.tensor(moved)[:, :, None]


def hessian_traces(problem: "Allocation", *, probes: int) -> Tensor:
    """Estimate the trace of each layer's block of each group's Hessian, (layers, groups)."""
    generator = torch.Generator().manual_seed(problem.seed)
    # the fused attention kernels have no second derivative
    with _gradients(problem.layers) as parameters, sdpa_kernel(SDPBackend.MATH):
        members = _members(problem.groups)
        traces = torch.zeros(len(parameters), len(members))
        for group, some in enumerate(members):
            loss = _mean_loss(problem, some)
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            for _ in range(probes):
                signs = [
                    torch.randint(0, 2, p.shape, generator=generator).to(p) * 2 - 1
                    for p in parameters
                ]
                products = torch.autograd.grad(gradients, parameters, signs, retain_graph=True)
                for row, (sign, product) in enumerate(zip(signs, products, strict=True)):
                    traces[row, group] += (sign * product).sum().item() / probes
    return traces


def importance(problem: "Allocation", *, kind: "Importance", unit: "Unit") -> Tensor:
    """Return how important each unit is to each group, (units, groups).

    It is the mean over the weights of a layer or of an output channel, as ``unit`` says.
    """
    with _gradients(problem.layers) as parameters:
        columns = []
        for some in _members(problem.groups):
            loss = _mean_loss(problem, some)
            gradients = torch.autograd.grad(loss, parameters)
            by_channel = [
                kind(gradient, parameter.detach()).flatten(1).mean(1)
                for gradient, parameter in zip(gradients, parameters, strict=True)
            ]
            columns.append(unit.scores(by_channel))
    return torch.stack(columns, 1).cpu()


@contextmanager
def _gradients(layers: Mapping[str, Layer]) -> Iterator[list[Tensor]]:
    """Give the weights of layers, with gradients on while in use."""
    parameters: list[Tensor] = [layer.weight for layer in layers.values()]
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        with torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_()
            yield parameters
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
