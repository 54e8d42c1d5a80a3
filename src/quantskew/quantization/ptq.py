"""Post-training quantization: a trained network in, one with quantized weights out."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from quantskew.quantization.activations import quantize_activations
from quantskew.quantization.affine import quantize, scale_and_zero_point
from quantskew.quantization.codes import (
    FLOAT,
    QuantizedWeight,
    Widths,
    by_width,
    kept_channels,
    limits,
)
from quantskew.quantization.equalization import equalize
from quantskew.quantization.layers import (
    Layer,
    fold_batch_norm,
    inputs_and_outputs,
    left_out,
    norms,
    quantizable,
)
from quantskew.quantization.packing import Quantized, in_half
from quantskew.quantization.ranges import clipping_range
from quantskew.quantization.rounding import adaround, gptq
from quantskew.quantization.settings import Activations, Weights
from quantskew.quantization.widths import uniform


def quantize_network(
    network: nn.Module,
    example: Tensor,
    *,
    bits: int,
    weights: Weights,
    activations: Activations | None = None,
    calibration: Tensor | None = None,
    groups: Tensor | None = None,
    widths: Mapping[str, Widths] | None = None,
    seed: int = 0,
) -> Quantized:
    """Quantize the weights of every convolution and linear layer.

    Biases, and the scales and shifts of norms that were not folded, stay as they are unless
    ``weights`` has their switch on.

    Parameters
    ----------
    network
        Trained, in float32; not changed.
    example
        An input batch, for the order in which the layers run.
    bits
        Width of the codes, 2 to 8; the float formats do not use it.
    weights, activations
        How (:mod:`quantskew.quantization.settings`); activations stay in floating point by default.
    calibration
        Input images (N, …), for the parts that look at what layers compute.
    groups
        Group of each calibration image as a code from 0 on, (N,), for the parts that tell groups
        apart.
    widths
        Width of each layer, or of each of its output channels, by name, instead of ``bits`` with
        the exemptions of ``weights``.
    seed
        Of AdaRound's batches.

    Returns
    -------
    Quantized
        The network in evaluation mode with dequantized weights (or computing in half precision),
        its codes, and notes.

    Raises
    ------
    ValueError
        When a weight that gets codes is not finite, or calibration images are needed and not given.
    """
    activations = activations or Activations()
    used = weights.needs_calibration() or activations.mode == "static"
    if used and calibration is None:
        raise ValueError("adaround, gptq, bias_correction: outputs and static activations look at "
                         "calibration images, and none are given")  # fmt: skip
    network = copy.deepcopy(network).eval()
    folded: list[list[str]] = []
    equalized: list[list[str]] = []
    codes: dict[str, QuantizedWeight] = {}
    vectors: dict[str, QuantizedWeight] = {}
    left: dict[str, str] = {}
    if weights.format == "integer":
        if weights.fold_bn:
            network, folded = fold_batch_norm(network, example)
        if weights.equalize:
            equalized = equalize(network, example)
        widths = widths or uniform(network, example, bits=bits, weights=weights)
        original = copy.deepcopy(network)
        if weights.quantize_norms:
            vectors = _quantize_norms(network, bits, weights)
        codes = _quantize_layers(network, original, widths, weights, calibration, seed)
        if weights.quantize_biases:
            vectors |= _quantize_biases(network, codes, bits, weights)
        left = left_out(network, {*codes, *(name.rpartition(".")[0] for name in vectors)})
        left |= _channels_left_out(codes)
    else:
        in_half(network, weights.format)
    notes: dict[str, Any] = {
        "format": weights.format,
        "folded": folded,
        "equalized": equalized,
        "left_out": left,
        "calibration": _counts(calibration, groups) if used else "none: it cannot matter",
    }
    if activations.mode != "none":
        notes["activations"] = quantize_activations(
            network, activations, images=calibration, groups=groups
        )
    return Quantized(network, codes, notes, vectors)


def _channels_left_out(codes: Mapping[str, QuantizedWeight]) -> dict[str, str]:
    return {
        name: f"{len(weight.kept)} of {len(weight.codes)} channels, which the policy keeps"
        for name, weight in codes.items()
        if weight.kept is not None
    }


def _quantize_norms(network: nn.Module, bits: int, weights: Weights) -> dict[str, QuantizedWeight]:
    return {
        f"{name}.{own}": _quantize_vector(parameter, bits, weights)
        for name, norm in norms(network).items()
        for own, parameter in norm.named_parameters(recurse=False)
    }


def _quantize_biases(
    network: nn.Module, codes: Mapping[str, QuantizedWeight], bits: int, weights: Weights
) -> dict[str, QuantizedWeight]:
    """Quantize the biases of quantized layers, each at the width of its weight if it has one."""
    layers = {name: layer for name, layer in quantizable(network).items() if name in codes}
    widths = {name: w.bits if isinstance(w.bits, int) else bits for name, w in codes.items()}
    return {
        f"{name}.bias": _quantize_vector(layer.bias, widths[name], weights)
        for name, layer in layers.items()
        if layer.bias is not None
    }


def _quantize_vector(parameter: Tensor, bits: int, weights: Weights) -> QuantizedWeight:
    """Quantize one number a channel, in place, over a range that all share."""
    plain = weights.model_copy(update={"granularity": "tensor", "bias_correction": "none"})
    made = quantize_weight(parameter, bits=bits, weights=plain)
    parameter.data.copy_(made.dequantize())
    return made


def _counts(calibration: Tensor | None, groups: Tensor | None) -> dict[str, int]:
    """How many images each group has, by its code; their names are the caller's to note."""
    if groups is None:
        return {"all": 0 if calibration is None else len(calibration)}
    return {str(code): n for code, n in enumerate(groups[groups >= 0].bincount().tolist())}


def _quantize_layers(
    network: nn.Module,
    original: nn.Module,
    widths: Mapping[str, Widths],
    weights: Weights,
    images: Tensor | None,
    seed: int,
) -> dict[str, QuantizedWeight]:
    """Quantize layer by layer, in place: each sees what the layers before it have become."""
    generator = torch.Generator().manual_seed(seed)
    codes = {}
    for name, layer in quantizable(network).items():
        if not layer.weight.isfinite().all():
            raise ValueError(f"the weight of {name} holds values that are not finite")
        if widths[name] == FLOAT:
            continue
        weight = quantize_weight(layer.weight, bits=widths[name], weights=weights)
        inputs = targets = torch.empty(0)
        if weights.needs_calibration() and images is not None:
            _, targets = inputs_and_outputs(original, name, images)
            inputs, _ = inputs_and_outputs(network, name, images)
        if len(inputs) and weights.rounding == "gptq":
            weight = gptq(layer, weight, inputs)
        elif len(inputs) and weights.rounding == "adaround":
            weight = adaround(
                layer, weight, inputs, targets, steps=weights.adaround_steps, generator=generator
            )
        codes[name] = weight
        layer.weight.data.copy_(weight.dequantize())  # in place: the memory format stays
        if len(inputs) and weights.bias_correction == "outputs":
            _correct_bias(layer, inputs, targets)
    return codes


@torch.no_grad()
def _correct_bias(layer: Layer, inputs: Tensor, targets: Tensor) -> None:
    """Move the bias so that each output channel keeps its mean (Nagel et al. 2019, empirical)."""
    axis = 1 if isinstance(layer, nn.Conv2d) else -1
    others = [dim for dim in range(targets.ndim) if dim != axis % targets.ndim]
    outputs = torch.cat([layer(batch) for batch in inputs.split(64)])
    moved = (targets - outputs).mean(others)
    layer.bias = nn.Parameter(moved if layer.bias is None else layer.bias + moved)


@torch.no_grad()
def quantize_weight(weight: Tensor, *, bits: Widths, weights: Weights) -> QuantizedWeight:
    """Quantize one weight tensor, output channels first, to the nearest codes.

    With ``bias_correction: weights`` each output channel gets back the mean that rounding took
    from it (Banner et al. 2019), as an offset beside its codes. Channels of one width share a
    range, unless each has its own.
    """
    kept = None
    if isinstance(bits, int):
        grid = _grid(weight, bits, weights)
    else:
        shape = (len(weight), *[1] * (weight.ndim - 1))
        grid = weight.new_ones(shape), weight.new_zeros(shape, dtype=torch.int32)
        for width, rows in by_width(bits):
            for facts, part in zip(grid, _grid(weight[rows], width, weights), strict=True):
                facts[rows] = part
        if FLOAT in bits:
            kept = weight[kept_channels(bits)].clone()
    codes = quantize(weight, *grid, *limits(bits, weights.scheme, weight))
    quantized = QuantizedWeight(codes, *grid, bits, weights.scheme, kept=kept)
    if weights.bias_correction != "weights":
        return quantized
    lost = weight - quantized.dequantize()
    return replace(quantized, offset=lost.mean(tuple(range(1, weight.ndim)), keepdim=True))


def _grid(weight: Tensor, bits: int, weights: Weights) -> tuple[Tensor, Tensor]:
    ends = clipping_range(
        weight,
        method=weights.range,
        bits=bits,
        scheme=weights.scheme,
        per_channel=weights.granularity == "channel",
        percentile=weights.percentile,
    )
    return scale_and_zero_point(*ends, bits, weights.scheme)
