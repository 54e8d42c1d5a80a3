"""Corrections of the logits that the files of a network carry.

A correction is an affine map ``z → W z + b``. Where W is the identity and the last layer gives the
logits, in float32 and with a bias that has no codes, b is added to that bias: no code and no byte
elsewhere changes. Else the map is one small layer of its own behind the network, in float32: two
buffers and a hook, because a module would run twice in an ``nn.Sequential``.
"""

import copy
from collections.abc import Container
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quantskew.models import logits_of
from quantskew.quantization.layers import dry_run, ends, quantizable, watching
from quantskew.quantization.selfcheck import same_logits

BEHIND = "logit_map"
"""Where a correction is that stands behind the network."""
BUFFERS = ("logit_map_weight", "logit_map_bias")


class Correction(NamedTuple):
    """An affine map of the logits of C classes.

    ``bias`` is (C,). ``weight`` is (C, C), or (1,) where it multiplies all logits alike, or
    ``None`` where it leaves them as they are.
    """

    bias: Tensor
    weight: Tensor | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the corrected logits, (N, C)."""
        if self.weight is None:
            return logits + self.bias
        scaled = logits * self.weight if self.weight.ndim == 1 else logits @ self.weight.T
        return scaled + self.bias


class _Corrected(nn.Module):
    def __init__(self, network: nn.Module, correction: Correction) -> None:
        super().__init__()
        self.network, self.correction = copy.deepcopy(network), correction

    def forward(self, images: Tensor) -> Tensor:
        return self.correction(logits_of(self.network(images), self.network).float())


def attach(network: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Put a map behind a network, in place; its hook runs after those that are there."""
    for name, tensor in zip(BUFFERS, (weight, bias), strict=True):
        network.register_buffer(name, tensor.float())
    network.register_forward_hook(_mapped)


def _mapped(network: Any, _given: tuple[Tensor, ...], logits: Tensor) -> Tensor:
    return Correction(network.logit_map_bias, network.logit_map_weight)(logits)


@torch.no_grad()
def correct(
    network: nn.Module, correction: Correction, example: Tensor, *, coded: Container[str]
) -> str:
    """Correct the logits of a network in evaluation mode, in place.

    The network is compared with its corrected logits on ``example``, an input batch. Parameters
    whose names are ``coded`` have codes and stay as they are. Returns the name of the layer that
    holds the correction.
    """
    wanted = _Corrected(network, correction)
    last = _last(network, example, coded)
    weight, bias = (network._buffers.get(name) for name in BUFFERS)
    where = BEHIND
    if weight is not None and bias is not None:
        network._buffers[BUFFERS[1]] = correction(bias)
        if (after := correction.weight) is not None:
            square = after.ndim == weight.ndim == 2
            network._buffers[BUFFERS[0]] = after @ weight if square else after * weight
    elif correction.weight is not None or last is None:
        weight = torch.ones(1) if correction.weight is None else correction.weight
        attach(network, weight, correction.bias)
    else:
        layer: Any = network.get_submodule(last)
        start = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias.float()
        layer.bias = nn.Parameter((start + correction.bias).to(layer.weight))
        where = last
    same_logits(wanted, network, example, step=f"writing a correction of the logits to {where}")
    return where


def _last(network: nn.Module, example: Tensor, coded: Container[str]) -> str | None:
    """Name of the layer whose outputs are the logits, if its bias is free to be changed."""
    name = ends(network, example)[1]
    outputs: list[Tensor] = []

    def note(_name: str, _module: nn.Module, _given: Any, output: Tensor) -> None:
        outputs.append(logits_of(output, network).detach().float().clone())

    with watching({name: quantizable(network)[name], "": network}, note):
        dry_run(network, example)
    once = len(outputs) == 2 and torch.equal(*outputs)
    weight = network.get_submodule(name).weight
    free = weight.dtype == torch.float32 and f"{name}.bias" not in coded
    return name if once and free else None
