"""A method is a composition of parts; the cell that applies it to one network at one width.

==================  ================================================================================
part of a method    where it lives
==================  ================================================================================
``recipe``          how the fp32 network under it is trained: :mod:`quantskew.training`
``function``        the user's own: :func:`own`
``training``        ``none``: :mod:`quantskew.quantization.ptq`, ``qat``:
                    :mod:`quantskew.quantization.qat`
``oscillations``    ``dampen``: :func:`quantskew.quantization.qat.damp`, ``freeze``:
                    :mod:`quantskew.quantization.freezing`
``weights``         :mod:`quantskew.quantization.ranges`, :mod:`quantskew.quantization.rounding`, …
``activations``     :mod:`quantskew.quantization.activations`, in QAT
                    :mod:`quantskew.quantization.learned_activations`
``calibration``     :mod:`quantskew.quantization.calibration`
``policy``          :mod:`quantskew.quantization.policies`
==================  ================================================================================

A part of your own goes into the section of :mod:`quantskew.params` that names it and the module
that does it; a combination of parts needs no code at all.
"""

import copy
import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantskew import models
from quantskew.data.loading import Samples, load
from quantskew.errors import UserError
from quantskew.models import CPU
from quantskew.quantization import packing, qat
from quantskew.quantization.calibration import calibration_set
from quantskew.quantization.freezing import Freezer
from quantskew.quantization.layers import plain
from quantskew.quantization.method import Method
from quantskew.quantization.policies import choose_widths
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.selfcheck import same_logits
from quantskew.quantization.settings import Qat
from quantskew.subject import Architecture
from quantskew.training.augmentation import augmenter
from quantskew.training.baseline import class_weights, sample_order
from quantskew.training.loop import History, fit, parameter_groups
from quantskew.training.losses import objective
from quantskew.training.settings import Training

DAMPENING_FROM = 0.25


class MethodError(UserError, ValueError):
    """A method that cannot be applied, and what it lacks."""


def quantize(
    folder: Path,
    *,
    samples: Path,
    base: Path,
    baseline_history: Path | None,
    model: str,
    architecture: Architecture | None,
    seed: int,
    method: Method,
    bits: int,
    training: Training,
    qat_settings: Qat,
    bins: Mapping[str, tuple[float, ...]] | None = None,
) -> None:
    """Apply a method to a trained network; write ``network.safetensors`` with packed codes.

    What its QAT took stands beside it in ``cost.json``.

    Parameters
    ----------
    folder
        Of the cell.
    samples
        Table of samples.
    base
        Weights of the fp32 network, trained with the recipe of the method.
    baseline_history
        History of the plain baseline of this seed; needed for class weights by difficulty alone.
    model, architecture
        Which network.
    seed
        Of the order of samples in QAT.
    method, bits
        What to do, at which width.
    training, qat_settings
        How QAT trains: the optimizer of the baseline with the rates of QAT.
    bins
        Lower edges of the groups of numeric attributes.
    """
    data = load(samples).divided(bins or {})
    network = models.build_for(data, model, architecture, base)
    example = models.as_input(data.train.images[:2], CPU)
    history = History()
    quantized = apply(
        network,
        method,
        bits,
        example=example,
        calibration=data.train,
        train=data.train,
        training=training,
        qat_settings=qat_settings,
        seed=seed,
        weights=class_weights(method.recipe, data, baseline_history),
        history=history,
        checkpoint=folder / "checkpoint.safetensors",
        title=f"{model} seed {seed} at {bits} bits",
    )
    file = folder / "network.safetensors"
    packing.save(file, quantized)
    again = packing.load(file, models.build_for(data, model, architecture))
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
    weights: Tensor | None = None,
    **fitting: Any,
) -> packing.Quantized:
    """Apply a method to a network in memory.

    Parameters
    ----------
    network
        Trained, in float32, on the CPU; not changed.
    method, bits
        What to do, at which width.
    example
        An input batch, for the order in which the layers run.
    calibration, train
        Samples to draw calibration images from, and to train with; ``None`` where the method
        needs none.
    training, qat_settings, seed
        As in :func:`quantize`.
    weights
        Of the classes in the loss of QAT.
    **fitting
        Further options of :func:`quantskew.training.loop.fit`.

    """
    network = plain(network, example)
    if method.function is not None:
        made = own(method.function, network, example=example, bits=bits, train=train, seed=seed)
        if isinstance(made, packing.Quantized):
            return made
        network = made
    seen = None
    if calibration is not None and method.needs_calibration():
        seen = calibration_set(calibration, method.calibration, seed)
    widths = None
    if seen is not None and method.policy.by != "uniform":
        widths = choose_widths(
            network, example, seen.images, seen.labels, seen.groups,
            bits=bits, weights=method.weights, policy=method.policy, seed=seed,
        )  # fmt: skip
    if method.training == "none":
        quantized = quantize_network(
            network, example, bits=bits, weights=method.weights, activations=method.activations,
            calibration=seen and seen.images, groups=seen and seen.groups, widths=widths,
            seed=seed,
        )  # fmt: skip
    else:
        if train is None:
            raise MethodError("training: qat trains the network, and no training samples are given")
        goal = objective(method.recipe, train, class_weights=weights, reference=network)
        prepared = qat.prepare(
            network, example, bits=bits, weights=method.weights, widths=widths,
            activations=method.activations, calibration=seen and seen.images,
            groups=seen and seen.groups, start=qat_settings.start,
        ).to(models.device())  # fmt: skip
        rates = {"epochs": qat_settings.epochs, "lr": qat_settings.lr_at(bits), "warmup": 0.0}
        order = sample_order(train, method.recipe, seed)
        fit(
            prepared,
            train.images,
            train.labels,
            settings=training.model_copy(update=rates),
            order=order,
            seed=seed,
            groups=_groups_of_parameters(prepared, qat_settings),
            objective=goal,
            augment=augmenter(method.recipe.augmentation, classes=len(train.classes), seed=seed),
            **_against_oscillations(prepared, method, qat_settings),
            **fitting,
        )
        if qat_settings.bn_batches:
            some = order(qat_settings.epochs)[: qat_settings.bn_batches * training.batch_size]
            inputs = models.as_input(train.images[some], models.device())
            qat.reestimate_batch_norm(prepared, inputs, batch_size=training.batch_size)
        quantized = qat.convert(prepared.cpu())
        same_logits(prepared.eval(), quantized.network, example, step="conversion after QAT")
    if seen is not None:
        quantized.notes["calibration"] = seen.counts
    return packing.checked(quantized, example)


def own(
    function: str, network: nn.Module, **given: Tensor | Samples | int | None
) -> nn.Module | packing.Quantized:
    """Call a function of the user's own on a copy of a trained network.

    Parameters
    ----------
    function
        ``module:name`` of a module that can be imported.
    network
        Trained, in float32, on the CPU.
    **given
        Keyword arguments: ``example`` (an input batch), ``bits``, ``train`` (the training samples,
        ``None`` where there are none) and ``seed``.

    Returns
    -------
    What the function returned: the network with other values, for the other parts of the method to
    quantize, or all of the work.

    Raises
    ------
    MethodError
        When there is no such function, or it returns something else.
    """
    module, _, name = function.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise MethodError(f"function: {function!r} cannot be found: {error}") from error
    made = found(copy.deepcopy(network), **given)
    if isinstance(made, packing.Quantized):
        return made
    if not isinstance(made, nn.Module) or _shapes(made) != _shapes(network):
        raise MethodError(
            f"function: {function!r} gave a {type(made).__name__} that is neither a Quantized nor "
            "the network with all its parameters in their shapes"
        )
    return made


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _groups_of_parameters(prepared: qat.Prepared, settings: Qat) -> list[dict[str, Any]]:
    """The usual groups, with the learned scales in one of their own."""
    scales = qat.scale_parameters(prepared)
    known = {id(scale) for scale in scales}
    groups = [
        {**group, "params": [p for p in group["params"] if id(p) not in known]}
        for group in parameter_groups(prepared)
    ]
    return [*groups, {"params": scales, "lr": settings.scale_lr, "weight_decay": 0.0}]


def _against_oscillations(prepared: qat.Prepared, method: Method, settings: Qat) -> dict[str, Any]:
    """What :func:`fit` is to do during QAT against weights that flip between two codes."""
    if method.oscillations == "dampen":
        return {
            "penalty": lambda share: (
                dampening_strength(share, settings.dampening) * qat.damp(prepared)
            )
        }
    if method.oscillations == "freeze":
        freezer = Freezer(prepared)
        first, last = settings.freezing
        return {
            "after_step": lambda share: freezer.step(last + (first - last) * half_cosine(share)),
            "kept": freezer,
        }
    return {}


def half_cosine(share: float) -> float:
    """Fall from 1 to 0 along half a cosine as the share goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


def dampening_strength(share: float, strongest: float) -> float:
    """Weight of the dampening loss at a share of the training.

    Zero for the first quarter, then rising to its full strength along a half cosine
    (Nagel et al. 2022, the schedule of their code).
    """
    if share < DAMPENING_FROM:
        return 0.0
    after = (share - DAMPENING_FROM) / (1 - DAMPENING_FROM)
    return strongest * (1 - half_cosine(after))
