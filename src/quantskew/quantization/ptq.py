"""Post-training quantization: a trained network in, one with quantized weights out."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from quantskew.params import Weights
from quantskew.quantization.affine import code_range, quantize, scale_and_zero_point
from quantskew.quantization.layers import fold_batch_norm, left_out, quantizable
from quantskew.quantization.packing import Quantized, QuantizedWeight, in_half
from quantskew.quantization.ranges import clipping_range
from quantskew.quantization.widths import uniform


def quantize_network(
    network: nn.Module, example: Tensor, *, bits: int, weights: Weights
) -> Quantized:
    """Quantize the weights of every convolution and linear layer; biases stay as they are.

    Parameters
    ----------
    network
        Trained, in float32; not changed.
    example
        An input batch, for the order in which the layers run.
    bits
        Width of the codes, 2 to 8; the float formats do not use it.
    weights
        How: see :class:`quantskew.params.Weights`.

    Returns
    -------
    Quantized
        The network in evaluation mode with dequantized weights (or computing in half precision),
        its codes, and notes.

    Raises
    ------
    ValueError
        When a weight is not finite.
    """
    if weights.format != "integer":
        half = in_half(copy.deepcopy(network).eval(), weights.format)
        return Quantized(half, {}, {"format": weights.format, "folded": [], "left_out": {}})
    if weights.fold_bn:
        network, folded = fold_batch_norm(network, example)
    else:
        network, folded = copy.deepcopy(network).eval(), []
    widths = uniform(network, example, bits=bits, weights=weights)
    codes = {}
    for name, layer in quantizable(network).items():
        if not layer.weight.isfinite().all():
            raise ValueError(f"the weight of {name} holds values that are not finite")
        codes[name] = quantize_weight(layer.weight, bits=widths[name], weights=weights)
        layer.weight.data = codes[name].dequantize()
    notes: dict[str, Any] = {
        "format": weights.format,
        "folded": folded,
        "left_out": left_out(network),
    }
    return Quantized(network, codes, notes)


@torch.no_grad()
def quantize_weight(weight: Tensor, *, bits: int, weights: Weights) -> QuantizedWeight:
    """Quantize one weight tensor, output channels first, to the nearest codes."""
    grid = scale_and_zero_point(
        *clipping_range(
            weight,
            method=weights.range,
            bits=bits,
            scheme=weights.scheme,
            per_channel=weights.granularity == "channel",
        ),
        bits,
        weights.scheme,
    )
    codes = quantize(weight, *grid, *code_range(bits, weights.scheme))
    return QuantizedWeight(codes, *grid, bits, weights.scheme)
