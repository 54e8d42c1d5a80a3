"""What training minimizes (``recipe.loss``)."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from quantskew.data.groups import ByGroup
from quantskew.sections import Choice, Fraction, NonNegative, ParamsError, PositiveFloat

if TYPE_CHECKING:
    from torch import nn

    from quantskew.data.loading import Samples

Floats = NDArray[np.floating]
HARDEST = 6.0


class Loss(Choice):
    """What training minimizes."""

    @property
    def needs_history(self) -> bool:
        """Whether :meth:`objective` needs the accuracy of each class in a baseline's training."""
        return False

    @abstractmethod
    def objective(
        self, train: Samples, accuracy: Floats | None = None, reference: nn.Module | None = None
    ) -> nn.Module:
        """Return what is minimized as a module of :mod:`quantskew.training.objectives`.

        Parameters
        ----------
        train
            Training samples.
        accuracy
            (classes,), mean accuracy of each class over the training of the baseline.
        reference
            Network that the trained one is fine-tuned from. Its gaps in accuracy between groups
            are not blamed on the trained network.

        Returns
        -------
        nn.Module
            From logits (n, classes), targets (labels, int64 (n,), or the share of each class,
            float32 (n, classes)) and the positions of the batch among the training samples, int64
            (n,), to a scalar. What it learns during the training is in its ``state_dict``.
        """


class CrossEntropy(Loss, kind="cross_entropy"):
    """The mean cross-entropy."""

    def objective(
        self, train: Samples, accuracy: Floats | None = None, reference: nn.Module | None = None
    ) -> nn.Module:
        """Return the mean cross-entropy."""
        from quantskew.training.objectives import CrossEntropyObjective

        return CrossEntropyObjective()


class Weighted(Loss, kind="weighted"):
    """The cross-entropy with a weight for each class.

    Without ``class_weights`` the class that was hardest for the baseline weighs most; see
    :func:`difficulty_weights`.
    """

    class_weights: tuple[NonNegative, ...] | None = None

    @field_validator("class_weights")
    @classmethod
    def _one_is_positive(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not any(weights):
            raise ValueError("at least one weight must be above 0")
        return weights

    @property
    def needs_history(self) -> bool:
        """Whether the weights follow the accuracy of each class in a baseline's training."""
        return self.class_weights is None

    def objective(
        self, train: Samples, accuracy: Floats | None = None, reference: nn.Module | None = None
    ) -> nn.Module:
        """Return the weighted cross-entropy.

        Raises
        ------
        ParamsError
            When there is not one weight for each class, or nothing that weights follow from.
        """
        import torch

        from quantskew.training.objectives import CrossEntropyObjective

        if self.class_weights is not None and len(self.class_weights) != len(train.classes):
            raise ParamsError(
                f"class_weights: got {len(self.class_weights)} numbers for {len(train.classes)} "
                f"classes ({', '.join(train.classes)})"
            )
        weights = self.class_weights
        if weights is None:
            if accuracy is None:
                raise ParamsError(
                    "loss: weighted needs class_weights here, because there is no baseline whose "
                    "training says which class is the hardest"
                )
            weights = tuple(difficulty_weights(accuracy))
        return CrossEntropyObjective(torch.tensor(weights, dtype=torch.float32))


class GroupDro(ByGroup, Loss, kind="group_dro"):
    """Distributionally robust loss: the group with the highest loss comes to weigh most.

    ``step_size`` is how fast the weights of the groups move; ``adjustment`` accounts for the loss
    on new data, which exceeds that on training data most in small groups. See
    :class:`quantskew.training.objectives.GroupDroObjective`.
    """

    step_size: PositiveFloat = 0.01
    adjustment: NonNegative = 0.0

    def objective(
        self, train: Samples, accuracy: Floats | None = None, reference: nn.Module | None = None
    ) -> nn.Module:
        """Return the robust loss over the groups of ``by``."""
        import torch

        from quantskew.training.objectives import GroupDroObjective

        return GroupDroObjective(
            torch.from_numpy(self.codes(train.attributes)),
            step_size=self.step_size,
            adjustment=self.adjustment,
        )


class Constrained(ByGroup, Loss, kind="constrained"):
    """Cross-entropy while the accuracy of no group falls behind by more than ``tolerance``.

    ``step_size`` is how fast the multipliers of the constraints move. See
    :class:`quantskew.training.objectives.ConstrainedObjective`.
    """

    step_size: PositiveFloat = 0.01
    tolerance: Fraction = 0.02

    def objective(
        self, train: Samples, accuracy: Floats | None = None, reference: nn.Module | None = None
    ) -> nn.Module:
        """Return the constrained loss; without a reference no gap between groups is excused."""
        import copy

        import torch

        from quantskew.models import device, logits
        from quantskew.training.objectives import ConstrainedObjective

        right = None
        if reference is not None:
            network = copy.deepcopy(reference).to(device())
            right = logits(network, train.images).argmax(1) == train.labels
        return ConstrainedObjective(
            torch.from_numpy(self.codes(train.attributes)),
            tolerance=self.tolerance,
            step_size=self.step_size,
            reference=right,
        )


def difficulty_weights(accuracy: Floats) -> Floats:
    """Return class weights that favour the hardest class (WCR).

    Bellam & Kim (§5.1) give the hardest of five classes 0.6 and the others 0.1 each. The same
    ratio of six holds here for any number of classes; the weights add up to one.

    Parameters
    ----------
    accuracy
        (classes,), mean accuracy of each class over a training; the lowest is the hardest.

    Examples
    --------
    >>> difficulty_weights(np.array([0.9, 0.8, 0.9, 0.5, 0.9]))
    array([0.1, 0.1, 0.1, 0.6, 0.1])
    """
    weights = np.ones(len(accuracy))
    weights[np.nanargmin(accuracy)] = HARDEST
    return weights / weights.sum()
