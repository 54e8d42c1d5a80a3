"""Files made into files of other runtimes, and into files with integer weights.

===========  ===================================  ===============================================
file         made of                              in integers by
===========  ===================================  ===============================================
``.onnx``    a network of a study                 ONNX Runtime: QDQ in 8 bits, MatMulNBits in 4
``.pt2``     a network of a study                 –
``.xml``     an ONNX file, by OpenVINO            nncf: 8 bits, and the weights of products in 4
``.tflite``  a ``.pt2`` file, by ``litert-torch``  ``ai-edge-quantizer``: 8 and 4 bits
===========  ===================================  ===============================================
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np

from quantskew.deployment.converters import Converter
from quantskew.deployment.runtimes import (
    FileError,
    Layout,
    Network,
    check_width,
    closest,
    open_file,
)
from quantskew.deployment.runtimes.network import first_line
from quantskew.errors import UserError, close_names, one_of
from quantskew.layout import NETWORKS, folder_of, stored_variants

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quantskew.params import Params

Bits = Literal[8, 4]
_T = TypeVar("_T")
_FLOAT = 16  # bits from which on weights are in floating point
_SAME = 0.1
"""Largest distance of the answers to noise, as a share of their spread; bfloat16 needs some."""


class Converted(NamedTuple):
    """A file that was written.

    Attributes
    ----------
    file
        The file, opened.
    ranges
        How activations are quantized; empty of a file in floating point.
    agreement
        Share of the calibration images that it answers as the file in floating point does; NaN of
        a file in floating point, and of single scores.
    """

    file: Network
    ranges: str = ""
    agreement: float = float("nan")


def convert(
    source: Path,
    target: Path,
    *,
    bits: Bits | None = None,
    images: np.ndarray | None = None,
    output: str | None = None,
    layout: Layout | None = None,
) -> Converted:
    """Make a file of another runtime, or with integer weights, or both; its metadata go with it.

    The result is compared with its source: on noise, or in integers on the calibration images. Of
    several ways to quantize activations, the one whose answers agree most with those of the source
    is kept, and of equals the one whose scores are nearest.

    Parameters
    ----------
    source
        A file in floating point; for ``.xml`` also an ONNX file in the QDQ format.
    target
        Its suffix says for which runtime it is.
    bits
        Width of the weights; as they are in the source unless given.
    images
        Calibration images as the file takes them, float32 (N, C, H, W); needed with ``bits``.
    output, layout
        Of the source, where it does not tell by itself; what is made of it is read alike.

    Raises
    ------
    FileError
        When there is no such converter, it is not installed or fails, the two answer differently,
        or most of the weights would be wider than ``bits``.
    """
    opened = partial(open_file, output=output, layout=layout)
    original, kind, maker = opened(source), Network.of(target), Converter.of(target)
    if kind is Network.of(source) and bits is None:
        raise FileError(f"{source} → {target}: state --bits 8 or 4, or another runtime")
    if kind is not Network.of(source) and source.suffix.lower() != maker.made_of:
        of = maker.made_of and f" or of a {maker.made_of} file"
        raise FileError(
            f"{source} → {target}: a file of {kind.runtime} is made of a network of a study{of}"
        )
    if bits is not None and (images is None or not len(images)):
        raise FileError(f"{target}: {bits} bits need calibration images (--data)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Converted(original)
        if kind is not Network.of(source):
            path = Path(folder, target.name)
            _run(kind, path, lambda: maker.make(original, path))
            made = Converted(opened(path))
            _check_same(original, made.file)
        if bits is not None and images is not None:
            inner = Path(tempfile.mkdtemp(dir=folder), target.name)
            paths = _run(kind, inner, lambda: maker.pack(made.file, inner, bits, images))
            files = {ranges: opened(path) for ranges, path in paths.items()}
            ranges, agreement = closest(made.file, files, images)
            made = Converted(files[ranges], ranges, agreement)
            check_width(target.name, kind.runtime, made.file.weights(), bits)
        for part in made.file.parts():
            shutil.move(part, target.with_suffix(part.suffix))
    return made._replace(file=opened(target))


def convert_network(
    study: "Params",
    variant: str,
    target: Path,
    *,
    dataset: str | None = None,
    model: str | None = None,
    bits: Bits | None = None,
    images: int = 128,
) -> Converted:
    """Make a file of a network of a study, by way of the file that its runtime's is made of.

    Calibration images are training images, chosen at random by the seed of the network.

    Parameters
    ----------
    variant
        Name of its file without the suffix, such as ``fp32-32bit-seed0``; in floating point.
    dataset, model
        May be left out of a study that has only one.
    target, bits
        As in :func:`convert`.
    images
        How many images calibrate.
    """
    import torch

    from quantskew import models
    from quantskew.deployment import onnx_files
    from quantskew.deployment.runtimes import torch_export
    from quantskew.quantization.calibration import Calibration
    from quantskew.quantization.packing import open_variant
    from quantskew.variants import subject_of

    dataset = one_of("dataset", dataset, study.datasets)
    model = one_of("model", model, study.models)
    folders = {stage: folder_of(stage, dataset, model) for stage in NETWORKS}
    stages = [stage for stage, one in folders.items() if (one / "variants.parquet").is_file()]
    stored = stored_variants(dataset, model, stages)
    known = {one.stem: one for one in stored if one.bits >= _FLOAT}
    if variant not in known:
        raise FileError(
            f"no network {variant!r} in floating point{close_names(variant, known)}; there are "
            f"{', '.join(known)}. Simulated integers have no file on a runtime: quantize one of "
            "these for it (--bits)"
        )
    found = known[variant]
    subject = subject_of(study, found, stored[found].file)
    data, network = subject.data(), open_variant(subject)
    example = models.as_input(data.train.images[:2], models.CPU)
    notes = {
        "variant": found.stem, "dataset": found.dataset, "model": found.model,
        "classes": "\n".join(data.classes),
    }  # fmt: skip
    Network.of(target)  # which refuses a suffix of no runtime
    made_of = Converter.of(target).made_of
    exporters: Mapping[str, Callable[[nn.Module, Tensor, Path, Mapping[str, str]], None]] = {
        ".onnx": onnx_files.export, ".pt2": torch_export.export,
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        start = Path(folder, "network").with_suffix(made_of or target.suffix)
        exporters[start.suffix](network, example, start, notes)
        with torch.no_grad():
            _check_same(lambda values: network(torch.from_numpy(values)).numpy(), open_file(start))
        if bits is None and not made_of:
            shutil.move(start, target)
            return Converted(open_file(target))
        seen = None
        if bits is not None:
            seen = Calibration(samples=images).draw(data.train, found.seed).images.numpy()
        return convert(start, target, bits=bits, images=seen)


def _run(kind: type[Network], target: Path, work: Callable[[], _T]) -> _T:
    """Run a converter; each has exceptions of its own for what it cannot convert."""
    try:
        return work()
    except UserError:
        raise
    except ImportError as error:
        missing = (error.name or "").partition(".")[0].replace("_", "-")
        raise FileError(
            f"{target.name}: a converter for {kind.runtime} cannot be imported ({error}): pip "
            f"install {missing}"
        ) from None
    except Exception as error:
        raise FileError(
            f"{target.name}: it cannot be made for {kind.runtime}: {first_line(error)}"
        ) from None


def _check_same(original: Callable[[np.ndarray], np.ndarray], made: Network) -> None:
    channels, height, width = (size or 64 for size in made.shape)
    noise = np.random.default_rng(0).random((16, channels, height, width), np.float32)
    if made.takes_codes:
        noise = np.rint(255 * noise)
    before, after = original(noise), made(noise)
    # single scores and labels differ between images alone
    spread = np.linalg.norm(before - before.mean(int(before.shape[1] > 1), keepdims=True))
    apart = np.linalg.norm(after - before)
    if not apart <= _SAME * spread:
        raise FileError(
            f"{made.path.name}: what {made.runtime} makes of the network answers noise otherwise, "
            f"by {apart / spread:.2g} of the spread of the answers; it is not written"
        )
