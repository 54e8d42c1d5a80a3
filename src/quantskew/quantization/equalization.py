"""Cross-layer equalization (Nagel et al. 2019): even ranges of channels before quantizing."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quantskew.quantization.layers import alone, runs
from quantskew.quantization.selfcheck import rewrite

_COMMUTING = (nn.ReLU, nn.MaxPool2d)


def equalize(network: nn.Module, example: Tensor) -> list[list[str]]:
    """Scale channels between pairs of layers so that their ranges agree, in place.

    ReLU commutes with positive factors, so output channel i of one layer may be divided by s_i and
    the input channel i of the next multiplied by it. ``s_i = √(r¹_i / r²_i)``, with r the largest
    magnitudes, gives both the range ``√(r¹_i · r²_i)``; chains of pairs need several rounds.

    A pair is two convolutions or two linear layers with at most ReLU and max-pooling between them,
    where nothing else reads the tensors on the way. ReLU6, SiLU and GELU do not commute: networks
    built on them (MobileNetV2, EfficientNet, ViT) have few pairs or none. The network is in
    evaluation mode with its batch norms folded. Returns the names of the pairs that were equalized;
    one after which the network would give other logits is left as it is.
    """
    scaled, pairs = rewrite(network, _pairs(network, example), _equalize_all, example)
    network.load_state_dict(scaled.state_dict())
    return pairs


def _equalize_all(network: nn.Module, pairs: Sequence[list[str]]) -> None:
    for _ in range(20):
        for first, second in pairs:
            _equalize(network.get_submodule(first), network.get_submodule(second))


@torch.no_grad()
def _equalize(first: Any, second: Any) -> None:
    ranges_out = first.weight.abs().flatten(1).amax(1)
    by_input = second.weight.transpose(0, 1) if _groups(second) == 1 else second.weight
    ranges_in = by_input.abs().flatten(1).amax(1)
    usable = (ranges_out > 0) & (ranges_in > 0)
    factor = torch.where(usable, (ranges_out / ranges_in).sqrt(), 1.0)
    first.weight.div_(_along(factor, first.weight, 0))
    if first.bias is not None:
        first.bias.div_(factor)
    second.weight.mul_(_along(factor, second.weight, int(_groups(second) == 1)))


def _groups(layer: nn.Module) -> int:
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def _along(factor: Tensor, weight: Tensor, axis: int) -> Tensor:
    return factor.view([-1 if dim == axis else 1 for dim in range(weight.ndim)])


class _Way(NamedTuple):
    """How a tensor came from a layer: its name, the tensors on the way, the modules passed."""

    layer: str
    tensors: frozenset[int]
    steps: int


def _pairs(network: nn.Module, example: Tensor) -> list[list[str]]:
    every, uses = runs(network, example, (nn.Conv2d, nn.Linear, *_COMMUTING))
    calls = Counter(run.name for run in every)
    ways: dict[int, _Way] = {}
    found: list[tuple[_Way, str]] = []
    for run in every:
        source, output = ways.get(id(run.given)), id(run.output)
        if not isinstance(run.module, _COMMUTING):
            if source is not None and _is_scalable(run.module):
                found.append((source, run.name))
            ways[output] = _Way(run.name, frozenset([output]), 0)
        elif source is not None:
            ways[output] = _Way(source.layer, source.tensors | {output}, source.steps + 1)
    own = alone(network)
    return [
        [way.layer, second]
        for way, second in found
        if calls[way.layer] == calls[second] == 1
        and {way.layer, second} <= own
        # the modules on the way and the second layer, and nothing else
        and sum(uses[tensor] for tensor in way.tensors) == way.steps + 1
        and isinstance(network.get_submodule(way.layer), nn.Conv2d)
        == isinstance(network.get_submodule(second), nn.Conv2d)
    ]


def _is_scalable(layer: Any) -> bool:
    """Whether each input channel of a layer meets weights of its own: all of a column, or a row."""
    return _groups(layer) == 1 or layer.groups == layer.in_channels == layer.out_channels
