"""Optimizers (``training.optimizer``) and schedules of the learning rate (``schedule``)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from quantskew.sections import Choice, Fraction

if TYPE_CHECKING:
    import torch

Parameters = Sequence[dict[str, Any]]
"""Parameters as :mod:`torch.optim` takes them; a group may have its own ``lr`` and weight decay."""


class Optimizer(Choice):
    """How the parameters follow the gradients of the loss."""

    @abstractmethod
    def over(self, groups: Parameters, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """Return an optimizer with a peak learning rate above 0 and a weight decay of at least 0.

        All that it remembers must be tensors in its state, so that it can be checkpointed.
        """


class AdamW(Optimizer, kind="adamw"):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019) and PyTorch's default moments."""

    @override
    def over(self, groups: Parameters, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        import torch

        return torch.optim.AdamW(groups, lr, weight_decay=weight_decay, fused=True)


class Sgd(Optimizer, kind="sgd"):
    """Stochastic gradient descent with momentum; weight decay is an L2 penalty."""

    momentum: Fraction = 0.9

    @override
    def over(self, groups: Parameters, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        import torch

        return torch.optim.SGD(groups, lr, momentum=self.momentum, weight_decay=weight_decay)


class Schedule(Choice):
    """How the learning rate changes over a training."""

    def factor(self, share: float, warmup: float) -> float:
        """Return the learning rate at a share of the training in [0, 1), relative to its peak.

        It first rises linearly over the share ``warmup`` of the training, in [0, 1].

        Examples
        --------
        >>> [round(Step().factor(share, warmup=0.1), 2) for share in (0.05, 0.3, 0.6, 0.8)]
        [0.5, 1.0, 0.1, 0.01]
        """
        if share < warmup:
            return (share + 1e-3) / (warmup + 1e-3)
        return self.after_warmup(share, warmup)

    @abstractmethod
    def after_warmup(self, share: float, warmup: float) -> float:
        """Return the learning rate at a share that is past the warm-up; see :meth:`factor`."""


class Cosine(Schedule, kind="cosine"):
    """Fall to zero along half a cosine (Loshchilov & Hutter 2017)."""

    @override
    def after_warmup(self, share: float, warmup: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


class Step(Schedule, kind="step"):
    """Fall to a tenth after half of the training, and to a hundredth after three quarters."""

    @override
    def after_warmup(self, share: float, warmup: float) -> float:
        return 0.1 ** ((share >= 0.5) + (share >= 0.75))


class Constant(Schedule, kind="constant"):
    """Stay at the peak."""

    @override
    def after_warmup(self, share: float, warmup: float) -> float:
        return 1.0
