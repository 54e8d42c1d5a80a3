"""Convolutions and linear layers as bilinear maps of their input and their weight.

Autograd does needless work when it differentiates such a layer twice: the second backward pass
always computes the gradient by the weight, and processes grouped convolutions group by group. Here
the derivatives are written out, and :func:`watched` exposes the input and output of every layer as
nodes of the graph, so that the derivatives by weights can be computed separately.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Layer:
    """The arithmetic of one ``nn.Conv2d`` or ``nn.Linear``.

    At each of the N positions in the outputs of all samples, the weight (O, M) maps a row of M
    inputs to a row of O outputs.
    """

    def __init__(self, module: nn.Conv2d | nn.Linear) -> None:
        self.convolution = isinstance(module, nn.Conv2d)
        self.weight = module.weight.detach()
        self.bias = None if module.bias is None else module.bias.detach()
        if isinstance(module, nn.Conv2d):
            self._geometry: Any = (module.stride, module.padding, module.dilation)
            self._kernel, self.groups = module.kernel_size, module.groups

    def output(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply a weight to an input."""
        if self.convolution:
            stride, padding, dilation = self._geometry
            return F.conv2d(x, weight, bias, stride, padding, dilation, self.groups)
        return F.linear(x, weight, bias)

    def transposed(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Gradient by the input ``x`` from that by the output. Only the shape of ``x`` is used."""
        return self._backward(g, x, weight, 0) if self.convolution else g @ weight

    def weight_gradient(self, g: Tensor, x: Tensor) -> Tensor:
        """Gradient by the weight from that by the output."""
        if self.convolution:
            return self._backward(g, x, self.weight, 1)
        return g.flatten(0, -2).T @ x.flatten(0, -2)

    def bias_gradient(self, g: Tensor) -> Tensor:
        """Gradient by the bias from that by the output."""
        return g.sum((0, 2, 3)) if self.convolution else g.flatten(0, -2).sum(0)

    def with_bias(self, y: Tensor, bias: Tensor) -> Tensor:
        """Add a bias to an output."""
        return y + (bias[:, None, None] if self.convolution else bias)

    def _backward(self, g: Tensor, x: Tensor, weight: Tensor, argument: int) -> Tensor:
        mask = [argument == 0, argument == 1, False]
        results: list[Tensor] = torch.ops.aten.convolution_backward(
            g, x, weight, None, *self._geometry, False, (0, 0), self.groups, mask
        )
        return results[argument]

    def input_rows(self, x: Tensor) -> Tensor:
        """Input values that the weight is multiplied with at each position, shape (N, M)."""
        if not self.convolution:
            return x.flatten(0, -2)
        stride, padding, dilation = self._geometry
        return F.unfold(x, self._kernel, dilation, padding, stride).mT.flatten(0, 1)

    def output_rows(self, y: Tensor) -> Tensor:
        """Output values at each position, shape (N, O)."""
        return y.flatten(2).mT.flatten(0, 1) if self.convolution else y.flatten(0, -2)

    def from_input_rows(self, rows: Tensor, like: Tensor) -> Tensor:
        """Add up overlapping rows in the shape of ``like``, the transpose of :meth:`input_rows`."""
        if not self.convolution:
            return rows.view(like.shape)
        stride, padding, dilation = self._geometry
        rows = rows.unflatten(0, (len(like), -1)).mT
        return F.fold(rows, like.shape[2:], self._kernel, dilation, padding, stride)

    def from_output_rows(self, rows: Tensor, like: Tensor) -> Tensor:
        """Inverse of :meth:`output_rows`: rows in the shape of ``like``."""
        if self.convolution:
            rows = rows.unflatten(0, (len(like), -1)).mT
        return rows.reshape(like.shape)


@dataclass
class Call:
    """One call of a layer: its input and output in the graph, and the names of its parameters.

    After the backward pass, ``by_x`` is the gradient of the loss by ``x`` through this layer alone,
    and ``by_y`` that by ``y``.
    """

    layer: Layer
    weight: str
    bias: str | None
    x: Tensor
    y: Tensor
    by_x: Tensor | None = field(init=False)
    by_y: Tensor = field(init=False)


class Factors:
    """Weights AᵀX + GᵀB of a layer, with its input rows X and the gradients G by its outputs.

    A and B are passed and returned as one flat tensor, and so are the images XVᵀ and GV of a
    weight V.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        # X and G are normalized: otherwise A and B differ in scale as much as they do, and the
        # smaller of the two loses digits
        self._x, self._x_length = _unit(call.layer.input_rows(call.x.detach()))
        self._g, self._g_length = _unit(call.layer.output_rows(call.by_y.detach()))
        self._xx, self._gg = self._x @ self._x.T, self._g @ self._g.T
        self.size = self._x.numel() + self._g.numel()

    @staticmethod
    def pay(call: Call) -> bool:
        """Whether the factors of this call are fewer numbers than its weight."""
        outputs, inputs = len(call.layer.weight), call.layer.weight[0].numel()
        rows = call.y.numel() // outputs
        whole = not call.layer.convolution or call.layer.groups == 1
        return whole and rows * (inputs + outputs) < inputs * outputs

    def of(self, y: Tensor, x: Tensor | None) -> Tensor:
        """Factors from A, shaped like the output, and B, shaped like the input (0 for ``None``)."""
        a = self._call.layer.output_rows(y)
        b = torch.zeros_like(self._x) if x is None else self._call.layer.input_rows(x)
        return torch.cat([a.reshape(-1) * self._x_length, b.reshape(-1) * self._g_length])

    def weight(self, factors: Tensor, *, out: Tensor) -> None:
        """Write the weight AᵀX + GᵀB, shape (O, M), to ``out``."""
        a, b = self._split(factors)
        torch.mm(a.T, self._x, out=out).add_(self._g.T @ b)

    def image(self, factors: Tensor) -> Tensor:
        """Image of the weight AᵀX + GᵀB, computed without forming the weight."""
        a, b = self._split(factors)
        by_x = self._xx @ a + (self._x @ b.T) @ self._g
        return torch.cat([by_x.view(-1), ((self._g @ a.T) @ self._x + self._gg @ b).view(-1)])

    def image_of(self, weight: Tensor) -> Tensor:
        """Image of any weight V of the layer."""
        weight = weight.view(self._g.shape[1], -1)
        return torch.cat([(self._x @ weight.T).view(-1), (self._g @ weight).view(-1)])

    def unfold(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image as two tensors in the shapes of the output and the input of the layer."""
        a, b = self._split(image)
        layer, x, y = self._call.layer, self._call.x, self._call.y
        by_weight = layer.from_output_rows(a * self._x_length, y)
        return by_weight, layer.from_input_rows(b * self._g_length, x)

    def _split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        a, b = flat.split([self._g.numel(), self._x.numel()])
        return a.view_as(self._g), b.view_as(self._x)


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    length = rows.norm().clamp_min(torch.finfo(rows.dtype).tiny)
    return rows / length, length


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        return layer.output(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x = ctx.saved_tensors[0].detach()
        return _Transposed.apply(gradients[0], x, ctx.layer), None  # type: ignore[no-untyped-call]


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, layer: Layer) -> Tensor:
        ctx.layer = layer
        return layer.transposed(g, x, layer.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.layer.output(gradients[0], ctx.layer.weight), None, None


@contextmanager
def watched(network: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Iterator[list[Call]]:
    """Record every call of a layer whose weight is one of the parameters.

    In these calls the graph treats the weight as a constant; any other use of the weight is
    differentiated as usual.
    """
    names = {id(p): name for name, p in parameters.items()}
    calls: list[Call] = []
    changed: list[nn.Module] = []

    def forward(module: Any, x: Tensor) -> Tensor:
        node = x.view_as(x)  # a node that only this layer uses
        layer = Layer(module)
        y: Tensor = _Forward.apply(node, layer)  # type: ignore[no-untyped-call]
        if not y.requires_grad:
            y.requires_grad_()
        weight, bias = (names.get(id(p)) for p in (module.weight, module.bias))
        calls.append(Call(layer, str(weight), bias, node, y))
        return y.clone()  # later layers may work in place

    for module in network.modules():
        plain = type(module) is nn.Linear or (
            type(module) is nn.Conv2d
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        )
        if plain and id(module.weight) in names:
            module.forward = lambda x, module=module: forward(module, x)
            changed.append(module)
    try:
        yield calls
    finally:
        for module in changed:
            del module.forward
