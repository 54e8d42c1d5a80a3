"""Which samples an epoch of training sees, and in which order (``recipe.sampling``)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import override

from quantskew.data.groups import ByGroup
from quantskew.sections import Choice

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Sampling(Choice):
    """Which samples an epoch sees."""

    @abstractmethod
    def epoch(self, attributes: pd.DataFrame, generator: torch.Generator) -> Tensor:
        """Draw the samples of an epoch: row numbers of a table of attributes, int64, shuffled."""

    def order(self, attributes: pd.DataFrame, seed: int) -> Callable[[int], Tensor]:
        """Return a function from the number of an epoch to its samples; see :meth:`epoch`.

        They depend on the seed and the number alone, so that an interrupted training goes on as if
        it had not been interrupted.
        """
        import torch

        return lambda number: self.epoch(
            attributes, torch.Generator().manual_seed(seed * 1_000_003 + number)
        )


class AsIs(Sampling, kind="as_is"):
    """Every sample once."""

    @override
    def epoch(self, attributes: pd.DataFrame, generator: torch.Generator) -> Tensor:
        import torch

        return torch.randperm(len(attributes), generator=generator)


class _EqualGroups(ByGroup, Sampling):
    """Equally many samples of every group."""

    @abstractmethod
    def _size(self, counts: NDArray[np.int64]) -> int:
        """Return how many samples of each group an epoch sees, of how many there are."""

    @override
    def epoch(self, attributes: pd.DataFrame, generator: torch.Generator) -> Tensor:
        """Draw equally many samples of every group.

        A group that is too small repeats each of its samples equally often, up to one; a group that
        is too large loses a random part.
        """
        import torch

        codes = self.codes(attributes)
        counts = np.bincount(codes)
        parts = []
        for group, count in enumerate(counts.tolist()):
            members = torch.from_numpy(np.flatnonzero(codes == group))
            repeats, rest = divmod(self._size(counts), count)
            extra = members[torch.randperm(count, generator=generator)[:rest]]
            parts += [members.repeat(repeats), extra]
        indices = torch.cat(parts)
        return indices[torch.randperm(len(indices), generator=generator)]


class Balanced(_EqualGroups, kind="balanced"):
    """Every group at the mean size, so that an epoch keeps its length and its cost.

    This is the under- and over-sampling (U-O) of Bellam & Kim (2025), §5.1.
    """

    def _size(self, counts: NDArray[np.int64]) -> int:
        return round(float(counts.mean()))


class Oversample(_EqualGroups, kind="oversample"):
    """Every group at the size of the largest: no sample is lost, and an epoch is longer."""

    def _size(self, counts: NDArray[np.int64]) -> int:
        return int(counts.max())


def balanced_subset(groups: NDArray[np.int64], *, most: int, seed: int) -> NDArray[np.int64]:
    """Draw indices of equally many samples of every group that has any, sorted.

    Accuracy by epoch on such a subset shows how hard a group is, apart from how large it is
    (Bellam & Kim, §4.6). ``groups`` has the group of every sample, integers from 0, and ``most`` is
    the largest number of samples that are drawn of one.
    """
    counts = np.bincount(groups)
    size = min(most, counts[counts > 0].min())
    random = np.random.default_rng(seed)
    chosen = [
        random.choice(np.flatnonzero(groups == group), size, replace=False)
        for group in np.flatnonzero(counts)
    ]
    return np.sort(np.concatenate(chosen))
