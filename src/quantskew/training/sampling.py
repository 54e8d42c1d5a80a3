"""Which samples an epoch sees, and in which order."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Sampling = Literal["as_is", "balanced", "grown"]


def target_counts(counts: np.ndarray, sampling: Sampling) -> np.ndarray:
    """How many samples of each group an epoch sees, for groups of these sizes.

    ============  ================================================================================
    ``as_is``     all
    ``balanced``  the mean size for every group that has members (under- and over-sampling, U-O;
                  Bellam & Kim, §5.1): the epoch keeps its length, and costs what it did
    ``grown``     the size of the largest for every group that has members: none loses a sample,
                  and the epoch is longer
    ============  ================================================================================

    Examples
    --------
    >>> target_counts(np.array([4, 2, 0]), "balanced"), target_counts(np.array([4, 2, 0]), "grown")
    (array([3, 3, 0]), array([4, 4, 0]))
    """
    present = counts > 0
    sizes = {"balanced": round(counts.sum() / present.sum()), "grown": counts.max()}
    return counts if sampling == "as_is" else np.where(present, sizes[sampling], 0)


def epoch_order(groups: Tensor, *, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Indices of the samples of one epoch, shuffled.

    A group that is to be larger sees each of its samples equally often, up to one; one that is to
    be smaller loses a random part.

    Parameters
    ----------
    groups
        Group of every sample, int64, (N,).
    sampling
        See :func:`target_counts`.
    """
    if sampling == "as_is":
        return torch.randperm(len(groups), generator=generator)
    counts = np.bincount(groups.numpy())
    chosen = []
    for group, wanted in enumerate(target_counts(counts, sampling)):
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
