"""One loop for training, quantization-aware training and fine-tuning."""

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

from quantskew.errors import UserError
from quantskew.files import replacing, write_json
from quantskew.models import as_input, logits
from quantskew.training.augmentation import Augment
from quantskew.training.losses import CrossEntropy
from quantskew.training.objective import Objective
from quantskew.training.training import Training

CHECKPOINT_SECONDS = 60
BAR_AFTER_SECONDS = 20


class DivergedError(UserError, RuntimeError):
    """The loss is no longer finite."""


@dataclass
class History:
    """How a network answered some watched samples after each epoch, and what its training cost.

    ``correct`` and ``loss`` hold one tensor for each epoch so far, (watched samples,), uint8 and
    float32. ``images`` counts those that went forward and backward, and ``seconds`` is the wall
    time, without work that an interruption lost.
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


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Divide the trained parameters so that biases and scales of norms have no weight decay."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


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
    """Train a network in place; a training of more than some seconds shows a progress bar.

    Parameters
    ----------
    network
        On the device that it is to be trained on.
    images, labels
        uint8 (N, C, H, W) and int64 (N,) on the CPU.
    order
        From the number of an epoch to the indices of its samples. It must depend on nothing else,
        so that an interrupted training goes on as if it had not been interrupted.
    seed
        Of what the network itself draws, such as dropout; torch is seeded anew every epoch.
    groups
        Groups of parameters for the optimizer; :func:`parameter_groups` by default.
    objective
        What is minimized; the cross-entropy by default. Its state is saved in checkpoints.
    augment
        See :meth:`quantskew.training.augmentation.Augmentation.augmenter`.
    penalty, after_step, kept
        Added to the loss, and called after every step; both are given the share of the training
        that is done, in [0, 1). ``kept`` is their state, saved in checkpoints too.
    watched, history
        Images and labels whose accuracy and loss are recorded after every epoch, and where; a new
        history, which is returned, by default.
    checkpoint
        File from which an interrupted training is resumed; written at most once a minute.

    Raises
    ------
    DivergedError
        When the loss becomes NaN or infinite.
    """
    where = next(network.parameters()).device
    optimizer = settings.optimizer.over(
        groups or parameter_groups(network), settings.lr, settings.weight_decay
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    objective = (Objective(CrossEntropy()) if objective is None else objective).to(where)
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
        # batch norm needs a variance, which a last batch of one sample does not have
        batches = [b for b in order(epoch).split(settings.batch_size) if len(b) > 1]
        for number, batch in enumerate(batches):
            share = (epoch + number / len(batches)) / settings.epochs
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * settings.schedule.factor(share, settings.warmup)
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


def _save(
    path: Path, learned: nn.Module, optimizer: torch.optim.Optimizer, history: History, epochs: int
) -> None:
    tensors = {
        f"optimizer.{index}.{key}": value
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if value is not None  # what is not a tensor cannot be stored, and is an error
    }
    if history.correct:
        tensors |= {"correct": torch.stack(history.correct), "loss": torch.stack(history.loss)}
    progress = torch.tensor([epochs, history.images, history.seconds], dtype=torch.float64)
    tensors |= {**learned.state_dict(), "progress": progress}
    # copies, for layers may share a parameter
    tensors = {key: value.cpu().contiguous().clone() for key, value in tensors.items()}
    with replacing(path) as temporary:
        safetensors.torch.save_file(tensors, temporary)


def _resume(
    path: Path | None, learned: nn.Module, optimizer: torch.optim.Optimizer, history: History
) -> int:
    """Restore a checkpoint; return the number of epochs that are done."""
    if path is None or not path.exists():
        return 0
    try:
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
    epochs, images, history.seconds = tensors["progress"].tolist()
    history.images = int(images)
    return int(epochs)
