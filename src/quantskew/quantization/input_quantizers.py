"""The hooks that put the input of a layer on a grid."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantskew.quantization.affine import Scheme, code_range, fake_quantize, scale_and_zero_point


class ActivationQuantizer:
    """A forward pre-hook that fake-quantizes the first input of a layer.

    Without a scale each sample gets the grid of its own minimum and maximum. The gradient is passed
    straight through where a value moves by a step at most, and is 0 where it is clipped by more.
    """

    def __init__(
        self, bits: int, scheme: Scheme, scale: float | None = None, zero_point: int = 0
    ) -> None:
        self.bits, self.scheme = bits, scheme
        self.scale, self.zero_point = scale, zero_point

    def __call__(self, _module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs with the first one quantized."""
        x = _StraightThrough.apply(given[0], *self._grid(given[0].detach()))  # type: ignore[no-untyped-call]
        return (x, *given[1:])

    def _grid(self, x: Tensor) -> tuple[Tensor, Tensor, int, int]:
        if self.scale is not None:
            scale = torch.tensor(self.scale, device=x.device)
            zero_point = torch.tensor(self.zero_point, device=x.device)
        else:
            dims = tuple(range(1, x.ndim))
            ends = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
            scale, zero_point = scale_and_zero_point(
                ends[0].clamp_max(0), ends[1].clamp_min(0), self.bits, self.scheme
            )
        return scale, zero_point, *code_range(self.bits, self.scheme)


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True  # for the gradients of single samples

    @staticmethod
    def forward(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
        return fake_quantize(x, scale, zero_point, low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, *_ = inputs
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((output - x).abs() <= scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None, None


def restore(network: nn.Module, notes: Mapping[str, Any]) -> None:
    """Attach the quantizers that notes describe, in place; see :meth:`Activations.quantize`."""
    for name, grid in notes["layers"].items():
        hook = ActivationQuantizer(notes["bits"], notes["scheme"], *(grid or ()))
        network.get_submodule(name).register_forward_pre_hook(hook)
