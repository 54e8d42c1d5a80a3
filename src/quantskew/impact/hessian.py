"""Curvature of a group's loss: Hessian–vector products, largest eigenvalue, trace.

What was measured for speed, in CPU time of one thread:

- On the default's MobileNetV2, 12 samples of 28×28: 117 ms a product by double backward, 50 here,
  mostly because double backward takes depthwise convolutions channel by channel; a survey of all
  groups at 2 bits 22.9 s and 10.9. On its ResNet-18: 54 ms and 45; a survey 6.2 s and 6.0.
- On a full ResNet-18, 8 samples of 48×48: 311 ms by double backward, 225 with the layers' own
  arithmetic, 150 with factors, which leave 2.0 million numbers of 11.2 million to orthogonalise.
  Forward over reverse, which builds no graph: 328 ms at best, and 101 and 67 on the small two.
- Building the graph anew for every product would add 20 to 180 ms to each.
- Mean products until the residual is 1e-3 on ten groups of the small ResNet-18, from a random
  start, from the gradient, and from the eigenvector at the next wider width: 5.1, 4.0, 4.0 at 8
  bits; 5.8, 4.5, 5.3 at 4; 15.6, 12.4, 14.3 at 3; 9.7, 6.9, 8.7 at 2. So the gradient is the start.
- All groups in one product (``vmap`` over a copy of the weights a group) gained a fifth at best.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from quantskew.impact.bilinear import Factors, watched
from quantskew.impact.gradients import NotFiniteError, chosen, explain, flatten, inner

Map = Callable[[Tensor], Tensor]


class GroupLoss:
    """The mean cross-entropy of one group's samples around the weights of a network.

    A product with the Hessian is a second backward pass through the graph of the gradient, which is
    kept. What belongs to the weights of convolutions and linear layers is done apart from it (see
    :mod:`quantskew.impact.bilinear`). With the inputs X of such a layer and the gradients G by its
    outputs, one row a position, its part of every product is AᵀX + GᵀB: A is how the product
    changes G, B how it changes X. Where these *factors* are fewer numbers than the weight, they
    stand for it, and the arithmetic of the layer becomes that of the small X Xᵀ and G Gᵀ.

    =======  =======================================================================================
    vector   shape (P,): the parameters one after the other
    factors  shape (Q,): A and B of each weight that has factors, of other parameters the numbers
    image    shape (Q,): XVᵀ and GV of each weight V that has factors, of others the numbers; the
             inner product of two vectors is that of one's factors and the other's image
    =======  =======================================================================================

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
    factors : torch.Tensor
        Those of the gradient, shape (Q,).

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
        with watched(network, self._weights) as calls:
            loss = F.cross_entropy(network(images), labels)
        nodes = [*self._weights.values(), *(call.y for call in calls)]
        nodes += [call.x for call in calls if call.x.requires_grad]
        slopes = torch.autograd.grad(loss, nodes, create_graph=True, allow_unused=True)
        known = {id(node): g for node, g in zip(nodes, slopes, strict=True) if g is not None}
        self._calls = [call for call in calls if id(call.y) in known]
        for call in self._calls:
            call.by_y, call.by_x = known[id(call.y)], known.get(id(call.x))
        # of parameters of no such layer, and of those that are used in other ways as well
        self._others = {name: known[id(p)] for name, p in self._weights.items() if id(p) in known}
        uses = Counter([*self._others, *(call.weight for call in self._calls)])
        self._factors = {
            call.weight: Factors(call)
            for call in self._calls
            if uses[call.weight] == 1 and Factors.pay(call)
        }
        self.loss = float(loss.detach())
        self.factors = self._join(
            {name: slope.detach() for name, slope in self._others.items()},
            [(call.by_y.detach(), None) for call in self._calls],
        )

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the loss, shape (P,)."""
        return self.vector(self.factors)

    def product(self, vector: Tensor) -> Tensor:
        """Multiply the Hessian by a vector."""
        return self.vector(self.curve(self.image_of(vector)))

    def curve(self, image: Tensor) -> Tensor:
        """Multiply the Hessian by the vector of an image; give the factors of the product."""
        given = self._split(image)
        outputs = [*self._others.values()]
        moves = [given[name] for name in self._others]
        for call in self._calls:
            part, x = given[call.weight], call.x.detach()
            if call.weight in self._factors:
                by_weight, by_slope = self._factors[call.weight].unfold(part)
            else:
                by_weight = call.layer.output(x, part)
                by_slope = call.layer.transposed(call.by_y.detach(), x, part)
            if call.bias is not None:
                by_weight = call.layer.with_bias(by_weight, given[call.bias])
            outputs += [call.by_y, call.x]
            moves += [by_weight, by_slope]
        used = [place for place, node in enumerate(outputs) if node.requires_grad]
        changed: list[Tensor] = [self._weights[name] for name in self._others]
        changed += [call.y for call in self._calls]
        changed += [call.by_x for call in self._calls if call.by_x is not None]
        found = iter(
            torch.autograd.grad(
                [outputs[place] for place in used],
                changed,
                [moves[place] for place in used],
                retain_graph=True,
                materialize_grads=True,
            )
        )
        others = {name: next(found) for name in self._others}
        by_y = [next(found) for _ in self._calls]
        by_x = [None if call.by_x is None else next(found) for call in self._calls]
        return self._join(others, zip(by_y, by_x, strict=True))

    def image(self, factors: Tensor) -> Tensor:
        """Turn factors into an image."""
        parts = self._split(factors).items()
        return flatten(
            self._factors[name].image(part) if name in self._factors else part
            for name, part in parts
        )

    def image_of(self, vector: Tensor) -> Tensor:
        """Turn a vector into an image."""
        parts = zip(self._weights, self._unflatten(vector), strict=True)
        return flatten(
            self._factors[name].image_of(part) if name in self._factors else part
            for name, part in parts
        )

    def vector(self, factors: Tensor) -> Tensor:
        """Turn factors into a vector."""
        parts = self._split(factors).items()
        return flatten(
            self._factors[name].weight(part) if name in self._factors else part
            for name, part in parts
        )

    def curvatures_along(self, vector: Tensor) -> Tensor:
        """Second derivative of each sample's loss along a vector, (n,); their mean is vᵀHv."""
        weights = [*self._weights.values()]
        # a weight of one for each sample, by which the curvature can be told apart again
        shares = torch.ones(len(self._labels), device=vector.device, requires_grad=True)
        losses = F.cross_entropy(self._network(self._images), self._labels, reduction="none")
        along = losses @ shares.to(losses)
        for _ in range(2):
            slopes = torch.autograd.grad(along, weights, create_graph=True, materialize_grads=True)
            parts = zip(slopes, self._unflatten(vector), strict=True)
            along = torch.stack([(a * b).sum() for a, b in parts]).sum()
        (curvatures,) = torch.autograd.grad(along, shares)
        return curvatures

    def _join(
        self, others: Mapping[str, Tensor], changes: Iterable[tuple[Tensor, Tensor | None]]
    ) -> Tensor:
        """Factors, from changes of the gradients by parameters and of outputs and inputs."""
        parts = {name: [part] for name, part in others.items()}
        for call, (by_y, x) in zip(self._calls, changes, strict=True):
            layer = call.layer
            if call.weight in self._factors:
                found = [self._factors[call.weight].of(by_y, x)]
            else:
                found = [layer.weight_gradient(by_y, call.x.detach())]
                if x is not None:
                    found.append(layer.weight_gradient(call.by_y.detach(), x))
            parts.setdefault(call.weight, []).extend(found)
            if call.bias is not None:
                parts.setdefault(call.bias, []).append(layer.bias_gradient(by_y))
        factors = flatten(
            reduce(torch.add, parts[name]) if name in parts else p.new_zeros(p.shape)
            for name, p in self._weights.items()
        )
        if not factors.sum().isfinite():
            named = self._split(factors).items()
            raise NotFiniteError(explain(self._network, self._images, self._group, named))
        return factors

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        sizes = [
            self._factors[name].size if name in self._factors else p.numel()
            for name, p in self._weights.items()
        ]
        parts = zip(self._weights.items(), flat.split(sizes), strict=True)
        return {
            name: part if name in self._factors else part.view_as(p) for (name, p), part in parts
        }

    def _unflatten(self, vector: Tensor) -> list[Tensor]:
        parts = vector.split([p.numel() for p in self._weights.values()])
        return [part.view_as(p) for part, p in zip(parts, self._weights.values(), strict=True)]


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
        Maps the image of v to Hv in new memory; as :meth:`GroupLoss.curve`, or, vectors being their
        own images, as :meth:`GroupLoss.product`.
    start
        Shape (Q,): factors, or (P,): a vector. The gradient is the best start and is free. A tenth
        of its length is added at random, so that no start is blind to a direction. A zero start is
        replaced at random.
    image
        As :meth:`GroupLoss.image`.
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
    vector = start.clone()
    noise = _gaussian(start, seed)
    length, spread = (_length(v, image(v)) for v in (start, noise))
    vector = (start / length if length > 0 else start).add(noise, alpha=0.1 / spread)
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
        Shape (n,): :meth:`GroupLoss.curvatures_along` the eigenvector. NaN for one sample.
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
        As :meth:`GroupLoss.image_of`.
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


def _gaussian(like: Tensor, seed: int) -> Tensor:
    generator = _generator(like, seed)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _length(vector: Tensor, image: Tensor) -> float:
    return math.sqrt(max(inner(vector, image), 0.0))
