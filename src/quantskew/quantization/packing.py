"""Quantized weights as files: packed codes, scales, zero points and widths in safetensors.

A file holds, for a quantized parameter of the name ``P`` (such as ``conv1.weight``):

=============  ===================================================================================
``P#codes``    the codes minus the lowest legal code, ``bits`` bits each, one after the other from
               the lowest bit of the first byte on: two a byte at 4 bits, four at 2, a dense stream
               at 3; where channels differ in width, the streams of all widths from narrow to wide
``P#scale``    float32, of the shape that broadcasts against the parameter
``P#zero``     zero points in the narrowest integer type; absent where all are 0
``P#offset``   float32 added to the dequantized weight, an output channel; mostly absent
``P#bits``     the width of each output channel, a byte each, where they differ
``P#kept``     float32, the output channels that are kept as they were (width 32)
=============  ===================================================================================

All other tensors of the network (biases, norms that were not folded) stand under their own names,
and so do those of a map of the logits behind the network (``logit_map_…``).
The metadata is one JSON text: shape, width and scheme of each parameter, the notes of the
quantizer, and a checksum of all content. Equal networks give equal bytes.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quantskew import models
from quantskew.errors import UserError, named
from quantskew.files import replacing
from quantskew.quantization.codes import (
    FLOAT,
    QuantizedWeight,
    Widths,
    limits,
    pack_channels,
    unpack_channels,
)
from quantskew.quantization.input_quantizers import restore
from quantskew.quantization.layers import bake, fold, quantizable
from quantskew.quantization.logit_maps import BUFFERS, attach
from quantskew.subject import Subject

_KEY = "quantskew"
_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class PackingError(UserError, ValueError):
    """A file of quantized weights is not whole, or is of another network."""


class ChangedError(PackingError):
    """The parameters of a network are no longer what their codes stand for."""


class Quantized(NamedTuple):
    """A network with dequantized weights, what its weights are stored as, and notes.

    ``notes`` holds plain JSON values and travels in the file: ``format``; ``folded``, the pairs of
    convolution and batch norm; ``left_out``, the reason for each part that stays in floating point;
    ``share``, how much has codes (:class:`Share`); ``baked``, the tensors that were computed at
    each run before; ``code``, the digest of an own network's code; after post-training quantization
    also ``equalized``, ``calibration`` and ``activations``; ``post``, what was corrected
    afterwards. ``vectors`` are quantized biases and affine maps of norms, by the names of the
    parameters.
    """

    network: nn.Module
    weights: dict[str, QuantizedWeight]
    notes: dict[str, Any]
    vectors: Mapping[str, QuantizedWeight]

    def codes(self) -> dict[str, QuantizedWeight]:
        """Return all codes by the name of their parameter."""
        return {f"{name}.weight": weight for name, weight in self.weights.items()} | dict(
            self.vectors
        )


class Share(NamedTuple):
    """How much of a network is at the width that it is named by: 0 to 1, NaN of no parameters.

    ``weights`` counts parameters of two dimensions or more, ``parameters`` all.
    """

    weights: float
    parameters: float


def quantized_share(network: nn.Module, codes: Mapping[str, QuantizedWeight]) -> Share:
    """Return which share of the numbers in a network has codes, or is in half precision.

    A parameter that layers share counts once, and channels kept in floating point do not count.
    """
    coded = {
        id(network.get_parameter(name)): weight.codes.numel()
        - (0 if weight.kept is None else weight.kept.numel())
        for name, weight in codes.items()
    }
    every = [
        (p.ndim > 1, p.numel(), coded.get(id(p), 0) if p.dtype == torch.float32 else p.numel())
        for p in network.parameters()
    ]

    def share(parts: list[tuple[bool, int, int]]) -> float:
        size = sum(size for _, size, _ in parts)
        return sum(part for *_, part in parts) / size if size else math.nan

    return Share(share([part for part in every if part[0]]), share(every))


def checked(quantized: Quantized, example: Tensor) -> Quantized:
    """Run a quantized network once, see that its codes hold, and complete its notes.

    A :class:`PackingError` names a parameter with codes that a run changes.
    """
    with torch.no_grad():
        quantized.network(example)
    for name, weight in quantized.codes().items():
        if not torch.equal(quantized.network.get_parameter(name), weight.dequantize()):
            raise PackingError(
                f"{name} is changed when the network runs, so its codes have no effect; remove "
                "the hook or the line of the forward pass that writes it"
            )
    quantized.notes.update(_facts(quantized))
    return quantized


def _facts(quantized: Quantized) -> dict[str, Any]:
    network, known = quantized.network, vars(quantized.network)
    facts: dict[str, Any] = {key: known[key] for key in ("baked", "code") if key in known}
    return facts | {"share": quantized_share(network, quantized.codes())._asdict()}


def save(path: str | Path, quantized: Quantized) -> None:
    """Write a quantized network as one safetensors file, whole or not at all.

    Parameters
    ----------
    path
        The file; its size is the size of the model.
    quantized
        From :func:`~quantskew.quantization.ptq.quantize_network` or
        :func:`~quantskew.quantization.qat.convert`.

    Raises
    ------
    ChangedError
        When a parameter of the network is not what its codes stand for.
    PackingError
        When a note is no plain value.
    """
    state = models.stored_state(quantized.network, quantized.codes())
    tensors = {name: tensor.cpu() for name, tensor in state.items()}
    parameters = {}
    for name, weight in quantized.codes().items():
        if not torch.equal(tensors.pop(name), weight.dequantize().cpu()):
            raise ChangedError(f"{name} was changed after it was quantized")
        tensors |= {f"{name}#{part}": tensor for part, tensor in _parts(weight).items()}
        parameters[name] = {
            "bits": weight.bits if isinstance(weight.bits, int) else None,
            "scheme": weight.scheme,
            "shape": list(weight.codes.shape),
        }
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    content: dict[str, Any] = {
        "parameters": parameters,
        "notes": {**quantized.notes, **_facts(quantized)},
    }
    with named("writing the notes of the network as JSON", PackingError):
        content["checksum"] = _checksum(content, tensors)
    with replacing(path) as temporary:
        # a single key: safetensors writes several in an order that changes from run to run
        save_file(tensors, temporary, {_KEY: json.dumps(content, sort_keys=True)})


def _parts(weight: QuantizedWeight) -> dict[str, Tensor]:
    """What is stored of a quantized parameter, by the ends of the names."""
    bits, (low, _) = weight.bits, weight.limits()
    parts = {"codes": pack_channels(weight.codes - low, bits), "scale": weight.scale}
    if weight.zero_point.any():
        parts["zero"] = _narrowest(weight.zero_point)
    if weight.offset is not None:
        parts["offset"] = weight.offset
    if not isinstance(bits, int):
        parts["bits"] = torch.tensor(bits, dtype=torch.uint8)
    if weight.kept is not None:
        parts["kept"] = weight.kept
    return parts


def _from_parts(parts: Mapping[str, Tensor], facts: Mapping[str, Any]) -> QuantizedWeight:
    """Return the quantized parameter; the inverse of :func:`_parts`."""
    shape, scheme = tuple(facts["shape"]), facts["scheme"]
    bits: Widths = facts["bits"] or tuple(parts["bits"].tolist())
    shifted = unpack_channels(parts["codes"], bits, shape)
    codes = (shifted + limits(bits, scheme, shifted)[0]).to(torch.int16)
    scale = parts["scale"]
    zero = parts.get("zero", torch.zeros_like(scale)).int()
    return QuantizedWeight(codes, scale, zero, bits, scheme, parts.get("offset"), parts.get("kept"))


def read(path: str | Path) -> tuple[dict[str, QuantizedWeight], dict[str, Tensor], dict[str, Any]]:
    """Read a file without its network.

    Returns the weights by the name of their layer, all other tensors of the network by their names,
    dequantized where they have codes, and the notes as they were saved. A :class:`PackingError`
    says that there is no such file, or that it is truncated, altered or of another kind.
    """
    content, tensors = _verified(path)
    weights = {}
    for name, facts in content["parameters"].items():
        ends = [key for key in tensors if key.startswith(f"{name}#")]
        made = _from_parts({key.removeprefix(f"{name}#"): tensors.pop(key) for key in ends}, facts)
        if made.codes.ndim > 1 and name.endswith(".weight"):
            weights[name.removesuffix(".weight")] = made
        else:
            tensors[name] = made.dequantize()
    return weights, tensors, content["notes"]


def load(path: str | Path, network: nn.Module) -> nn.Module:
    """Turn a network with any weights into the one that :func:`save` stored, in place.

    The network is of the same architecture, in float32, with batch norms not folded. It is returned
    in evaluation mode, with logits that are bit by bit those of the network saved. A
    :class:`PackingError` is raised when the file is not whole or does not fit the network, a
    ``ModelError`` when the code of the network has changed since.
    """
    weights, tensors, notes = read(path)
    models.expect_code(network, notes.get("code"), path)
    network.eval()
    behind = [tensors.pop(name) for name in BUFFERS if name in tensors]
    try:
        fold(network, notes["folded"])
        for name, layer in quantizable(network).items():
            if layer.bias is None and f"{name}.bias" in tensors:
                layer.bias = nn.Parameter(tensors[f"{name}.bias"].to(layer.weight.device))
        dequantized = {f"{name}.weight": weight.dequantize() for name, weight in weights.items()}
        models.load_state(network, {**tensors, **dequantized})
    except (RuntimeError, AttributeError) as error:
        raise PackingError(f"{path} holds another network than the one given: {error}") from None
    if notes["format"] in _HALVES:
        in_half(network, notes["format"])
    restore(network, notes.get("activations", {"layers": {}}))
    if behind:
        attach(network, *behind)
    return network


def open_variant(subject: Subject) -> nn.Module:
    """Build the network of a subject on the CPU, in evaluation mode, with weights of any width."""
    network = subject.blank()
    if subject.bits != FLOAT or _is_packed(subject.file()):
        return load(subject.file(), network)
    models.load_checkpoint(network, subject.file())
    bake(network.eval())
    return network


def _is_packed(path: Path) -> bool:
    """Whether a file holds notes, as that of a corrected network in full precision does."""
    try:
        with safe_open(path, framework="pt") as file:
            return _KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # whoever loads it says what is wrong


def in_half(network: nn.Module, precision: str) -> nn.Module:
    """Make a network compute in ``float16`` or ``bfloat16``, in place; logits stay float32."""
    network.to(_HALVES[precision])
    network.register_forward_pre_hook(_cast)
    network.register_forward_hook(_logits_in_float32)
    return network


def _cast(network: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # whatever the network computes in by now: .float() makes it float32 throughout
    dtype = next(network.parameters()).dtype
    return tuple(tensor.to(dtype) for tensor in given)


def _logits_in_float32(_module: nn.Module, _given: tuple[Tensor, ...], logits: Tensor) -> Tensor:
    return logits.float()


def _narrowest(values: Tensor) -> Tensor:
    for dtype in (torch.uint8, torch.int8, torch.int16):
        if torch.equal(values.to(dtype).to(values.dtype), values):
            return values.to(dtype)
    return values


def _checksum(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    parts = {key: content[key] for key in ("parameters", "notes")}
    digest.update(json.dumps(parts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _verified(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise PackingError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise PackingError(f"{path} is truncated or no safetensors file: {error}") from None
    if text is None:
        raise PackingError(f"{path} holds no quantized network: its metadata lacks {_KEY!r}")
    try:
        content = json.loads(text)
        expected = content.pop("checksum")
        found = _checksum(content, tensors)
    except (ValueError, KeyError) as error:
        raise PackingError(f"{path} was altered: its metadata is damaged ({error!r})") from None
    if found != expected:
        raise PackingError(f"{path} was altered: its content does not fit its checksum")
    return content, tensors
