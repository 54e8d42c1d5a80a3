"""Time every group metric and its bootstrap: ours on counts, fairlearn's on samples.

One test set of 2,000 samples, ten classes, five groups; accuracy of each group and, for each class
against the rest, selection rate, true and false positive rate, their differences and ratios.
fairlearn gets them in its fastest form, one MetricFrame. Ours also resamples the fp32 network on
the same samples, subtracts, and runs the exchange test, which fairlearn has not.

    python benchmarks/bootstrap.py [draws]
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from fairlearn.metrics import MetricFrame

from quantskew.fairness import catalogue
from quantskew.fairness.paired import measure
from quantskew.fairness.parity import Answers

SAMPLES, CLASSES, GROUPS = 2000, 10, 5


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rate(labels: np.ndarray, predictions: np.ndarray, *, k: int, among: bool | None) -> float:
    chosen = predictions if among is None else predictions[(labels == k) == among]
    return float(np.mean(chosen == k))


def main(draws: int) -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(CLASSES, size=SAMPLES), rng.integers(GROUPS, size=SAMPLES)
    fp32 = np.where(rng.random(SAMPLES) < 0.92, labels, rng.integers(CLASSES, size=SAMPLES))
    int4 = np.where(rng.random(SAMPLES) < 0.9, fp32, rng.integers(CLASSES, size=SAMPLES))
    of = (groups, np.ones(GROUPS, bool), CLASSES)

    def answers(predictions: np.ndarray) -> Answers:
        return Answers(labels, predictions[None], *of)

    def ours(draws: int) -> None:
        measure(answers(int4), answers(fp32), draws=draws, rng=rng)

    metrics = {"accuracy": lambda labels, predictions: float(np.mean(labels == predictions))}
    for k in range(CLASSES):
        for name, among in (("selection", None), ("true", True), ("false", False)):
            metrics[f"{name}{k}"] = partial(rate, k=k, among=among)

    def fairlearns(**bootstrap: object) -> None:
        MetricFrame(
            metrics=metrics, y_true=labels, y_pred=int4, sensitive_features=groups, **bootstrap
        )

    def once() -> None:
        catalogue.values(answers(int4))

    ours(10)  # imports and caches
    here, there = seconds(once), seconds(fairlearns)
    print(f"one network: fairlearn {there:.2f} s, quantskew {here:.4f} s, {there / here:,.0f}×")
    resampling = {"n_boot": draws, "ci_quantiles": [0.025, 0.975], "random_state": 0}
    here, there = seconds(lambda: ours(draws)), seconds(lambda: fairlearns(**resampling))
    print(f"{draws} draws: fairlearn {there:.1f} s, quantskew {here:.4f} s, {there / here:,.0f}×")
    print(f"10,000 draws: quantskew {seconds(lambda: ours(10_000)):.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
