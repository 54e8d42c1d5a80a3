"""Activations with learned scale and offset for QAT (LSQ+, Bhalgat et al. 2020)."""

from typing import Any

import torch
from torch import Tensor, nn

from quantskew.quantization.affine import SMALLEST, code_range, fake_quantize, scale_and_zero_point
from quantskew.quantization.layers import Layer, quantizable

_NAME = "input_quantizer"


class LearnedGrid(nn.Module):
    """A forward pre-hook with parameters: asymmetric codes, a learned scale and offset.

    The zero point in use is ``round(−offset / scale)``, so zero has a code and the grid can be
    stored like any other. Gradients are those of LSQ+: with x inside the range they pass straight
    through to x, and outside to the offset; that of the scale is ``round(v) − v`` inside and the
    code outside, v being x in steps. Both parameters' gradients are scaled by ``1 / √(N · Qp)``
    with N the number of values in one sample.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.low, self.high = code_range(bits, "asymmetric")
        self.scale = nn.Parameter(scale.detach().clone())
        self.offset = nn.Parameter(-zero_point * scale.detach())

    def forward(self, _layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs of a layer with the first one fake-quantized."""
        x = _FakeQuantize.apply(given[0], self.scale, self.offset, self)  # type: ignore[no-untyped-call]
        return (x, *given[1:])

    @torch.no_grad()
    def grid(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero point in use."""
        scale = self.scale.clamp_min(SMALLEST)
        return scale, torch.round(-self.offset / scale).int()


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, _scale: Tensor, _offset: Tensor, quantizer: LearnedGrid
    ) -> Tensor:
        scale, zero_point = quantizer.grid()
        quantized = fake_quantize(x, scale, zero_point, quantizer.low, quantizer.high)
        ctx.save_for_backward(x, quantized, scale, zero_point)
        ctx.quantizer = quantizer
        return quantized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, quantized, scale, zero_point = ctx.saved_tensors
        quantizer = ctx.quantizer
        steps = x / scale + zero_point
        inside = (steps > quantizer.low) & (steps < quantizer.high)
        straight = gradient * inside
        codes = quantized / scale + zero_point
        size = (quantizer.high * x[0].numel()) ** -0.5
        # outside, steps may be infinite
        by_scale = (gradient * codes - torch.where(inside, gradient * steps, 0)).sum() * size
        by_offset = (gradient - straight).sum() * size
        return straight, by_scale, by_offset, None


def learn_grid(layer: nn.Module, low: Tensor, high: Tensor, bits: int) -> None:
    """Give a layer a learned input grid that starts at a range, in place.

    A layer that got nothing but zeros starts at the range from 0 to 1.
    """
    high = torch.where(high > low, high, low + 1)
    grid = scale_and_zero_point(low, high, bits, "asymmetric")
    quantizer = LearnedGrid(*grid, bits).to(next(layer.parameters()).device)
    layer.add_module(_NAME, quantizer)
    layer.register_forward_pre_hook(quantizer)


def learned_grids(network: nn.Module) -> dict[str, LearnedGrid]:
    """Return the learned input grids by the name of their layer."""
    layers: dict[str, Layer] = quantizable(network)
    return {name: getattr(la, _NAME) for name, la in layers.items() if hasattr(la, _NAME)}


@torch.no_grad()
def take_learned_grids(network: nn.Module) -> dict[str, Any] | None:
    """Remove the learned grids, in place, and describe them for ``input_quantizers.restore``.

    Returns ``None`` where there are none.
    """
    grids = learned_grids(network)
    if not grids:
        return None
    described = {}
    for name, quantizer in grids.items():
        layer = network.get_submodule(name)
        delattr(layer, _NAME)
        hooks = layer._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, LearnedGrid)]:
            del hooks[key]
        scale, zero_point = quantizer.grid()
        described[name] = [scale.item(), zero_point.item()]
    bits = next(iter(grids.values())).bits
    return {"mode": "static", "bits": bits, "scheme": "asymmetric", "layers": described}
