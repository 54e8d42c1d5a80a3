"""What training minimizes.

An objective is a module: from logits (n, classes), targets and the positions of the batch's samples
among those trained on to a loss. What it learns on the way is in its ``state_dict``.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantskew.data.groups import group_codes
from quantskew.data.loading import Samples
from quantskew.models import device, logits
from quantskew.training.settings import Recipe

HARDEST = 6.0
REMEMBERED = 40
"""Last samples of each group that its accuracy is taken of, as in the code of CEAG."""


def objective(
    recipe: Recipe,
    train: Samples,
    *,
    class_weights: Tensor | None = None,
    reference: nn.Module | None = None,
) -> nn.Module:
    """Make what a recipe wants minimized.

    Parameters
    ----------
    recipe
        Its loss, and the groups.
    train
        The samples that are trained on.
    class_weights
        Of the weighted loss.
    reference
        Network whose gaps in accuracy are no fault of the one to be trained: the one it is
        fine-tuned from. Without one no gap is excused.
    """
    if not recipe.knows_groups:
        return CrossEntropy(class_weights)
    groups = torch.from_numpy(group_codes(train.attributes, recipe.by)[0])
    if recipe.loss == "group_dro":
        return GroupDro(groups, step_size=recipe.step_size, adjustment=recipe.adjustment)
    right = None
    if reference is not None:
        moved = copy.deepcopy(reference).to(device())
        right = logits(moved, train.images).argmax(1) == train.labels
    return Constrained(
        groups, tolerance=recipe.tolerance, step_size=recipe.step_size, reference=right
    )


class CrossEntropy(nn.Module):
    """Cross-entropy, its mean weighted by class if there are weights.

    Parameters
    ----------
    class_weights
        (classes,), at least 0. A class of weight 0 is not learned from.
    """

    weights: Tensor | None

    def __init__(self, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weights", class_weights, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor, batch: Tensor) -> Tensor:
        """Loss of a batch; ``targets`` are labels, or the share of each class."""
        loss = functional.cross_entropy(outputs, targets, weight=self.weights)
        if self.weights is None:
            return loss
        hard = targets.ndim == 1
        weights = self.weights[targets] if hard else targets @ self.weights
        if not weights.any():  # nothing to take a mean of
            return 0 * outputs.sum()
        return loss if hard else loss / weights.mean()


class _OfGroups(nn.Module):
    """An objective that tells the groups of the samples apart."""

    groups: Tensor
    sizes: Tensor

    def __init__(self, groups: Tensor) -> None:
        super().__init__()
        self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("sizes", groups.bincount(), persistent=False)

    def by_group(self, losses: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of each group in a batch, 0 without members, and the numbers of members."""
        member = functional.one_hot(self.groups[batch], len(self.sizes)).to(losses)
        counts = member.sum(0)
        return losses @ member / counts.clamp(min=1), counts


class GroupDro(_OfGroups):
    """Distributionally robust loss over groups (Sagawa et al. 2020, algorithm 1).

    Every step the weights q of the groups follow their mean losses L in the batch,
    q ← q·exp(η (L + C/√n)) / Σ, and Σ qL is minimized: the worst group comes to weigh most.

    Parameters
    ----------
    groups
        Group of every sample, int64, (N,).
    step_size
        η, above 0.
    adjustment
        C, at least 0: how much more the loss of a group of n samples is expected to be on new data,
        times √n.
    """

    adjustments: Tensor
    weights: Tensor

    def __init__(self, groups: Tensor, *, step_size: float, adjustment: float = 0.0) -> None:
        super().__init__(groups)
        self.step_size = step_size
        self.register_buffer("adjustments", adjustment / self.sizes.sqrt(), persistent=False)
        self.register_buffer("weights", torch.full((len(self.sizes),), 1 / len(self.sizes)))

    def forward(self, outputs: Tensor, targets: Tensor, batch: Tensor) -> Tensor:
        """Move the weights, and return the loss of a batch."""
        losses = functional.cross_entropy(outputs, targets, reduction="none")
        means, _ = self.by_group(losses, batch)
        with torch.no_grad():
            grown = self.weights * torch.exp(self.step_size * (means + self.adjustments))
            self.weights.copy_(grown / grown.sum())
        return means @ self.weights


class Constrained(_OfGroups):
    """Cross-entropy under a bound on how far any group falls behind.

    With A the accuracy on the training samples, of all or of a group g, the excess accuracy gap

        ψ_g = (A − A_g) − (the same of the reference)

    shall be at most ε for every group (CEAG: Hashemizadeh, Ramirez et al., "Balancing Act", 2024).
    Each constraint has a multiplier λ_g ≥ 0, which moves by η (ψ_g − ε) every step, with the true
    accuracies on the last samples seen of each group. Accuracies have no gradient, so the weights
    of the network descend on a surrogate in which losses stand for them:

        (L + Σ λ_g L_g) / (1 + Σ λ_g)

    Two things are ours. The overall loss within a constraint is taken as constant, or worse answers
    for the other groups would serve as well as better ones for g; and the sum is divided, so that
    steps keep their length.

    Parameters
    ----------
    groups
        Group of every sample, int64, (N,).
    tolerance
        ε, in [0, 1].
    step_size
        η, above 0.
    reference
        Which samples the reference network has right, bool, (N,); ``None`` excuses no gap.
    """

    multipliers: Tensor
    seen: Tensor
    excused: Tensor

    def __init__(
        self,
        groups: Tensor,
        *,
        tolerance: float,
        step_size: float,
        reference: Tensor | None = None,
    ) -> None:
        super().__init__(groups)
        self.tolerance, self.step_size = tolerance, step_size
        count = len(self.sizes)
        excused = torch.zeros(count)
        if reference is not None:
            right = reference.float()
            excused = right.mean() - groups.bincount(right).float() / self.sizes
        self.register_buffer("excused", excused, persistent=False)
        self.register_buffer("multipliers", torch.zeros(count))
        self.register_buffer("seen", torch.full((count, REMEMBERED), torch.nan))

    def excess(self) -> Tensor:
        """Excess accuracy gap of each group as far as seen, (groups,); NaN before its first."""
        accuracy = self.seen.nanmean(1)
        known = accuracy.isfinite()
        overall = (accuracy * self.sizes)[known].sum() / self.sizes[known].sum()
        return overall - accuracy - self.excused

    def forward(self, outputs: Tensor, targets: Tensor, batch: Tensor) -> Tensor:
        """Move the multipliers, and return the surrogate of a batch."""
        losses = functional.cross_entropy(outputs, targets, reduction="none")
        means, counts = self.by_group(losses, batch)
        with torch.no_grad():
            right, members = (outputs.argmax(1) == targets).to(self.seen), self.groups[batch]
            for group in members.unique():
                recent = torch.cat([self.seen[group], right[members == group]])
                self.seen[group] = recent[-REMEMBERED:]
            moved = self.step_size * (self.excess() - self.tolerance).nan_to_num()
            self.multipliers.add_(moved).clamp_(min=0)
            weights = self.multipliers * (counts > 0)
        return (losses.mean() + means @ weights) / (1 + weights.sum())


def difficulty_weights(accuracy: np.ndarray) -> Tensor:
    """Weights of the cross-entropy that favour the hardest class (WCR).

    Bellam & Kim (§5.1) give the hardest of five classes 0.6 and the others 0.1 each. The same
    ratio of six holds here for any number of classes; the weights add up to one.

    Parameters
    ----------
    accuracy
        (classes,), accuracy of each class over the course of training; the lowest is the hardest.

    Examples
    --------
    >>> difficulty_weights(np.array([0.9, 0.8, 0.9, 0.5, 0.9]))
    tensor([0.1000, 0.1000, 0.1000, 0.6000, 0.1000])
    """
    weights = torch.ones(len(accuracy))
    weights[int(np.nanargmin(accuracy))] = HARDEST
    return weights / weights.sum()


def check_class_weights(weights: tuple[float, ...], classes: tuple[str, ...]) -> Tensor:
    """Class weights given by the user, one a class.

    Raises
    ------
    ValueError
        When their number is not that of the classes.
    """
    if len(weights) != len(classes):
        raise ValueError(
            f"class_weights: got {len(weights)} numbers for {len(classes)} classes "
            f"({', '.join(classes)})"
        )
    return torch.tensor(weights)
