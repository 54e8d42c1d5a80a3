"""The excess loss of quantization, measured and as its Taylor expansion predicts it.

Liu et al. explain the unfairness of quantization by each group's R(g) = L(θ̃; D_g) − L(θ; D_g) and
two factors of its expansion at θ, gradient and curvature (equation 4 of Bellam & Kim). Comparing
:func:`predict` with the measured R shows whether the expansion still holds at a width.
"""

import math

from torch import Tensor, nn

from quantskew.impact.gradients import flatten, inner, trainable
from quantskew.impact.hessian import GroupLoss


def weight_change(original: nn.Module, quantized: nn.Module) -> Tensor:
    """Difference Δθ = θ̃ − θ of two networks of one architecture, shape (P,).

    If batch normalization was folded before quantization, ``original`` must be folded as well, so
    that both have the same parameters: a ``ValueError`` names one that differs in name or shape.
    """
    before, after = trainable(original), trainable(quantized)
    shapes = [{name: tuple(p.shape) for name, p in each.items()} for each in (before, after)]
    if shapes[0] != shapes[1]:
        name, shape = sorted(shapes[0].items() ^ shapes[1].items())[0]
        raise ValueError(
            f"the networks differ in {name!r}, {shape} in one; was one of them folded?"
        )
    return flatten(after.values()) - flatten(before.values())


def predict(loss: GroupLoss, change: Tensor) -> dict[str, float]:
    """Predict a group's excess loss from its loss at the original weights, and Δθ, shape (P,).

    Returns ``weight_distance`` ‖Δθ‖ and, in nats, ``first_order`` g·Δθ, ``second_order``
    g·Δθ + ½ Δθᵀ H Δθ with the exact product HΔθ, and ``bound`` ‖g‖‖Δθ‖. The second order cannot
    exceed ``bound`` + ½ λmax ‖Δθ‖² (Tran et al. 2022; :func:`quantskew.description.bounded`).
    """
    first = inner(loss.gradient, change)
    square = inner(change, change)
    return {
        "weight_distance": math.sqrt(square),
        "first_order": first,
        "second_order": first + inner(change, loss.product(change)) / 2,
        "bound": math.sqrt(inner(loss.gradient, loss.gradient) * square),
    }
