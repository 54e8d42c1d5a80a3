"""An architecture by name: those of the papers, a narrow pair for small machines, or your own.

==================  =======  ================================================================
name                from     note
==================  =======  ================================================================
resnet18            timm     Bellam & Kim, Liu et al.
resnet50            timm     Liu et al.
vgg19               timm     with batch normalization, as trained on small images
mobilenetv2         timm     depthwise separable convolutions
efficientnet_b0     timm     squeeze-and-excitation
vit_small           timm     attention; the patch is an eighth of a small image
squeezenet1_1       tv       fire modules; timm has none, torchvision has
resnet18_quarter    timm     a quarter of the channels: minutes instead of hours on two cores
mobilenetv2_narrow  timm     half the channels, and one block a stage instead of up to four
==================  =======  ================================================================

A published stem divides the side of the image by 4 before the first block. On small images that
leaves nothing to look at, so up to 96 pixels the stem is a 3×3 convolution without pooling, and
up to 32 pixels without a stride (:func:`_small_stem`).

Every network built here takes images with values in [0, 1]; its normalization is part of it, as a
hook before its forward pass, so that no caller can forget it. Another hook takes the logits out of
what it answers (:func:`logits_of`).
"""

import copy
import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from quantskew._torchvision import torchvision
from quantskew.architecture import Architecture
from quantskew.data.loading import Samples
from quantskew.engine import fingerprint
from quantskew.errors import UserError, close_names, named
from quantskew.precision import all_digits

# isort: split
import timm  # it imports torchvision, which must have loaded by then

CPU = torch.device("cpu")
SMALL = 96
TINY = 32
PLAIN_NORMALIZATION: tuple[tuple[float, ...], tuple[float, ...]] = ((0.5,), (0.5,))


class ModelError(UserError, ValueError):
    """A network that cannot be built, with the name that was asked for."""


def _small_stem(stem: nn.Conv2d, size: int, stride: int | None = None) -> nn.Conv2d:
    """Return a 3×3 stem that keeps the detail of an image of ``size`` pixels a side."""
    stride = stride or (1 if size <= TINY else 2)
    return nn.Conv2d(stem.in_channels, stem.out_channels, 3, stride, padding=1, bias=False)


def _resnet(name: str, stride: int | None = None, **options: Any) -> Callable[..., Any]:
    def build(classes: int, channels: int, size: int) -> Any:
        network: Any = timm.create_model(name, num_classes=classes, in_chans=channels, **options)
        if size <= SMALL:
            network.conv1 = _small_stem(network.conv1, size, stride)
            network.maxpool = nn.Identity()
        return network

    return build


def _inverted_residuals(name: str, repeats: int | None = None) -> Callable[..., Any]:
    def build(classes: int, channels: int, size: int) -> Any:
        network: Any = timm.create_model(name, num_classes=classes, in_chans=channels)
        network.blocks = nn.Sequential(*(stage[:repeats] for stage in network.blocks))
        if size <= SMALL:
            network.conv_stem = _small_stem(network.conv_stem, size)
        return network

    return build


def _vgg(classes: int, channels: int, size: int) -> Any:
    network: Any = timm.create_model("vgg19_bn", num_classes=classes, in_chans=channels)
    if size <= SMALL:
        # the published head (two layers of 4,096) reads a 7×7 map; small images end at 1×1 to 3×3
        network.pre_logits = nn.Identity()
        network.head.fc = nn.Linear(network.features[-4].out_channels, classes)
    if size < TINY:  # five halvings need 32 pixels
        network.features[-1] = nn.Identity()
    return network


def _vit(classes: int, channels: int, size: int) -> Any:
    if size < 8:
        raise ModelError(f"vit_small: images of {size} pixels a side are too small; give 8 or more")
    # the smallest patch that tiles the image with about 8 a side
    patch = 16 if size > SMALL else next(p for p in range(size // 8, size + 1) if size % p == 0)
    return timm.create_model(
        "vit_small_patch16_224", num_classes=classes, in_chans=channels, img_size=size,
        patch_size=patch,
    )  # fmt: skip


def _squeezenet(classes: int, channels: int, size: int) -> Any:
    network = torchvision.models.squeezenet1_1(num_classes=classes)
    stem = nn.Conv2d(channels, 64, kernel_size=3, stride=2)
    network.features[0] = _small_stem(stem, size) if size <= SMALL else stem
    return network


MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet18": _resnet("resnet18"),
    "resnet50": _resnet("resnet50"),
    "vgg19": _vgg,
    "mobilenetv2": _inverted_residuals("mobilenetv2_100"),
    "efficientnet_b0": _inverted_residuals("efficientnet_b0"),
    "vit_small": _vit,
    "squeezenet1_1": _squeezenet,
    "resnet18_quarter": _resnet("resnet18", stride=2, channels=(16, 32, 64, 128)),
    "mobilenetv2_narrow": _inverted_residuals("mobilenetv2_050", repeats=1),
}


def build(
    name: str, *, classes: int, channels: int, size: int, architecture: Architecture | None = None
) -> nn.Module:
    """Build a network with random weights from the current random state of torch.

    It gives ``classes`` logits for images of ``channels`` planes and ``size`` pixels a side. The
    name is one of :data:`MODELS`, or any where ``architecture`` says how to build the user's own: a
    factory ``package.module:function`` called with these three and its options, or ``timm:NAME`` /
    ``torchvision:NAME``.

    Raises
    ------
    ModelError
        When the name is unknown, the factory cannot be found or fails, the images are too small,
        or the network does not give one logit for each class.
    """
    if architecture is None:
        if name not in MODELS:
            raise ModelError(
                f"no model {name!r}: known are {', '.join(MODELS)}; "
                f"or describe your own under architectures{close_names(name, MODELS)}"
            )
        network = MODELS[name](classes=classes, channels=channels, size=size)
        mean, std = PLAIN_NORMALIZATION
    else:
        network = _own(name, architecture, classes=classes, channels=channels, size=size)
        check(network)
        mean, std = architecture.mean, architecture.std
    network.register_forward_pre_hook(
        partial(_normalize, mean=_plane(mean), std=_plane(std)), prepend=True
    )
    network = _ready(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    if architecture is not None:
        vars(network)["code"] = _digest(architecture)
        _check_outputs(network, f"architectures.{name}", classes, channels, size)
    return network


def _digest(architecture: Architecture) -> str:
    """Hash of all that makes a network besides its weights: code, options, normalization."""
    parts = architecture.identity()
    of_network = {key: parts[key] for key in ("factory", "options", "mean", "std", "code")}
    text = json.dumps(fingerprint.identity(of_network), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_outputs(network: nn.Module, name: str, classes: int, channels: int, size: int) -> None:
    images = torch.zeros(2, channels, size, size, dtype=torch.uint8)
    what = f"{name}: the network does not run on images of {channels}×{size}×{size}: it"
    with named(what, ModelError):
        shape = tuple(logits(clone(network), images).shape)
    if shape != (2, classes):
        raise ModelError(
            f"{name}: the network gives shape {shape} for 2 images; the data have {classes} "
            f"classes, so (2, {classes}) is needed"
        )


def own(network: nn.Module) -> nn.Module:
    """Return a copy of a user's network that takes images and gives logits; see :func:`check`."""
    check(network)
    return _ready(clone(network))


def clone(network: nn.Module) -> nn.Module:
    """Copy a network, also one with tensors that were computed (``torch.nn.utils.weight_norm``)."""
    computed = {
        id(value): value.detach().clone()
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(network, computed)


def check(network: nn.Module) -> None:
    """Refuse a network that cannot be quantized or run, before any work.

    A :class:`ModelError` names the layer that is TorchScript, lazy and never run, or not in
    float32.
    """
    if next(network.parameters(), None) is None:
        raise ModelError(f"{type(network).__name__} has no weights, so nothing can be quantized")
    for name, module in network.named_modules():
        layer = f"layer {name!r}" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{layer} is TorchScript ({type(module).__name__}), which hides its layers; give "
                "the torch.nn.Module that it was made from"
            )
        for parameter in module.parameters(recurse=False):
            if is_lazy(parameter):
                raise ModelError(
                    f"{layer} ({type(module).__name__}) has no weights before its first run; run "
                    "model(images) on one batch, then load or train its weights"
                )
            if parameter.is_floating_point() and parameter.dtype != torch.float32:
                raise ModelError(
                    f"{layer} computes in {str(parameter.dtype).removeprefix('torch.')}; give the "
                    "network in float32, as model.float() makes it"
                )


def _ready(network: nn.Module) -> nn.Module:
    """Keep a network from a crash, and let it answer with logits alone, in place."""
    if _channels_last_crashes(network):
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        network.register_forward_pre_hook(_contiguous)
    if _take_logits not in network._forward_hooks.values():
        network.register_forward_hook(_take_logits)
    return network


def _channels_last_crashes(network: nn.Module) -> bool:
    """Whether a layer's backward pass ends the process where channels lie last.

    In torch 2.9 to 2.12 on CPUs with AVX-512, that of a 1×1 convolution with a stride and fewer
    than 16 input channels writes beyond its memory.
    """
    return any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels < 16
        for layer in network.modules()
    )


def _contiguous(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].contiguous(), *inputs[1:])


def _take_logits(network: nn.Module, _: Any, answer: Any) -> Tensor:
    logits = logits_of(answer, network)
    if logits.is_complex():
        raise ModelError(f"{type(network).__name__} answers complex numbers, which no logits are")
    return logits


def logits_of(answer: Any, network: nn.Module) -> Tensor:
    """Return the logits in what a network answers.

    An answer is a tensor, a mapping with ``logits``, an object with ``.logits``, or a mapping or
    sequence that holds a single tensor. A :class:`ModelError` says that it is none of these.
    """
    if isinstance(answer, Tensor):
        return answer
    named = answer.get("logits") if isinstance(answer, Mapping) else None
    named = getattr(answer, "logits", None) if named is None else named
    if isinstance(named, Tensor):
        return named
    parts: Sequence[Any] = ()
    if isinstance(answer, Mapping):
        parts = list(answer.values())
    elif isinstance(answer, list | tuple):
        parts = answer
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == 1:
        return tensors[0]
    keys = f" with the keys {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else ""
    raise ModelError(
        f"{type(network).__name__} answers a {type(answer).__name__}{keys}, which holds "
        f"{len(tensors)} tensors and no 'logits'; wrap it in a torch.nn.Module whose forward "
        "returns the logits"
    )


def build_for(
    data: Samples, name: str, architecture: Architecture | None, weights: str | Path | None = None
) -> nn.Module:
    """Build a network that fits the images and the classes of a data set; load its weights."""
    _, channels, size, _ = data.images.shape
    classes = len(data.classes)
    network = build(name, classes=classes, channels=channels, size=size, architecture=architecture)
    if weights is not None:
        load_checkpoint(network, weights)
    return network


def blank_for(
    shape: tuple[int, int, int], name: str, architecture: Architecture | None
) -> nn.Module:
    """Build a network for some classes, channels and size, for weights to be loaded into.

    The random state of torch stays as it is. The last of :data:`MODELS` is kept and copied, which
    takes a tenth of the time; a network of the user's own is built each time, for nothing is known
    of how it is copied.
    """
    if architecture is None:
        return clone(_blank(name, *shape))
    classes, channels, size = shape
    with torch.random.fork_rng(devices=[]):
        return build(name, classes=classes, channels=channels, size=size, architecture=architecture)


@lru_cache(maxsize=1)
def _blank(name: str, classes: int, channels: int, size: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return build(name, classes=classes, channels=channels, size=size)


def _plane(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


def _normalize(_: nn.Module, inputs: tuple[Tensor], mean: Tensor, std: Tensor) -> tuple[Tensor]:
    images = inputs[0]
    return ((images - mean.to(images)) / std.to(images),)


def _own(name: str, architecture: Architecture, *, classes: int, channels: int, size: int) -> Any:
    where, _, function = architecture.factory.partition(":")
    options = architecture.options
    what = (
        f"architectures.{name}.factory: {architecture.factory!r} does not build a network with "
        f"{classes} classes, {channels} channels, {size} pixels: it"
    )
    with named(what, ModelError):
        if where == "timm":
            return timm.create_model(function, num_classes=classes, in_chans=channels, **options)
        if where == "torchvision":
            return torchvision.models.get_model(function, num_classes=classes, **options)
        factory = getattr(importlib.import_module(where), function)
        network = factory(classes=classes, channels=channels, size=size, **options)
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"architectures.{name}.factory: {architecture.factory!r} gave a "
            f"{type(network).__name__}, not a torch.nn.Module"
        )
    return network


def load_checkpoint(network: nn.Module, path: str | Path) -> None:
    """Load weights from a safetensors file, all of them or none.

    A :class:`ModelError` is raised when the file cannot be read, its names or shapes are not those
    of the network, or it was written for a network of other code (:func:`save_weights`).
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            code = (file.metadata() or {}).get("code")
        expect_code(network, code, path)
        load_state(network, safetensors.torch.load_file(path))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path} does not hold the weights of this network: {error}") from error


def expect_code(network: nn.Module, code: str | None, path: str | Path) -> None:
    """Refuse the weights of a network whose code, options or normalization have changed since.

    ``code`` is the digest in the file, ``None`` of a file that was not written here. A network that
    is not from :func:`build` is accepted.
    """
    known = vars(network).get("code")
    if known is not None and code is not None and known != code:
        raise ModelError(
            f"{path} was written for other code, options, mean or std of this network; run stage "
            "train again, and name the file of the factory under deps of the stages in dvc.yaml "
            "so that this happens by itself"
        )


def save_weights(network: nn.Module, path: str | Path) -> None:
    """Write the weights of a network as safetensors, in the usual order of memory.

    The file carries the digest of what else makes a network of :func:`build` with an architecture
    of the user's own: its code, options and normalization.
    """
    state = {key: value.cpu().contiguous() for key, value in stored_state(network).items()}
    code = vars(network).get("code")
    safetensors.torch.save_file(state, path, None if code is None else {"code": code})


def stored_state(network: nn.Module, named: Iterable[str] = ()) -> dict[str, Tensor]:
    """Return the state of a network for a file, in which a shared parameter stands once.

    It bears its first name, or the one of its names that is in ``named``.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    kept = {p: name for name, p in reversed(parameters.items())}
    kept |= {parameters[name]: name for name in named}
    left_out = parameters.keys() - kept.values()
    return {name: value for name, value in network.state_dict().items() if name not in left_out}


def load_state(network: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Load what :func:`stored_state` returned, or a state of all names, in place."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    known = {p: stored[name] for name, p in parameters.items() if name in stored}
    shared = {name: known[p] for name, p in parameters.items() if p in known}
    network.load_state_dict({**shared, **stored})


def expect_accuracy(network: nn.Module, test: Samples, expected: float) -> None:
    """Refuse a network that is less accurate than its user knows it to be, from 0 to 1.

    That is one that would answer as few samples correctly with a probability below 0.001 (one-sided
    binomial test), if its accuracy were the expected one.
    """
    from scipy.stats import binomtest  # a second and 40 MB, which only this needs

    correct = int((logits(network, test.images).argmax(1) == test.labels).sum())
    if binomtest(correct, len(test.labels), expected, "less").pvalue < 0.001:
        raise ModelError(
            f"{correct / len(test.labels):.1%} of {len(test.labels)} test images are answered "
            f"correctly, and expected_accuracy is {expected:.1%}: mean and std, the order of the "
            "classes or the size of the images may not be those that the network was trained with"
        )


def device() -> torch.device:
    """Where networks run: the first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def as_input(images: Tensor, where: torch.device) -> Tensor:
    """Turn uint8 pixels (N, C, H, W) into the [0, 1] floats a network takes; keep other floats."""
    pixels = images.to(where, non_blocking=True)
    if not images.is_floating_point():
        pixels = pixels.float().div_(255)
    return pixels.contiguous(memory_format=torch.channels_last)


@all_digits()
@torch.inference_mode()
def logits(network: nn.Module, images: Tensor, batch_size: int = 128) -> Tensor:
    """Return the logits of uint8 images in evaluation mode: float32, (N, classes), on the CPU."""
    first = next(network.parameters())
    where = first.device
    network.eval()
    if where == CPU and first.dtype in (torch.float16, torch.bfloat16):
        network = _summing_in_float32(network)
    batches = [
        logits_of(network(as_input(batch, where)), network).float().cpu()
        for batch in images.split(batch_size)
    ]
    return torch.cat(batches)


def _summing_in_float32(network: nn.Module) -> nn.Module:
    """Copy a network of half precision whose convolutions and linear layers compute in float32.

    What a layer gets and what it answers stays rounded to half precision. That is what it does in
    half precision, too, but without instructions for it a CPU takes up to twenty times as long.
    """
    network = clone(network)
    for layer in network.modules():
        if type(layer) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
            layer.forward = partial(_summed, layer, layer._conv_forward)  # type: ignore
        elif type(layer) is nn.Linear:
            layer.forward = partial(_summed, layer, nn.functional.linear)  # type: ignore
    return network


def _summed(layer: nn.Conv2d | nn.Linear, compute: Callable[..., Tensor], given: Tensor) -> Tensor:
    parts = (given, layer.weight, layer.bias)
    answer = compute(*(None if part is None else part.float() for part in parts))
    return answer.to(layer.weight.dtype)
