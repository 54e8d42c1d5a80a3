"""The cell that makes one file that ships, and runs it on the test set."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import safetensors.torch
from torch import Tensor, nn

from quantskew import models
from quantskew.deployment import onnx_files
from quantskew.quantization.activations import StaticActivations
from quantskew.quantization.calibration import Calibration
from quantskew.quantization.codes import FLOAT
from quantskew.quantization.input_quantizers import restore
from quantskew.quantization.layers import quantizable
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.ranges import (
    ActivationRange,
    InputEntropy,
    InputMinMax,
    InputPercentile,
)
from quantskew.quantization.weights import IntegerWeights
from quantskew.subject import Subject

_RANGES: Mapping[str, ActivationRange] = {
    "minmax": InputMinMax(),
    "percentile": InputPercentile(percentile=99.999),  # the runtime's own
    "entropy": InputEntropy(),
}


def ship(
    folder: Path,
    *,
    subject: Subject,
    seed: int,
    calibration: Calibration | None,
    bins: Mapping[str, tuple[float, ...]],
    ranges: Literal["minmax", "percentile", "entropy"],
    reduce_range: bool,
    notes: Mapping[str, str],
) -> None:
    """Make one file and run it: ``network.onnx``, ``logits.safetensors`` and ``facts.json``.

    The logits are those of the file and, from PyTorch, those of the fp32 network (``pytorch``) or
    for an int8 file those of :func:`simulate`.

    Parameters
    ----------
    folder
        Of the cell.
    subject
        The fp32 network.
    seed
        Of the choice of the calibration images.
    calibration
        Of an int8 file; ``None`` makes the fp32 file.
    bins
        Lower edges of the groups of numbers that ``calibration`` balances.
    ranges, reduce_range
        See :func:`quantskew.deployment.onnx_files.quantize`.
    notes
        For the metadata of the file.
    """
    data = subject.data().divided(bins)
    network = subject.open()
    example = models.as_input(data.train.images[:2], models.CPU)
    path = folder / "network.onnx"
    onnx_files.export(network, example, path, {**notes, "classes": "\n".join(data.classes)})
    looked_at: dict[str, int] = {}
    if calibration is not None:
        dynamic = onnx_files.is_transformer(path)
        seen = None if dynamic else calibration.draw(data.train, seed)
        images = seen and seen.images
        onnx_files.quantize(path, path, images, ranges=ranges, reduce_range=reduce_range)
        network = simulate(network, example, images, ranges=ranges, reduce_range=reduce_range)
        looked_at = seen.counts if seen else {}
    outputs = {
        "logits": models.logits(onnx_files.OnnxNetwork(path), data.test.images),
        "pytorch": models.logits(network.to(models.device()), data.test.images),
    }
    safetensors.torch.save_file(outputs, folder / "logits.safetensors")
    facts = onnx_files.check(path)._asdict() | {"calibration": looked_at}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def simulate(
    network: nn.Module,
    example: Tensor,
    images: Tensor | None,
    *,
    ranges: Literal["minmax", "percentile", "entropy"],
    reduce_range: bool,
) -> nn.Module:
    """Quantize a network as :func:`quantskew.deployment.onnx_files.quantize` does its file.

    Not simulated: the runtime quantizes the inputs of additions and poolings as well, and biases to
    32 bits; its 7-bit codes run from −64 to 64 where those here end at 63; its ``entropy`` has 128
    bins; and without calibration ``images`` it takes the ranges of the batch, not of each image.
    """
    bits = 7 if reduce_range else 8
    weights = IntegerWeights(granularity="channel", scheme="symmetric_narrow", rgb_first=None)
    if images is not None:
        return quantize_network(
            network,
            example,
            bits=bits,
            weights=weights,
            activations=StaticActivations(range=_RANGES[ranges]),
            calibration=images,
        ).network
    widths = {
        name: FLOAT if isinstance(layer, nn.Conv2d) else bits
        for name, layer in quantizable(network).items()
    }
    made = quantize_network(network, example, bits=bits, weights=weights, widths=widths).network
    inputs = dict.fromkeys(name for name, width in widths.items() if width != FLOAT)
    restore(made, {"bits": 8, "scheme": "asymmetric", "layers": inputs})
    return made
