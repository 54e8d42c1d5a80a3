"""How pictures become the input of a network that was made elsewhere (``preprocess:``)."""

from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field, FiniteFloat

from quantskew.data.source import Interpolation, height_and_width
from quantskew.errors import UserError
from quantskew.sections import PositiveFloat, Section

_Side = Annotated[int, Field(ge=1, le=4096, description="pixels")]


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


class PreprocessError(UserError, ValueError):
    """Preprocessing that does not fit the input of a network."""


class Preprocess(Section):
    """Steps from a picture to the input of a network, in this order.

    Attributes
    ----------
    resize
        Length of the shorter side in pixels, or height and width.
    crop
        Side of the square, or height and width, that is cut from the middle. Without ``resize`` and
        ``crop`` the largest middle part of the form of the input is scaled to its size.
    interpolation
        Of ``resize``.
    scale
        Pixel values, 0 to 255, are divided by this.
    mean, std
        Subtracted from the scaled values, and divided by, for all channels or each. The order of
        the channels is ``channels``.
    layout
        Order of the axes of the input.
    channels
        Order of the channels of a colour picture; the input of a grey one has none.

    Examples
    --------
    >>> pixels = np.full((1, 3, 2, 2), 255, np.uint8)
    >>> preprocess = Preprocess(scale=255, mean=(0.5,), std=(0.5,))
    >>> float(preprocess.values(pixels).max())
    1.0
    """

    resize: _Side | tuple[_Side, _Side] | None = None
    crop: _Side | tuple[_Side, _Side] | None = None
    interpolation: Interpolation = "bilinear"
    scale: PositiveFloat
    mean: Annotated[tuple[FiniteFloat, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    std: Annotated[tuple[PositiveFloat, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: Literal["RGB", "BGR"] = "RGB"

    @property
    def resizes(self) -> bool:
        """Whether it says how a picture gets its size."""
        return self.resize is not None or self.crop is not None

    def size(self) -> tuple[int, int] | None:
        """Height and width of the result, where they do not depend on the picture."""
        if self.crop is not None:
            return height_and_width(self.crop)
        return self.resize if isinstance(self.resize, tuple) else None

    def values(self, pixels: np.ndarray) -> np.ndarray:
        """Scale and normalize pixels in RGB, (N, C, H, W); the result is float32."""
        n_channels = pixels.shape[1]
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, n_channels):
                raise PreprocessError(
                    f"preprocess: {name} has {len(numbers)} values, the input has {n_channels} "
                    f"channels; give 1 or {n_channels}"
                )
        ordered = pixels[:, ::-1] if self.channels == "BGR" else pixels
        if pixels.dtype != np.uint8:
            return self._normalized(ordered)
        # of 256 levels each is computed once: the same values for a fraction of the time
        levels = np.broadcast_to(np.arange(256.0)[:, None], (1, n_channels, 256, 1))
        values = np.empty(pixels.shape, np.float32)
        for channel, level in enumerate(self._normalized(levels)[0, :, :, 0]):
            np.take(level, ordered[:, channel], out=values[:, channel])
        return values

    def _normalized(self, pixels: np.ndarray) -> np.ndarray:
        mean, std = (np.reshape(v, (1, -1, 1, 1)) for v in (self.mean, self.std))
        values: np.ndarray = ((pixels / self.scale - mean) / std).astype(np.float32)
        return values

    def steps(self, n_channels: int) -> str:
        """Steps in a line, for an input of so many channels."""
        sizes = {"resize": self.resize, "crop": self.crop}
        texts = [
            f"{step} {'×'.join(map(str, size)) if isinstance(size, tuple) else size}"
            for step, size in sizes.items()
            if size is not None
        ]
        texts += [self.interpolation] if self.resize is not None else []
        texts = texts or ["middle of pictures of another size, bilinear"]
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        texts += [f"pixels / {self.scale:g}", f"mean {mean}", f"std {std}", self.layout]
        return "; ".join([*texts, "grey" if n_channels == 1 else self.channels])
