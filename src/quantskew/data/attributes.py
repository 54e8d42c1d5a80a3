"""Attributes of handwriting measured on the pixels: how it leans, how thick its strokes are.

The lines between the groups are fixed numbers, not quantiles of the data at hand: an image is in
the same group whichever other images are beside it, so the balanced and the imbalanced variant of
a data set, or two seeds, compare the same people. The numbers were chosen once, on the 5,000
digits that ship with the default, as round values near its terciles (slant 0.6° and 14.6°, stroke
0.076 and 0.093 of the side), so that no group is small.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

SLANTS = ("left", "upright", "right")
STROKES = ("thin", "medium", "bold")


def slant_degrees(images: np.ndarray) -> np.ndarray:
    r"""Angle by which the ink leans to the right of the vertical.

    The shear that makes the central moment μ₁₁ vanish is μ₁₁/μ₀₂, the slope of the regression of
    x on y weighted by ink; its arctangent is the slant. Rows are counted downwards, so a stroke
    leaning right has μ₁₁ < 0.

    Parameters
    ----------
    images
        N×C×H×W, of which the mean is taken, or N×H×W; bright ink on dark ground.

    Returns
    -------
    numpy.ndarray
        N angles in degrees, −90 to 90; 0 for ink in one row.
    """
    ink = _ink(images)
    mass = np.maximum(ink.sum(axis=(1, 2)), 1e-9)
    y, x = np.arange(ink.shape[1]), np.arange(ink.shape[2])
    dy = y - (ink.sum(axis=2) @ y / mass)[:, None]
    dx = x - (ink.sum(axis=1) @ x / mass)[:, None]
    mu11 = np.einsum("nyx,ny,nx->n", ink, dy, dx)
    mu02 = np.einsum("nyx,ny->n", ink, dy**2)
    return np.asarray(np.degrees(np.arctan2(-mu11, mu02)))


def stroke_width(images: np.ndarray) -> np.ndarray:
    """Mean width of the strokes as a fraction of the side of the image.

    A stroke of width w and length L holds wL of ink and has an outline of about 2L, so twice the
    ink over the outline is w, whatever is written: unlike the amount of ink it does not tell a
    1 from an 8. The outline is measured without a threshold, as the total variation of the pixels.

    Parameters
    ----------
    images
        N×C×H×W, of which the mean is taken, or N×H×W; bright ink on dark ground.

    Returns
    -------
    numpy.ndarray
        N widths, 0 for an image without ink.
    """
    ink = _ink(images)
    padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    down = np.diff(padded, axis=1)[:, :, :-1]
    right = np.diff(padded, axis=2)[:, :-1, :]
    outline = np.hypot(down, right).sum(axis=(1, 2))
    return np.asarray(2 * ink.sum(axis=(1, 2)) / np.maximum(outline, 1e-9) / ink.shape[2])


def digit_attributes(
    images: np.ndarray,
    *,
    slant: tuple[float, float] = (0, 15),
    stroke: tuple[float, float] = (0.077, 0.093),
) -> Mapping[str, Any]:
    """Group handwriting: ``slant`` (left, upright, right), ``stroke`` (thin, medium, bold).

    Parameters
    ----------
    images
        N×C×H×W, uint8.
    slant
        Degrees at which upright and right begin.
    stroke
        Widths, as fractions of the side, at which medium and bold begin.
    """
    return {
        "slant": _named(slant_degrees(images), slant, SLANTS),
        "stroke": _named(stroke_width(images), stroke, STROKES),
    }


def _named(values: np.ndarray, edges: tuple[float, ...], names: tuple[str, ...]) -> Any:
    return pd.Categorical.from_codes(np.digitize(values, edges), pd.Index(names))


def _ink(images: np.ndarray) -> np.ndarray:
    planes = images.reshape(len(images), -1, *images.shape[-2:])
    return np.asarray(planes.mean(axis=1, dtype=np.float32) / 255)
