"""What training minimizes (``recipe.loss``)."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator
from typing_extensions import override

from quantskew.data.groups import ByGroup
from quantskew.sections import Choice, Fraction, NonNegative, ParamsError, PositiveFloat

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quantskew.data.loading import Samples
    from quantskew.training.objective import Objective

Floats = NDArray[np.floating]
State = dict[str, "Tensor"]
HARDEST = 6.0
REMEMBERED = 40
"""Number of recent samples that the accuracy of a group is computed from, as in CEAG's code."""


class Loss(Choice):
    """What training minimizes."""

    @property
    def needs_history(self) -> bool:
        """Whether :meth:`start` needs the accuracy of each class in a baseline's training."""
        return False

    def objective(
        self, train: Samples, accuracy: Floats | None = None, reference: nn.Module | None = None
    ) -> Objective:
        """Return the loss as a module with the state that a training starts with.

        Parameters
        ----------
        train
            Training samples.
        accuracy
            (classes,), mean accuracy of each class over the training of the baseline.
        reference
            Network that the trained one is fine-tuned from. Its gaps in accuracy between groups
            are not blamed on the trained network.
        """
        from quantskew.training.objective import Objective

        return Objective(self, self.start(train, accuracy, reference))

    def start(self, train: Samples, accuracy: Floats | None, reference: nn.Module | None) -> State:
        """Return the state at the start of a training; see :meth:`objective`."""
        return {}

    @abstractmethod
    def of_batch(self, outputs: Tensor, targets: Tensor, batch: Tensor, state: State) -> Tensor:
        """Return the loss of a batch, a scalar; the state is updated in place.

        Parameters
        ----------
        outputs
            Logits, (n, classes).
        targets
            Labels, int64 (n,); or the share of each class, float32 (n, classes).
        batch
            Positions of the batch among the training samples, int64 (n,).
        """


class CrossEntropy(Loss, kind="cross_entropy"):
    """The mean cross-entropy."""

    @override
    def of_batch(self, outputs: Tensor, targets: Tensor, batch: Tensor, state: State) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets)


class Weighted(Loss, kind="weighted"):
    """The cross-entropy with a weight for each class; one of weight 0 is not learned from.

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
    @override
    def needs_history(self) -> bool:
        return self.class_weights is None

    @override
    def start(self, train: Samples, accuracy: Floats | None, reference: nn.Module | None) -> State:
        import torch

        if self.class_weights is not None:
            weights: Floats = np.array(self.class_weights)
        elif accuracy is not None:
            weights = difficulty_weights(accuracy)
        else:
            raise ParamsError(
                "loss: weighted needs class_weights here, because there is no baseline whose "
                "training says which class is the hardest"
            )
        if len(weights) != len(train.classes):
            raise ParamsError(
                f"class_weights: got {len(weights)} numbers for {len(train.classes)} classes "
                f"({', '.join(train.classes)})"
            )
        return {"weights": torch.from_numpy(weights).float()}

    @override
    def of_batch(self, outputs: Tensor, targets: Tensor, batch: Tensor, state: State) -> Tensor:
        from torch.nn.functional import cross_entropy

        loss = cross_entropy(outputs, targets, weight=state["weights"])
        are_labels = targets.ndim == 1
        weights = state["weights"][targets] if are_labels else targets @ state["weights"]
        if not weights.any():  # the weighted mean is 0 / 0
            return 0 * outputs.sum()
        return loss if are_labels else loss / weights.mean()


class _OfGroups(ByGroup, Loss):
    """A loss that treats groups of samples differently."""

    step_size: PositiveFloat = 0.01

    @override
    def start(self, train: Samples, accuracy: Floats | None, reference: nn.Module | None) -> State:
        import torch

        groups = torch.from_numpy(self.codes(train.attributes))
        return {"groups": groups, "sizes": groups.bincount()}

    def _means(self, losses: Tensor, batch: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each group in a batch, 0 if it has no members, and its counts."""
        from torch.nn.functional import one_hot

        member = one_hot(state["groups"][batch], len(state["sizes"])).to(losses)
        counts = member.sum(0)
        return losses @ member / counts.clamp(min=1), counts


class GroupDro(_OfGroups, kind="group_dro"):
    """Distributionally robust loss over groups (Sagawa et al. 2020, algorithm 1).

    Every step the weights q of the groups follow their mean losses L in the batch,
    q ← q·exp(η (L + C/√n)) / Σ, and Σ qL is minimized, so that the worst group comes to weigh most.
    η is the ``step_size``. C is the ``adjustment``: the loss on new data is expected to exceed that
    on the n training samples of a group by C/√n.
    """

    adjustment: NonNegative = 0.0

    @override
    def start(self, train: Samples, accuracy: Floats | None, reference: nn.Module | None) -> State:
        state = super().start(train, accuracy, reference)
        count = len(state["sizes"])
        return {**state, "weights": state["sizes"].new_ones(count).float() / count}

    @override
    def of_batch(self, outputs: Tensor, targets: Tensor, batch: Tensor, state: State) -> Tensor:
        from torch.nn.functional import cross_entropy

        losses = cross_entropy(outputs, targets, reduction="none")
        means, _ = self._means(losses, batch, state)
        expected = means.detach() + self.adjustment / state["sizes"].sqrt()
        state["weights"].mul_((self.step_size * expected).exp())
        state["weights"].div_(state["weights"].sum())
        return means @ state["weights"]


class Constrained(_OfGroups, kind="constrained"):
    """Cross-entropy while the accuracy of no group falls behind by more than the tolerance.

    With A the accuracy on the training samples, overall or of a group g, the excess accuracy gap

        ψ_g = (A − A_g) − (the same difference of the reference)

    must be at most ε, the ``tolerance``, for every group (CEAG: Hashemizadeh, Ramirez et al.,
    "Balancing Act", 2024). Each constraint has a multiplier λ_g ≥ 0, which moves by η (ψ_g − ε)
    every step, with η the ``step_size`` and the accuracies on the most recent samples of each
    group. Accuracies have no gradient, so the weights of the network descend on a surrogate in
    which losses take their place:

        (L + Σ λ_g L_g) / (1 + Σ λ_g)

    This differs from the paper in two ways. The overall loss within a constraint is treated as
    constant; otherwise worse answers for the other groups would satisfy it as well as better ones
    for g. And the sum is divided by the total weight, so that steps keep their length.
    """

    tolerance: Fraction = 0.02

    @override
    def start(self, train: Samples, accuracy: Floats | None, reference: nn.Module | None) -> State:
        import torch

        from quantskew.models import device, logits

        state = super().start(train, accuracy, reference)
        excused = torch.zeros(len(state["sizes"]))
        if reference is not None:
            network = copy.deepcopy(reference).to(device())
            correct = (logits(network, train.images).argmax(1) == train.labels).float()
            excused = correct.mean() - state["groups"].bincount(correct).float() / state["sizes"]
        seen = torch.full((len(excused), REMEMBERED), torch.nan)
        return {**state, "excused": excused, "multipliers": torch.zeros_like(excused), "seen": seen}

    def excess(self, state: State) -> Tensor:
        """Return ψ of each group, (groups,); NaN for a group of which no sample was seen yet."""
        accuracy = state["seen"].nanmean(1)
        known = accuracy.isfinite()
        sizes = state["sizes"]
        overall = (accuracy * sizes)[known].sum() / sizes[known].sum()
        return overall - accuracy - state["excused"]

    @override
    def of_batch(self, outputs: Tensor, targets: Tensor, batch: Tensor, state: State) -> Tensor:
        import torch
        from torch.nn.functional import cross_entropy

        losses = cross_entropy(outputs, targets, reduction="none")
        means, counts = self._means(losses, batch, state)
        correct = (outputs.argmax(1) == targets).to(state["seen"])
        members = state["groups"][batch]
        for group in members.unique():
            recent = torch.cat([state["seen"][group], correct[members == group]])
            state["seen"][group] = recent[-REMEMBERED:]
        change = self.step_size * (self.excess(state) - self.tolerance).nan_to_num()
        weights = state["multipliers"].add_(change).clamp_(min=0) * (counts > 0)
        return (losses.mean() + means @ weights) / (1 + weights.sum())


def difficulty_weights(accuracy: Floats) -> Floats:
    """Return class weights that favour the hardest class (WCR), the one of the lowest accuracy.

    Bellam & Kim (§5.1) give the hardest of five classes 0.6 and the others 0.1 each. The same
    ratio of six holds here for any number of classes; the weights add up to one.

    Examples
    --------
    >>> difficulty_weights(np.array([0.9, 0.8, 0.9, 0.5, 0.9]))
    array([0.1, 0.1, 0.1, 0.6, 0.1])
    """
    weights = np.ones(len(accuracy))
    weights[np.nanargmin(accuracy)] = HARDEST
    weights /= weights.sum()
    return weights
