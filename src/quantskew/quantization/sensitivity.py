"""How much each layer matters at each width, for each group of people.

All measures are tables over layers and groups, by the mean cross-entropy of a group. Images, labels
and groups are those of a calibration set; a group code below 0 takes no part.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from quantskew.params import Weights
from quantskew.quantization.layers import Layer
from quantskew.quantization.ptq import quantize_weight


def group_losses(network: nn.Module, images: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """Return the mean cross-entropy of each group, (groups,); 0 for a group without images."""
    losses = cross_entropy(network(images), labels, reduction="none")
    known = groups >= 0
    groups = groups[known]
    count = int(groups.max()) + 1
    sums = losses.new_zeros(count).index_add(0, groups, losses[known])
    return sums / groups.bincount(minlength=count).clamp_min(1)


@torch.no_grad()
def rounded(layer: Layer, bits: int, weights: Weights) -> Tensor:
    """Return the weight of a layer as a method rounds it at a width."""
    return quantize_weight(layer.weight, bits=bits, weights=weights).dequantize()


@torch.no_grad()
def measured(
    network: nn.Module,
    layers: Mapping[str, Layer],
    images: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    choices: Sequence[int],
    weights: Weights,
) -> Tensor:
    """Rise of each group's loss when one layer alone is quantized.

    Returns
    -------
    Tensor
        (layers, choices, groups), in the order of ``layers``; below 0 where the loss falls.
    """
    plain = group_losses(network, images, labels, groups)
    table = torch.empty(len(layers), len(choices), len(plain))
    for row, layer in enumerate(layers.values()):
        original = layer.weight.detach().clone()
        for column, bits in enumerate(choices):
            layer.weight.data.copy_(rounded(layer, bits, weights))
            table[row, column] = group_losses(network, images, labels, groups) - plain
            layer.weight.data.copy_(original)
    return table


def hawq(
    network: nn.Module,
    layers: Mapping[str, Layer],
    images: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    choices: Sequence[int],
    weights: Weights,
    probes: int = 8,
    seed: int = 0,
) -> Tensor:
    """HAWQ-V2's second-order estimate of the same (Dong et al. 2020), group by group.

    ``Ω = (Tr H / n) · ‖Q(W) − W‖²``, H being the Hessian of the group's loss in the n weights of
    the layer. A trace estimated below 0 counts as 0, since a minimum has none.

    Parameters
    ----------
    probes
        Random sign vectors of Hutchinson's estimate; all layers share them.

    Returns
    -------
    Tensor
        (layers, choices, groups).
    """
    traces = hessian_traces(network, layers, images, labels, groups, probes=probes, seed=seed)
    moved = torch.tensor(
        [
            [(rounded(la, b, weights) - la.weight.detach()).square().mean().item() for b in choices]
            for la in layers.values()
        ]
    )
    return traces.clamp_min(0)[:, None, :] * moved[:, :, None]


def hessian_traces(
    network: nn.Module,
    layers: Mapping[str, Layer],
    images: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    probes: int,
    seed: int = 0,
) -> Tensor:
    """Estimate the trace of each layer's block of each group's Hessian (Hutchinson).

    Returns
    -------
    Tensor
        (layers, groups).
    """
    generator = torch.Generator().manual_seed(seed)
    # the fused attention kernels have no second derivative
    with _gradients(layers) as parameters, sdpa_kernel(SDPBackend.MATH):
        losses = group_losses(network, images, labels, groups)
        traces = torch.zeros(len(parameters), len(losses))
        for group, loss in enumerate(losses):
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


def importance(
    network: nn.Module,
    layers: Mapping[str, Layer],
    images: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    kind: Literal["gradient", "taylor"],
    unit: Literal["layer", "channel"] = "layer",
) -> Tensor:
    """Importance of each layer to each group: Σ|g|, or Σ(g·w)² as in FairGRAPE (Lin et al. 2022).

    Returns
    -------
    Tensor
        (units, groups), the mean over the weights of a layer; or of each output channel of all
        layers, one layer after the other.
    """
    with _gradients(layers) as parameters:
        columns = []
        losses = group_losses(network, images, labels, groups)
        for loss in losses:
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
            each = [
                g.abs() if kind == "gradient" else (g * p.detach()).square()
                for g, p in zip(gradients, parameters, strict=True)
            ]
            by_channel = [values.flatten(1).mean(1) for values in each]
            columns.append(
                torch.cat(by_channel)
                if unit == "channel"
                else torch.stack([means.mean() for means in by_channel])
            )
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
