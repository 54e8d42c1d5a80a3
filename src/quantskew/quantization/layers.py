"""The layers of a network: which can be quantized, in which order they run, folding batch norms."""

import copy
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

Layer = nn.Conv2d | nn.Linear


def quantizable(network: nn.Module) -> dict[str, Layer]:
    """Return the convolutions and linear layers of a network by name, in order of definition.

    A layer that shares the weight of an earlier one is quantized with it and not listed again.
    """
    found: dict[str, Layer] = {}
    weights: list[Tensor] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            if not any(weight is known for known in weights):
                weights.append(weight)
                found[name] = module
    return found


def norms(network: nn.Module) -> dict[str, nn.Module]:
    """Return the norms of a network by name; those that were folded are gone."""
    kinds = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def left_out(network: nn.Module, quantized: Container[str]) -> dict[str, str]:
    """Return why each part of a network that has weights of its own stays in floating point.

    Biases of the layers that were ``quantized`` are not listed.
    """
    reasons = dict.fromkeys(
        (name for name in quantizable(network) if name not in quantized),
        "a layer that the precision policy keeps in floating point",
    )
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) or name in quantized:
            continue
        for own, _ in module.named_parameters(recurse=False):
            if isinstance(module, _BatchNorm):
                reasons[name] = "a batch norm that was not folded into a convolution"
            elif own in ("weight", "bias"):
                reasons[name] = f"{type(module).__name__} is no convolution and no linear layer"
            else:
                reasons[f"{name}.{own}".lstrip(".")] = "a parameter outside of any layer"
    return reasons


def ends(network: nn.Module, example: Tensor) -> tuple[str, str]:
    """Return the names of the quantizable layers that run first and last on an input."""
    ran: list[str] = []

    def note(name: str, _module: nn.Module, _given: Any, _output: Any) -> None:
        ran.append(name)

    with watching(quantizable(network), note):
        dry_run(network, example)
    if not ran:
        raise ValueError(f"{type(network).__name__} runs no convolution and no linear layer")
    return ran[0], ran[-1]


@contextmanager
def watching(
    modules: dict[str, Any], hook: Callable[[str, nn.Module, Any, Any], None]
) -> Iterator[None]:
    """Call ``hook(name, module, inputs, output)`` after each forward of some modules."""
    handles = [
        module.register_forward_hook(lambda m, given, output, n=name: hook(n, m, given, output))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def dry_run(network: nn.Module, example: Tensor) -> None:
    """Run a network once in evaluation mode and leave each module in the mode it had."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        network(example)
    finally:
        for module, mode in modes.items():
            module.training = mode


def inputs_and_outputs(network: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a layer gets and gives when a network runs on images, batch by batch.

    A layer that never runs as a module (the projection inside ``nn.MultiheadAttention``) gives two
    empty tensors.
    """
    inputs, outputs = [torch.empty(0)], [torch.empty(0)]

    def note(_name: str, _module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        # what runs later may work in place
        inputs.append(given[0].clone())
        outputs.append(output.clone())

    with watching({name: network.get_submodule(name)}, note):
        for batch in images.split(64):
            dry_run(network, batch)
    skip = len(inputs) > 1
    return torch.cat(inputs[skip:]), torch.cat(outputs[skip:])


def fold_batch_norm(network: nn.Module, example: Tensor) -> tuple[nn.Module, list[list[str]]]:
    """Fold each batch norm into the convolution before it.

    In evaluation mode a batch norm is an affine map a channel, so a convolution with scaled
    filters and a bias gives the same output. A pair is folded where the input of the batch norm
    *is* the output of the convolution, that output is used by nothing else, and each runs once.

    Parameters
    ----------
    network
        Not changed.
    example
        An input batch; one of any content will do, since only the way it takes matters.

    Returns
    -------
    network, pairs
        A folded copy in evaluation mode, and the pairs ``[convolution, batch norm]`` for
        :func:`fold`, which makes the same structure from a fresh network.
    """
    network = copy.deepcopy(network).eval()
    pairs = _pairs(network, example)
    fold(network, pairs)
    return network, pairs


def fold(network: nn.Module, pairs: Iterable[Iterable[str]]) -> None:
    """Fold the named pairs of convolution and batch norm, in place."""
    for convolution, norm in pairs:
        conv: Any = network.get_submodule(convolution)
        bn: Any = network.get_submodule(norm)
        weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
        conv.weight.data.copy_(weight.data)  # in place: the memory format stays
        # timm's BatchNormAct2d holds the activation that follows it
        after = nn.Sequential(bn.drop, bn.act) if hasattr(bn, "act") else nn.Identity()
        network.set_submodule(norm, after)


class Uses(TorchFunctionMode):
    """Counts how many operations take each tensor and give one."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor | tuple | list) and not isinstance(result, torch.Size):
            for given in (*args, *(kwargs or {}).values()):
                for item in given if isinstance(given, tuple | list) else (given,):
                    self.count[id(item)] += isinstance(item, Tensor)
        return result


def _pairs(network: nn.Module, example: Tensor) -> list[list[str]]:
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # a tensor that lives keeps its id to itself
    candidates: list[tuple[str, str, int]] = []
    calls: Counter[str] = Counter()

    def note(name: str, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls[name] += 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = name
            uses.count[id(output)] = 0  # of a tensor that had this id before
            kept.append(output)
        elif id(given[0]) in made and module.running_mean is not None:
            candidates.append((made[id(given[0])], name, id(given[0])))

    watched = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | _BatchNorm)}
    uses = Uses()
    with watching(watched, note), uses:
        dry_run(network, example)
    return [
        [convolution, norm]
        for convolution, norm, tensor in candidates
        if calls[convolution] == calls[norm] == uses.count[tensor] == 1
    ]
