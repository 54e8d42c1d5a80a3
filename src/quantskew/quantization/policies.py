"""Bit allocation: the width of each layer or channel, at the size of the uniform one.

A policy (:class:`Policy`) shares the bits of an :class:`Allocation` among the layers. Those that
look at importance say what the importance of a weight is (:class:`Importance`), how the groups'
becomes one (:class:`Reduction`), and what has a width of its own (:class:`Unit`).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field
from typing_extensions import override

from quantskew.quantization.objectives import Mean, Objective
from quantskew.quantization.widths import (
    allocate,
    by_quantile,
    exempt,
    fit_to_size,
    keep_most_important,
    uniform,
)
from quantskew.sections import Choice, Count, Fraction, Width

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quantskew.quantization.codes import Widths
    from quantskew.quantization.layers import Layer
    from quantskew.quantization.weights import IntegerWeights

Choices = Annotated[tuple[Width, ...], Field(min_length=2)]
CHOICES = (2, 4, 8)


class Allocation(NamedTuple):
    """What a policy works on.

    The network is a copy in evaluation mode, which may be changed, and ``layers`` are those whose
    width is free, by name, one at least. ``images``, ``labels`` and ``groups`` are the calibration
    set, (N, …), (N,), (N,): input, class, and group as a code from 0 on. The uniform width ``bits``
    sets the size, ``weights`` how weights are rounded at a width.
    """

    network: nn.Module
    layers: Mapping[str, Layer]
    images: Tensor
    labels: Tensor
    groups: Tensor
    bits: int
    weights: IntegerWeights
    seed: int

    @property
    def sizes(self) -> list[int]:
        """Number of weights of each layer."""
        return [layer.weight.numel() for layer in self.layers.values()]

    @property
    def capacity(self) -> int:
        """Bits that the layers may have in all."""
        return self.bits * sum(self.sizes)


class Policy(Choice):
    """How the bits are shared among the layers (``policy:``)."""

    rounds_weights: ClassVar[bool] = False  # whether it measures what rounding a weight costs

    def narrowest(self) -> int:
        """Return the smallest width that it may give: the least of its choices, if it has any."""
        return min(getattr(self, "choices", (2,)))

    def splits_layers(self) -> bool:
        """Whether the channels of a layer may get different widths, which QAT cannot train."""
        return False

    @abstractmethod
    def allocate(self, problem: Allocation) -> Sequence[Widths]:
        """Return the width of each layer, or the widths of its output channels, in order."""


class Uniform(Policy, kind="uniform"):
    """Every layer has the width of the method."""

    @override
    def allocate(self, problem: Allocation) -> Sequence[Widths]:
        return [problem.bits] * len(problem.layers)


class _OfCosts(Policy):
    """The least cost within the size, in the mean or for the worst-off group."""

    rounds_weights: ClassVar[bool] = True

    objective: Objective = Mean()
    choices: Choices = CHOICES

    @abstractmethod
    def costs(self, problem: Allocation) -> Tensor:
        """Return what each choice costs each group, (layers, choices, groups)."""

    @override
    def allocate(self, problem: Allocation) -> Sequence[Widths]:
        costs, sizes = self.costs(problem), problem.sizes
        return allocate(costs, sizes, self.choices, problem.capacity, objective=self.objective)


class Hawq(_OfCosts, kind="hawq"):
    """Costs by HAWQ-V2's second-order estimate, from ``probes`` random vectors a group."""

    probes: Count = 8

    @override
    def costs(self, problem: Allocation) -> Tensor:
        from quantskew.quantization import sensitivity

        return sensitivity.hawq(problem, choices=self.choices, probes=self.probes)


class Measured(_OfCosts, kind="measured"):
    """Costs measured: the rise of each group's loss when one layer alone is quantized."""

    @override
    def costs(self, problem: Allocation) -> Tensor:
        from quantskew.quantization import sensitivity

        return sensitivity.measured(problem, choices=self.choices)


class Learned(Policy, kind="learned"):
    """A real-valued width a layer, trained by its effect on the loss."""

    rounds_weights: ClassVar[bool] = True

    choices: Choices = CHOICES

    @override
    def allocate(self, problem: Allocation) -> Sequence[Widths]:
        from quantskew.quantization.learned_widths import learn_widths

        scores = learn_widths(problem, choices=self.choices)
        places = scores.round().int()
        return fit_to_size(places, scores, problem.sizes, self.choices, problem.capacity)


class Importance(Choice):
    """What the importance of a weight to a group is (``policy.importance``)."""

    @abstractmethod
    def __call__(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Return the importance of each weight from the gradient of the group's loss."""


class Gradient(Importance, kind="gradient"):
    """The magnitude of the gradient."""

    @override
    def __call__(self, gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient.abs()


class Taylor(Importance, kind="taylor"):
    """The squared product of gradient and weight, as in FairGRAPE (Lin et al. 2022)."""

    @override
    def __call__(self, gradient: Tensor, weight: Tensor) -> Tensor:
        return (gradient * weight).square()


class Reduction(Choice):
    """How the importance to each group becomes one number (``policy.reduce``)."""

    @abstractmethod
    def __call__(self, importance: Tensor) -> Tensor:
        """Return (units,) from (units, groups), not negative.

        Examples
        --------
        >>> import torch
        >>> MaxOfGroups()(torch.tensor([[1.0, 3.0], [2.0, 0.0]])).tolist()
        [3.0, 2.0]
        """


class MaxOfGroups(Reduction, kind="max"):
    """The largest over groups."""

    @override
    def __call__(self, importance: Tensor) -> Tensor:
        return importance.amax(1)


class MeanOfGroups(Reduction, kind="mean"):
    """The mean over groups."""

    @override
    def __call__(self, importance: Tensor) -> Tensor:
        return importance.mean(1)


class Cvar(Reduction, kind="cvar"):
    """The mean over the ``share`` of groups, at least one, to which a unit matters most."""

    share: Fraction = 0.3

    @override
    def __call__(self, importance: Tensor) -> Tensor:
        worst = max(1, round(self.share * importance.shape[1]))
        return importance.topk(worst, 1).values.mean(1)


class BalancedGroups(Reduction, kind="balanced"):
    """The mean after each group's importances are scaled to sum to 1: all have an equal say."""

    @override
    def __call__(self, importance: Tensor) -> Tensor:
        return (importance / importance.sum(0).clamp_min(2.0**-126)).mean(1)


class Unit(Choice):
    """What has a width of its own, and which (``policy.unit``)."""

    splits_layers: ClassVar[bool] = True

    @abstractmethod
    def scores(self, by_channel: Sequence[Tensor]) -> Tensor:
        """Return the score of each unit, (units,), from those of each layer's output channels."""

    @abstractmethod
    def allocate(self, problem: Allocation, scores: Tensor) -> Sequence[Widths]:
        """Return the widths of each layer from the scores of all units."""


class _Quantiles(Unit):
    """An equal share of the units at each of ``choices``, fitted to the size."""

    choices: Choices = CHOICES

    def widths(self, scores: Tensor, sizes: Sequence[int], bits: int) -> list[int]:
        """Return the width of each unit, at the size of the uniform width."""
        places = by_quantile(scores, self.choices)
        return fit_to_size(places, scores, sizes, self.choices, bits * sum(sizes))


class LayerUnit(_Quantiles, kind="layer"):
    """Each layer: an equal share of them at each of ``choices``, fitted to the size."""

    splits_layers: ClassVar[bool] = False

    @override
    def scores(self, by_channel: Sequence[Tensor]) -> Tensor:
        import torch

        return torch.stack([scores.mean() for scores in by_channel])

    @override
    def allocate(self, problem: Allocation, scores: Tensor) -> Sequence[Widths]:
        return self.widths(scores, problem.sizes, problem.bits)


class _Channels(Unit):
    """Each output channel.

    ``shuffle`` deals the widths of each layer to its channels at random: a control of equal size.
    """

    shuffle: bool = False

    @abstractmethod
    def widths(self, scores: Tensor, sizes: Sequence[int], bits: int) -> list[int]:
        """Return the width of each channel, at the size of the uniform width."""

    @override
    def scores(self, by_channel: Sequence[Tensor]) -> Tensor:
        import torch

        return torch.cat([*by_channel])

    @override
    def allocate(self, problem: Allocation, scores: Tensor) -> Sequence[Widths]:
        import torch

        weights = [layer.weight for layer in problem.layers.values()]
        sizes = [weight[0].numel() for weight in weights for _ in weight]
        widths = torch.tensor(self.widths(scores, sizes, problem.bits))
        layers = widths.split([len(weight) for weight in weights])
        if self.shuffle:
            generator = torch.Generator().manual_seed(problem.seed)
            layers = tuple(la[torch.randperm(len(la), generator=generator)] for la in layers)
        return [tuple(layer.tolist()) for layer in layers]


class ChannelUnit(_Quantiles, _Channels, kind="channel"):
    """Each output channel: an equal share of them at each of ``choices``, fitted to the size."""


class SalientChannelUnit(_Channels, kind="salient_channel"):
    """Each output channel: the most important ``share`` at ``bits``, and the others pay for it.

    With 32 bits the salient channels stay as they were.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    bits: Width | Literal[32] = 8

    @override
    def widths(self, scores: Tensor, sizes: Sequence[int], bits: int) -> list[int]:
        return keep_most_important(scores, sizes, share=self.share, width=self.bits, bits=bits)


class ByImportance(Policy, kind="importance"):
    """The units that matter most to the loss of the groups are the widest."""

    importance: Importance = Taylor()
    reduce: Reduction = MeanOfGroups()
    unit: Unit = LayerUnit()

    @override
    def narrowest(self) -> int:
        return min(getattr(self.unit, "choices", (2,)))

    @override
    def splits_layers(self) -> bool:
        return self.unit.splits_layers

    @override
    def allocate(self, problem: Allocation) -> Sequence[Widths]:
        from quantskew.quantization import sensitivity

        table = sensitivity.importance(problem, kind=self.importance, unit=self.unit)
        return self.unit.allocate(problem, self.reduce(table))


def allocate_bits(
    network: nn.Module,
    example: Tensor,
    images: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    bits: int,
    weights: IntegerWeights,
    policy: Policy,
    seed: int = 0,
) -> dict[str, Widths]:
    """Choose the width of each quantizable layer, or of each of its output channels, by name.

    Layers that ``weights`` exempts keep their width. The others share as many bits as they have at
    the uniform width ``bits``, so that all policies make models of one size. The network is trained
    and not changed, and ``example`` an input batch; for the rest see :class:`Allocation`.
    """
    from quantskew.quantization.layers import fold_batch_norm, quantizable

    widths: dict[str, Widths] = {**uniform(network, example, bits=bits, weights=weights)}
    if weights.fold_bn:
        network, _ = fold_batch_norm(network, example)
    else:
        network = copy.deepcopy(network).eval()
    kept = exempt(network, example, weights)
    layers = {name: layer for name, layer in quantizable(network).items() if name not in kept}
    if not layers:
        return widths
    problem = Allocation(network, layers, images, labels, groups, bits, weights, seed)
    return widths | dict(zip(layers, policy.allocate(problem), strict=True))
