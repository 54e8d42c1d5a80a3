"""Which samples an epoch of training sees, and in which order (``recipe.sampling``)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantskew.data.groups import ByGroup
from quantskew.sections import Choice

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Sampling(Choice):
    """Which samples an epoch sees."""

    @abstractmethod
    def epoch(self, attributes: pd.DataFrame, generator: torch.Generator) -> Tensor:
        """Draw the samples of one epoch.

        Parameters
        ----------
        attributes
            One row a training sample, one column an attribute.
        generator
            The only source of randomness.

        Returns
        -------
        Tensor
            Row numbers, int64, shuffled; a sample may be left out or stand more than once.
        """

    def order(self, attributes: pd.DataFrame, seed: int) -> Callable[[int], Tensor]:
        """Return a function from the number of an epoch to its samples; see :meth:`epoch`.

        Its result depends on the seed and the number alone, so that an interrupted training goes on
        as if it had not been interrupted.
        """
        import torch

        return lambda number: self.epoch(
            attributes, torch.Generator().manual_seed(seed * 1_000_003 + number)
        )


class AsIs(Sampling, kind="as_is"):
    """Every sample once."""

    def epoch(self, attributes: pd.DataFrame, generator: torch.Generator) -> Tensor:
        """Draw a permutation of all samples."""
        import torch

        return torch.randperm(len(attributes), generator=generator)


class _EqualGroups(ByGroup, Sampling):
    """Equally many samples of every group that has any."""

    @abstractmethod
    def size(self, counts: NDArray[np.int64]) -> int:
        """Return how many samples of each group an epoch sees.

        Parameters
        ----------
        counts
            (groups,), the numbers of samples there are, all above 0.
        """

    def epoch(self, attributes: pd.DataFrame, generator: torch.Generator) -> Tensor:
        """Draw equally many samples of every group.

        A group smaller than :meth:`size` repeats each of its samples equally often, up to one; a
        larger group loses a random part.
        """
        import torch

        groups = torch.from_numpy(self.codes(attributes))
        present, counts = groups.unique(return_counts=True)
        size = self.size(counts.numpy())
        parts = []
        for group in present:
            members = torch.nonzero(groups == group).flatten()
            repeats, rest = divmod(size, len(members))
            extra = members[torch.randperm(len(members), generator=generator)[:rest]]
            parts += [members.repeat(repeats), extra]
        indices = torch.cat(parts)
        return indices[torch.randperm(len(indices), generator=generator)]


class Balanced(_EqualGroups, kind="balanced"):
    """Every group at the mean size, so that the epoch keeps its length and its cost.

    This is the under- and over-sampling (U-O) of Bellam & Kim (2025), §5.1.

    Examples
    --------
    >>> Balanced().size(np.array([4, 2]))
    3
    """

    def size(self, counts: NDArray[np.int64]) -> int:
        """Return the mean size."""
        return round(counts.mean())


class Oversample(_EqualGroups, kind="oversample"):
    """Every group at the size of the largest: no sample is lost, and the epoch is longer.

    Examples
    --------
    >>> Oversample().size(np.array([4, 2]))
    4
    """

    def size(self, counts: NDArray[np.int64]) -> int:
        """Return the size of the largest group."""
        return int(counts.max())


def balanced_subset(groups: NDArray[np.int64], *, most: int, seed: int) -> NDArray[np.int64]:
    """Draw equally many samples of every group that has any, at most ``most`` of each.

    Accuracy by epoch on such a subset shows how hard a group is, apart from how large it is
    (Bellam & Kim, §4.6).

    Parameters
    ----------
    groups
        (N,), the group of every sample, integers from 0.
    most, seed
        Limit of the samples of a group, and the seed of the draw.

    Returns
    -------
    ndarray
        Sorted indices, each at most once.
    """
    counts = np.bincount(groups)
    size = min(most, counts[counts > 0].min())
    random = np.random.default_rng(seed)
    chosen = [
        random.choice(np.flatnonzero(groups == group), size, replace=False)
        for group in np.flatnonzero(counts)
    ]
    return np.sort(np.concatenate(chosen))
