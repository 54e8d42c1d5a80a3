"""The layers of a network: which can be quantized, in which order they run, folding batch norms."""

import copy
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from quantskew import models
from quantskew.errors import UserError
from quantskew.quantization.selfcheck import rewrite, same_logits

Layer = nn.Conv2d | nn.Linear
_METHODS = {nn.Conv2d: ("forward", "_conv_forward"), nn.Linear: ("forward",)}
_REMOVERS: dict[type, Callable[[nn.Module, str], Any]] = {
    WeightNorm: remove_weight_norm,
    SpectralNorm: remove_spectral_norm,
    prune.BasePruningMethod: prune.remove,
}


class LayerError(UserError, ValueError):
    """A layer that cannot be quantized as it is; the message names it and says what helps."""


def plain(network: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of a network in evaluation mode whose weights are parameters, and no more.

    Parametrizations, the older hooks ``weight_norm`` and ``spectral_norm``, pruning masks, and what
    a layer of one's own does to its weight (as weight standardization) are baked into the weights
    of the copy (:func:`bake`). It is compared with the network on ``example``, an input batch: one
    that answers otherwise is a ``SelfCheckError``, a weight that is still no parameter a
    :class:`LayerError`.
    """
    made = models.clone(network).eval()
    if baked := bake(made):
        before = models.clone(network).eval()
        same_logits(before, made, example, step=f"baking {', '.join(baked)} into the weights")
    quantizable(made)
    return made


def bake(network: nn.Module) -> list[str]:
    """Replace tensors that are computed anew at each run by their values, in place.

    The network is in evaluation mode, in which a spectral norm stays as it is. Returns the names of
    the tensors, such as ``conv1.weight``.
    """
    baked: list[str] = []
    for name, module in list(network.named_modules()):
        if parametrize.is_parametrized(module):
            # removing the last one takes the property from the class, which copies share
            kind = type(module)
            members = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, members)
            for tensor in list(module.parametrizations):
                learned = any(True for _ in module.parametrizations[tensor].parameters())
                parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
                if learned and tensor in module._buffers:  # so it is left without gradients
                    value = module._buffers.pop(tensor)
                    setattr(module, tensor, nn.Parameter(value, requires_grad=False))
                baked.append(f"{name}.{tensor}".lstrip("."))
        for hook in list(module._forward_pre_hooks.values()):
            for kind, remove in _REMOVERS.items():
                if isinstance(hook, kind):
                    tensor = getattr(hook, "name", None) or hook._tensor_name
                    remove(module, tensor)
                    _drop_loading_hook(module)
                    baked.append(f"{name}.{tensor}".lstrip("."))
    for name, layer in _computing(network).items():
        if (made := computed(layer)) is not None:
            network.set_submodule(name, made)
            baked.append(f"{name}.weight")
    if baked:
        vars(network)["baked"] = baked
    return baked


def _drop_loading_hook(module: nn.Module) -> None:
    """Remove what ``remove_spectral_norm`` overlooks: it expects the hook as it was registered."""
    hooks = module._load_state_dict_pre_hooks
    for key, wrapped in list(hooks.items()):
        if isinstance(getattr(wrapped, "hook", wrapped), SpectralNormLoadStateDictPreHook):
            del hooks[key]


def _computing(network: nn.Module) -> dict[str, Layer]:
    """Return the layers with a forward pass of their own that nothing else shares or watches."""
    names = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    own = alone(network)
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and "weight" in module._parameters
        and name in own
        and name
        and names[id(module)] == 1
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not computes_with_weight(module)
    }


@torch.no_grad()
def computed(layer: Layer) -> Layer | None:
    """Return a plain layer that does the same as one that computes its weight anew at each run.

    ``None`` where there is none: the weight depends on the input, or the layer does more than
    convolve or multiply with it. The layer runs on two random inputs of different size, and what it
    gives to torch's own operator is taken over; the plain layer must then give the same outputs.
    """
    trial = copy.deepcopy(layer).cpu().eval()
    given = _Given()
    inputs = [_trial_input(trial, seed) for seed in (0, 1)]
    try:
        with given:
            outputs = [trial(images) for images in inputs]
    except Exception:  # its forward pass takes something else, and may raise anything
        return None
    if len(given.calls) != 2 or len({kind for kind, _ in given.calls}) != 1:
        return None
    (kind, first), (_, second) = given.calls
    weight, bias = first["weight"], first["bias"]
    if weight.shape != trial.weight.shape or not torch.equal(weight, second["weight"]):
        return None
    made: Layer
    if kind is functional.linear:
        made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    else:
        groups = first["groups"]
        made = nn.Conv2d(
            weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]),
            stride=first["stride"], padding=first["padding"], dilation=first["dilation"],
            groups=groups, bias=bias is not None,
        )  # fmt: skip
    made.weight.copy_(weight)
    if made.bias is not None:
        made.bias.copy_(bias)
    for images, output in zip(inputs, outputs, strict=True):
        again = made(images)
        if again.shape != output.shape or not torch.allclose(again, output, rtol=1e-4, atol=1e-6):
            return None
    return made.to(layer.weight.device).train(layer.training)


class _Given(TorchFunctionMode):
    """Notes what convolutions and linear maps are given."""

    _ARGUMENTS: Mapping[Any, Mapping[str, Any]] = {
        functional.linear: {"bias": None},
        functional.conv2d: {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    }

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (optional := self._ARGUMENTS.get(func)) is not None:
            named = dict(zip(("input", "weight", *optional), args, strict=False))
            self.calls.append((func, {**optional, **named, **(kwargs or {})}))
        return func(*args, **(kwargs or {}))


def _trial_input(layer: Layer, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape: tuple[int, ...] = (2, layer.in_features) if isinstance(layer, nn.Linear) else ()
    if isinstance(layer, nn.Conv2d):
        side = 2 * max(d * k for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        shape = (1, layer.in_channels, side + seed, side + seed)
    return torch.rand(shape, generator=generator)


def quantizable(network: nn.Module) -> dict[str, Layer]:
    """Return the convolutions and linear layers of a network by name, in order of definition.

    A layer that shares the weight of an earlier one is quantized with it and not listed again, nor
    is one that does not compute with its weight as it is (:func:`computes_with_weight`). A
    :class:`LayerError` names a layer whose weight is computed at each run, so that codes for it
    would be lost.
    """
    layers: dict[str, Layer] = {}
    weights: list[Tensor] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if "weight" not in module._parameters:
                raise LayerError(
                    f"layer {name!r} computes its weight at each run (a parametrization or a "
                    "hook), so codes for it would have no effect; "
                    "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') makes it "
                    "a parameter"
                )
            weight = module.weight
            if not any(weight is known for known in weights) and computes_with_weight(module):
                weights.append(weight)
                layers[name] = module
    return layers


@torch.no_grad()
def computes_with_weight(layer: Layer) -> bool:
    """Whether the output of a layer is linear in its weight: whether codes for it have effect.

    It is in torch's own layers and in those that only pad or scale. It is not where a subclass
    standardizes or binarizes its weight in a forward pass of its own, which is tried:
    ``f(w + v) + f(0) = f(w) + f(v)`` for random w and v, and f is not constant.
    """
    kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    if all(getattr(type(layer), name) is getattr(kind, name) for name in _METHODS[kind]):
        return True
    trial = copy.deepcopy(layer).cpu().float().eval()
    for hooks in (trial._forward_hooks, trial._forward_pre_hooks):
        hooks.clear()
    generator = torch.Generator().manual_seed(0)
    # random ones, for weights that begin as zeros say nothing of the layer
    weight, other = (torch.randn(trial.weight.shape, generator=generator) for _ in range(2))
    images = _trial_input(trial, 0)

    def output(value: Tensor) -> Tensor:
        trial.weight.data.copy_(value)
        result: Tensor = trial(images)
        return result

    try:
        one, both = output(weight), output(weight + other)
        left, right = both + output(torch.zeros_like(weight)), one + output(other)
    except Exception:  # its forward pass takes something else, and may raise anything
        return False
    return torch.allclose(left, right, rtol=1e-3, atol=1e-5) and not torch.equal(one, both)


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
        if name in reasons or name in quantized:
            continue
        if isinstance(module, nn.Conv2d | nn.Linear):
            if not computes_with_weight(module):
                reasons[name] = f"{type(module).__name__} does not compute with its weight as it is"
            continue
        for own, _ in module.named_parameters(recurse=False):
            if isinstance(module, _BatchNorm):
                reasons[name] = vars(module).get(
                    "unfolded", "a batch norm that was not folded into a convolution"
                )
            elif own in ("weight", "bias"):
                reasons[name] = f"{type(module).__name__} is no convolution and no linear layer"
            else:
                reasons[f"{name}.{own}".lstrip(".")] = "a parameter outside of any layer"
    return reasons


def ends(network: nn.Module, example: Tensor) -> tuple[str, str]:
    """Return the names of the quantizable layers that run first and last on an input.

    Where none runs, a :class:`LayerError` gives the reasons.
    """
    ran: list[str] = []

    def note(name: str, _module: nn.Module, _given: Any, _output: Any) -> None:
        ran.append(name)

    with watching(quantizable(network), note):
        dry_run(network, example)
    if not ran:
        left = [f"{name}: {reason}" for name, reason in left_out(network, ()).items()]
        raise LayerError(
            f"{type(network).__name__} runs no convolution and no linear layer whose weight could "
            f"be quantized{'; '.join(['', *left[:3]])}"
        )
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
    *is* the output of the convolution, that output is used and changed by nothing else, each runs
    once, neither shares a parameter, and the network answers the ``example`` as before.

    Returns a folded copy in evaluation mode, and the pairs ``[convolution, batch norm]`` for
    :func:`fold`, which makes the same structure from a fresh network. Why a batch norm was not
    folded is in :func:`left_out`.
    """
    network = plain(network, example)
    pairs = _pairs(network, example)
    folded, harmless = rewrite(network, pairs, fold, example)
    for pair in pairs:
        if pair not in harmless:
            _unfold(folded, pair[1], f"folding it into {pair[0]} would change the logits")
    return folded, harmless


def _unfold(network: nn.Module, norm: str, reason: str) -> None:
    vars(network.get_submodule(norm))["unfolded"] = f"a batch norm that was not folded: {reason}"


def fold(network: nn.Module, pairs: Iterable[Iterable[str]]) -> None:
    """Bake what is computed at each run, then fold the named convolutions and norms, in place."""
    bake(network)
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


def alone(network: nn.Module) -> set[str]:
    """Return the names of the modules that share no parameter with another."""
    owners = Counter(id(p) for module in network.modules() for p in module._parameters.values())
    return {
        name
        for name, module in network.named_modules()
        if all(owners[id(p)] == 1 for p in module._parameters.values() if p is not None)
    }


class Run(NamedTuple):
    """One run of a module: what it got and gave, and how often each had been written in place."""

    name: str
    module: nn.Module
    given: Tensor
    given_version: int
    output: Tensor
    output_version: int


def runs(
    network: nn.Module, example: Tensor, kinds: tuple[type[nn.Module], ...]
) -> tuple[list[Run], Counter[int]]:
    """Return the runs of the modules of some kinds in order, and how often each tensor is used.

    Tensors are counted by their id, which those in the runs keep to themselves.
    """
    found: list[Run] = []
    uses = Uses()

    def note(name: str, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        x = given[0] if given else output  # given by keyword, it is not known
        if output is not x:
            uses.count[id(output)] = 0  # of a tensor that had this id before
        found.append(Run(name, module, x, x._version, output, output._version))

    with watching({n: m for n, m in network.named_modules() if isinstance(m, kinds)}, note), uses:
        dry_run(network, example)
    return found, uses.count


def _pairs(network: nn.Module, example: Tensor) -> list[list[str]]:
    every, uses = runs(network, example, (nn.Conv2d, _BatchNorm))
    calls = Counter(run.name for run in every)
    made: dict[int, Run] = {}
    candidates: list[tuple[Run, Run]] = []
    for run in every:
        if isinstance(run.module, nn.Conv2d):
            made[id(run.output)] = run
        elif id(run.given) in made and run.module.running_mean is not None:
            candidates.append((made[id(run.given)], run))
    own, layers = alone(network), quantizable(network)
    pairs = []
    for before, after in candidates:
        convolution, norm = before.name, after.name
        unchanged = after.given_version == before.output_version
        reasons = {
            f"{convolution} shares its weight with another layer": {convolution, norm} <= own,
            f"the output of {convolution} is changed in place before it": unchanged,
            f"{convolution} does not compute with its weight as it is": convolution in layers,
            f"it or {convolution} runs more than once, or something else takes the output of "
            f"{convolution}": calls[convolution] == calls[norm] == uses[id(after.given)] == 1,
        }
        if all(reasons.values()):
            pairs.append([convolution, norm])
        else:
            _unfold(network, norm, next(reason for reason, fits in reasons.items() if not fits))
    return pairs
