"""A method is a composition of parts; the cell that applies it to one network at one width.

======================  ============================================================================
part of a method        where it lives
======================  ============================================================================
``recipe``              how the fp32 network under it is trained: :mod:`quantskew.training`
``training: none``      post-training quantization: :mod:`quantskew.quantization.ptq`
``training: qat``       trained with its quantizers: :mod:`quantskew.quantization.qat`
``dampening``           penalty during QAT: :func:`quantskew.quantization.qat.damp`
``weights``             :class:`quantskew.params.Weights`
======================  ============================================================================
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from quantskew import models
from quantskew.data.loading import Samples, load
from quantskew.params import Architecture, Method, Qat, Training
from quantskew.quantization import packing, qat
from quantskew.quantization.ptq import quantize_network
from quantskew.training.baseline import (
    class_weights,
    sample_order,
    save_history,
    watched_samples,
)
from quantskew.training.loop import fit, parameter_groups

DAMPENING_FROM = 0.25


def widths(method: Method, bits: tuple[int, ...]) -> tuple[int, ...]:
    """Widths a method is run at: those of the study, or 16 for a floating-point format."""
    return bits if method.weights.format == "integer" else (16,)


def quantize(
    folder: Path,
    *,
    samples: Path,
    base: Path,
    baseline_history: Path,
    model: str,
    architecture: Architecture | None,
    seed: int,
    method: Method,
    bits: int,
    training: Training,
    qat_settings: Qat,
) -> None:
    """Apply a method to a trained network; write ``network.safetensors`` with packed codes.

    Parameters
    ----------
    folder
        Of the cell.
    samples
        Table of samples.
    base
        Weights of the fp32 network, trained with the recipe of the method.
    baseline_history
        History of the plain baseline of this seed, for class weights by difficulty.
    model, architecture
        Which network.
    seed
        Of the order of samples in QAT.
    method, bits
        What to do, at which width.
    training, qat_settings
        How QAT trains: the optimizer of the baseline with the rates of QAT.
    """
    data = load(samples)
    network = models.build_for(data, model, architecture)
    models.load_checkpoint(network, base)
    example = models.as_input(data.train.images[:2], torch.device("cpu"))
    if method.training == "none":
        quantized = quantize_network(network, example, bits=bits, weights=method.weights)
    else:
        quantized = _train_quantized(
            network,
            example,
            data,
            method=method,
            bits=bits,
            seed=seed,
            settings=training.model_copy(
                update={
                    "epochs": qat_settings.epochs,
                    "lr": qat_settings.lr_at(bits),
                    "warmup": 0.0,
                }
            ),
            qat_settings=qat_settings,
            weights=class_weights(method.recipe, data, baseline_history),
            folder=folder,
        )
    packing.save(folder / "network.safetensors", quantized)


def _train_quantized(
    network: nn.Module,
    example: Tensor,
    data: Samples,
    *,
    method: Method,
    bits: int,
    seed: int,
    settings: Training,
    qat_settings: Qat,
    weights: Tensor | None,
    folder: Path,
) -> packing.Quantized:
    prepared = qat.prepare(network, example, bits=bits, weights=method.weights)
    prepared.to(models.device())
    scales = qat.scale_parameters(prepared)
    known = {id(scale) for scale in scales}
    groups = [
        {**group, "params": [p for p in group["params"] if id(p) not in known]}
        for group in parameter_groups(prepared)
    ]
    groups.append({"params": scales, "lr": qat_settings.scale_lr, "weight_decay": 0.0})

    def dampening(share: float) -> Tensor:
        return dampening_strength(share, qat_settings.dampening) * qat.damp(prepared)

    watched = watched_samples(data)
    history = fit(
        prepared,
        data.train.images,
        data.train.labels,
        settings=settings,
        order=sample_order(data.train.labels, method.recipe, seed),
        groups=groups,
        class_weights=weights,
        penalty=dampening if method.dampening else None,
        watched=(data.images[watched], data.labels[watched]),
        checkpoint=folder / "checkpoint.safetensors",
    )
    save_history(folder / "history.safetensors", history, watched)
    return qat.convert(prepared.cpu())


def dampening_strength(share: float, strongest: float) -> float:
    """Weight of the dampening loss at a share of the training.

    Zero for the first quarter, then rising to its full strength along a half cosine
    (Nagel et al. 2022, the schedule of their code).
    """
    if share < DAMPENING_FROM:
        return 0.0
    after = (share - DAMPENING_FROM) / (1 - DAMPENING_FROM)
    return strongest * 0.5 * (1 - math.cos(math.pi * after))
