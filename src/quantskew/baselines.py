"""The cell that trains one fp32 network, or loads the user's own."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

from quantskew import models
from quantskew.data.loading import Samples
from quantskew.subject import Subject
from quantskew.training.loop import History, fit
from quantskew.training.losses import Floats
from quantskew.training.recipe import Recipe
from quantskew.training.sampling import balanced_subset
from quantskew.training.training import Training

WATCHED = 25
"""Largest number of samples of each class and split whose accuracy is followed."""


def train(
    folder: Path,
    *,
    subject: Subject,
    seed: int,
    training: Training,
    recipe: Recipe,
    bins: Mapping[str, tuple[float, ...]] | None = None,
    baseline_history: Path | None = None,
) -> None:
    """Train a network; write ``network.safetensors``, ``history.safetensors`` and ``cost.json``.

    The initial weights and the order of the samples follow from the ``seed``. A training resumes
    from a ``checkpoint.safetensors`` in the folder; an architecture with a checkpoint of its own is
    not trained at all. ``bins`` are the lower edges of the groups of numeric attributes, and
    ``baseline_history`` is that of the plain baseline of this seed, for a loss that
    ``needs_history``.
    """
    data = subject.data().divided(bins or {})
    torch.manual_seed(seed)
    checkpoint = subject.checkpoint
    network = subject.build(checkpoint).to(models.device())
    if checkpoint is not None:
        history, watched = History(), np.array([], dtype=np.int64)
    else:
        watched = watched_samples(data, training.held_out)
        shown, _ = hold_out(data.train, training.held_out)
        history = fit(
            network,
            shown.images,
            shown.labels,
            settings=training,
            order=recipe.sampling.order(shown.attributes, seed),
            seed=seed,
            objective=recipe.loss.objective(shown, class_accuracy(data, baseline_history)),
            augment=recipe.augmentation.augmenter(classes=len(data.classes), seed=seed),
            watched=(data.images[watched], data.labels[watched]),
            checkpoint=folder / "checkpoint.safetensors",
            title=f"{subject.model} seed {seed}",
        )
    own = subject.architecture
    if own is not None and own.expected_accuracy is not None:
        models.expect_accuracy(network, data.test, own.expected_accuracy)
    models.save_weights(network, folder / "network.safetensors")
    save_history(folder / "history.safetensors", history, watched)
    history.write_cost(folder / "cost.json")


def hold_out(train: Samples, share: float) -> tuple[Samples, Samples | None]:
    """Divide training samples into those that networks are trained on, and those held out.

    The ``share`` of each class, 0 to 1, is held out, rounded down: the same samples for every seed.
    ``None`` stands for no sample held out.
    """
    if not share:
        return train, None
    out = _are_held_out(train.labels.numpy(), share)
    return train.at(np.flatnonzero(~out)), train.at(np.flatnonzero(out))


def _are_held_out(labels: np.ndarray, share: float) -> np.ndarray:
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    out = np.zeros(len(order), bool)
    out[order] = place < np.floor(share * np.repeat(sizes, sizes))
    return out


def watched_samples(data: Samples, held_out: float = 0.0) -> np.ndarray:
    """Return indices of the samples that are watched: class-balanced parts of both splits.

    The share of the training samples that is ``held_out`` is not among them: it says nothing of how
    well a training fits.
    """
    labels, train = data.labels.numpy(), np.flatnonzero(data.split == "train")
    shown = train[~_are_held_out(labels[train], held_out)]
    return np.concatenate(
        [
            inside[balanced_subset(labels[inside], most=WATCHED, seed=0)]
            for inside in (shown, np.flatnonzero(data.split == "test"))
        ]
    )


def class_accuracy(data: Samples, history: Path | None) -> Floats | None:
    """Return the mean accuracy of each class over a training, (classes,).

    The ``history`` is a file that :func:`save_history` wrote; ``None`` gives ``None``.
    """
    if history is None:
        return None
    arrays = safetensors.numpy.load_file(history)
    training = data.split[arrays["sample"]] == "train"
    labels = data.labels.numpy()[arrays["sample"][training]]
    correct = arrays["correct"][:, training]
    return np.array([correct[:, labels == label].mean() for label in range(len(data.classes))])


def save_history(path: Path, history: History, watched: np.ndarray) -> None:
    """Write a history as arrays: ``sample`` (n,), ``correct`` and ``loss`` (epochs, n)."""
    empty = torch.zeros(0, len(watched))
    arrays = {
        "sample": watched,
        "correct": (torch.stack(history.correct) if history.correct else empty).numpy(),
        "loss": (torch.stack(history.loss) if history.loss else empty).numpy(),
    }
    safetensors.numpy.save_file(arrays, path)
