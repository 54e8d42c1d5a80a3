"""From sensitivities to widths: the arithmetic of bit allocation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quantskew.quantization.objectives import Objective
    from quantskew.quantization.weights import IntegerWeights


def exempt(network: nn.Module, example: Tensor, weights: IntegerWeights) -> dict[str, int]:
    """Return the layers that are exempt from the uniform width, and the least width of each.

    ``weights.first_last`` is the width of the layers that run first and last, ``classifier`` that
    of the last alone (32: floating point), and ``rgb_first`` that of a first convolution of exactly
    three input channels, as in Banner et al.'s implementation. Their test is on the channels, so
    the first layer of a network for grey images is *not* exempt there, nor here: use ``first_last``
    for both kinds.
    """
    from quantskew.quantization.layers import ends, quantizable

    first, last = ends(network, example)
    # a linear layer has in_features
    is_rgb = getattr(quantizable(network)[first], "in_channels", None) == 3
    least = {first: max(weights.first_last or 0, (weights.rgb_first or 0) if is_rgb else 0)}
    least[last] = max(least.get(last, 0), weights.first_last or 0, weights.classifier or 0)
    return {name: width for name, width in least.items() if width}


def uniform(
    network: nn.Module, example: Tensor, *, bits: int, weights: IntegerWeights
) -> dict[str, int]:
    """Return the width of each quantizable layer by name: ``bits``, or more of an exempt one."""
    from quantskew.quantization.layers import quantizable

    wider = {name: max(bits, width) for name, width in exempt(network, example, weights).items()}
    return dict.fromkeys(quantizable(network), bits) | wider


def allocate(
    costs: Tensor,
    sizes: Sequence[int],
    choices: Sequence[int],
    capacity: int,
    *,
    objective: Objective,
) -> list[int]:
    """Choose one width a layer at the least cost within a size, by integer programming.

    ``costs`` is (layers, choices, groups), ``sizes`` the number of weights of each layer, and
    ``capacity`` the most bits that all may take; what is minimised is the ``objective`` of the
    groups' costs, each the sum over layers. A ``ValueError`` is raised when not even the smallest
    widths fit, or a cost is NaN or infinite.
    """
    if not costs.isfinite().all():
        raise ValueError("the loss of a group is NaN or infinite with a layer at one of the widths")
    layers, options, groups = costs.shape
    smallest = min(choices) * sum(sizes)
    if smallest > capacity:
        raise ValueError(
            f"{min(choices)} bits in every layer take {smallest} bits; there are {capacity}"
        )
    from scipy.optimize import LinearConstraint, milp  # 20 MB, which few need

    table = costs.double().numpy().reshape(layers * options, groups)
    # the solver's tolerance is relative to the costs
    table = table / max(np.abs(table).max(), np.finfo(float).tiny)
    count = layers * options  # one 0/1 variable a layer and width, and then t
    bits = np.outer(sizes, choices).reshape(1, count)
    one_each = np.kron(np.eye(layers), np.ones(options))
    constraints = [
        LinearConstraint(np.hstack([bits, [[0]]]), ub=capacity),
        LinearConstraint(np.hstack([one_each, np.zeros((layers, 1))]), lb=1, ub=1),
    ]
    cost, more = objective.program(table)
    solution = milp(
        cost,
        integrality=np.append(np.ones(count), 0),
        bounds=(np.append(np.zeros(count), -np.inf), np.append(np.ones(count), np.inf)),
        constraints=[*constraints, *more],
        options={"mip_rel_gap": 0.0},
    )
    if solution.x is None:
        raise ValueError(f"no allocation of widths was found: {solution.message}")
    picked = solution.x[:count].reshape(layers, options).argmax(1)
    return [choices[index] for index in picked]


def by_quantile(importance: Tensor, choices: Sequence[int]) -> Tensor:
    """Place layers among the sorted choices by importance, an equal share of them at each.

    A place is 0 for the narrowest choice, and so on, (layers,).
    """
    ranks = importance.argsort(stable=True).argsort()
    return ranks * len(choices) // len(ranks)


def fit_to_size(
    places: Tensor, importance: Tensor, sizes: Sequence[int], choices: Sequence[int], capacity: int
) -> list[int]:
    """Turn places among the sorted choices, as :func:`by_quantile` gives, into widths of a size.

    The least important layers are lowered until the capacity suffices, then the most important
    ones raised as long as it does. The arguments are those of :func:`allocate`.
    """
    choices = sorted(choices)
    picked: list[int] = places.tolist()
    order = importance.argsort(stable=True).tolist()
    room = capacity - sum(n * choices[p] for n, p in zip(sizes, picked, strict=True))

    def step(layer: int) -> int:
        """Size of the step below the place of a layer."""
        return sizes[layer] * (choices[picked[layer]] - choices[picked[layer] - 1])

    for layer in order:
        while room < 0 and picked[layer] > 0:
            room += step(layer)
            picked[layer] -= 1
    if room < 0:
        raise ValueError(
            f"{choices[0]} bits in every layer take {capacity - room} bits; there are {capacity}"
        )
    for layer in reversed(order):
        while picked[layer] < len(choices) - 1:
            picked[layer] += 1
            if step(layer) > room:
                picked[layer] -= 1
                break
            room -= step(layer)
    return [choices[p] for p in picked]


def keep_most_important(
    importance: Tensor, sizes: Sequence[int], *, share: float, width: int, bits: int
) -> list[int]:
    """Return widths with which the most important units stay wide, at the size of a uniform width.

    A ``share`` of the units, such as channels, has the ``width`` 2 to 8, or 32. The others pay for
    it in equal parts: all are narrowed by as many bits from the uniform width ``bits``, and where
    the size asks for a part of a bit more, the least important of them by one more, down to 2. As
    many units are kept as that allows, none at 2 bits. ``sizes`` counts the weights of each unit.
    """
    order = importance.argsort(stable=True)
    n = order.new_tensor(sizes)[order]
    # what the widest few take above the uniform width, and what all others can give
    taken = (n.flip(0).cumsum(0) * max(0, width - bits)).tolist()
    given = ((n.sum() - n.flip(0).cumsum(0)) * (bits - 2)).tolist()
    most = round(share * len(n))
    kept = sum(t <= g for t, g in zip(taken[:most], given[:most], strict=True))
    widths = n.new_full(n.shape, bits)
    others = len(n) - kept
    widths[others:] = max(width, bits)
    excess = taken[kept - 1] if kept else 0
    whole = int(n[:others].sum())
    rounds, rest = divmod(excess, whole) if whole else (0, 0)
    widths[:others] -= rounds
    widths[: int((n[:others].cumsum(0) < rest).sum()) + (rest > 0)] -= 1
    return widths[order.argsort()].tolist()
