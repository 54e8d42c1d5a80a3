"""A method against itself, on real networks: how often other seeds alone give a verdict.

    python benchmarks/same_method.py [--networks 12] [--seeds 4] [--pairs 40] [--folder runs/same]

Trains networks of the first model of ``params.yaml`` on its first data set, as the default study
does, and quantizes them by its reference. Disjoint sets of so many seeds are then compared as the
study compares two methods that retrain, over seeds: they are the same method, so that every
"worse" and "better" is false. Beside it is what is said without seeds in mind, of these very
networks. The pairs share networks, so their number is not one of independent trials.

Networks and comparisons are files of ``--folder``, so that a stopped run goes on. Prints Markdown.
"""

import argparse
import hashlib
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from quantskew import models, params
from quantskew.analysis import effects
from quantskew.analysis.effects import HEADLINE, METHOD, NETWORKS, Predictions, analyze
from quantskew.analysis.study import Study
from quantskew.baselines import train
from quantskew.data.groups import groupings
from quantskew.data.loading import Samples, load
from quantskew.data.prepare import prepare
from quantskew.fairness import bounds, contrasts, gaps, limits, paired, verdicts
from quantskew.names import BASELINE, FULL_PRECISION, Point
from quantskew.quantization.packing import open_variant
from quantskew.quantization.ptq import quantize_network
from quantskew.subject import Subject
from quantskew.training.recipe import Recipe

AGAIN = "again"
"""Name of the other seeds; to the study they are a method that retrains."""
RETRAINS = {"training": {"kind": "qat"}, "recipe": {}}


def answers(study: params.Params, folder: Path, seed: int) -> dict[int, np.ndarray]:
    """Train and quantize the network of a seed, and return its test answers by width."""
    path = folder / f"answers-{seed}.npz"
    if not path.exists():
        subject = Subject(samples=folder / "samples.parquet", model=study.models[0])
        inside = folder / f"seed-{seed}"
        inside.mkdir(exist_ok=True)
        train(inside, subject=subject, seed=seed, training=study.training, recipe=Recipe())
        network = open_variant(subject.at(inside / "network.safetensors"))
        test = subject.data().test
        example = models.as_input(test.images[:2], models.CPU)
        weights = study.methods[study.reference].weights
        made = {FULL_PRECISION: network} | {
            bits: quantize_network(network, example, bits=bits, weights=weights).network
            for bits in study.bits
        }
        given = {
            str(bits): models.logits(one, test.images).argmax(1).numpy()
            for bits, one in made.items()
        }
        np.savez(path, **given)
        print(f"seed {seed}", file=sys.stderr, flush=True)
    return {int(bits): array for bits, array in np.load(path).items()}


def judge(
    study: Study, test: Samples, first: list[np.ndarray], other: list[np.ndarray], *, method: bool
) -> pd.DataFrame:
    """Compare two sets of networks as the study does, as of a method or as of these networks."""
    place = (study.datasets[0], study.models[0])
    predicted = {
        Point(*place, BASELINE, FULL_PRECISION): np.stack(first),
        Point(*place, AGAIN, FULL_PRECISION): np.stack(other),
    }
    asked = study if method else study.model_copy(update={"methods": {}})
    seeds = [*range(len(first))]
    given = Predictions(test.labels.numpy(), len(test.classes), seeds, predicted)
    divisions = groupings(test.attributes, study.groups_of(place[0])[:1], study.groups)
    found = analyze(given, divisions, asked).effects
    if set(found["about"]) != {METHOD if method else NETWORKS}:
        raise AssertionError("it was judged as something else")
    return found


def version(*settings: object) -> str:
    """Digest of the statistics and of this program."""
    used = (effects, bounds, contrasts, gaps, limits, paired, verdicts, sys.modules[__name__])
    text = "".join(map(inspect.getsource, used)) + repr(settings)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/same"))
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    whole = params.load(asked.params)
    asked.folder.mkdir(parents=True, exist_ok=True)
    if not (asked.folder / "samples.parquet").exists():
        dataset = whole.datasets[0]
        made = prepare(dataset, whole.sources[dataset], whole.downloads)
        made.write(asked.folder / "samples.parquet")
    given = [answers(whole, asked.folder, seed) for seed in range(asked.networks)]
    test = load(asked.folder / "samples.parquet").test
    study = whole.judged().model_copy(
        update={"methods": {AGAIN: RETRAINS}, "mitigations": {}, "reference": AGAIN}
    )
    rng = np.random.default_rng(0)
    folder = asked.folder / version(asked.networks, asked.seeds)
    folder.mkdir(exist_ok=True)
    parts = []
    for pair in range(asked.pairs):
        drawn = rng.permutation(asked.networks)[: 2 * asked.seeds].tolist()
        for bits, method in ((b, m) for b in given[0] for m in (True, False)):
            path = folder / f"{pair}-{bits}-{method}.json"
            if not path.exists():
                sides = [[given[seed][bits] for seed in part]
                         for part in (drawn[: asked.seeds], drawn[asked.seeds :])]  # fmt: skip
                found = judge(study, test, *sides, method=method)
                columns = ["metric", "group", "family", "about", "change", "verdict"]
                path.write_text(json.dumps(found[columns].to_dict("records")), encoding="utf-8")
            rows = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
            parts.append(rows.assign(pair=pair, bits=bits))
    print(table(pd.concat(parts, ignore_index=True)))


def table(rows: pd.DataFrame) -> str:
    """Lay out the share of pairs with a false verdict."""
    rows["false"] = rows["verdict"].isin(["worse", "better"])
    rows["group accuracy"] = rows["metric"] == "accuracy"
    headline = rows[rows["family"] == HEADLINE]
    lines = ["| width | about | overall | FVO | worst group | any of these three | accuracy of any "
             "group | pairs |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for (bits, about), part in headline.groupby(["bits", "about"]):
        same = rows[(rows["bits"] == bits) & (rows["about"] == about)]
        by_metric = part.groupby("metric")["false"].mean()
        every = part.groupby("pair")["false"].any()
        groups = same[same["group accuracy"]].groupby("pair")["false"].any()
        shares = [*by_metric[[*effects.OUTCOMES]], every.mean(), groups.mean()]
        cells = " | ".join(f"{100 * share:.1f}" for share in shares)
        lines.append(f"| {bits} | {about} | {cells} | {len(every)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
