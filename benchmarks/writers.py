"""Real people with many images each: what counting images instead of people does.

    python benchmarks/writers.py --writers mnist_train_writers.parquet --mnist MNIST/raw

``--writers`` says of each training image of MNIST who wrote it (columns ``mnist_train_index``,
``writer`` and ``series``, from the labels of QMNIST: series 0 and 1 are census employees, 4 are
students); ``--mnist`` is the folder of MNIST's files. A network is trained on some writers and
quantized, and answers the images of others. These are the population: their true change is known.

Samples of writers are drawn from it, with all their images. The table says how often the 95 %
interval of a group's change holds the true change, and how often the exchange test errs where the
two networks are exchanged at random for each writer, so that there is no change: with ``unit``, by
writer, and without it, by image. Prints Markdown.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from quantskew import models, params
from quantskew.fairness.limits import change_limits, changes, unit_totals
from quantskew.fairness.paired import exchange_p_value
from quantskew.quantization.ptq import quantize_network
from quantskew.training.loop import fit

GROUPS = ("employees", "students")
EPOCHS = 2
TRAINED, TESTED, DRAWN = 20, 100, 20  # writers of each group: trained on, in the population, drawn


def images_and_labels(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the training part of MNIST: uint8 (60000, 1, 28, 28) and int64 (60000,)."""
    arrays = []
    for name, header in (("train-images-idx3-ubyte.gz", 16), ("train-labels-idx1-ubyte.gz", 8)):
        with gzip.open(folder / name) as file:
            arrays.append(np.frombuffer(file.read(), np.uint8, offset=header).copy())
    images, labels = map(torch.from_numpy, arrays)
    return images.reshape(-1, 1, 28, 28), labels.long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--writers", type=Path, required=True)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    study, rng = params.load(asked.params), np.random.default_rng(0)
    images, labels = images_and_labels(asked.mnist)
    rows = pd.read_parquet(asked.writers).sort_values("mnist_train_index")
    if not np.array_equal(rows["label"], labels.numpy()):
        raise SystemExit("the writers are not those of these images: their labels differ")
    group, writer = (rows["series"] == 4).to_numpy(int), rows["writer"].to_numpy()
    order = [rng.permutation(np.unique(writer[group == g])) for g in range(2)]
    known = np.isin(writer, np.concatenate([each[:TRAINED] for each in order]))
    network = models.build(study.models[0], classes=10, channels=1, size=28)
    part = np.flatnonzero(known)
    short = study.training.model_copy(update={"epochs": EPOCHS})
    fit(
        network, images[part], labels[part], settings=short,
        order=lambda epoch: torch.from_numpy(np.random.default_rng(epoch).permutation(len(part))),
    )  # fmt: skip
    asked_of = [each[TRAINED : TRAINED + TESTED] for each in order]
    seen = np.flatnonzero(np.isin(writer, np.concatenate(asked_of)))
    given, true = images[seen], labels[seen]
    example, weights = (
        models.as_input(images[:2], models.CPU),
        study.methods[study.reference].weights,
    )
    before = (models.logits(network, given).argmax(1) == true).numpy()
    print(
        f"{len(part):,} images of {2 * TRAINED} writers trained on, {len(seen):,} of {2 * TESTED} "
        f"answered; {asked.samples:,} samples of {DRAWN} writers of a group\n"
    )
    print("| width | group | accuracy | change | ICC | interval holds, by writer | by image | "
          "test errs, by writer | by image |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for bits in sorted(study.bits):
        made = quantize_network(network, example, bits=bits, weights=weights).network
        after = (models.logits(made, given).argmax(1) == true).numpy()
        for g, name in enumerate(GROUPS):
            of = [np.flatnonzero(writer[seen] == one) for one in asked_of[g]]
            cells = measured(
                [before[at] for at in of], [after[at] for at in of], asked.samples, rng
            )
            print(f"| {bits} | {name} | {' | '.join(cells)} |", flush=True)


def measured(
    before: list[np.ndarray], after: list[np.ndarray], samples: int, rng: np.random.Generator
) -> list[str]:
    """Draw samples of writers; lay out what their counts promise, and how often it is kept."""
    change = [b.astype(int) - a for a, b in zip(before, after, strict=True)]
    truth = np.concatenate(change).mean()
    holds, errs = np.zeros((samples, 2)), np.zeros((samples, 2))
    for number in range(samples):
        drawn = rng.integers(len(before), size=DRAWN)
        units = np.repeat(np.arange(DRAWN), [len(before[w]) for w in drawn])
        one, other = (np.concatenate([side[w] for w in drawn]) for side in (before, after))
        signs = rng.choice([-1, 1], DRAWN)[units] * (other.astype(int) - one)
        for way, of in enumerate((units, None)):
            limits = change_limits(changes(one, other, np.zeros_like(units), 1, units=of), 0.025)
            holds[number, way] = limits.low[0] <= truth <= limits.high[0]
            totals = unit_totals(signs, of)[0].astype(np.int64)
            errs[number, way] = exchange_p_value(totals) <= 0.05
    shown = [f"{100 * np.concatenate(before).mean():.1f}", f"{100 * truth:+.1f}",
             f"{correlation(change):.2f}"]  # fmt: skip
    for rates in (holds, errs):
        errors = rates.std(0) / np.sqrt(samples)
        shown += [
            f"{100 * r:.1f} ({100 * e:.1f})" for r, e in zip(rates.mean(0), errors, strict=True)
        ]
    return shown


def correlation(change: list[np.ndarray]) -> float:
    """Estimate the intra-class correlation of the changes, by the analysis of variance."""
    n, k = np.array([len(one) for one in change]), len(change)
    means, whole = np.array([one.mean() for one in change]), np.concatenate(change)
    between = (n * (means - whole.mean()) ** 2).sum() / (k - 1)
    within = sum(((one - one.mean()) ** 2).sum() for one in change) / (n.sum() - k)
    size = (n.sum() - (n**2).sum() / n.sum()) / (k - 1)
    return float((between - within) / (between + (size - 1) * within))


if __name__ == "__main__":
    main()
