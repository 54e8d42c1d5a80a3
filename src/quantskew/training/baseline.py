"""The cell that trains one fp32 network, or takes the user's own."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from quantskew import models
from quantskew.data.groups import group_codes
from quantskew.data.loading import Samples, load
from quantskew.subject import Architecture
from quantskew.training.augmentation import augmenter
from quantskew.training.loop import History, fit
from quantskew.training.losses import check_class_weights, difficulty_weights, objective
from quantskew.training.sampling import balanced_subset, epoch_order
from quantskew.training.settings import Recipe, Training

WATCHED = 25


def train(
    folder: Path,
    *,
    samples: Path,
    model: str,
    architecture: Architecture | None,
    seed: int,
    training: Training,
    recipe: Recipe,
    bins: Mapping[str, tuple[float, ...]] | None = None,
    baseline_history: Path | None = None,
) -> None:
    """Train a network; write ``network.safetensors``, ``history.safetensors`` and ``cost.json``.

    Parameters
    ----------
    folder
        Of the cell; a ``checkpoint`` in it is gone on from.
    samples
        Table of samples.
    model, architecture
        Which network; an architecture with a checkpoint is not trained at all.
    seed
        Of the initial weights and the order of the samples.
    training, recipe
        How.
    bins
        Lower edges of the groups of numeric attributes.
    baseline_history
        History of the plain baseline of this seed: how hard each class was for it decides the
        weights of a weighted loss, unless the recipe gives them.
    """
    data = load(samples).divided(bins or {})
    torch.manual_seed(seed)
    given = None if architecture is None else architecture.checkpoint
    network = models.build_for(data, model, architecture, given).to(models.device())
    if given is not None:
        history, watched = History(), np.array([], dtype=np.int64)
    else:
        watched = watched_samples(data)
        history = fit(
            network,
            data.train.images,
            data.train.labels,
            settings=training,
            order=sample_order(data.train, recipe, seed),
            seed=seed,
            objective=objective(
                recipe, data.train, class_weights=class_weights(recipe, data, baseline_history)
            ),
            augment=augmenter(recipe.augmentation, classes=len(data.classes), seed=seed),
            watched=(data.images[watched], data.labels[watched]),
            checkpoint=folder / "checkpoint.safetensors",
            title=f"{model} seed {seed}",
        )
    if architecture is not None and architecture.expected_accuracy is not None:
        models.expect_accuracy(network, data.test, architecture.expected_accuracy)
    models.save_weights(network, folder / "network.safetensors")
    save_history(folder / "history.safetensors", history, watched)
    history.write_cost(folder / "cost.json")


def watched_samples(data: Samples) -> np.ndarray:
    """Indices of the samples whose accuracy is followed: class-balanced parts of both splits."""
    parts = []
    for split in ("train", "test"):
        inside = np.flatnonzero(data.split == split)
        labels = data.labels.numpy()[inside]
        parts.append(inside[balanced_subset(labels, most=WATCHED, seed=0)])
    return np.concatenate(parts)


def sample_order(train: Samples, recipe: Recipe, seed: int) -> Callable[[int], Tensor]:
    """Order of the samples by epoch: a function of the seed and the number of the epoch alone."""
    groups = torch.from_numpy(group_codes(train.attributes, recipe.by)[0])

    def order(epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return epoch_order(groups, sampling=recipe.sampling, generator=generator)

    return order


def class_weights(recipe: Recipe, data: Samples, baseline_history: Path | None) -> Tensor | None:
    """Weights of the loss as the recipe wants them."""
    if recipe.loss != "weighted":
        return None
    if recipe.class_weights is not None:
        return check_class_weights(recipe.class_weights, data.classes)
    if baseline_history is None:
        raise ValueError("class weights by difficulty need the history of a baseline")
    history = safetensors.numpy.load_file(baseline_history)
    training = data.split[history["sample"]] == "train"
    labels = data.labels.numpy()[history["sample"][training]]
    correct = history["correct"][:, training]
    by_class = [correct[:, labels == label].mean() for label in range(len(data.classes))]
    return difficulty_weights(np.array(by_class))


def save_history(path: Path, history: History, watched: np.ndarray) -> None:
    """Write what was watched: ``sample`` (n,), ``correct`` and ``loss`` (epochs, n)."""
    empty = torch.zeros(0, len(watched))
    arrays = {
        "sample": watched,
        "correct": (torch.stack(history.correct) if history.correct else empty).numpy(),
        "loss": (torch.stack(history.loss) if history.loss else empty).numpy(),
    }
    safetensors.numpy.save_file(arrays, path)
