"""The top of a symmetric operator's spectrum, and its trace, from products with it.

Lanczos starts from the gradient. The eigenvector at the next wider width, less noise beside the
start, and the top of the Gauss–Newton matrix seen from the last layer alone took as many products
or more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantskew.impact.gradients import inner

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Spectrum:
    """The top of a Hessian's spectrum; see :func:`largest_eigenvalue`."""

    value: float
    vector: Tensor
    residual: float
    products: int
    basis: Tensor
    images: Tensor
    basis_trace: float


def itself(vector: Tensor) -> Tensor:
    """Image of a vector that is given by its numbers."""
    return vector


def largest_eigenvalue(
    product: Map,
    start: Tensor,
    *,
    image: Map = itself,
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
        Maps the image of v to Hv in new memory; as ``curve`` of a
        :class:`~quantskew.impact.hessian.GroupLoss`, or, vectors being their own images, as its
        ``product``.
    start
        Shape (Q,): factors, or (P,): a vector. The gradient is the best start and is free. Random
        numbers of a tenth of the norm of its own are added, so that no start is blind to a
        direction. A zero start is replaced at random.
    image
        As ``image`` of the same.
    tolerance
        Stop at ‖Hv − λv‖ ≤ tolerance · |λ|.
    max_products
        Stop after so many products in any case; ``residual`` then tells how far it got.
    seed
        Of the random part.

    Returns
    -------
    Spectrum
        ``value`` λ; ``vector`` of unit length, as the start; ``residual`` ‖Hv − λv‖/|λ|;
        ``products`` used; the orthonormal ``basis``, shape (products, Q), its ``images``, and the
        trace of H within it, for :func:`trace`.
    """
    size = start.numel()
    vector, length = _noise(start, seed), start.norm()
    if length > 0:
        vector.mul_(0.1 * length / vector.norm()).add_(start)
    mirror = image(vector)
    basis = start.new_empty(min(max_products, size), size)
    images = basis if image is itself else torch.empty_like(basis)
    diagonal: list[float] = []
    off = [_length(vector, mirror)]
    while True:
        step = len(diagonal)
        torch.div(vector, off[-1], out=basis[step])
        if images is not basis:
            torch.div(mirror, off[-1], out=images[step])
        vector = product(images[step])
        diagonal.append(inner(vector, images[step]))
        known = basis[: step + 1]
        # the recurrence takes out what is large, a pass over the basis its rounding errors
        vector.sub_(known[-1], alpha=diagonal[-1])
        if step:
            vector.sub_(known[-2], alpha=off[-1])
        vector.addmv_(known.T, images[: step + 1] @ vector, alpha=-1)
        mirror = image(vector)
        off.append(_length(vector, mirror))
        # eigh reads the lower triangle alone
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off[1:-1], -1))
        residual = off[-1] * abs(vectors[-1, -1])
        scale = abs(values[-1])
        exhausted = off[-1] <= torch.finfo(start.dtype).eps * np.abs(values).max()
        if residual <= tolerance * scale or exhausted or step + 1 == len(basis):
            break
    return Spectrum(
        value=float(values[-1]),
        vector=torch.as_tensor(vectors[:, -1]).to(start) @ known,
        residual=residual / scale if scale > 0 else 0.0,
        products=step + 1,
        basis=known,
        images=images[: step + 1],
        basis_trace=math.fsum(diagonal),
    )


def eigenvalue_error(curvatures: Tensor) -> float:
    """Standard error of λmax over the draw of the group's n samples.

    To first order λ moves with the samples as the mean of their curvatures along its eigenvector
    does (the infinitesimal jackknife), so no resample need be solved.

    Parameters
    ----------
    curvatures
        Shape (n,): those of the samples along its eigenvector. NaN for one sample.
    """
    n = len(curvatures)
    return float(curvatures.double().std()) / math.sqrt(n) if n > 1 else math.nan


def trace(
    product: Map,
    spectrum: Spectrum,
    *,
    size: int | None = None,
    image_of: Map = itself,
    probes: int = 8,
    seed: int = 0,
) -> tuple[float, float]:
    """Trace of the Hessian: exact within the Lanczos basis, Hutchinson's estimate outside it.

    A few eigenvalues carry most of such a trace and nearly all of the variance of the plain
    estimate; the basis of :func:`largest_eigenvalue` holds them and costs nothing more.

    Parameters
    ----------
    product
        As in :func:`largest_eigenvalue`.
    spectrum
        Of the same operator.
    size
        P, the length of a vector, where it is not that of the basis.
    image_of
        Turns a vector into its image.
    probes
        Random sign vectors, at least 1; a product each.
    seed
        Of the probes.

    Returns
    -------
    trace, standard error
        The error is NaN for one probe.
    """
    basis, images = spectrum.basis, spectrum.images
    generator = _generator(basis, seed + 1)  # not the draw that is part of the basis
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
