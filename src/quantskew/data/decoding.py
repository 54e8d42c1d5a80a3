"""From files, bytes or arrays to pixels of one size: in parallel, once, in bounded memory."""

import io
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import joblib
import numpy as np
import PIL.Image
import PIL.ImageOps
from tqdm import tqdm

from quantskew.data.source import Interpolation, Size, height_and_width
from quantskew.data.sources.registry import Image, UnusableError
from quantskew.data.sources.store import too_large

_CHUNK = 64

Fit = Callable[[PIL.Image.Image], PIL.Image.Image]
"""Resizes and crops a picture."""
_MODES = {1: "L", 3: "RGB"}
_RESAMPLING = {
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
}


def decode(
    image: Image,
    *,
    size: Size,
    channels: int,
    native: tuple[int, int] | None = None,
    fit: Fit | None = None,
) -> np.ndarray:
    """Decode one image, cut out its middle and resize that, with antialiasing.

    The result is uint8, (channels, height, width), with 1 channel for grey or 3 for RGB. Of the
    image the largest middle part that has the form of ``size`` is kept, unless ``fit`` brings it to
    that size in another way. ``native`` is the height and width that the image must have. An
    ``UnusableError`` is raised for an image that is missing, empty, unreadable, of another size
    than ``native``, of more than 8 bits a channel, or all of one colour.
    """
    if isinstance(image, UnusableError):
        raise UnusableError(*image.args)  # one that is raised again would keep every traceback
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise UnusableError(
                f"pixels are {image.dtype} of shape {image.shape}, not uint8 of H×W or H×W×3"
            )
        picture = PIL.Image.fromarray(image)
    else:
        picture = _open(image)
    height_width = picture.size[::-1]
    if native is not None and height_width != native:
        raise UnusableError(
            "{}×{} pixels, every image of this set has {}×{}".format(*height_width, *native)
        )
    form = height_and_width(size)
    pixels = _fitted(picture, form, _MODES[channels], fit)
    if pixels.min() == pixels.max():
        raise UnusableError(f"constant: every pixel is {pixels.flat[0]}")
    return pixels.reshape(*form, channels).transpose(2, 0, 1)


def _open(image: Path | bytes) -> PIL.Image.Image:
    content = image if isinstance(image, bytes) else b""
    try:
        if isinstance(image, Path):
            if image.exists() and not image.is_file() and not image.is_dir():
                raise UnusableError("it is not a regular file")  # a pipe would wait for ever
            if image.is_file() and (problem := too_large(image.stat().st_size)):
                raise problem
            content = image.read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise UnusableError(f"cannot be opened: {reason}") from None
    if not content:
        raise UnusableError("empty file")
    try:
        return PIL.Image.open(io.BytesIO(content))
    except PIL.UnidentifiedImageError:
        raise UnusableError("not an image") from None
    except Exception as error:  # a broken header may raise nearly anything in its codec
        raise UnusableError(f"unreadable: {error}") from None


def _fitted(
    picture: PIL.Image.Image, form: tuple[int, int], mode: str, fit: Fit | None
) -> np.ndarray:
    if picture.mode.startswith(("I", "F")):
        raise UnusableError(f"mode {picture.mode}: more than 8 bits a channel")
    try:
        # a large JPEG decodes at half, a quarter or an eighth of its size for a fraction of the
        # work; from twice the size wanted, shrinking it is as good as from the whole
        if fit is None:
            picture.draft(mode, (2 * form[1], 2 * form[0]))
        PIL.ImageOps.exif_transpose(picture, in_place=True)
        picture = picture if picture.mode == mode else picture.convert(mode)
    except Exception as error:  # a broken body likewise
        raise UnusableError(f"unreadable: {error}") from None
    picture = fit(picture) if fit else picture
    width, height = picture.size
    if fit and (height, width) != form:
        raise UnusableError(f"{height}×{width} pixels, where {form[0]}×{form[1]} are needed")
    if (height, width) != form:
        inner = min(width, height * form[1] / form[0])
        outer = min(height, width * form[0] / form[1])
        left, top = (width - inner) / 2, (height - outer) / 2
        box = (left, top, left + inner, top + outer)
        picture = picture.resize(form[::-1], PIL.Image.Resampling.BILINEAR, box=box)
    return np.asarray(picture)


def resize_and_crop(
    picture: PIL.Image.Image,
    resize: Size | None,
    crop: Size | None,
    interpolation: Interpolation,
) -> PIL.Image.Image:
    """Resize a picture and crop its middle, as torchvision does; see :class:`.Preprocess`.

    An ``UnusableError`` says when the picture is smaller than the crop.
    """
    if resize is not None:
        width, height = picture.size
        if isinstance(resize, tuple):
            form = resize[::-1]
        else:  # the longer side is rounded down
            shorter = min(width, height)
            form = (width * resize // shorter, height * resize // shorter)
        picture = picture.resize(form, _RESAMPLING[interpolation])
    if crop is not None:
        high, wide = height_and_width(crop)
        left, top = round((picture.size[0] - wide) / 2), round((picture.size[1] - high) / 2)
        if left < 0 or top < 0:
            raise UnusableError(
                f"{picture.size[1]}×{picture.size[0]} pixels, smaller than the crop of "
                f"{high}×{wide}"
            )
        picture = picture.crop((left, top, left + wide, top + high))
    return picture


def decode_all(
    images: Iterable[Image],
    total: int,
    *,
    size: Size,
    channels: int,
    native: tuple[int, int] | None = None,
    fit: Fit | None = None,
    folder: str | Path | None = None,
    title: str = "",
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Decode all images of a data set, ``total`` in number, in threads; see :func:`decode`.

    The pixels lie in a nameless file in ``folder`` that is mapped into memory, so a data set larger
    than the memory is written out by the system instead of ending the process. Images are read
    ahead by a few chunks only, and the ``title`` names the progress bar.

    Returns the pixels, uint8 (total, channels, height, width), which are zeros where an image is
    unusable; digests of 16 bytes, (total,), equal where the pixels are equal; and the reason of
    each unusable image by its position.
    """
    shape = (max(total, 1), channels, *height_and_width(size))  # no file of 0 bytes is mapped
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is told here, not by a bus error later
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        pixels = np.memmap(file, np.uint8, "w+", shape=shape)
    digests = np.zeros(total, "V16")
    unusable: dict[int, str] = {}

    def work(start: int, chunk: list[Image]) -> int:
        for position, image in enumerate(chunk, start):
            try:
                one = decode(image, size=size, channels=channels, native=native, fit=fit)
            except UnusableError as reason:
                unusable[position] = str(reason)
                continue
            pixels[position] = one
            digests[position] = blake2b(one.tobytes(), digest_size=16).digest()
        return len(chunk)

    threads = joblib.Parallel(
        n_jobs=os.cpu_count() or 1, backend="threading", return_as="generator_unordered"
    )
    with tqdm(total=total, desc=title, unit="image", disable=None) as bar:
        for done in threads(joblib.delayed(work)(*chunk) for chunk in _chunks(images)):
            bar.update(done)
    return pixels, digests, dict(sorted(unusable.items()))


def _chunks(images: Iterable[Image]) -> Iterator[tuple[int, list[Image]]]:
    iterator, start = iter(images), 0
    while chunk := list(islice(iterator, _CHUNK)):
        yield start, chunk
        start += len(chunk)
