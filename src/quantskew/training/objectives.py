"""Losses of batches as modules, which remember what they learn during a training.

Each maps logits (n, classes), targets and the positions of the batch among the training samples,
int64 (n,), to a scalar. What it learns is in its ``state_dict``, and so in the checkpoints.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

REMEMBERED = 40
"""Number of recent samples that the accuracy of a group is computed from, as in CEAG's code."""


class CrossEntropyObjective(nn.Module):
    """Mean cross-entropy, weighted by class where weights are given.

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
        """Return the loss of a batch; targets are labels, or the share of each class."""
        loss = functional.cross_entropy(outputs, targets, weight=self.weights)
        if self.weights is None:
            return loss
        are_labels = targets.ndim == 1
        weights = self.weights[targets] if are_labels else targets @ self.weights
        if not weights.any():  # the weighted mean is 0 / 0
            return 0 * outputs.sum()
        return loss if are_labels else loss / weights.mean()


class _GroupObjective(nn.Module):
    """An objective that treats groups of samples differently.

    Parameters
    ----------
    groups
        Group of every training sample, int64, (N,).
    """

    groups: Tensor
    sizes: Tensor

    def __init__(self, groups: Tensor) -> None:
        super().__init__()
        self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("sizes", groups.bincount(), persistent=False)

    def by_group(self, losses: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each group in a batch, 0 if it has no members, and its counts."""
        member = functional.one_hot(self.groups[batch], len(self.sizes)).to(losses)
        counts = member.sum(0)
        return losses @ member / counts.clamp(min=1), counts


class GroupDroObjective(_GroupObjective):
    """Distributionally robust loss over groups (Sagawa et al. 2020, algorithm 1).

    Every step the weights q of the groups follow their mean losses L in the batch,
    q ← q·exp(η (L + C/√n)) / Σ, and Σ qL is minimized, so that the worst group comes to weigh most.

    Parameters
    ----------
    groups
        Group of every training sample, int64, (N,).
    step_size
        η, above 0.
    adjustment
        C, at least 0: how much higher the loss of a group of n samples is expected to be on new
        data, times √n.
    """

    adjustments: Tensor
    weights: Tensor

    def __init__(self, groups: Tensor, *, step_size: float, adjustment: float = 0.0) -> None:
        super().__init__(groups)
        self.step_size = step_size
        self.register_buffer("adjustments", adjustment / self.sizes.sqrt(), persistent=False)
        self.register_buffer("weights", torch.full((len(self.sizes),), 1 / len(self.sizes)))

    def forward(self, outputs: Tensor, targets: Tensor, batch: Tensor) -> Tensor:
        """Update the weights of the groups, and return the loss of a batch."""
        losses = functional.cross_entropy(outputs, targets, reduction="none")
        means, _ = self.by_group(losses, batch)
        with torch.no_grad():
            weights = self.weights * torch.exp(self.step_size * (means + self.adjustments))
            self.weights.copy_(weights / weights.sum())
        return means @ self.weights


class ConstrainedObjective(_GroupObjective):
    """Cross-entropy under a bound on how far the accuracy of any group falls behind.

    With A the accuracy on the training samples, overall or of a group g, the excess accuracy gap

        ψ_g = (A − A_g) − (the same difference of the reference)

    must be at most ε for every group (CEAG: Hashemizadeh, Ramirez et al., "Balancing Act", 2024).
    Each constraint has a multiplier λ_g ≥ 0, which moves by η (ψ_g − ε) every step, with the
    accuracies on the most recent samples of each group. Accuracies have no gradient, so the weights
    of the network descend on a surrogate in which losses take their place:

        (L + Σ λ_g L_g) / (1 + Σ λ_g)

    This differs from the paper in two ways. The overall loss within a constraint is treated as
    constant; otherwise worse answers for the other groups would satisfy it as well as better ones
    for g. And the sum is divided by the total weight, so that steps keep their length.

    Parameters
    ----------
    groups
        Group of every training sample, int64, (N,).
    tolerance
        ε, in [0, 1].
    step_size
        η, above 0.
    reference
        Whether the reference network classifies each training sample correctly, bool, (N,);
        ``None`` excuses no gap.
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
        """Return ψ of each group, (groups,); NaN for a group of which no sample was seen yet."""
        accuracy = self.seen.nanmean(1)
        known = accuracy.isfinite()
        overall = (accuracy * self.sizes)[known].sum() / self.sizes[known].sum()
        return overall - accuracy - self.excused

    def forward(self, outputs: Tensor, targets: Tensor, batch: Tensor) -> Tensor:
        """Update the multipliers, and return the surrogate of a batch."""
        losses = functional.cross_entropy(outputs, targets, reduction="none")
        means, counts = self.by_group(losses, batch)
        with torch.no_grad():
            right, members = (outputs.argmax(1) == targets).to(self.seen), self.groups[batch]
            for group in members.unique():
                recent = torch.cat([self.seen[group], right[members == group]])
                self.seen[group] = recent[-REMEMBERED:]
            change = self.step_size * (self.excess() - self.tolerance).nan_to_num()
            self.multipliers.add_(change).clamp_(min=0)
            weights = self.multipliers * (counts > 0)
        return (losses.mean() + means @ weights) / (1 + weights.sum())
