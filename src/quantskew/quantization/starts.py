"""Where the learned scales of weights start (``qat.start``)."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from typing_extensions import override

from quantskew.quantization.affine import code_range, scale_and_zero_point
from quantskew.quantization.ranges import Mse
from quantskew.sections import Choice

if TYPE_CHECKING:
    from torch import Tensor


class ScaleStart(Choice):
    """Where the learned scales of weights start (``qat.start``)."""

    @abstractmethod
    def __call__(self, weight: Tensor, bits: int, *, per_channel: bool) -> Tensor:
        """Return one scale, or one an output channel, that broadcasts against the weight."""


class LeastError(ScaleStart, kind="mse"):
    """Where the squared error of the weights is the least."""

    @override
    def __call__(self, weight: Tensor, bits: int, *, per_channel: bool) -> Tensor:
        ends = Mse().ends(weight, bits=bits, scheme="symmetric", per_channel=per_channel)
        return scale_and_zero_point(*ends, bits, "symmetric")[0]


class LsqStart(ScaleStart, kind="lsq"):
    """At ``2 · mean|w| / √Qp``, as in the paper of LSQ."""

    @override
    def __call__(self, weight: Tensor, bits: int, *, per_channel: bool) -> Tensor:
        dims = tuple(range(1 if per_channel else 0, weight.ndim))
        _, high = code_range(bits, "symmetric")
        scale: Tensor = 2 * weight.detach().abs().mean(dims, keepdim=True) / high**0.5
        return scale
