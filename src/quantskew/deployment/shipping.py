"""The cell that exports one file and runs it on the test set."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn
from torch.nn import functional

from quantskew import models
from quantskew.deployment import onnx_files
from quantskew.deployment.runtimes import BATCH, BLOCK
from quantskew.deployment.settings import Ranges
from quantskew.engine.compute import give_back_freed_memory
from quantskew.names import FULL_PRECISION
from quantskew.quantization.activations import StaticActivations
from quantskew.quantization.affine import code_range, fake_quantize, scale_and_zero_point
from quantskew.quantization.calibration import Calibration
from quantskew.quantization.input_quantizers import restore
from quantskew.quantization.packing import open_variant
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.ranges import (
    ActivationRange,
    InputEntropy,
    InputMinMax,
    InputPercentile,
)
from quantskew.quantization.weights import IntegerWeights
from quantskew.subject import Subject

_RANGES: Mapping[Ranges, ActivationRange] = {
    "minmax": InputMinMax(),
    "percentile": InputPercentile(percentile=99.999),  # as in ONNX Runtime
    "entropy": InputEntropy(),
}


def ship(
    folder: Path,
    *,
    subject: Subject,
    seed: int,
    bits: int,
    calibration: Calibration | None,
    bins: Mapping[str, tuple[float, ...]],
    ranges: Ranges,
    reduce_range: bool,
    notes: Mapping[str, str],
) -> None:
    """Write ``network.onnx``, ``logits.safetensors`` and ``facts.json`` of one file.

    The logits are those of the file (``logits``) and those of PyTorch (``pytorch``): of the fp32
    network, or of its simulation by :func:`simulate` or :func:`simulate_blocks`.

    Parameters
    ----------
    subject
        The fp32 network.
    bits
        Of the weights: 32, 8, or 4 of those of matrix products.
    seed, calibration, bins
        Which images calibrate the int8 file: ``bins`` are the lower edges of numeric attributes
        that are balanced.
    ranges, reduce_range
        As in :func:`quantskew.deployment.onnx_files.quantize`.
    notes
        Metadata of the file.
    """
    data = subject.data().divided(bins)
    network = open_variant(subject)
    example = models.as_input(data.train.images[:2], models.CPU)
    path = folder / "network.onnx"
    onnx_files.export(network, example, path, {**notes, "classes": "\n".join(data.classes)})
    give_back_freed_memory()
    calibrated: dict[str, Any] = {"calibration": {}, "products": ""}
    if calibration is not None:
        seen = calibration.draw(data.train, seed)
        products = onnx_files.quantize(
            path, path, seen.images, ranges=ranges, reduce_range=reduce_range
        )
        give_back_freed_memory()
        network = simulate(
            network,
            example,
            seen.images,
            products=products,
            ranges=ranges,
            reduce_range=reduce_range,
        )
        calibrated = {"calibration": seen.counts, "products": products}
    elif bits < FULL_PRECISION:
        onnx_files.pack(path, path)
        network = simulate_blocks(network)
    give_back_freed_memory()
    outputs = {"logits": models.logits(onnx_files.OnnxNetwork(path), data.test.images, BATCH)}
    give_back_freed_memory()
    outputs["pytorch"] = models.logits(network.to(models.device()), data.test.images, BATCH)
    safetensors.torch.save_file(outputs, folder / "logits.safetensors")
    facts = onnx_files.check(path)._asdict() | calibrated
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def simulate(
    network: nn.Module,
    example: Tensor,
    images: Tensor,
    *,
    products: onnx_files.Products,
    ranges: Ranges,
    reduce_range: bool,
) -> nn.Module:
    """Quantize a network like its file (:func:`quantskew.deployment.onnx_files.quantize`).

    Some differences remain. The runtime also quantizes the inputs of additions and poolings, and
    biases to 32 bits. Its 7-bit codes range from −64 to 64, those here from −63 to 63. Its
    ``entropy`` uses 128 bins. Its dynamic ranges are those of the batch, here those of each image.
    """
    bits = 7 if reduce_range else 8
    weights = IntegerWeights(granularity="channel", scheme="symmetric_narrow", rgb_first=None)
    made = quantize_network(network, example, bits=bits, weights=weights).network
    grids = StaticActivations(range=_RANGES[ranges]).grids(made, images, None)
    if products == "dynamic":
        convolutions = (name for name in grids if isinstance(made.get_submodule(name), nn.Conv2d))
        dynamic = dict.fromkeys(grids.keys() - {*convolutions})
        grids = {**grids, **dynamic}
    restore(made, {"bits": 8, "scheme": "asymmetric", "layers": grids})
    return made


def simulate_blocks(network: nn.Module) -> nn.Module:
    """Quantize the weights of linear layers like :func:`quantskew.deployment.onnx_files.pack`.

    Products that are no ``nn.Linear``, which the file has in 4 bits too, stay as they are.
    """
    made = models.clone(network)
    for layer in made.modules():
        if isinstance(layer, nn.Linear):
            weight = layer.weight.detach()
            lacking = -weight.shape[1] % BLOCK
            blocks = functional.pad(weight, (0, lacking)).unflatten(1, (-1, BLOCK))
            ends = blocks.amin(2, True).clamp(max=0), blocks.amax(2, True).clamp(min=0)
            scale, zero = scale_and_zero_point(*ends, 4, "asymmetric")
            rounded = fake_quantize(blocks, scale, zero, *code_range(4, "asymmetric"))
            layer.weight = nn.Parameter(rounded.flatten(1)[:, : weight.shape[1]])
    return made
