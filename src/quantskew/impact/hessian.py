"""Products with the Hessian of a group's loss; ``benchmarks/curvature.py`` measures their time.

Forward over reverse mode was slower, and so were all groups at once (``vmap``) but for a fifth at
best; batch norms as layers of :mod:`quantskew.impact.bilinear`, matrix products for small images,
channels last and weights packed in advance gained nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from quantskew.impact.bilinear import Factors, watched
from quantskew.impact.gradients import NotFiniteError, explain, flatten, naming_operators, trainable
from quantskew.precision import all_digits


class GroupLoss:
    """The mean cross-entropy of one group's samples around the weights of a network.

    A product with the Hessian is a second backward pass through the graph of the gradient, which is
    kept. Derivatives by the weights of convolutions and linear layers are computed outside that
    graph (see :mod:`quantskew.impact.bilinear`). Let X be the inputs of such a layer and G the
    gradients by its outputs, one row per position. Its part of every product is AᵀX + GᵀB, where A
    is the change of G and B the change of X. Where these *factors* are fewer numbers than the
    weight, they represent it, and only the small matrices X Xᵀ and G Gᵀ are multiplied.

    =======  =======================================================================================
    vector   shape (P,): the parameters one after the other
    factors  shape (Q,): A and B of each weight with factors; the values of other parameters
    image    shape (Q,): XVᵀ and GV of each weight V with factors; the values of other parameters.
             The inner product of two vectors is that of one's factors and the other's image.
    =======  =======================================================================================

    The network is in evaluation mode and maps images (n, …) to logits (n, K); its weights must not
    change while this object is in use. ``group`` is for error messages. ``loss`` is in nats, and
    ``factors`` are those of the gradient. A ``NotFiniteError`` is raised when the loss, its
    gradient or a product is NaN or infinite, a ``NoDerivativeError`` when an operator of the
    network cannot be differentiated twice.

    Examples
    --------
    >>> network = nn.Linear(2, 3).eval()
    >>> loss = GroupLoss(network, torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))
    >>> loss.product(torch.zeros(9)).norm().item()
    0.0
    """

    @all_digits()
    @naming_operators()
    def __init__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *, group: str = "all"
    ) -> None:
        self._network, self._images, self._labels, self._group = network, images, labels, group
        self._weights = trainable(network)
        # the fused attention kernels have no second derivative
        with watched(network, self._weights) as calls, sdpa_kernel(SDPBackend.MATH):
            loss = F.cross_entropy(network(images), labels)
        nodes = [*self._weights.values(), *(call.y for call in calls)]
        nodes += [call.x for call in calls if call.x.requires_grad]
        slopes = torch.autograd.grad(loss, nodes, create_graph=True, allow_unused=True)
        slope_of = {id(node): g for node, g in zip(nodes, slopes, strict=True) if g is not None}
        self._calls = [call for call in calls if id(call.y) in slope_of]
        for call in self._calls:
            call.by_y, call.by_x = slope_of[id(call.y)], slope_of.get(id(call.x))
        # gradients by parameters that are used outside the recorded calls
        self._others = {
            name: slope_of[id(p)] for name, p in self._weights.items() if id(p) in slope_of
        }
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
        """Product of the Hessian and a vector, shape (P,)."""
        return self.vector(self.curve(self.image_of(vector)))

    @all_digits()
    @naming_operators()
    def curve(self, image: Tensor) -> Tensor:
        """Factors of the product of the Hessian and a vector, from the image of the vector."""
        parts = self._split(image)
        moves = [(slope, parts[name]) for name, slope in self._others.items()]
        for call in self._calls:
            part, x = parts[call.weight], call.x.detach()
            if call.weight in self._factors:
                by_weight, by_slope = self._factors[call.weight].unfold(part)
            else:
                by_weight, by_slope = call.layer.output(x, part), x
                if call.x.requires_grad:
                    by_slope = call.layer.transposed(call.by_y.detach(), x, part)
            if call.bias is not None:
                by_weight = call.layer.with_bias(by_weight, parts[call.bias])
            moves += [(call.by_y, by_weight), (call.x, by_slope)]
        moves = [(node, move) for node, move in moves if node.requires_grad]
        outputs, moved = zip(*moves, strict=True)
        changed: list[Tensor] = [self._weights[name] for name in self._others]
        changed += [call.y for call in self._calls]
        changed += [call.by_x for call in self._calls if call.by_x is not None]
        changes = iter(
            torch.autograd.grad(outputs, changed, moved, retain_graph=True, materialize_grads=True)
        )
        others = {name: next(changes) for name in self._others}
        by_y = [next(changes) for _ in self._calls]
        by_x = [None if call.by_x is None else next(changes) for call in self._calls]
        return self._join(others, zip(by_y, by_x, strict=True))

    def image(self, factors: Tensor) -> Tensor:
        """Image of the vector with these factors, shape (Q,)."""
        parts = self._split(factors).items()
        return flatten(
            self._factors[name].image(part) if name in self._factors else part
            for name, part in parts
        )

    def image_of(self, vector: Tensor) -> Tensor:
        """Image of a vector, shape (Q,)."""
        parts = zip(self._weights, self._unflatten(vector), strict=True)
        return flatten(
            self._factors[name].image_of(part) if name in self._factors else part
            for name, part in parts
        )

    def vector(self, factors: Tensor) -> Tensor:
        """Vector with these factors, shape (P,)."""
        vector = factors.new_empty(sum(p.numel() for p in self._weights.values()))
        parts = self._split(factors)
        for name, target in zip(self._weights, self._unflatten(vector), strict=True):
            if name in self._factors:
                self._factors[name].weight(parts[name], out=target.flatten(1))
            else:
                target.copy_(parts[name])
        return vector

    @all_digits()
    @naming_operators()
    def curvatures_along(self, vector: Tensor) -> Tensor:
        """Second derivative of each sample's loss along a vector, (n,); their mean is vᵀHv."""
        weights = [*self._weights.values()]
        # each sample's loss has the weight 1; the derivative by it is the curvature of that sample
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
        """Factors from gradients by other parameters and, per call, by its output and input."""
        parts = {name: [part] for name, part in others.items()}
        for call, (by_y, x) in zip(self._calls, changes, strict=True):
            layer = call.layer
            if call.weight in self._factors:
                part = self._factors[call.weight].of(by_y, x)
            elif x is None:
                part = layer.weight_gradient(by_y, call.x.detach())
            else:  # both terms of the product rule in one call, as a batch of twice the size
                slopes, inputs = [by_y, call.by_y.detach()], [call.x.detach(), x]
                part = layer.weight_gradient(torch.cat(slopes), torch.cat(inputs))
            parts.setdefault(call.weight, []).append(part)
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
