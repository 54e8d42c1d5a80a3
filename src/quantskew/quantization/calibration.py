"""Which training images a post-training method may look at."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from typing_extensions import override

from quantskew.errors import UserError
from quantskew.sections import Choice, Count, Section

if TYPE_CHECKING:
    from torch import Tensor

    from quantskew.data.loading import Samples


class CalibrationChoice(Choice):
    """How calibration images are chosen (``calibration.choice``)."""

    def choose(self, groups: Tensor, *, samples: int, seed: int) -> Tensor:
        """Return the indices of ``samples`` images, or of all if there are fewer, in rising order.

        ``groups`` holds the group of each image as a code from 0 on, (N,); below 0 is no group.
        """
        import torch

        order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
        return order[self.queue(groups[order])[:samples]].sort().values

    @abstractmethod
    def queue(self, groups: Tensor) -> Tensor:
        """Return the indices of shuffled images in the order in which they are taken."""


class RandomChoice(CalibrationChoice, kind="random"):
    """Draw from all images."""

    @override
    def queue(self, groups: Tensor) -> Tensor:
        import torch

        return torch.arange(len(groups))


class BalancedChoice(CalibrationChoice, kind="balanced"):
    """Take turns among the groups, and leave out images without a group.

    The counts of groups differ by at most one until a group has no more.
    """

    @override
    def queue(self, groups: Tensor) -> Tensor:
        import torch

        turn = torch.empty(len(groups), dtype=torch.long)
        for group in groups.unique():
            members = groups == group
            turn[members] = torch.arange(int(members.sum()))
        known = (groups >= 0).nonzero().flatten()
        return known[turn[known].sort(stable=True).indices]


class CalibrationSet(NamedTuple):
    """Training images that a method looks at, and how many it has of each group."""

    images: Tensor
    labels: Tensor
    groups: Tensor
    counts: dict[str, int]


class Calibration(Section):
    """Training images that post-training methods may look at (``calibration:``).

    ``by`` names the groups, for a balanced choice and for parts that look at the worst group. An
    image without a value of ``by`` has no group here, whatever ``groups.unknown`` says of the
    comparison.
    """

    samples: Count = 256
    choice: CalibrationChoice = RandomChoice()
    by: str = "label"

    def draw(self, train: Samples, seed: int) -> CalibrationSet:
        """Draw the images that a method may look at from the training samples."""
        import torch

        from quantskew import models
        from quantskew.data.groups import Groups, group_codes

        codes, names = group_codes(train.attributes, self.by, Groups(unknown="leave_out"))
        all_groups = torch.from_numpy(codes)
        chosen = self.choice.choose(all_groups, samples=self.samples, seed=seed)
        groups = all_groups[chosen]
        known = groups[groups >= 0]
        if not len(known):
            raise UserError(f"calibration.by: no calibration image has a value of {self.by}")
        counts = dict(zip(names, known.bincount(minlength=len(names)).tolist(), strict=True))
        images = models.as_input(train.images[chosen], models.CPU)
        return CalibrationSet(images, train.labels[chosen], groups, counts)
