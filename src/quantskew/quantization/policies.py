"""Precision policies: the width of each layer of a network, at the size of the uniform one."""

import copy

from torch import Tensor, nn

from quantskew.params import Policy, Weights
from quantskew.quantization.layers import fold_batch_norm, quantizable
from quantskew.quantization.learned_widths import learn_widths
from quantskew.quantization.sensitivity import hawq, importance, measured
from quantskew.quantization.widths import (
    allocate,
    by_quantile,
    fit_to_size,
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
) -> dict[str, int]:
    """Choose the width of each layer.

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
        See :class:`quantskew.params.Policy`.
    seed
        Of random probes and batches.

    Returns
    -------
    dict
        Name of each quantizable layer → bits, for ``quantize_network`` and ``prepare``.
    """
    widths = uniform(network, example, bits=bits, weights=weights)
    if policy.by == "uniform":
        return widths
    if weights.fold_bn:
        network, _ = fold_batch_norm(network, example)
    else:
        network = copy.deepcopy(network).eval()
    layers = {name: la for name, la in quantizable(network).items() if widths[name] == bits}
    sizes = [layer.weight.numel() for layer in layers.values()]
    capacity, choices = bits * sum(sizes), policy.choices
    data = (images, labels, groups)
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
        table = importance(network, layers, *data, kind=policy.importance)
        scores = reduce_groups(table, policy.reduce)
        chosen = fit_to_size(by_quantile(scores, choices), scores, sizes, choices, capacity)
    else:
        measure = measured if policy.by == "measured" else hawq
        costs = measure(network, layers, *data, choices=choices, weights=weights)
        chosen = allocate(costs, sizes, choices, capacity, objective=policy.objective)
    return widths | dict(zip(layers, chosen, strict=True))
