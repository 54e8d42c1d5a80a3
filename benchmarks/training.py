"""Images a second in training: our loop against a plain one of PyTorch, in turns, in one run.

``python benchmarks/training.py [DATASET MODEL]``, at the root of a study whose stage ``download``
has run; by default its first data set and model. The plain loop has the same network, batches,
optimizer and schedule and nothing else: no history, no checkpoints, no search for NaN. The ratio
(limit: 1.0) is the median over rounds. On a CPU there is one thread, as a cell has. Prints JSON.
"""

import argparse
import copy
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from quantskew import models, params
from quantskew.data.loading import load
from quantskew.params import Training
from quantskew.training.loop import fit
from quantskew.variants import samples_path


def plain(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, settings: Training
) -> None:
    device = next(network.parameters()).device
    network.train()
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True
    )
    steps = -(-len(labels) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in torch.randperm(len(labels)).split(settings.batch_size):
        inputs = images[batch].to(device).float() / 255
        loss = functional.cross_entropy(network(inputs), labels[batch].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    study = params.load()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", default=study.datasets[0])
    parser.add_argument("model", nargs="?", default=study.models[0])
    parser.add_argument("--images", type=int, default=480, help="an epoch; 0: all there are")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)  # two would wait for each other where other work takes the cores
    data = load(samples_path(given.dataset))
    count = given.images or len(data.train)
    images, labels = data.train.images[:count], data.train.labels[:count]
    settings = study.training.model_copy(update={"epochs": 1})
    network = models.build_for(data, given.model, study.architectures.get(given.model))
    network = network.to(models.device())

    def order(epoch: int) -> torch.Tensor:
        return torch.randperm(len(labels))

    loops = {
        "ours": lambda n: fit(n, images, labels, settings=settings, order=order),
        "plain": lambda n: plain(n, images, labels, settings),
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(given.rounds + 1):  # the first warms up
        for name, loop in loops.items():
            copied = copy.deepcopy(network)
            start = time.perf_counter()
            loop(copied)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                rates[name].append(len(labels) / (time.perf_counter() - start))
    pairs = zip(rates["ours"], rates["plain"], strict=True)
    result = {
        "dataset": given.dataset,
        "model": given.model,
        "batch_size": settings.batch_size,
        "threads": torch.get_num_threads(),
        "ours_images_per_second": round(statistics.median(rates["ours"]), 1),
        "plain_images_per_second": round(statistics.median(rates["plain"]), 1),
        "ratio": round(statistics.median(ours / peer for ours, peer in pairs), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
