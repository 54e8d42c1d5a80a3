"""Which samples an epoch sees, and in which order."""

import numpy as np
import torch
from torch import Tensor


def balanced_counts(counts: np.ndarray) -> np.ndarray:
    """Target of under- and over-sampling (U-O): the mean size for every group that has members.

    The epoch keeps its length, so that a method with U-O costs what the baseline costs.
    """
    present = counts > 0
    return np.where(present, round(counts.sum() / present.sum()), 0)


def epoch_order(groups: Tensor, *, balanced: bool, generator: torch.Generator) -> Tensor:
    """Indices of the samples of one epoch, shuffled.

    Parameters
    ----------
    groups
        Group of every sample, int64, (N,).
    balanced
        Draw every group to the same size: large groups lose a random part (under-sampling), small
        ones see each sample equally often, up to one (over-sampling). Bellam & Kim, §5.1.

    Examples
    --------
    >>> order = epoch_order(torch.tensor([0, 0, 0, 1]), balanced=True, generator=torch.Generator())
    >>> torch.tensor([0, 0, 0, 1])[order].bincount()
    tensor([2, 2])
    """
    if not balanced:
        return torch.randperm(len(groups), generator=generator)
    counts = np.bincount(groups.numpy())
    chosen = []
    for group, wanted in enumerate(balanced_counts(counts)):
        members = torch.nonzero(groups == group).flatten()
        if len(members) == 0:
            continue
        whole, rest = divmod(int(wanted), len(members))
        some = members[torch.randperm(len(members), generator=generator)[:rest]]
        chosen += [members.repeat(whole), some]
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=generator)]


def balanced_subset(groups: np.ndarray, *, most: int, seed: int) -> np.ndarray:
    """Indices of a random subset with equally many of every group, at most ``most`` of each.

    Accuracy by epoch on such a subset shows how hard a group is, apart from how large it is
    (Bellam & Kim, §4.6).
    """
    counts = np.bincount(groups)
    size = min(most, counts[counts > 0].min())
    random = np.random.default_rng(seed)
    chosen = [
        random.choice(np.flatnonzero(groups == group), size, replace=False)
        for group in np.flatnonzero(counts)
    ]
    return np.sort(np.concatenate(chosen))
