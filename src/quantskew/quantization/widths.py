"""Precision policies: how many bits each layer gets."""

from torch import Tensor, nn

from quantskew.params import Weights
from quantskew.quantization.layers import ends, quantizable


def uniform(network: nn.Module, example: Tensor, *, bits: int, weights: Weights) -> dict[str, int]:
    """Give every layer the same width but for the exempt ones.

    ``weights.first_last`` is the width of the layers that run first and last.
    ``weights.rgb_first`` is the width of a first convolution of exactly three input channels, as
    in Banner et al.'s implementation. Their test is on the channels, so the first layer of a
    network for grey images is *not* exempt there, nor here: use ``first_last`` for both kinds.

    Returns
    -------
    dict
        Name of each quantizable layer → bits; an exemption never lowers a width.
    """
    layers = quantizable(network)
    widths = dict.fromkeys(layers, bits)
    first, last = ends(network, example)
    if weights.first_last is not None:
        widths[first] = max(bits, weights.first_last)
        widths[last] = max(bits, weights.first_last)
    layer = layers[first]
    if weights.rgb_first is not None and isinstance(layer, nn.Conv2d) and layer.in_channels == 3:
        widths[first] = max(widths[first], weights.rgb_first)
    return widths
