"""Gradients of a group's mean loss, and their norms corrected for group size.

The plain norm of Bellam & Kim (equation 10, Figure 8) is larger for a small group even if nothing
else differs: for n samples with gradients g_i of mean μ and covariance Σ,
E‖ḡ‖² = ‖μ‖² + tr Σ / n. :func:`norms` therefore computes three norms.

Vectors are flat: the trainable parameters one after the other, in the order of the network. The
network must be in evaluation mode, so that batch normalization uses its running statistics and the
loss of a sample does not depend on the rest of the batch.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F  # noqa: N812

from quantskew.errors import UserError
from quantskew.precision import all_digits

BATCH = 64
PER_SAMPLE_NUMBERS = 2**27
"""Numbers of per-sample gradients held in memory at once (half a GiB in single precision)."""


class NotFiniteError(ArithmeticError):
    """A loss, gradient or curvature is NaN or infinite; the message names the group and layer."""


class NoDerivativeError(UserError, NotImplementedError):
    """An operator of a network lacks a derivative that is needed; the message names it."""


@contextmanager
def naming_operators() -> Iterator[None]:
    """Raise :class:`NoDerivativeError` in place of torch's own error; also a decorator."""
    try:
        yield
    except RuntimeError as error:
        wanted = r"(?:derivative for|not yet support) '?(?:aten::)?(\w+?)(?:_backward)?\b"
        missing = re.search(wanted, str(error))
        if missing is None:
            raise
        raise NoDerivativeError(
            f"torch lacks a second derivative or the gradients of single samples of the operator "
            f"{missing[1]!r}, so the curvature of this network cannot be measured; leave it out, "
            "or put another activation in its place (relu6(x + 3) / 6 computes hardsigmoid)"
        ) from error


@dataclass(frozen=True)
class Norms:
    """Norms of a group's gradient; see :func:`norms`."""

    plain: float
    equal_n: float
    unbiased_square: float
    unbiased_square_error: float


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters to differentiate by: all that require a gradient, by name.

    A ``ValueError`` is raised for a network in training mode, or without such a parameter.
    """
    if network.training:
        raise ValueError(
            "the network is in training mode, in which a loss depends on its batch; call eval()"
        )
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("no parameter of the network requires a gradient; call requires_grad_()")
    return parameters


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Join tensors into one flat, detached vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def inner(a: Tensor, b: Tensor) -> float:
    """Inner product of two long vectors: partial sums are added up in double precision.

    A plain sum over ten million numbers in single precision can be off by a percent.

    Examples
    --------
    >>> inner(torch.ones(3), torch.arange(3.0))
    3.0
    """
    pieces = zip(a.split(2**16), b.split(2**16), strict=True)
    return float(torch.stack([x @ y for x, y in pieces]).double().sum())


@all_digits()
def mean_gradient(
    network: nn.Module, images: Tensor, labels: Tensor, *, group: str = "all"
) -> Tensor:
    """Gradient of the mean cross-entropy of a group's samples, (n, …) and (n,); shape (P,).

    Where the loss or its gradient is NaN or infinite, a :class:`NotFiniteError` names the
    ``group``.
    """
    weights = trainable(network)
    total: list[Tensor] = []
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        loss = F.cross_entropy(network(x), y, reduction="sum")
        parts = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        total = [a + b for a, b in zip(total, parts, strict=True)] if total else list(parts)
    gradient = flatten(total) / len(labels)
    if not gradient.isfinite().all():
        raise NotFiniteError(explain(network, images, group, zip(weights, total, strict=True)))
    return gradient


@all_digits()
@naming_operators()
def per_sample(
    network: nn.Module, images: Tensor, labels: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared norm of each sample's gradient, and its inner product with a direction, shape (P,).

    Both are of shape (n,), in double precision; for the arguments see :func:`mean_gradient`.
    """
    weights = trainable(network)
    # vmap fails on pooling with channels last, and contiguous() keeps such strides where a side
    # is 1; a clone always has plain strides
    plain = torch.contiguous_format
    fixed = {name: p.detach().clone(memory_format=plain) for name, p in network.named_parameters()}
    fixed |= dict(network.named_buffers())
    images = images.clone(memory_format=plain)
    parts = direction.split([p.numel() for p in weights.values()])
    directions = dict(zip(weights, parts, strict=True))

    def loss(block: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, {**fixed, **block}, (x[None],)), y[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    squares = torch.zeros(len(labels), dtype=torch.float64, device=direction.device)
    along = torch.zeros_like(squares)
    for names in _blocks(weights, PER_SAMPLE_NUMBERS // min(len(labels), BATCH)):
        block = {name: fixed[name] for name in names}
        start = 0
        for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            rows = slice(start, start := start + len(y))
            for name, g in gradients(block, x, y).items():
                flat = g.reshape(len(y), -1)  # of a single number too, such as a gain
                squares[rows] += torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64) ** 2
                along[rows] += flat @ directions[name]
    return squares, along


def _blocks(weights: Mapping[str, Tensor], limit: int) -> Iterator[list[str]]:
    """Names of consecutive parameters that together hold at most ``limit`` numbers, if they can."""
    block: list[str] = []
    size = 0
    for name, p in weights.items():
        if block and size + p.numel() > limit:
            yield block
            block, size = [], 0
        block.append(name)
        size += p.numel()
    yield block


def norms(gradient: Tensor, squares: Tensor, along: Tensor, n: int, *, equal_n: int) -> Norms:
    """Norm of a group's mean gradient: plain, at equal group size, and without bias.

    ======================== =====================================================================
    ``plain``                ‖ḡ‖ over the group's n samples
    ``equal_n``              root of E‖ḡ‖² over its subsets of ``equal_n`` samples, which is
                             U + (A − U)/equal_n with A = mean ‖g_i‖²: no subset need be drawn
    ``unbiased_square``      U = (‖Σg_i‖² − Σ‖g_i‖²) / (n(n−1)), whose mean is ‖μ‖² whatever n;
                             negative where noise dominates the gradient
    ``unbiased_square_error`` standard error of U to first order, 2·sd(g_i · ḡ)/√n
    ======================== =====================================================================

    ``gradient`` is ḡ over all ``n`` samples of the group, shape (P,); U of a single sample is NaN.
    ``squares`` and ``along`` are from :func:`per_sample` along it, for all samples of the group (U
    is then exact) or a random part of them (U is then still unbiased). ``equal_n``, at least 1, is
    the size at which groups are compared.
    """
    plain = math.sqrt(inner(gradient, gradient))
    mean_square = float(squares.mean())
    unbiased = (n * plain**2 - mean_square) / (n - 1) if n > 1 else math.nan
    spread = float(along.std()) if len(along) > 1 else math.nan
    square = unbiased + (mean_square - unbiased) / equal_n if equal_n < n else plain**2
    return Norms(plain, math.sqrt(max(square, 0.0)), unbiased, 2 * spread / math.sqrt(n))


def explain(
    network: nn.Module, images: Tensor, group: str, parts: Iterable[tuple[str, Tensor]]
) -> str:
    """Message that names the group and the first layer in which a number is NaN or infinite.

    The ``parts``, derivatives by the names of their parameters, are looked at last.
    """

    def broken(value: object) -> bool:
        return isinstance(value, Tensor) and not value.isfinite().all()

    for name, p in network.named_parameters():
        if broken(p):
            return f"group {group!r}: the weights of layer {name!r} are NaN or infinite"
    outputs: list[str] = []
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, name=name: outputs.append(name) if broken(out) else None
        )
        for name, module in network.named_modules()
    ]
    try:
        with torch.no_grad():
            for x in images.split(BATCH):
                network(x)
                if outputs:
                    return f"group {group!r}: layer {outputs[0]!r} puts out NaN or infinite values"
    finally:
        for hook in hooks:
            hook.remove()
    for name, part in parts:
        if broken(part):
            return f"group {group!r}: a derivative by layer {name!r} is NaN or infinite"
    return f"group {group!r}: its loss is NaN or infinite"
