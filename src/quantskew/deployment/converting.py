"""ONNX files made into files of OpenVINO."""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from quantskew.deployment.runtimes import FileError, Network, open_file
from quantskew.deployment.runtimes.onnx_runtime import OnnxRuntime
from quantskew.deployment.runtimes.openvino import OpenVINO

_SAME = 0.1
"""Largest distance of the answers to noise, as a share of their spread; bfloat16 needs some."""


def to_openvino(source: Path, target: Path) -> Network:
    """Convert an ONNX file, in fp32 or in the QDQ format, with its metadata.

    Weights keep their type: those of a QDQ file stay integers, those in fp32 are not made fp16.

    Parameters
    ----------
    source
        An ONNX file.
    target
        An ``.xml`` file; the weights are written to the ``.bin`` of the same name.

    Raises
    ------
    FileError
        When the names have other suffixes, OpenVINO is not installed or cannot convert the file,
        or the two files answer noise differently.
    """
    if source.suffix != ".onnx" or target.suffix != ".xml":
        raise FileError(f"{source} → {target}: an .onnx file is made into an .xml file of OpenVINO")
    original = OnnxRuntime(source)
    try:
        import openvino
    except ImportError as error:
        raise OpenVINO.not_installed(source, error) from None
    try:
        model = openvino.convert_model(source)
    except Exception as error:  # of the frontend, of a kind for each thing it cannot convert
        raise FileError(f"{source}: OpenVINO cannot convert it: {error}") from None
    for name, text in original.notes.items():
        model.set_rt_info(text, ["quantskew", name])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, target.name)
        openvino.save_model(model, made, compress_to_fp16=False)
        _check_same(original, open_file(made))
        for suffix in (".bin", ".xml"):
            shutil.move(made.with_suffix(suffix), target.with_suffix(suffix))
    return open_file(target)


def _check_same(original: Network, made: Network) -> None:
    channels, height, width = (size or 64 for size in original.shape)
    noise = np.random.default_rng(0).random((16, channels, height, width), np.float32)
    if original.takes_codes:
        noise = np.rint(255 * noise)
    before, after = original(noise), made(noise)
    spread = np.linalg.norm(before - before.mean(1, keepdims=True))
    apart = np.linalg.norm(after - before)
    if apart > _SAME * spread:
        raise FileError(
            f"{original.path}: the file that OpenVINO makes of it answers noise otherwise, by "
            f"{apart / spread:.2g} of the spread of the answers"
        )
