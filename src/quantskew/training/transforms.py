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
    """Rotate, shift, scale and mirror each image about its centre.

    Pixels that come from outside the image take the value of its nearest edge.

    Parameters
    ----------
    images
        (N, C, H, W) in floating point.
    angles
        (N,), radians, clockwise.
    shifts
        (N, 2), to the right and down, as shares of the sides of the image.
    scales
        (N,), above 0; above 1 enlarges.
    mirrored
        (N,) booleans: left and right are swapped, before everything else.
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
    """Replace a square of each image by the mean of the image.

    Parameters
    ----------
    images
        (N, C, H, W) in floating point.
    corners
        (N, 2), row and column of the upper left pixel of the square.
    sides
        (N,), pixels.
    """
    inside = []
    for axis, size in enumerate(images.shape[2:]):
        position, first = torch.arange(size), corners[:, axis, None]
        inside.append((position >= first) & (position < first + sides[:, None]))
    rows, columns = inside
    square = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
    return torch.where(square, images.mean((2, 3), keepdim=True), images)
