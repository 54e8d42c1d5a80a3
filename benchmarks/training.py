"""Images a second in training: our loop against a plain one of PyTorch, in turns, in one run.

``python benchmarks/training.py [DATASET MODEL]``, at the root of a study whose stage ``download``
has run; by default its first data set and model. The plain loop has the same network, batches,
optimizer and schedule and nothing else: no history, no checkpoints, no search for NaN, in a process
that is set up as PyTorch sets it up; ours runs in one that is set up as for a cell. The ratio
(limit: 1.0) is the median over rounds. On a CPU there is one thread, as a cell has. Prints JSON.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch
from torch import nn
from torch.nn import functional

from quantskew import models, params
from quantskew.data.loading import load
from quantskew.engine import compute
from quantskew.layout import samples_path
from quantskew.training.loop import fit
from quantskew.training.training import Training


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


def rate(loop: str, dataset: str, model: str, images: int) -> float:
    """Images a second over an epoch of a new network."""
    study = params.load()
    torch.set_num_threads(1)  # two would wait for each other where other work takes the cores
    data = load(samples_path(dataset))
    count = images or len(data.train)
    examples = data.train.images[:count], data.train.labels[:count]
    settings = study.training.model_copy(update={"epochs": 1})
    network = models.build_for(data, model, study.architectures.get(model)).to(models.device())
    start = time.perf_counter()
    if loop == "ours":
        fit(network, *examples, settings=settings, order=lambda epoch: torch.randperm(count))
    else:
        plain(network, *examples, settings)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def main() -> None:
    study = params.load()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", default=study.datasets[0])
    parser.add_argument("model", nargs="?", default=study.models[0])
    parser.add_argument("--images", type=int, default=480, help="an epoch; 0: all there are")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    new = partial(ProcessPoolExecutor, 1, get_context("spawn"))
    with new(initializer=compute.keep_freed_memory) as ours, new() as peer:
        places = {"ours": ours, "plain": peer}
        rounds = [
            {
                loop: place.submit(rate, loop, given.dataset, given.model, given.images).result()
                for loop, place in places.items()
            }
            for _ in range(given.rounds + 1)
        ][1:]  # the first warms up
    result = {
        "dataset": given.dataset,
        "model": given.model,
        "batch_size": study.training.batch_size,
        "threads": 1,
        "ours_images_per_second": round(statistics.median(r["ours"] for r in rounds), 1),
        "plain_images_per_second": round(statistics.median(r["plain"] for r in rounds), 1),
        "ratio": round(statistics.median(r["ours"] / r["plain"] for r in rounds), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
