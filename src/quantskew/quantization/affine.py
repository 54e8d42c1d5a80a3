"""The affine grid: integer codes, scales and zero points as pure functions of tensors.

A real value ``x`` is stored as the integer code ``q``, and read back as ``x̂``::

    q = clamp(round(x / scale) + zero_point, low, high)      x̂ = (q − zero_point) · scale

The legal codes of ``b`` bits depend on the scheme:

=================  ===============  ==================  =========================================
scheme             low              high                the zero point
=================  ===============  ==================  =========================================
asymmetric         0                2^b − 1             any integer: the code of the value zero
symmetric          −2^(b−1)         2^(b−1) − 1         0
symmetric_narrow   −(2^(b−1) − 1)   2^(b−1) − 1         0; a grid that is its own mirror image
=================  ===============  ==================  =========================================

Scale and zero point broadcast against the tensor: scalars quantize per tensor, a shape of
``(channels, 1, …)`` quantizes per output channel. Rounding goes to the nearest integer, ties to the
even one, and division is multiplication by the reciprocal, which is what makes the results equal to
``torch.fake_quantize_per_tensor_affine`` and its per-channel sibling bit by bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Scheme = Literal["asymmetric", "symmetric", "symmetric_narrow"]

SMALLEST = 2.0**-126  # the least normal float32
_RESOLUTION = 2.0**-20


def code_range(bits: int, scheme: Scheme) -> tuple[int, int]:
    """Lowest and highest code of a scheme; ``bits`` from 2 to 8.

    Examples
    --------
    >>> code_range(4, "asymmetric"), code_range(4, "symmetric"), code_range(4, "symmetric_narrow")
    ((0, 15), (-8, 7), (-7, 7))
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits is {bits}; an integer code has 2 to 8")
    half = 1 << (bits - 1)
    match scheme:
        case "asymmetric":
            return 0, 2 * half - 1
        case "symmetric":
            return -half, half - 1
        case "symmetric_narrow":
            return 1 - half, half - 1
    raise ValueError(f"scheme is {scheme!r}; legal: asymmetric, symmetric, symmetric_narrow")


def scale_and_zero_point(
    minimum: Tensor, maximum: Tensor, bits: int, scheme: Scheme
) -> tuple[Tensor, Tensor]:
    """Return the grid that spans a clipping range: scale, float32 above 0, and zero point, int32.

    The ends, finite and of one shape, which is that of the results, are ``minimum <= maximum``.
    Asymmetric, as Banner et al. (2019) do it: ``scale = (maximum − minimum) / (2^b − 1)`` and
    ``zero_point = round(−minimum / scale)``. The range need not hold zero, so the zero point may
    lie outside the codes. Symmetric: the smallest scale with which both ends have a code.

    A scale is never below 2⁻²⁰ of the larger end, which keeps every code exact in float32. So a
    degenerate asymmetric range (``maximum == minimum``) needs no special case: its one value is an
    exact multiple of the scale, all codes are 0, and the tensor comes back unchanged.
    """
    low, high = code_range(bits, scheme)
    minimum, maximum = minimum.float(), maximum.float()
    floor = minimum.abs().maximum(maximum.abs()) * _RESOLUTION
    if scheme == "asymmetric":
        scale = ((maximum - minimum) / high).maximum(floor).clamp_min(SMALLEST)
        return scale, (-minimum / scale).round().int()
    scale = (minimum / low).maximum(maximum / high).clamp_min(SMALLEST)
    return scale, scale.new_zeros(scale.shape).int()


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, low: int | Tensor, high: int | Tensor
) -> Tensor:
    """Return the int16 codes of a tensor on a grid, of the shape of ``x``."""
    steps = (x.float() * (1 / scale)).round()
    return (steps + zero_point).clamp_(low, high).short()  # type: ignore[arg-type]


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return the float32 values that codes stand for."""
    return (codes.int() - zero_point).float() * scale


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """Return ``dequantize(quantize(x, …), …)`` bit by bit, without making the codes.

    On a CPU this is an order of magnitude faster than torch's own kernel of that name.
    """
    steps = (x * scale.reciprocal()).round_()
    # in two steps, since torch cannot map clamp_ over samples; nor is it slower
    return steps.clamp_min_(low - zero_point).clamp_max_(high - zero_point).mul_(scale)
