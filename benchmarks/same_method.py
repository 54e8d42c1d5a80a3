"""A method against itself, on real networks: how often other seeds alone give a verdict.

    python benchmarks/same_method.py [--networks 16] [--seeds 4] [--pairs 60] [--folder runs/same]

Trains networks of the first model of ``params.yaml`` on its first data set, as the default study
does, and quantizes them by its reference. Disjoint sets of so many seeds are then compared as the
study compares two methods that retrain, over seeds: they are the same method, so that every
"worse" and "better" is false. Beside it is what is said without seeds in mind, of these very
networks. The pairs share networks, so they are no independent trials, and the error of a share is
that of leaving out one network at a time (jackknife).

Networks and comparisons are files of ``--folder``, so that a stopped run goes on. Prints Markdown.
"""

import argparse
import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from quantskew import models, params
from quantskew.analysis.effects import METHOD, NETWORKS, OUTCOMES
from quantskew.analysis.study import Study
from quantskew.baselines import train
from quantskew.data.groups import groupings
from quantskew.data.loading import Samples, load
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.fairness import bounds, contrasts, gaps, limits, paired
from quantskew.fairness.catalogue import find
from quantskew.fairness.paired import holm, measure
from quantskew.fairness.parity import Answers
from quantskew.fairness.verdicts import false_discovery_rate, verdicts
from quantskew.names import FULL_PRECISION
from quantskew.quantization.packing import open_variant
from quantskew.quantization.ptq import quantize_network
from quantskew.subject import Subject
from quantskew.training.recipe import Recipe


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
        np.savez(path, allow_pickle=False, **given)
        print(f"seed {seed}", file=sys.stderr, flush=True)
    return {int(bits): array for bits, array in np.load(path).items()}


def judge(
    study: Study, test: Samples, first: list[np.ndarray], other: list[np.ndarray], *, method: bool
) -> pd.DataFrame:
    """Compare two sets of networks as the study does, as of a method or as of these networks.

    The headline outcomes are one family, and the accuracies of groups are exploratory.
    """
    (division,) = groupings(test.attributes, study.groups_of(study.datasets[0])[:1], study.groups)
    of = (division.codes, division.counted, len(test.classes))
    before, after = (Answers(test.labels.numpy(), np.stack(side), *of) for side in (first, other))
    settings, asked = study.statistics, [*map(find, (*OUTCOMES, "accuracy"))]
    found = measure(
        after, before, metrics=asked, over_seeds=method, draws=settings.draws,
        confidence=1 - settings.alpha, rng=np.random.default_rng(settings.seed),
    )  # fmt: skip
    rows = []
    for metric in asked:
        change = found[metric.name].effect
        assert change is not None  # there is a reference
        ends = np.broadcast_arrays(change.low, change.high, change.p_value)
        rows += [(metric.name, metric.sign, *row) for row in zip(*map(np.ravel, ends), strict=True)]
    table = pd.DataFrame(rows, columns=["metric", "sign", "low", "high", "p_value"])
    headline = table["metric"].isin(OUTCOMES)
    p_value = np.where(
        headline,
        holm(table["p_value"].where(headline)),
        false_discovery_rate(table["p_value"].where(~headline)),
    )
    table["verdict"] = verdicts(
        table["low"], table["high"], settings.margin, p_value=p_value, alpha=settings.alpha,
        higher_is_better=table["sign"] > 0,
    )  # fmt: skip
    return table[["metric", "verdict"]]


def version(*settings: object) -> str:
    """Digest of the statistics and of this program."""
    used = (bounds, contrasts, gaps, limits, paired, sys.modules[__name__])
    text = "".join(map(inspect.getsource, used)) + repr(settings)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/same"))
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    whole = params.load(asked.params)
    dataset = whole.datasets[0]
    source, plain = whole.sources[dataset] or Source(), whole.methods[whole.reference]
    made_by = repr((dataset, source, whole.models[0], whole.training, plain, whole.bits))
    home = asked.folder / hashlib.sha256(made_by.encode()).hexdigest()[:12]
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "samples.parquet").exists():
        prepare(dataset, source, whole.downloads).write(home / "samples.parquet")
    given = [answers(whole, home, seed) for seed in range(asked.networks)]
    test = load(home / "samples.parquet").test
    study = whole.judged()
    rng = np.random.default_rng(0)
    folder = home / version(asked.networks, asked.seeds)
    folder.mkdir(exist_ok=True)
    parts, used = [], {}
    for pair in range(asked.pairs):
        used[pair] = drawn = rng.permutation(asked.networks)[: 2 * asked.seeds].tolist()
        for bits, method in ((b, m) for b in given[0] for m in (True, False)):
            path = folder / f"{pair}-{bits}-{method}.json"
            if not path.exists():
                sides = [[given[seed][bits] for seed in part]
                         for part in (drawn[: asked.seeds], drawn[asked.seeds :])]  # fmt: skip
                found = judge(study, test, *sides, method=method)
                path.write_text(json.dumps(found.to_dict("records")), encoding="utf-8")
            rows = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
            about = METHOD if method else NETWORKS
            parts.append(rows.assign(pair=pair, bits=bits, about=about))
    print(table(pd.concat(parts, ignore_index=True), used))


def jackknife(false: "pd.Series[bool]", used: Mapping[int, list[int]]) -> float:
    """Estimate the error of a share of pairs from leaving out each network with its pairs."""
    networks = {network for drawn in used.values() for network in drawn}
    without = [false[[n not in used[pair] for pair in false.index]].mean() for n in networks]
    return float(np.sqrt(len(without) - 1) * np.std(without))


def table(rows: pd.DataFrame, used: Mapping[int, list[int]]) -> str:
    """Lay out the share of pairs with a false verdict, in percent."""
    rows["false"] = rows["verdict"].isin(["worse", "better"])
    lines = ["| width | about | overall | FVO | worst group | any of these three (error) | any "
             "group's accuracy | pairs |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for (bits, about), part in rows.groupby(["bits", "about"]):
        by_metric = part.groupby(["metric", "pair"])["false"].any()
        three = [by_metric[metric] for metric in OUTCOMES]
        either = pd.concat(three, axis=1).any(axis=1)
        alone = " | ".join(f"{100 * share.mean():.1f}" for share in three)
        lines.append(
            f"| {bits} | {about} | {alone} | {100 * either.mean():.1f} "
            f"({100 * jackknife(either, used):.1f}) | {100 * by_metric['accuracy'].mean():.1f} "
            f"| {part['pair'].nunique()} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
