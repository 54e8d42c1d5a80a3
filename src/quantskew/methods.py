"""The cell that applies a method to one network at one width, and the user's own functions.

What a method is made of, and where each part lives: :mod:`quantskew.quantization.method`.
"""

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantskew import models
from quantskew.baselines import class_accuracy, hold_out
from quantskew.data.loading import Samples
from quantskew.errors import named
from quantskew.models import CPU
from quantskew.quantization import packing
from quantskew.quantization.fitting import Material, MethodError, Qat
from quantskew.quantization.layers import plain
from quantskew.quantization.method import Method
from quantskew.quantization.policies import allocate_bits
from quantskew.quantization.post import PostMaterial
from quantskew.quantization.selfcheck import same_logits
from quantskew.subject import Subject
from quantskew.training.loop import History
from quantskew.training.losses import Floats
from quantskew.training.training import Training

__all__ = ["MethodError", "apply", "own", "quantize"]
_WORK = ("training", "oscillations", "weights", "activations", "policy")


def quantize(
    folder: Path,
    *,
    subject: Subject,
    baseline_history: Path | None,
    seed: int,
    method: Method,
    bits: int,
    training: Training,
    qat_settings: Qat,
    bins: Mapping[str, tuple[float, ...]] | None = None,
) -> None:
    """Apply a method to a trained network; write ``network.safetensors`` with packed codes.

    The images and seconds of its QAT stand beside it in ``cost.json``. The ``subject`` is the fp32
    network, trained with the recipe of the method; ``training`` and ``qat_settings`` say how QAT
    trains, ``baseline_history`` and ``bins`` are as in :func:`quantskew.baselines.train`. All that
    is drawn at random follows from the ``seed``: calibration images, the order of samples, ….
    """
    data = subject.data().divided(bins or {})
    example = models.as_input(data.train.images[:2], CPU)
    shown, held_out = hold_out(data.train, training.held_out)
    history = History()
    quantized = apply(
        packing.open_variant(subject),
        method,
        bits,
        example=example,
        calibration=shown,
        train=shown,
        held_out=held_out,
        training=training,
        qat_settings=qat_settings,
        seed=seed,
        accuracy=class_accuracy(data, baseline_history),
        history=history,
        checkpoint=folder / "checkpoint.safetensors",
        title=f"{subject.model} seed {seed} at {bits} bits",
    )
    file = folder / "network.safetensors"
    packing.save(file, quantized)
    again = packing.open_variant(subject.at(file, bits))
    same_logits(quantized.network, again, example, step="packing and reading again")
    history.write_cost(folder / "cost.json")


def apply(
    network: nn.Module,
    method: Method,
    bits: int,
    *,
    example: Tensor,
    calibration: Samples | None,
    train: Samples | None,
    training: Training,
    qat_settings: Qat,
    seed: int,
    held_out: Samples | None = None,
    accuracy: Floats | None = None,
    **fitting: Any,
) -> packing.Quantized:
    """Apply a method to a copy of a network in memory.

    The network is trained, in float32 and on the CPU, and ``example`` an input batch, for the order
    in which layers run. Samples to draw calibration images from (``calibration``) and to train with
    (``train``) are ``None`` where the method needs none. ``held_out`` are samples that the network
    was not trained on, for corrections after quantization, which look at ``calibration`` where
    there are none. ``accuracy``, (classes,), is the mean accuracy of each class over the training
    of the baseline, for a loss of QAT that ``needs_history``, and ``fitting`` holds further options
    of :func:`quantskew.training.loop.fit`. A :class:`MethodError` is raised when the method needs
    samples that are not given, or its function does not fit.
    """
    before = plain(network, example)
    material = Material(example, None, None, train, training, qat_settings, accuracy, seed, fitting)
    quantized = _quantized(before, method, bits, calibration, material)
    if not method.post:
        return quantized
    source = calibration if held_out is None else held_out
    looks = any(part.looks_at != "nothing" for part in method.post)
    seen = method.calibration.draw(source, seed) if looks and source is not None else None
    frequencies = None
    if train is not None:
        shown = method.recipe.sampling.order(train.attributes, seed)(0)
        frequencies = train.labels[shown].bincount(minlength=len(train.classes)).double().numpy()
    after = PostMaterial(example, before, seen, held_out is not None, frequencies)
    quantized.notes["post"] = [part(quantized, after) for part in method.post]
    if seen is not None:
        quantized.notes["calibration_after"] = seen.counts
    return packing.checked(quantized, example)


def _quantized(
    network: nn.Module, method: Method, bits: int, calibration: Samples | None, material: Material
) -> packing.Quantized:
    """Apply all parts of a method but the corrections that follow."""
    example, train, seed = material.example, material.train, material.seed
    if method.function is not None:
        result = own(method.function, network, example=example, bits=bits, train=train, seed=seed)
        if isinstance(result, packing.Quantized):
            idle = [part for part in _WORK if getattr(method, part) != getattr(Method(), part)]
            if idle:
                raise MethodError(
                    f"function: {method.function!r} does all of the work and returns a Quantized, "
                    f"so that {', '.join(idle)} would change nothing; leave it out"
                )
            return result
        network = result
    if method.quantizing_looks():
        if calibration is None:
            raise MethodError("the method looks at calibration images, and none are given")
        seen = method.calibration.draw(calibration, seed)
        material = material._replace(seen=seen)
        if method.is_mixed():
            widths = allocate_bits(
                network, example, seen.images, seen.labels, seen.groups,
                bits=bits, weights=method.integer_weights(), policy=method.policy, seed=seed,
            )  # fmt: skip
            material = material._replace(widths=widths)
    quantized = method.training(network, method, bits, material)
    if material.seen is not None:
        quantized.notes["calibration"] = material.seen.counts
    return packing.checked(quantized, example)


def own(
    function: str, network: nn.Module, *, example: Tensor, **given: Tensor | Samples | int | None
) -> nn.Module | packing.Quantized:
    """Call a function of the user's own, ``module:name``, on a copy of a trained network.

    It is given, by name, copies of ``example`` (an input batch), ``bits``, ``train`` (the training
    samples, ``None`` where there are none) and ``seed``, so that what it writes in place reaches
    nothing else. It returns the network with other values, for the other parts of the method to
    quantize, or a ``Quantized``: all of the work. A :class:`MethodError` is raised when there is no
    such function, it fails, or it returns something else.
    """
    module, _, name = function.partition(":")
    with named(f"function: {function!r}", MethodError):
        call = getattr(importlib.import_module(module), name)
        result: nn.Module | packing.Quantized = call(
            copy.deepcopy(network), **copy.deepcopy({"example": example, **given})
        )
    made = result.network if isinstance(result, packing.Quantized) else result
    if not isinstance(made, nn.Module) or (made is result and _forms(made) != _forms(network)):
        raise MethodError(
            f"function: {function!r} gave a {type(result).__name__} that is neither a Quantized "
            "nor the network with all its parameters in their shapes"
        )
    made.eval()  # a function that trains may leave it in training mode
    if made is result:  # a Quantized may compute in half precision
        models.check(made)
    with named(f"function: {function!r}: its network", MethodError), torch.no_grad():
        found, expected = (tuple(one(example).shape) for one in (made, network))
    if found != expected:
        raise MethodError(f"function: {function!r} answers {found}, the network {expected}")
    if not isinstance(result, packing.Quantized):
        loaded = models.clone(network)
        models.load_state(loaded, made.state_dict())
        same_logits(loaded, made, example, step=f"function: {function!r}: what is no parameter")
    elif lacking := sorted({"format", "folded", "left_out"} - {*result.notes}):
        raise MethodError(
            f"function: {function!r} gave a Quantized whose notes lack {', '.join(lacking)}"
        )
    return result


def _forms(network: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (one.shape, one.dtype) for name, one in network.state_dict().items()}
