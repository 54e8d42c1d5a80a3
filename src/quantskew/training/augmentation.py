"""Training images that are changed anew every time they are seen (``recipe.augmentation``)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field, field_validator
from typing_extensions import override

from quantskew.sections import Choice, Fraction, PositiveFloat

if TYPE_CHECKING:
    from torch import Tensor

Augment = Callable[["Tensor", "Tensor", int, int], "tuple[Tensor, Tensor]"]


class Augmentation(Choice):
    """How training images are changed."""

    mixes: ClassVar[bool] = False
    """Whether an image of the result is made of two, which may be of two classes and two groups."""

    @abstractmethod
    def change(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Change a batch; random numbers come from torch's default generator on the CPU.

        Images are (N, C, H, W) in floating point, labels int64 (N,). The labels of mixed images
        become the share of each class, float32 (N, classes).
        """

    def augmenter(self, *, classes: int, seed: int) -> Augment:
        """Return a function that changes batches; see :meth:`change`.

        It takes images, labels and the numbers of the epoch and of its step. Everything random
        follows from (seed, epoch, step), so that an interrupted training sees the images that it
        would have seen, on any device.
        """
        import torch

        def augment(images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
            # torchvision's transforms draw from the global generator only
            with torch.random.fork_rng(devices=()):
                (state,) = np.random.SeedSequence((seed, epoch, step)).generate_state(1)
                torch.default_generator.manual_seed(int(state))
                return self.change(images, labels, classes)

        return augment


class Unchanged(Augmentation, kind="none"):
    """Images as they are."""

    @override
    def change(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        return images, labels


class Geometric(Augmentation, kind="geometric"):
    """Rotation by up to ``degrees``, shifts, scaling, and mirroring.

    ``shift`` is the largest shift as a share of the side, ``scale`` the largest relative change of
    the size; with ``flip`` every image is mirrored with probability ½.
    """

    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    shift: Fraction = 0.1
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    flip: bool = False

    @override
    def change(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        import torch

        from quantskew.training.transforms import move

        def uniform(*shape: int) -> Tensor:
            return 2 * torch.rand(shape) - 1

        n = len(images)
        angles = self.degrees * math.pi / 180 * uniform(n)
        shifts = self.shift * uniform(n, 2)
        scales = 1 + self.scale * uniform(n)
        mirrored = torch.rand(n) < (0.5 if self.flip else 0.0)
        return move(images, angles, shifts, scales, mirrored), labels


class Erasing(Augmentation, kind="erasing"):
    """A square of each image is replaced by the mean of the image (Zhong et al. 2020).

    Its side is drawn uniformly between two shares of the shorter side of the image; the defaults
    are 3 and 20 pixels of 48.
    """

    sides: tuple[Fraction, Fraction] = (3 / 48, 20 / 48)

    @field_validator("sides")
    @classmethod
    def _rising(cls, sides: tuple[float, float]) -> tuple[float, float]:
        if sides[0] > sides[1]:
            raise ValueError(f"the smaller share comes first; got {list(sides)}")
        return sides

    @override
    def change(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        import torch

        from quantskew.training.transforms import erase

        low, high = self.sides
        n, _, height, width = images.shape
        sides = (low + (high - low) * torch.rand(n)) * min(height, width)
        sides = sides.round().clamp(min=1).long()
        room = torch.tensor([height, width]) - sides[:, None] + 1
        return erase(images, (torch.rand(n, 2) * room).long(), sides), labels


class _Mixing(Augmentation):
    """Pairs of images are mixed; the share of each is drawn from Beta(alpha, alpha) for a batch."""

    mixes: ClassVar[bool] = True
    transform: ClassVar[str]  # of torchvision.transforms.v2

    alpha: PositiveFloat = 1.0

    @override
    def change(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        from quantskew.training.transforms import v2

        mix = getattr(v2, self.transform)(alpha=self.alpha, num_classes=classes)
        images, labels = mix(images, labels)
        return images, labels


class Mixup(_Mixing, kind="mixup"):
    """Weighted means of two images (Zhang et al. 2018)."""

    transform: ClassVar[str] = "MixUp"


class Cutmix(_Mixing, kind="cutmix"):
    """Images with a rectangle of another image pasted in (Yun et al. 2019)."""

    transform: ClassVar[str] = "CutMix"
