"""One loop for training, quantization-aware training and fine-tuning."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from quantskew.files import replacing, write_json
from quantskew.models import as_input, logits
from quantskew.training.augmentation import Augment
from quantskew.training.losses import CrossEntropy
from quantskew.training.settings import Training

CHECKPOINT_SECONDS = 60
BAR_AFTER_SECONDS = 20


class DivergedError(RuntimeError):
    """The loss is no longer finite."""


@dataclass
class History:
    """What a network knew after each epoch about the samples that were watched, and what it took.

    ``correct`` is uint8 and ``loss`` float32, both (epochs so far, watched samples). ``images``
    went forward and backward, in ``seconds`` of wall time; what an interruption lost is not in it.
    """

    correct: list[Tensor] = field(default_factory=list)
    loss: list[Tensor] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0

    def watch(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Add an epoch."""
        outputs = logits(network, images)
        self.correct.append((outputs.argmax(1) == labels).to(torch.uint8))
        self.loss.append(functional.cross_entropy(outputs, labels, reduction="none"))

    def write_cost(self, path: Path) -> None:
        """Write ``images`` and ``seconds`` as JSON."""
        write_json(path, {"images": self.images, "seconds": self.seconds})


def make_optimizer(groups: Sequence[dict[str, Any]], settings: Training) -> torch.optim.Optimizer:
    """Optimizer over groups of parameters; a group may carry its own learning rate."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay, fused=True)


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """All parameters; weight decay spares biases and the scales of normalization."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def rate_factor(share: float, settings: Training) -> float:
    """Learning rate at a share of the training, relative to its peak.

    After a linear warm-up: ``cosine`` to zero, ``step`` (a tenth at 1/2, a hundredth at 3/4), or
    ``constant``.
    """
    if share < settings.warmup:
        return (share + 1e-3) / (settings.warmup + 1e-3)
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "step":
        return 0.1 ** ((share >= 0.5) + (share >= 0.75))
    after = (share - settings.warmup) / (1 - settings.warmup)
    return 0.5 * (1 + math.cos(math.pi * after))


def fit(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    settings: Training,
    order: Callable[[int], Tensor],
    seed: int = 0,
    groups: Sequence[dict[str, Any]] | None = None,
    objective: nn.Module | None = None,
    augment: Augment | None = None,
    penalty: Callable[[float], Tensor] | None = None,
    after_step: Callable[[float], None] | None = None,
    kept: nn.Module | None = None,
    watched: tuple[Tensor, Tensor] | None = None,
    history: History | None = None,
    checkpoint: Path | None = None,
    title: str = "train",
) -> History:
    """Train a network in place, with a progress bar if it takes longer than some seconds.

    Parameters
    ----------
    network
        On the device it is to be trained on.
    images, labels
        uint8 (N, C, H, W) and int64 (N,) on the CPU.
    settings
        Epochs, batch size, optimizer and schedule.
    order
        From the number of an epoch to the indices of its samples. It must depend on nothing else,
        so that an interrupted training goes on as if it had not been.
    seed
        Of what the network draws itself, such as dropout; torch is seeded anew for every epoch.
    groups
        Groups of parameters for the optimizer; :func:`parameter_groups` by default.
    objective
        One of :mod:`quantskew.training.losses`; the cross-entropy by default. What it learns
        survives an interruption.
    augment
        See :func:`quantskew.training.augmentation.augmenter`.
    penalty
        Added to the loss; called with the share of the training that is done, in [0, 1).
    after_step
        Called after every step with the same share.
    kept
        What ``penalty`` and ``after_step`` remember; like the objective's, it survives an
        interruption.
    watched
        Images and labels whose accuracy and loss are recorded after every epoch.
    history
        Where to record; a new one by default. It is returned.
    checkpoint
        File for going on after an interruption; written at most once a minute.
    title
        Stands before the progress bar.

    Raises
    ------
    DivergedError
        When the loss becomes NaN or infinite.
    """
    where = next(network.parameters()).device
    optimizer = make_optimizer(groups or parameter_groups(network), settings)
    rates = [group["lr"] for group in optimizer.param_groups]
    objective = (CrossEntropy() if objective is None else objective).to(where)
    learned = nn.ModuleDict({"network": network, "objective": objective})
    if kept is not None:
        learned["kept"] = kept
    history = History() if history is None else history
    first = _resume(checkpoint, learned, optimizer, history)
    saved = time.monotonic()
    started = saved - history.seconds
    epochs = tqdm(
        range(first, settings.epochs), title, settings.epochs, initial=first, unit="epoch",
        delay=BAR_AFTER_SECONDS, leave=False, dynamic_ncols=True,
    )  # fmt: skip
    for epoch in epochs:
        network.train()
        torch.manual_seed(seed * 1_000_003 + epoch)
        # a last batch of one sample has no variance to normalize by
        batches = [b for b in order(epoch).split(settings.batch_size) if len(b) > 1]
        for number, batch in enumerate(batches):
            share = (epoch + number / len(batches)) / settings.epochs
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * rate_factor(share, settings)
            inputs, targets = as_input(images[batch], where), labels[batch].to(where)
            if augment is not None:
                inputs, targets = augment(inputs, targets, epoch, number)
            loss = objective(network(inputs), targets, batch.to(where))
            if penalty is not None:
                loss = loss + penalty(share)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            history.images += len(batch)
            if after_step is not None:
                after_step(share)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss.item()} in epoch {epoch + 1} of {settings.epochs} at a "
                f"learning rate of {settings.lr:g}; a smaller one may help"
            )
        if watched is not None:
            history.watch(network, *watched)
        history.seconds = time.monotonic() - started
        if checkpoint and time.monotonic() - saved > CHECKPOINT_SECONDS:
            _save(checkpoint, learned, optimizer, history, epoch + 1)
            saved = time.monotonic()
    network.eval()
    return history


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def _save(
    path: Path, learned: nn.Module, optimizer: torch.optim.Optimizer, history: History, epochs: int
) -> None:
    tensors = {**learned.state_dict(), **_optimizer_tensors(optimizer)}
    if history.correct:
        tensors |= {"correct": torch.stack(history.correct), "loss": torch.stack(history.loss)}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    done = {"epochs": epochs, "images": history.images, "seconds": history.seconds}
    metadata = {key: str(value) for key, value in done.items()}
    with replacing(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=metadata)


def _resume(
    path: Path | None, learned: nn.Module, optimizer: torch.optim.Optimizer, history: History
) -> int:
    """Restore a checkpoint; return the number of epochs that are done."""
    if path is None or not path.exists():
        return 0
    try:
        with safetensors.safe_open(path, "pt") as file:
            done = file.metadata()
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError):
        return 0
    learned.load_state_dict({key: tensors[key] for key in learned.state_dict()})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    if "correct" in tensors:
        history.correct[:], history.loss[:] = list(tensors["correct"]), list(tensors["loss"])
    history.images, history.seconds = int(done["images"]), float(done["seconds"])
    return int(done["epochs"])
