"""What training minimizes (``recipe.loss``)."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

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

        ``accuracy`` is the mean accuracy of each class over the training of the baseline,
        (classes,). ``reference`` is the network that the trained one is fine-tuned from: its gaps
        in accuracy between groups are not blamed on the trained network.
        """
        from quantskew.training.objective import Objective

        return Objective(self, self.start(train, accuracy, reference))

    def start(self, train: Samples, accuracy: Floats | None, reference: nn.Module | None) -> State:
        """Return the state at the start of a training; see :meth:`objective`."""
        return {}

    @abstractmethod
    def of_batch(self, outputs: Tensor, targets: Tensor, batch: Tensor, state: State) -> Tensor:
        """Return the loss of a batch, a scalar; the state is updated in place.

        ``outputs`` are logits, (n, classes), ``targets`` labels, int64 (n,), or the share of each
        class, float32 (n, classes), and ``batch`` the positions among the training samples, (n,).
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


class Constraint(Choice):
    """What must be alike between groups (``constraint`` of the constrained loss).

    A constraint is about rates: of each outcome in each cell, which is a group, or the members of a
    group with a label. Each is compared with the rate of its pool, all cells or those with the same
    label.
    """

    sides: ClassVar[tuple[int, ...]] = (1, -1)  # 1: a rate must not lie above its pool's; −1: below
    by_label: ClassVar[bool] = False

    @abstractmethod
    def outcomes(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the outcomes of samples, (n, outcomes), each 0 or 1."""

    @abstractmethod
    def surrogates(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return what takes the place of the outcomes where a gradient is needed."""


class AccuracyGap(Constraint, kind="accuracy"):
    """The accuracy of no group falls behind that of all samples; losses take its place."""

    sides: ClassVar[tuple[int, ...]] = (-1,)

    @override
    def outcomes(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs.argmax(1) == labels).float()[:, None]

    @override
    def surrogates(self, outputs: Tensor, labels: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        return -cross_entropy(outputs, labels, reduction="none")[:, None]


class DemographicParity(Constraint, kind="demographic_parity"):
    """Every group gets each answer as often as all samples do; probabilities take its place."""

    @override
    def outcomes(self, outputs: Tensor, labels: Tensor) -> Tensor:
        from torch.nn.functional import one_hot

        return one_hot(outputs.argmax(1), outputs.shape[1]).float()

    @override
    def surrogates(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.softmax(1)


class EqualizedOdds(DemographicParity, kind="equalized_odds"):
    """The same among the samples of each label: of two classes, recall and false positive rate."""

    by_label: ClassVar[bool] = True


class Constrained(_OfGroups, kind="constrained"):
    """Cross-entropy while groups differ by no more than the tolerance in what is constrained.

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

    A ``constraint`` of rates, ``demographic_parity`` or ``equalized_odds``, has two for each cell
    and answer: no rate lies more than ε above that of its pool, or below it. Of two groups with
    ε = 0.01 the gap is at most 0.02. A gap that the reference has on the same side is excused
    unless ``excuse`` is false.
    """

    constraint: Constraint = AccuracyGap()
    tolerance: Fraction = 0.02
    excuse: bool = True

    @override
    def start(self, train: Samples, accuracy: Floats | None, reference: nn.Module | None) -> State:
        import torch

        from quantskew.models import device, logits

        state = super().start(train, accuracy, reference)
        cells, pools = state["groups"].clone(), torch.zeros(len(state["sizes"]), dtype=torch.long)
        if self.constraint.by_label:
            classes = len(train.classes)
            cells = cells * classes + train.labels
            pools = torch.arange(classes).repeat(len(pools))
        sizes = cells.bincount(minlength=len(pools))
        state |= {"cells": cells, "cell_sizes": sizes, "pools": pools}
        probe = self.constraint.outcomes(torch.zeros(1, len(train.classes)), torch.zeros(1).long())
        seen = torch.full((len(sizes), REMEMBERED, probe.shape[1]), torch.nan)
        excused = torch.zeros(len(self.constraint.sides), len(sizes), probe.shape[1])
        if reference is not None and self.excuse:
            network = copy.deepcopy(reference).to(device())
            outcomes = self.constraint.outcomes(logits(network, train.images), train.labels)
            sums = torch.zeros(len(sizes), outcomes.shape[1]).index_add_(0, cells, outcomes)
            gaps = _gaps(sums / sizes[:, None], sizes, pools)
            excused = self._sided(gaps).nan_to_num()
            if len(self.constraint.sides) > 1:  # else a gap on one side would be demanded
                excused.clamp_(min=0)
        return {**state, "excused": excused, "multipliers": torch.zeros_like(excused), "seen": seen}

    def _sided(self, gaps: Tensor) -> Tensor:
        """Return gaps as how far they lie on each side, (sides, cells, outcomes)."""
        return gaps * gaps.new_tensor(self.constraint.sides)[:, None, None]

    def excess(self, state: State) -> Tensor:
        """Return ψ of each constraint, (sides, cells, outcomes).

        It is NaN for a cell of which no sample was seen yet.
        """
        rates = state["seen"].nanmean(1)
        return self._sided(_gaps(rates, state["cell_sizes"], state["pools"])) - state["excused"]

    @override
    def of_batch(self, outputs: Tensor, targets: Tensor, batch: Tensor, state: State) -> Tensor:
        import torch
        from torch.nn.functional import cross_entropy, one_hot

        cells = state["cells"][batch]
        outcomes = self.constraint.outcomes(outputs, targets).to(state["seen"])
        for cell in cells.unique():
            recent = torch.cat([state["seen"][cell], outcomes[cells == cell]])
            state["seen"][cell] = recent[-REMEMBERED:]
        member = one_hot(cells, len(state["cell_sizes"])).to(outputs)
        counts = member.sum(0)
        softly = self.constraint.surrogates(outputs, targets)
        means = member.T @ softly / counts.clamp(min=1)[:, None]
        change = self.step_size * (self.excess(state) - self.tolerance).nan_to_num()
        weights = state["multipliers"].add_(change).clamp_(min=0) * (counts > 0)[:, None]
        lagrangian = cross_entropy(outputs, targets) + (weights * self._sided(means)).sum()
        return lagrangian / (1 + weights.sum())


def _gaps(rates: Tensor, sizes: Tensor, pools: Tensor) -> Tensor:
    """Return how far the rates of cells, (cells, outcomes), lie above those of their pools.

    A pool holds the cells of the same number in ``pools``, weighted by their ``sizes``; those
    without a rate are left out.
    """
    from torch.nn.functional import one_hot

    weight = one_hot(pools).T * (sizes * rates.isfinite().all(1))
    shared = weight.to(rates) @ rates.nan_to_num() / weight.sum(1, keepdim=True).clamp(min=1)
    return rates - shared[pools]


def difficulty_weights(accuracy: Floats) -> Floats:
    """Return class weights that favour the hardest class (WCR), the one of the lowest accuracy.

    Bellam & Kim (§5.1) give the hardest of five classes 0.6 and the others 0.1 each. The same ratio
    of six holds for any number of classes; the weights add up to one.

    Examples
    --------
    >>> difficulty_weights(np.array([0.9, 0.8, 0.9, 0.5, 0.9]))
    array([0.1, 0.1, 0.1, 0.6, 0.1])
    """
    weights = np.ones(len(accuracy))
    weights[np.nanargmin(accuracy)] = HARDEST
    weights /= weights.sum()
    return weights
