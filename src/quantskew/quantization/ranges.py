"""Clipping ranges: which interval of a weight tensor the codes are spread over."""

from typing import Literal

import torch
from torch import Tensor

from quantskew.quantization.affine import (
    Scheme,
    code_range,
    dequantize,
    quantize,
    scale_and_zero_point,
)

RangeMethod = Literal["minmax", "mse"]

_CANDIDATES = 100


def clipping_range(
    weight: Tensor, *, method: RangeMethod, bits: int, scheme: Scheme, per_channel: bool
) -> tuple[Tensor, Tensor]:
    """Return the ends of the range that a weight tensor is quantized over.

    =========  ================================================================================
    method     the range
    =========  ================================================================================
    minmax     smallest to largest weight: nothing is clipped
    mse        of 100 shrunken copies of the min–max range (factors 1, 0.99, …, 0.01), the one
               whose grid leaves the least squared error; never worse than min–max
    =========  ================================================================================

    Parameters
    ----------
    weight
        Output channels first.
    per_channel
        One range an output channel instead of one a tensor.

    Returns
    -------
    minimum, maximum
        Shape ``(channels, 1, …)`` per channel, else ``(1, 1, …)``: both broadcast against
        ``weight``.
    """
    weight = weight.detach().float()
    dims = tuple(range(1 if per_channel else 0, weight.ndim))
    minimum, maximum = weight.amin(dims, keepdim=True), weight.amax(dims, keepdim=True)
    if method == "minmax":
        return minimum, maximum
    factor = _best_factor(weight, minimum, maximum, dims, bits, scheme)
    return minimum * factor, maximum * factor


def _best_factor(
    weight: Tensor,
    minimum: Tensor,
    maximum: Tensor,
    dims: tuple[int, ...],
    bits: int,
    scheme: Scheme,
) -> Tensor:
    best = torch.ones_like(minimum)
    least = torch.full_like(minimum, torch.inf)
    for step in range(_CANDIDATES, 0, -1):
        factor = step / _CANDIDATES
        grid = scale_and_zero_point(minimum * factor, maximum * factor, bits, scheme)
        codes = quantize(weight, *grid, *code_range(bits, scheme))
        error = (dequantize(codes, *grid) - weight).square_().sum(dims, keepdim=True)
        better = error < least
        best[better] = factor
        least = torch.minimum(error, least)
    return best
