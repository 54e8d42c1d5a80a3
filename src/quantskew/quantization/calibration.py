"""Which training images a post-training method may look at."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from quantskew import models
from quantskew.data.groups import group_codes
from quantskew.data.loading import Samples
from quantskew.quantization.settings import Calibration


class CalibrationSet(NamedTuple):
    """Training images that a method looks at, and how many it has of each group."""

    images: Tensor
    labels: Tensor
    groups: Tensor
    counts: dict[str, int]


def calibration_set(train: Samples, settings: Calibration, seed: int) -> CalibrationSet:
    """Draw the training images that a method may look at; see :class:`Calibration`."""
    codes, names = group_codes(train.attributes, settings.by)
    everyone = torch.from_numpy(codes)
    some = choose(everyone, samples=settings.samples, choice=settings.choice, seed=seed)
    groups = everyone[some]
    counts = dict(zip(names, groups.bincount(minlength=len(names)).tolist(), strict=True))
    images = models.as_input(train.images[some], models.CPU)
    return CalibrationSet(images, train.labels[some], groups, counts)


def choose(
    groups: Tensor, *, samples: int, choice: Literal["random", "balanced"], seed: int
) -> Tensor:
    """Choose calibration images.

    Parameters
    ----------
    groups
        Group of each image as a code from 0 on, (N,); a code below 0 belongs to no group.
    samples
        How many to choose; all if there are fewer.
    choice
        ``random`` draws from all. ``balanced`` takes turns among the groups, so that their counts
        differ by at most one until a group has no more, and leaves out who has no group.
    seed
        Of the draw.

    Returns
    -------
    Tensor
        Indices in rising order, each once.
    """
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    if choice == "random":
        return order[:samples].sort().values
    shuffled = groups[order]
    turn = torch.empty_like(order)
    for group in shuffled.unique():
        members = shuffled == group
        turn[members] = torch.arange(int(members.sum()))
    known = (shuffled >= 0).nonzero().flatten()
    first = known[turn[known].sort(stable=True).indices]
    return order[first[:samples]].sort().values
