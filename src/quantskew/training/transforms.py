"""Geometric changes and erasing of whole batches, as functions of tensors."""

import torch
from torch import Tensor
from torch.nn import functional

import quantskew._torchvision  # noqa: F401 - torchvision can be imported only after it

# isort: split
from torchvision.transforms import v2

__all__ = ["erase", "move", "v2"]


def move(
    images: Tensor, angles: Tensor, shifts: Tensor, scales: Tensor, mirrored: Tensor
) -> Tensor:
    """Rotate, shift, scale and mirror each image about its centre, (N, C, H, W) in floating point.

    Left and right of the ``mirrored`` ones are swapped first. Angles are radians, clockwise;
    shifts, (N, 2), are to the right and down, as shares of the sides; a scale above 1 enlarges.
    Pixels that come from outside the image take the value of its nearest edge.
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


def erase(images: Tensor, corners: Tensor, sides: Tensor) -> Tensor:
    """Replace a square of each image, (N, C, H, W) in floating point, by the mean of the image.

    ``corners`` are row and column of its upper left pixel, (N, 2), and ``sides`` pixels, (N,).
    """
    inside = []
    for axis, size in enumerate(images.shape[2:]):
        position, first = torch.arange(size), corners[:, axis, None]
        inside.append((position >= first) & (position < first + sides[:, None]))
    rows, columns = inside
    square = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
    return torch.where(square, images.mean((2, 3), keepdim=True), images)
