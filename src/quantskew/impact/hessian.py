"""Curvature of a group's loss: Hessian–vector products, largest eigenvalue, trace.

A Hessian–vector product is a second backward pass through the graph of the gradient, which
:class:`GroupLoss` builds once and keeps for all products of the group.

What was measured for speed, in CPU time of one thread, on a ResNet-18 of a quarter width trained
on 5,000 digits, ten groups of 25 samples of 28×28:

- A product takes 42 ms; building its graph anew each time would add some 30.
- Mean products until the residual is 1e-3, from a random start, from the gradient, and from the
  eigenvector at the next wider width: 5.1, 4.0, 4.0 at 8 bits; 5.8, 4.5, 5.3 at 4; 15.6, 12.4, 14.3
  at 3; 9.7, 6.9, 8.7 at 2. So the gradient is the start; a neighbour's vector never beat it.
- All groups in one batched product (``vmap`` over a copy of the weights a group) took 40 ms a
  group, and with batch normalization written as an affine map 33–37; with 50 samples 71–76 and 58
  against 66. Not used: a fifth at best, for a copy of the graph and the weights a group.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from quantskew.impact.gradients import NotFiniteError, chosen, explain, flatten, inner

Product = Callable[[Tensor], Tensor]


class GroupLoss:
    """The mean cross-entropy of one group's samples around the weights of a network.

    Parameters
    ----------
    network
        In evaluation mode, maps images to logits (n, K). Its weights must stay as they are while
        this object is in use.
    images, labels
        Shape (n, …) and (n,).
    group
        Whose samples they are, for messages.
    parameters
        Names of those to differentiate by; all that require a gradient unless given.

    Attributes
    ----------
    loss : float
        In nats.
    gradient : torch.Tensor
        Shape (P,).

    Raises
    ------
    NotFiniteError
        When the loss, its gradient or a product is NaN or infinite.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        group: str = "all",
        parameters: Iterable[str] | None = None,
    ) -> None:
        self._network, self._images, self._labels, self._group = network, images, labels, group
        self._weights = chosen(network, parameters)
        # a weight of one for each sample, by which the curvature can be told apart again
        self._shares = torch.ones(len(labels), device=images.device, requires_grad=True)
        losses = F.cross_entropy(network(images), labels, reduction="none")
        loss = (losses * self._shares).mean()
        self._gradients = torch.autograd.grad(
            loss, list(self._weights.values()), create_graph=True, materialize_grads=True
        )
        self.loss = float(loss.detach())
        self.gradient = self._checked(self._gradients)

    def product(self, vector: Tensor) -> Tensor:
        """Multiply the Hessian by a vector of shape (P,)."""
        return self._checked(self._product(vector))

    def curvatures_along(self, vector: Tensor) -> Tensor:
        """Second derivative of each sample's loss along a vector; their mean is vᵀHv.

        One backward pass through a product gives those of all samples. Shape (n,).
        """
        product = self._product(vector, create_graph=True)
        pairs = zip(product, self._unflatten(vector), strict=True)
        along = torch.stack([(a * b).sum() for a, b in pairs]).sum()
        (curvatures,) = torch.autograd.grad(along, self._shares, retain_graph=True)
        return curvatures * len(curvatures)

    def _product(self, vector: Tensor, *, create_graph: bool = False) -> Sequence[Tensor]:
        parts = zip(self._gradients, self._unflatten(vector), strict=True)
        # the gradient by a parameter that the network does not use is a constant
        gradients, directions = zip(*((g, v) for g, v in parts if g.requires_grad), strict=True)
        return torch.autograd.grad(
            gradients,
            list(self._weights.values()),
            directions,
            retain_graph=True,
            create_graph=create_graph,
            materialize_grads=True,
        )

    def _unflatten(self, vector: Tensor) -> list[Tensor]:
        parts = vector.split([p.numel() for p in self._weights.values()])
        return [part.view_as(p) for part, p in zip(parts, self._weights.values(), strict=True)]

    def _checked(self, parts: Iterable[Tensor]) -> Tensor:
        parts = list(parts)
        vector = flatten(parts)
        if not vector.sum().isfinite():
            named = zip(self._weights, parts, strict=True)
            raise NotFiniteError(explain(self._network, self._images, self._group, named))
        return vector


@dataclass(frozen=True)
class Spectrum:
    """The top of a Hessian's spectrum; see :func:`largest_eigenvalue`."""

    value: float
    vector: Tensor
    residual: float
    products: int
    basis: Tensor
    basis_trace: float


def largest_eigenvalue(
    product: Product,
    start: Tensor,
    *,
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
) -> Spectrum:
    """Largest algebraic eigenvalue of a symmetric operator, by Lanczos.

    The basis is orthogonalised in full at each step. It is the largest, not the largest in
    magnitude: where the loss curves down more than up, power iteration would answer with the
    wrong end of the spectrum.

    Parameters
    ----------
    product
        Maps v to Hv in new memory, both of shape (P,).
    start
        Shape (P,). The gradient is the best start and is free; a neighbouring width's eigenvector
        may be given. A tenth of its length is added at random, so that no start is blind to a
        direction. A zero start is replaced at random.
    tolerance
        Stop at ‖Hv − λv‖ ≤ tolerance · |λ|.
    max_products
        Stop after so many products in any case; ``residual`` then tells how far it got.
    seed
        Of the random part.

    Returns
    -------
    Spectrum
        ``value`` λ; ``vector`` of unit length, shape (P,); ``residual`` ‖Hv − λv‖/|λ|; ``products``
        used; the orthonormal ``basis``, shape (products, P), and the trace of H within it, for
        :func:`trace`.
    """
    size = start.numel()
    vector = _unit(start).add_(_unit(_gaussian(start, seed)), alpha=0.1)
    basis = start.new_empty(min(max_products, size), size)
    diagonal: list[float] = []
    off = [math.sqrt(inner(vector, vector))]
    while True:
        step = len(diagonal)
        torch.div(vector, off[-1], out=basis[step])
        vector = product(basis[step])
        diagonal.append(inner(vector, basis[step]))
        known = basis[: step + 1]
        # the recurrence takes out what is large, a pass over the basis its rounding errors
        vector.sub_(known[-1], alpha=diagonal[-1])
        if step:
            vector.sub_(known[-2], alpha=off[-1])
        vector.addmv_(known.T, known @ vector, alpha=-1)
        off.append(math.sqrt(inner(vector, vector)))
        # eigh reads the lower triangle alone
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off[1:-1], -1))
        residual = off[-1] * abs(vectors[-1, -1])
        scale = abs(values[-1])
        exhausted = off[-1] <= torch.finfo(start.dtype).eps * np.abs(values).max()
        if residual <= tolerance * scale or exhausted or step + 1 == len(basis):
            break
    return Spectrum(
        value=float(values[-1]),
        vector=_unit(torch.as_tensor(vectors[:, -1]).to(start) @ known),
        residual=residual / scale if scale > 0 else 0.0,
        products=step + 1,
        basis=known,
        basis_trace=math.fsum(diagonal),
    )


def eigenvalue_error(curvatures: Tensor) -> float:
    """Standard error of λmax over the draw of the group's n samples.

    To first order λ moves with the samples as the mean of their curvatures along its eigenvector
    does (the infinitesimal jackknife), so no resample need be solved.

    Parameters
    ----------
    curvatures
        Shape (n,): :meth:`GroupLoss.curvatures_along` the eigenvector. NaN for one sample.
    """
    n = len(curvatures)
    return float(curvatures.double().std()) / math.sqrt(n) if n > 1 else math.nan


def trace(
    product: Product, spectrum: Spectrum, *, probes: int = 8, seed: int = 0
) -> tuple[float, float]:
    """Trace of the Hessian: exact within the Lanczos basis, Hutchinson's estimate outside it.

    A few eigenvalues carry most of such a trace and nearly all of the variance of the plain
    estimate; the basis of :func:`largest_eigenvalue` holds them and costs nothing more.

    Parameters
    ----------
    product
        Maps v to Hv.
    spectrum
        Of the same operator.
    probes
        Random sign vectors, at least 1; a product each.
    seed
        Of the probes.

    Returns
    -------
    trace, standard error
        The error is NaN for one probe.
    """
    generator = _generator(spectrum.basis, seed + 1)  # not the draw that is part of the basis
    basis = spectrum.basis
    if len(basis) == basis.shape[1]:
        return spectrum.basis_trace, 0.0
    estimates = np.empty(probes)
    for i in range(probes):
        signs = torch.randint(0, 2, basis.shape[1:], generator=generator, device=basis.device).to(
            basis
        )
        probe = 2 * signs - 1
        probe -= (basis @ probe) @ basis
        estimates[i] = inner(probe, product(probe))
    error = estimates.std(ddof=1) / math.sqrt(probes) if probes > 1 else math.nan
    return spectrum.basis_trace + float(estimates.mean()), float(error)


def _generator(like: Tensor, seed: int) -> torch.Generator:
    return torch.Generator(device=like.device).manual_seed(seed)


def _gaussian(like: Tensor, seed: int) -> Tensor:
    generator = _generator(like, seed)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _unit(vector: Tensor) -> Tensor:
    length = math.sqrt(inner(vector, vector))
    return vector / length if length > 0 else vector
