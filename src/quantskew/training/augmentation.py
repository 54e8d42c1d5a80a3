"""Training images changed anew every time they are seen.

Everything random follows from (seed, epoch, step) and is drawn on the CPU: an interrupted training
sees the images it would have seen, on any device.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import quantskew._torchvision  # noqa: F401 - torchvision loads only after it
from quantskew.training.settings import Augmentation

# isort: split
from torchvision.transforms import v2

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Augment = Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]


def augmenter(settings: Augmentation, *, classes: int, seed: int) -> Augment | None:
    """Make the function that changes a batch, or ``None`` where nothing is to be changed.

    Parameters
    ----------
    settings
        Which way, and how strongly.
    classes
        How many there are, for labels that are mixed.
    seed
        Of the training.

    Returns
    -------
    callable
        From images (N, C, H, W) in floating point, labels int64 (N,), and the numbers of the epoch
        and of its step to changed images and their labels. These are the labels given, or where
        images are mixed float32 (N, classes), the share of each class.
    """
    if settings.kind == "none":
        return None
    change = _change(settings, classes)

    def augment(images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        # torchvision's transforms draw from the global generator alone
        with torch.random.fork_rng(devices=()):
            (state,) = np.random.SeedSequence((seed, epoch, step)).generate_state(1)
            torch.default_generator.manual_seed(int(state))
            return change(images, labels)

    return augment


def _change(settings: Augmentation, classes: int) -> Change:
    match settings.kind:
        case "mixup":  # Zhang et al. 2018: one share a batch, as in the paper
            return v2.MixUp(alpha=settings.alpha, num_classes=classes)
        case "cutmix":  # Yun et al. 2019, likewise
            return v2.CutMix(alpha=settings.alpha, num_classes=classes)
        case "erasing":
            return lambda x, labels: (erase(x, *_squares(x, *settings.sides)), labels)
        case _:
            return lambda x, labels: (move(x, *_motions(settings, len(x))), labels)


def _motions(settings: Augmentation, n: int) -> tuple[Tensor, ...]:
    angles = settings.degrees * math.pi / 180 * _within(n)
    shifts = settings.shift * _within(n, 2)
    scales = 1 + settings.scale * _within(n)
    return angles, shifts, scales, torch.rand(n) < (0.5 if settings.flip else 0.0)


def _within(*shape: int) -> Tensor:
    """Draw uniformly from [−1, 1)."""
    return 2 * torch.rand(shape) - 1


def move(
    images: Tensor, angles: Tensor, shifts: Tensor, scales: Tensor, mirrored: Tensor
) -> Tensor:
    """Rotate, shift, scale and mirror each image about its centre; its edge fills what is bared.

    Parameters
    ----------
    images
        (N, C, H, W) in floating point.
    angles
        (N,), radians, clockwise.
    shifts
        (N, 2), to the right and down, in sides of the image.
    scales
        (N,), above 1 enlarges.
    mirrored
        (N,) booleans: left and right change places, before all else.
    """
    height, width = images.shape[2:]
    cosine, sine = angles.cos() / scales, angles.sin() / scales
    sign = 1 - 2 * mirrored.float()
    # where each pixel of the result comes from, in coordinates from −1 to 1 along each side
    rows = torch.stack(
        [
            torch.stack([sign * cosine, sign * sine * height / width], 1),
            torch.stack([-sine * width / height, cosine], 1),
        ],
        1,
    )
    origin = -2 * rows @ shifts[..., None]
    grid = functional.affine_grid(
        torch.cat([rows, origin], 2).to(images), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _squares(images: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Draw the corner and the side of a square for each image, for sides in shares of its own."""
    n, _, height, width = images.shape
    sides = (low + (high - low) * torch.rand(n)) * min(height, width)
    sides = sides.round().clamp(min=1).long()
    room = torch.tensor([height, width]) - sides[:, None] + 1
    return (torch.rand(n, 2) * room).long(), sides


def erase(images: Tensor, corners: Tensor, sides: Tensor) -> Tensor:
    """Replace a square of each image by the mean of the image (random erasing, Zhong et al. 2020).

    Parameters
    ----------
    images
        (N, C, H, W) in floating point.
    corners
        (N, 2), row and column of the square's upper left pixel.
    sides
        (N,), pixels.
    """
    inside = []
    for axis, size in enumerate(images.shape[2:]):
        at, first = torch.arange(size), corners[:, axis, None]
        inside.append((at >= first) & (at < first + sides[:, None]))
    rows, columns = inside
    square = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
    return torch.where(square, images.mean((2, 3), keepdim=True), images)
