"""Clipping ranges: which interval of a tensor the codes are spread over."""

from typing import Literal

import torch
from torch import Tensor

from quantskew.quantization.affine import (
    Scheme,
    code_range,
    fake_quantize,
    scale_and_zero_point,
)

RangeMethod = Literal["minmax", "mse", "percentile", "aciq_gauss", "aciq_laplace"]

CANDIDATES = 100
_BLOCK = 1 << 18  # weights

#: Best clipping value for 1, 2, …, 8 bits in units of the standard deviation of a Gaussian and of
#: the mean absolute deviation of a Laplacian (Banner et al. 2019, ACIQ).
ACIQ = {
    "aciq_gauss": (1.24, 1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92),
    "aciq_laplace": (1.86, 2.83, 3.89, 5.03, 6.2, 7.41, 8.64, 9.89),
}


def clipping_range(
    weight: Tensor,
    *,
    method: RangeMethod,
    bits: int,
    scheme: Scheme,
    per_channel: bool,
    percentile: float = 99.9,
) -> tuple[Tensor, Tensor]:
    """Return the ends of the range that a weight tensor is quantized over.

    ============  =============================================================================
    method        the range
    ============  =============================================================================
    minmax        smallest to largest weight: nothing is clipped
    mse           of 100 shrunken copies of the min–max range (factors 1, 0.99, …, 0.01), the one
                  whose grid leaves the least squared error; never worse than min–max
    percentile    holds that share of the weights; half of the rest is cut at either end
    aciq_gauss    mean ± α, with the α that leaves the least squared error for Gaussian weights
    aciq_laplace  the same for Laplacian weights
    ============  =============================================================================

    Parameters
    ----------
    weight
        Output channels first.
    per_channel
        One range an output channel instead of one a tensor.
    percentile
        In percent, above 50; for the method of that name.

    Returns
    -------
    minimum, maximum
        Shape ``(channels, 1, …)`` per channel, else ``(1, 1, …)``: both broadcast against
        ``weight``. Never wider than min–max.
    """
    weight = weight.detach().float()
    dims = tuple(range(1 if per_channel else 0, weight.ndim))
    minimum, maximum = weight.amin(dims, keepdim=True), weight.amax(dims, keepdim=True)
    match method:
        case "mse":
            factor = _best_factor(weight, minimum, maximum, bits, scheme)
            return minimum * factor, maximum * factor
        case "percentile":
            return _quantiles(weight, minimum.shape, percentile)
        case "aciq_gauss" | "aciq_laplace":
            center = weight.mean(dims, keepdim=True)
            away = weight - center
            spread = away.square().mean(dims, keepdim=True).sqrt()
            if method == "aciq_laplace":
                spread = away.abs().mean(dims, keepdim=True)
            clip = spread * ACIQ[method][bits - 1]
            return torch.maximum(minimum, center - clip), torch.minimum(maximum, center + clip)
    return minimum, maximum


def _quantiles(weight: Tensor, shape: torch.Size, percentile: float) -> tuple[Tensor, Tensor]:
    ordered = weight.reshape(shape.numel(), -1).sort(1).values
    last = ordered.shape[1] - 1
    cut = round(last * (100 - percentile) / 200)
    return ordered[:, cut].view(shape), ordered[:, last - cut].view(shape)


def _best_factor(
    weight: Tensor, minimum: Tensor, maximum: Tensor, bits: int, scheme: Scheme
) -> Tensor:
    rows = weight.reshape(len(weight), -1)
    shape = (len(minimum), 1)  # a range a row, or one for all
    factors = torch.arange(CANDIDATES, 0, -1) / CANDIDATES
    errors = rows.new_empty(CANDIDATES, len(rows))
    limits = code_range(bits, scheme)
    # blocks that stay in the cache while all candidates are tried
    height = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), height):
        block = slice(start, start + height)
        ends = [e.reshape(shape)[block if len(e) > 1 else slice(None)] for e in (minimum, maximum)]
        for index, factor in enumerate(factors):
            grid = scale_and_zero_point(ends[0] * factor, ends[1] * factor, bits, scheme)
            rounded = fake_quantize(rows[block], *grid, *limits)
            errors[index, block] = rounded.sub_(rows[block]).square_().sum(1)
    if len(minimum) == 1:
        errors = errors.double().sum(1, keepdim=True)
    return factors.to(weight)[errors.argmin(0)].reshape(minimum.shape)
