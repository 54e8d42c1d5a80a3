"""Largest eigenvalue and trace of a symmetric operator, from products with vectors.

Lanczos starts from the gradient. Other starts needed as many products or more: the eigenvector at
the next wider bit width, less noise added to the gradient, and the leading eigenvector of the last
layer's Gauss–Newton matrix.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantskew.impact import MAX_PRODUCTS
from quantskew.impact.gradients import inner

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Spectrum:
    """Largest eigenvalue and Lanczos basis of a Hessian; see :func:`largest_eigenvalue`."""

    value: float
    vector: Tensor
    residual: float
    products: int
    basis: Tensor
    images: Tensor
    basis_trace: float


def identity(vector: Tensor) -> Tensor:
    """Image of a vector that is represented by its values."""
    return vector


def largest_eigenvalue(
    product: Map,
    start: Tensor,
    *,
    image: Map = identity,
    tolerance: float = 1e-3,
    max_products: int = MAX_PRODUCTS,
    seed: int = 0,
) -> Spectrum:
    """Largest algebraic eigenvalue of a symmetric operator, by Lanczos.

    The basis is fully reorthogonalized at each step. The result is not the eigenvalue of the
    largest magnitude, to which power iteration would converge where the most negative dominates.

    Parameters
    ----------
    product
        Maps the image of v to Hv in new memory: ``curve`` of a
        :class:`~quantskew.impact.hessian.GroupLoss`, or its ``product`` if vectors are their own
        images.
    start
        Factors of shape (Q,), or a vector of shape (P,); the gradient is the best start and costs
        nothing. Random numbers of the ``seed`` with a tenth of its norm are added, so that no
        direction is missed; they replace a start of zero.
    image
        Maps factors to their image: ``image`` of the same loss.
    tolerance, max_products
        Stop at ‖Hv − λv‖ ≤ tolerance · |λ|, or after so many products, at least 1.

    Returns
    -------
    Spectrum
        ``value`` λ; the eigenvector ``vector`` of unit length, in the form of ``start``;
        ``residual`` ‖Hv − λv‖/|λ|; the number of ``products``; and for :func:`trace` the
        orthonormal ``basis``, shape (products, Q), its ``images``, and the trace of H within it.

    Examples
    --------
    >>> diagonal = torch.tensor([3.0, 1.0, -5.0])
    >>> round(largest_eigenvalue(lambda v: diagonal * v, torch.ones(3)).value, 3)
    3.0
    """
    size = start.numel()
    vector, length = _noise(start, seed), start.norm()
    if length > 0:
        vector.mul_(0.1 * length / vector.norm()).add_(start)
    mirror = image(vector)
    basis = start.new_empty(min(max_products, size), size)
    images = basis if image is identity else torch.empty_like(basis)
    diagonal: list[float] = []
    off = [_length(vector, mirror)]
    while True:
        step = len(diagonal)
        torch.div(vector, off[-1], out=basis[step])
        if images is not basis:
            torch.div(mirror, off[-1], out=images[step])
        vector = product(images[step])
        diagonal.append(inner(vector, images[step]))
        rows = basis[: step + 1]
        # the recurrence removes the large components, a pass over the basis the rounding errors
        vector.sub_(rows[-1], alpha=diagonal[-1])
        if step:
            vector.sub_(rows[-2], alpha=off[-1])
        vector.addmv_(rows.T, images[: step + 1] @ vector, alpha=-1)
        mirror = image(vector)
        off.append(_length(vector, mirror))
        # eigh reads only the lower triangle
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off[1:-1], -1))
        residual = off[-1] * abs(vectors[-1, -1])
        scale = abs(values[-1])
        exhausted = off[-1] <= torch.finfo(start.dtype).eps * np.abs(values).max()
        if residual <= tolerance * scale or exhausted or step + 1 == len(basis):
            break
    return Spectrum(
        value=float(values[-1]),
        vector=torch.as_tensor(vectors[:, -1]).to(start) @ rows,
        residual=residual / scale if scale > 0 else 0.0,
        products=step + 1,
        basis=rows,
        images=images[: step + 1],
        basis_trace=math.fsum(diagonal),
    )


def eigenvalue_error(curvatures: Tensor) -> float:
    """Standard error of λmax over the draw of the group's n samples.

    To first order λ changes with the samples like the mean of their curvatures along its
    eigenvector, (n,) (the infinitesimal jackknife), so no eigenproblem of a resample has to be
    solved. One sample yields NaN.

    Examples
    --------
    >>> eigenvalue_error(torch.tensor([1.0, 3.0]))
    1.0
    """
    n = len(curvatures)
    return float(curvatures.double().std()) / math.sqrt(n) if n > 1 else math.nan


def trace(
    product: Map,
    spectrum: Spectrum,
    *,
    size: int | None = None,
    image_of: Map = identity,
    probes: int = 8,
    seed: int = 0,
) -> tuple[float, float]:
    """Trace of the Hessian and its standard error: exact in the Lanczos basis, estimated outside.

    A few eigenvalues make up most of such a trace and nearly all of the variance of Hutchinson's
    plain estimate; the basis of the ``spectrum``, of the same ``product``, contains them.
    ``image_of`` maps a vector to its image, and ``size`` is P, the length of a vector, if it
    differs from that of a row of the basis. Each of the ``probes``, random sign vectors, costs one
    product; of a single one the error is NaN.
    """
    basis, images = spectrum.basis, spectrum.images
    generator = _generator(basis, seed + 1)  # independent of the noise in the start of the basis
    size = size or basis.shape[1]
    if len(basis) == size:
        return spectrum.basis_trace, 0.0
    estimates = np.empty(probes)
    for i in range(probes):
        signs = torch.randint(0, 2, (size,), generator=generator, device=basis.device).to(basis)
        probe = image_of(2 * signs - 1)
        probe = probe - (basis @ probe) @ images
        estimates[i] = inner(product(probe), probe)
    error = estimates.std(ddof=1) / math.sqrt(probes) if probes > 1 else math.nan
    return spectrum.basis_trace + float(estimates.mean()), float(error)


def _generator(like: Tensor, seed: int) -> torch.Generator:
    return torch.Generator(device=like.device).manual_seed(seed)


def _noise(like: Tensor, seed: int) -> Tensor:
    return torch.empty_like(like).uniform_(-1, 1, generator=_generator(like, seed))


def _length(vector: Tensor, image: Tensor) -> float:
    return math.sqrt(max(inner(vector, image), 0.0))
