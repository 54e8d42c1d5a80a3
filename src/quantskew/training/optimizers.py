"""Optimizers that a network is trained with (``training.optimizer``)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quantskew.sections import Choice, Fraction

if TYPE_CHECKING:
    import torch


class Optimizer(Choice):
    """How the parameters follow the gradients of the loss."""

    @abstractmethod
    def over(
        self, groups: Sequence[dict[str, Any]], *, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return an optimizer of some parameters.

        Parameters
        ----------
        groups
            Groups of parameters as :mod:`torch.optim` takes them; a group may carry its own ``lr``
            and ``weight_decay``.
        lr
            Peak learning rate, above 0.
        weight_decay
            Strength of the weight decay, at least 0.
        """


class AdamW(Optimizer, kind="adamw"):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def over(
        self, groups: Sequence[dict[str, Any]], *, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return an optimizer of some parameters, with PyTorch's default moments."""
        import torch

        return torch.optim.AdamW(groups, lr, weight_decay=weight_decay, fused=True)


class Sgd(Optimizer, kind="sgd"):
    """Stochastic gradient descent with momentum."""

    momentum: Fraction = 0.9

    def over(
        self, groups: Sequence[dict[str, Any]], *, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return an optimizer of some parameters."""
        import torch

        return torch.optim.SGD(groups, lr, momentum=self.momentum, weight_decay=weight_decay)
