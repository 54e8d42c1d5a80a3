"""Products with the Hessian of a group's loss.

``benchmarks/curvature.py`` measures them, and what the factors bring. What did not pay:

- Forward over reverse, which keeps no graph: slower than a second backward pass at its best.
- All groups in one product (``vmap`` over a copy of the weights a group): a fifth at best.
- Batch normalizations as layers of :mod:`quantskew.impact.bilinear`: nothing to be seen on a full
  ResNet-18, where the convolutions are three quarters of a product.
- Matrix products instead of convolutions where a picture is smaller than the kernel: faster only
  while the weights lie in the cache, where they do not stay from one product to the next.
- Channels last, and weights packed beforehand: no gain from either.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from quantskew.impact.bilinear import Factors, watched
from quantskew.impact.gradients import NotFiniteError, chosen, explain, flatten, naming_operators
from quantskew.precision import all_digits


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
    NoDerivativeError
        When an operator of the network cannot be differentiated twice.
    """

    @all_digits()
    @naming_operators()
    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        group: str = "all",
    ) -> None:
        self._network, self._images, self._labels, self._group = network, images, labels, group
        self._weights = chosen(network)
        # the fused attention kernels have no second derivative
        with watched(network, self._weights) as calls, sdpa_kernel(SDPBackend.MATH):
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

    @all_digits()
    @naming_operators()
    def curve(self, image: Tensor) -> Tensor:
        """Multiply the Hessian by the vector of an image; give the factors of the product."""
        given = self._split(image)
        moves = [(slope, given[name]) for name, slope in self._others.items()]
        for call in self._calls:
            part, x = given[call.weight], call.x.detach()
            if call.weight in self._factors:
                by_weight, by_slope = self._factors[call.weight].unfold(part)
            else:
                by_weight, by_slope = call.layer.output(x, part), x
                if call.x.requires_grad:
                    by_slope = call.layer.transposed(call.by_y.detach(), x, part)
            if call.bias is not None:
                by_weight = call.layer.with_bias(by_weight, given[call.bias])
            moves += [(call.by_y, by_weight), (call.x, by_slope)]
        moves = [(node, move) for node, move in moves if node.requires_grad]
        outputs, moved = zip(*moves, strict=True)
        changed: list[Tensor] = [self._weights[name] for name in self._others]
        changed += [call.y for call in self._calls]
        changed += [call.by_x for call in self._calls if call.by_x is not None]
        found = iter(
            torch.autograd.grad(outputs, changed, moved, retain_graph=True, materialize_grads=True)
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
        vector = factors.new_empty(sum(p.numel() for p in self._weights.values()))
        given = self._split(factors)
        for name, part in zip(self._weights, self._unflatten(vector), strict=True):
            if name in self._factors:
                self._factors[name].weight(given[name], out=part.flatten(1))
            else:
                part.copy_(given[name])
        return vector

    @all_digits()
    @naming_operators()
    def curvatures_along(self, vector: Tensor) -> Tensor:
        """Second derivative of each sample's loss along a vector, (n,); their mean is vᵀHv."""
        weights = [*self._weights.values()]
        # a weight of one for each sample, by which the curvature can be told apart again
        shares = torch.ones(len(self._labels), device=vector.device, requires_grad=True)
        with sdpa_kernel(SDPBackend.MATH):
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
                found = self._factors[call.weight].of(by_y, x)
            elif x is None:
                found = layer.weight_gradient(by_y, call.x.detach())
            else:  # both terms of the product rule at once, as if of twice the samples
                slopes, inputs = [by_y, call.by_y.detach()], [call.x.detach(), x]
                found = layer.weight_gradient(torch.cat(slopes), torch.cat(inputs))
            parts.setdefault(call.weight, []).append(found)
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
