"""How much the calibration images of each group count in the error that a rounding minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from quantskew.errors import UserError
from quantskew.sections import Choice, PositiveFloat

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Weighting(Choice):
    """How groups of calibration images (``calibration.by``) weigh (``weighting`` of a rounding)."""

    by_group: ClassVar[bool] = False
    moves: ClassVar[bool] = False

    def shares(
        self, groups: Tensor | None, count: int, generator: torch.Generator
    ) -> Shares | None:
        """Return the weights that a rounding starts with; ``None`` where all images count alike.

        ``groups`` holds the group of each image as a code from 0 on, (N,), below 0 for no group,
        and ``count`` is the number of inputs of the layer. A control draws from the generator.
        """
        return None

    def update(self, shares: Shares, errors: Tensor) -> None:
        """Move the weights, in place, by the error of each image, (N,)."""


class Even(Weighting, kind="even"):
    """Every image counts alike, so a group counts as far as it has images."""


class Balanced(Weighting, kind="balanced"):
    """Every group counts alike, however few its images are.

    With ``shuffle`` the groups are dealt to the same images at random: a control, which tells what
    comes of knowing the groups from what comes of weighing few images more.
    """

    by_group: ClassVar[bool] = True
    shuffle: bool = False

    @override
    def shares(self, groups: Tensor | None, count: int, generator: torch.Generator) -> Shares:
        import torch

        if groups is None or len(groups) != count:
            images = 0 if groups is None else len(groups)
            raise UserError(
                f"weighting: {self.kind} knows the groups of {images} images, and a layer gets "
                f"{count} inputs from them; use weighting: even"
            )
        if self.shuffle:
            groups = groups[torch.randperm(count, generator=generator)]
        return Shares(groups)


class WorstGroup(Balanced, kind="worst_group"):
    """The group of the largest error comes to count most.

    The weights q of the groups follow their errors e by ``q ← q · exp(step · e / mean e) / Σ``, as
    those of group DRO follow losses (Sagawa et al. 2020).
    """

    moves: ClassVar[bool] = True
    step: PositiveFloat = 0.3

    @override
    def update(self, shares: Shares, errors: Tensor) -> None:
        means = shares.means(errors)
        shares.of_groups *= (self.step * means / means.mean().clamp_min(1e-30)).exp()
        shares.of_groups /= shares.of_groups.sum()


class Shares:
    """Weights of the groups of N images, which add up to 1; a group below 0 weighs nothing."""

    def __init__(self, groups: Tensor) -> None:
        import torch

        present = groups[groups >= 0].unique()
        self.member = (groups[:, None] == present).float()  # (N, G)
        self.counts = self.member.sum(0)
        self.of_groups = torch.full((len(present),), 1 / max(1, len(present)))

    @property
    def of_images(self) -> Tensor:
        """Weight of each image, (N,), on average 1."""
        weights: Tensor = self.member @ (self.of_groups / self.counts) * len(self.member)
        return weights

    def means(self, errors: Tensor) -> Tensor:
        """Return the mean error of each group, (G,), from those of the images."""
        means: Tensor = errors @ self.member / self.counts
        return means
