"""Post-training quantization: a trained network in, one with quantized weights out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantskew.errors import named
from quantskew.quantization.activations import Activations, FloatActivations
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
    LayerError,
    fold_batch_norm,
    inputs_and_outputs,
    left_out,
    norms,
    quantizable,
)
from quantskew.quantization.packing import Quantized
from quantskew.quantization.rounding import Seen
from quantskew.quantization.widths import uniform

if TYPE_CHECKING:
    from quantskew.quantization.weights import IntegerWeights, Weights


def quantize_network(
    network: nn.Module,
    example: Tensor,
    *,
    bits: int,
    weights: Weights,
    activations: Activations = FloatActivations(),  # noqa: B008
    calibration: Tensor | None = None,
    groups: Tensor | None = None,
    widths: Mapping[str, Widths] | None = None,
    seed: int = 0,
) -> Quantized:
    """Quantize the weights of every convolution and linear layer of a copy of a network.

    Biases, and the scales and shifts of norms that were not folded, stay as they are unless
    ``weights`` has their switch on.

    Parameters
    ----------
    network, example
        Trained, in float32; and an input batch, for the order in which the layers run.
    bits, widths
        Width of the codes, 2 to 8, which the float formats do not use; or, without the exemptions
        of ``weights``, the width of each layer, or of each of its output channels, by name.
    weights, activations
        How they are quantized; activations stay in floating point by default.
    calibration, groups
        Input images (N, …), for the parts that look at what layers compute, and the group of each
        as a code from 0 on, (N,), for the parts that distinguish groups.
    seed
        Of what is drawn at random, such as the batches of AdaRound.

    Raises
    ------
    ValueError
        When a weight that gets codes is not finite, or calibration images are needed and not given.
    """
    used = weights.needs_calibration() or activations.needs_images
    if used and calibration is None:
        raise ValueError("adaround, gptq, bias_correction: outputs and static activations look at "
                         "calibration images, and none are given")  # fmt: skip
    quantized = weights.quantize(
        copy.deepcopy(network).eval(), example,
        bits=bits, images=calibration, groups=groups, widths=widths, seed=seed,
    )  # fmt: skip
    seen = _counts(calibration, groups) if used else "none: it cannot matter"
    quantized.notes["calibration"] = seen
    grids = activations.quantize(quantized.network, calibration, groups)
    if grids is not None:
        quantized.notes["activations"] = grids
    return quantized


def quantize_integers(
    network: nn.Module,
    example: Tensor,
    *,
    weights: IntegerWeights,
    bits: int,
    images: Tensor | None,
    groups: Tensor | None = None,
    widths: Mapping[str, Widths] | None,
    seed: int,
) -> Quantized:
    """Quantize the weights of a network to integers; see :func:`quantize_network`."""
    folded: list[list[str]] = []
    if weights.fold_bn:
        network, folded = fold_batch_norm(network, example)
    equalized = equalize(network, example) if weights.equalize else []
    widths = widths or uniform(network, example, bits=bits, weights=weights)
    original = copy.deepcopy(network)
    vectors: dict[str, QuantizedWeight] = {}
    if weights.quantize_norms:
        for name, norm in norms(network).items():
            for own, parameter in norm.named_parameters(recurse=False):
                vectors[f"{name}.{own}"] = _quantize_vector(parameter, bits, weights)
    codes = _quantize_layers(network, original, widths, weights, images, groups, seed)
    if weights.quantize_biases:
        for name, layer in quantizable(network).items():
            if name in codes and layer.bias is not None:
                own_bits = codes[name].bits
                width = own_bits if isinstance(own_bits, int) else bits
                vectors[f"{name}.bias"] = _quantize_vector(layer.bias, width, weights)
    left = left_out(network, {*codes, *(name.rpartition(".")[0] for name in vectors)})
    for name, weight in codes.items():
        if weight.kept is not None:
            kept, channels = len(weight.kept), len(weight.codes)
            left[name] = f"{kept} of {channels} channels, which the policy keeps"
    notes = {"format": weights.kind, "folded": folded, "equalized": equalized, "left_out": left}
    return Quantized(network, codes, notes, vectors)


def _quantize_vector(parameter: Tensor, bits: int, weights: IntegerWeights) -> QuantizedWeight:
    """Quantize one number a channel, in place, over a range that all share."""
    made = quantize_weight(parameter, bits=bits, weights=weights.of_vectors())
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
    weights: IntegerWeights,
    images: Tensor | None,
    groups: Tensor | None,
    seed: int,
) -> dict[str, QuantizedWeight]:
    """Quantize layer by layer, in place: each sees what the layers before it have become."""
    generator = torch.Generator().manual_seed(seed)
    codes = {}
    for name, layer in quantizable(network).items():
        if not layer.weight.isfinite().all():
            raise LayerError(f"the weight of {name} holds values that are not finite")
        if widths[name] == FLOAT:
            continue
        weight = quantize_weight(layer.weight, bits=widths[name], weights=weights)
        seen = Seen(torch.empty(0), torch.empty(0), generator)
        if weights.needs_calibration() and images is not None:
            if name and (layer._forward_pre_hooks or layer._forward_hooks):
                raise LayerError(
                    f"layer {name!r} has a hook of its own, which would act twice on what "
                    "rounding: adaround or gptq and bias_correction: outputs compute with it; "
                    "make the hook a part of the network's forward pass"
                )
            _, targets = inputs_and_outputs(original, name, images)
            inputs, _ = inputs_and_outputs(network, name, images)
            seen = Seen(inputs, targets, generator, groups)
        if len(seen.inputs) or not weights.rounding.needs_images:
            form, kind = (weight.codes.shape, weight.codes.dtype), weights.rounding.kind
            weight = weights.rounding(layer, weight, seen)
            with named(f"rounding: {kind}: reading its codes of {name!r}", LayerError):
                low, high = weight.limits()
                fit = ((low <= weight.codes) & (weight.codes <= high)).all()
                if not fit or (weight.codes.shape, weight.codes.dtype) != form:
                    raise LayerError(f"rounding: {kind} gives {name!r} codes that no grid has")
        codes[name] = weight
        layer.weight.data.copy_(weight.dequantize())  # in place: the memory format stays
        if len(seen.inputs):
            weights.bias_correction.correct_layer(layer, seen.inputs, seen.targets)
    return codes


@torch.no_grad()
def quantize_weight(weight: Tensor, *, bits: Widths, weights: IntegerWeights) -> QuantizedWeight:
    """Quantize one weight tensor, output channels first, to the nearest codes.

    Channels of one width share a range, unless each has its own. The mean of each channel is
    corrected as ``weights.bias_correction`` says.
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
    return weights.bias_correction.correct_weight(weight, quantized)


def _grid(weight: Tensor, bits: int, weights: IntegerWeights) -> tuple[Tensor, Tensor]:
    ends = weights.range.ends(
        weight, bits=bits, scheme=weights.scheme, per_channel=weights.per_channel
    )
    return scale_and_zero_point(*ends, bits, weights.scheme)
