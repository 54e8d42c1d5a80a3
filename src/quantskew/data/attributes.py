"""Attributes of handwriting measured on the pixels: how it leans, how thick its strokes are.

The lines between the groups are fixed numbers, not quantiles of the data at hand, so an image is in
the same group whichever other images are beside it. They are round values near the terciles of the
5,000 digits that ship with the default (slant 0.6° and 14.6°, stroke 0.076 and 0.093 of the side),
so that no group is small.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

SLANTS = ("left", "upright", "right")
STROKES = ("thin", "medium", "bold")


def slant_degrees(images: np.ndarray) -> np.ndarray:
    r"""Angle by which the ink leans to the right of the vertical: (N,) degrees, −90 to 90.

    Images are (N, C, H, W), of which the mean over C is taken, or (N, H, W), with bright ink on
    dark ground; ink in one row leans by 0. The shear that makes the central moment μ₁₁ vanish is
    μ₁₁/μ₀₂, the slope of the regression of x on y weighted by ink, and its arctangent is the slant.
    Rows are counted downwards, so a stroke leaning right has μ₁₁ < 0.
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
    """Mean width of the strokes as a fraction of the side of the image, (N,); 0 without ink.

    A stroke of width w and length L holds wL of ink and has an outline of about 2L, so twice the
    ink over the outline is w, whatever is written: unlike the amount of ink it does not tell a 1
    from an 8. The outline is measured without a threshold, as the total variation of the pixels.
    Images are as in :func:`slant_degrees`.
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

    Images are uint8, (N, C, H, W). ``slant`` says at how many degrees upright and right begin, and
    ``stroke`` at which widths, as fractions of the side, medium and bold begin.
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
