"""Precision policies: the width of each layer or channel, at the size of the uniform one."""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from quantskew.quantization.codes import Widths
from quantskew.quantization.layers import Layer, fold_batch_norm, quantizable
from quantskew.quantization.learned_widths import learn_widths
from quantskew.quantization.sensitivity import hawq, importance, measured
from quantskew.quantization.settings import Policy, Weights
from quantskew.quantization.widths import (
    allocate,
    by_quantile,
    exempt,
    fit_to_size,
    keep_most_important,
    reduce_groups,
    uniform,
)


def choose_widths(
    network: nn.Module,
    example: Tensor,
    images: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    bits: int,
    weights: Weights,
    policy: Policy,
    seed: int = 0,
) -> dict[str, Widths]:
    """Choose the width of each layer, or of each of its output channels.

    Layers that ``weights`` exempts keep their width. The others share as many bits as they have at
    the uniform width ``bits``, so that all policies make models of one size.

    Parameters
    ----------
    network
        Trained; not changed.
    example
        An input batch, for the order in which the layers run.
    images, labels, groups
        Calibration set, (N, …), (N,), (N,): input, class, and group as a code from 0 on.
    bits
        Average width of the layers that are free.
    weights
        How weights are rounded, and which layers are exempt.
    policy
        See :class:`quantskew.quantization.settings.Policy`.
    seed
        Of random probes and batches, and of what is dealt at random.

    Returns
    -------
    dict
        Name of each quantizable layer → bits, or the bits of each output channel, for
        ``quantize_network``, and where they are of layers for ``prepare``.
    """
    widths: dict[str, Widths] = {**uniform(network, example, bits=bits, weights=weights)}
    if policy.by == "uniform":
        return widths
    if weights.fold_bn:
        network, _ = fold_batch_norm(network, example)
    else:
        network = copy.deepcopy(network).eval()
    kept = exempt(network, example, weights)
    layers = {name: layer for name, layer in quantizable(network).items() if name not in kept}
    if not layers:
        return widths
    sizes = [layer.weight.numel() for layer in layers.values()]
    capacity, choices = bits * sum(sizes), policy.choices
    data = (images, labels, groups)
    chosen: Sequence[Widths]
    if policy.by == "learned":
        scores = learn_widths(
            network,
            list(layers),
            images,
            labels,
            choices=choices,
            capacity=capacity,
            weights=weights,
            seed=seed,
        )
        chosen = fit_to_size(scores.round().int(), scores, sizes, choices, capacity)
    elif policy.by == "importance":
        unit = policy.unit
        table = importance(network, layers, *data, kind=policy.importance, unit=unit)
        scores = reduce_groups(table, policy.reduce)
        if unit == "channel":
            chosen = _of_channels(list(layers.values()), scores, bits, policy, seed)
        else:
            chosen = fit_to_size(by_quantile(scores, choices), scores, sizes, choices, capacity)
    else:
        measure = measured if policy.by == "measured" else partial(hawq, seed=seed)
        costs = measure(network, layers, *data, choices=choices, weights=weights)
        chosen = allocate(costs, sizes, choices, capacity, objective=policy.objective)
    return widths | dict(zip(layers, chosen, strict=True))


def _of_channels(
    layers: list[Layer], scores: Tensor, bits: int, policy: Policy, seed: int
) -> list[Widths]:
    """Widths of the output channels of each layer, at the size of the uniform width."""
    counts = [len(layer.weight) for layer in layers]
    sizes = [layer.weight[0].numel() for layer in layers for _ in layer.weight]
    if policy.keep is None:
        places = by_quantile(scores, policy.choices)
        flat = fit_to_size(places, scores, sizes, policy.choices, bits * sum(sizes))
    else:
        flat = keep_most_important(
            scores, sizes, share=policy.keep, width=policy.kept_bits, bits=bits
        )
    parts = torch.tensor(flat).split(counts)
    if policy.shuffle:
        generator = torch.Generator().manual_seed(seed)
        parts = tuple(p[torch.randperm(len(p), generator=generator)] for p in parts)
    return [tuple(part.tolist()) for part in parts]
