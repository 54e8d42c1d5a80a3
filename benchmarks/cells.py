"""What cells cost beside their work, how they share the cores, and what the full grid would take.

    python benchmarks/cells.py overhead     # milliseconds of a cell without work
    python benchmarks/cells.py cores        # cells a minute by processes and threads
    python benchmarks/cells.py nodes        # 1,000 cells on two nodes of Ray, one lost half-way
    python benchmarks/cells.py projection [TFLOP/s of a GPU]

``cores`` trains the default network for an epoch, a cell a seed; run it where nothing else runs.
The limit is what as many processes of a plain loop of PyTorch reach beside each other: cores share
memory, caches and clock.
``nodes`` trains 1,000 networks for a moment, each in a cell, on two nodes of this machine. It ends
with 1 if a cell is lost, or a file has other bytes than in two processes.
``projection`` counts the arithmetic of each architecture and measures the rest on this machine.
"""

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from quantskew import models
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.engine import cells, compute
from quantskew.engine.cells import Cell
from quantskew.engine.compute import Compute
from quantskew.engine.fingerprint import file_hash
from quantskew.subject import Subject
from quantskew.training.recipe import Recipe
from quantskew.training.training import Training

PLACES = {
    "in this process": Compute(where="here"),
    "2 processes": Compute(workers=2),
}
ARCHITECTURES = (
    "resnet18", "resnet50", "vgg19", "mobilenetv2", "efficientnet_b0", "vit_small", "squeezenet1_1",
)  # fmt: skip
# the full grid: what is assumed of it
DATASETS, SEEDS, METHODS, WIDTHS = 11, 5, 20, 6
IMAGES, TEST_IMAGES, SIDE, EPOCHS, QAT_EPOCHS, QAT_SHARE = 30_000, 10_000, 64, 30, 3, 0.5
GPU_TFLOPS = 50.0  # an H100 does 495 dense in TF32; small images leave most of that idle


def nothing(folder: Path, *, number: int) -> None:
    (folder / "number.txt").write_text(str(number), encoding="utf-8")


def each(few: list[Cell], many: list[Cell], compute: Compute) -> float:
    """Seconds a cell, each run in a store of its own, without what a run takes to start."""
    seconds = {}
    for work in (few, few, many):  # the first starts what stays for the others
        with tempfile.TemporaryDirectory() as store:
            os.environ["QUANTSKEW_CELLS"] = store
            start = time.perf_counter()
            cells.run(work, title=compute.where, compute=compute)
            seconds[len(work)] = time.perf_counter() - start
    return (seconds[len(many)] - seconds[len(few)]) / (len(many) - len(few))


def overhead(compute: Compute) -> float:
    """Seconds a cell without work."""
    few, many = (
        [Cell(str(n), "cells:nothing", number=n) for n in range(size)] for size in (20, 420)
    )
    return each(few, many, compute)


def trained(samples: Path, compute: Compute) -> float:
    """Cells a minute."""
    subject = Subject(samples=samples, model="resnet18_quarter")
    work = [
        Cell(
            f"seed {seed}", "quantskew.baselines:train", subject=subject, seed=seed,
            training=Training(epochs=1, batch_size=32), recipe=Recipe(),
        )
        for seed in range(12)
    ]  # fmt: skip
    return 60 / each(work[:4], work, compute)


def pace(seconds: float) -> float:
    """Training steps a second of a plain loop on one thread."""
    torch.set_num_threads(1)
    network = models.build("resnet18_quarter", classes=10, channels=1, size=28)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images, labels = torch.rand(32, 1, 28, 28), torch.randint(10, (32,))
    begun, steps = float("nan"), -10  # to warm up
    while not time.perf_counter() - begun > seconds:
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        steps += 1
        if steps == 0:
            begun = time.perf_counter()
    return steps / (time.perf_counter() - begun)


def limit(processes: int) -> float:
    """Steps of plain loops beside each other, to those of one alone, a process."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        (alone,) = pool.map(pace, [10.0])
        return sum(pool.map(pace, [10.0] * processes, chunksize=1)) / alone / processes


def cores() -> None:
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder, "mnist5k.parquet")
        prepare("mnist5k", Source(imbalance="paper"), folder).write(samples)
        base = trained(samples, Compute(where="here", cpus=1))
        print(f"1 process, 1 thread: {base:.1f} cells a minute")
        here = compute.cores()
        splits = {(n, 1) for n in (2, 4)} | {(1, here), (max(1, here // 2), 2)}
        for processes, threads in sorted(s for s in splits if s[0] * s[1] <= here and s != (1, 1)):
            rate = trained(samples, Compute(workers=processes, cpus=threads))
            share = rate / base / (processes * threads)
            print(f"{processes} processes, {threads} threads: {rate:.1f}, {share:.2f} a core"
                  + (f", limit {limit(processes):.2f}" if threads == 1 else ""))  # fmt: skip


def nodes(count: int = 1000) -> int:
    """Run cells in two processes, then on two nodes, and take one of these away half-way."""
    import ray
    from ray.cluster_utils import Cluster

    def timed(compute: Compute, folder: Path) -> dict[str, str]:
        os.environ["QUANTSKEW_CELLS"] = str(folder)
        start = time.perf_counter()
        made = cells.run(work, title=compute.where, compute=compute)
        seconds = time.perf_counter() - start
        print(f"{compute.where}: {len(made)} of {count} cells in {seconds:.0f} s")
        files = ((cell, path) for cell, one in made.items() for path in one.iterdir())
        measured = "cost.json"  # times
        return {f"{cell} {p.name}": file_hash(p) for cell, p in files if p.name != measured}

    def take_away(folder: Path) -> None:
        while sum(not path.suffix for path in folder.glob("??/*")) < count // 2:
            time.sleep(0.05)
        cluster.remove_node(second)

    with tempfile.TemporaryDirectory() as scratch:
        samples = Path(scratch, "digits.parquet")
        prepare("digits", Source(imbalance=(0.1,) * 10), scratch).write(samples)
        subject = Subject(samples=samples, model="resnet18_quarter")
        work = [
            Cell(
                f"seed {seed}", "quantskew.baselines:train", subject=subject, seed=seed,
                training=Training(epochs=1, batch_size=32), recipe=Recipe(),
            )
            for seed in range(count)
        ]  # fmt: skip
        expected = timed(Compute(workers=2), Path(scratch, "processes"))
        head = {"num_cpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        second = cluster.add_node(num_cpus=1)
        ray.init(cluster.address, log_to_driver=False)
        folder = Path(scratch, "nodes")
        thread = threading.Thread(target=take_away, args=[folder])
        thread.start()
        found = timed(Compute(where="ray"), folder)
        thread.join()
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]
    other = [name for name in expected | found if expected.get(name) != found.get(name)]
    print(f"{len(found)} files, of which {len(other)} differ: {other[:3]}")
    return bool(other)


def projection(tflops: float) -> None:
    idle = overhead(PLACES["in this process"])
    forward = {}
    for name in ARCHITECTURES:
        network = models.build(name, classes=10, channels=3, size=SIDE).eval()
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(torch.zeros(1, 3, SIDE, SIDE))
        forward[name] = counter.get_total_flops()
    mean = sum(forward.values()) / len(forward)
    networks = DATASETS * len(ARCHITECTURES) * SEEDS
    variants = networks * METHODS * WIDTHS
    images = {  # a training step is a forward and a backward pass, which is two
        "train": 3 * networks * EPOCHS * IMAGES,
        "quantize": 3 * variants * QAT_SHARE * QAT_EPOCHS * IMAGES,
        "evaluate": (networks + variants) * TEST_IMAGES,
    }
    print(f"{variants:,} variants of {networks:,} networks; {IMAGES:,} training and {TEST_IMAGES:,}"
          f" test images of {SIDE}×{SIDE}; {EPOCHS} epochs, {QAT_EPOCHS} of QAT for "
          f"{QAT_SHARE:.0%} of the variants; no curvature, no retrained remedies")  # fmt: skip
    print(f"measured here: {mean / 1e9:.2f} GFLOP an image forward, mean of "
          f"{', '.join(f'{n} {f / 1e9:.2f}' for n, f in forward.items())}; "
          f"{1000 * idle:.1f} ms a cell beside its work")  # fmt: skip
    print(
        f"assumed, not measured: {tflops:g} TFLOP/s for all cells on a GPU together; data at hand"
    )
    hours = {stage: n * mean / (tflops * 1e12) / 3600 for stage, n in images.items()}
    for stage, spent in hours.items():
        print(f"{stage:>10}: {spent:8.1f} GPU hours")
    waiting = (2 * variants + networks) * idle / 3600
    for gpus in (1, 8):
        print(f"{gpus} H100: {sum(hours.values()) / gpus + waiting:.1f} hours, of which"
              f" {waiting:.2f} are the cells' own cost, one after another")  # fmt: skip


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else "overhead"
    if what == "overhead":
        for place, where in PLACES.items():
            print(f"{place}: {1000 * overhead(where):.1f} ms a cell without work")
    elif what == "cores":
        cores()
    elif what == "nodes":
        sys.exit(nodes())
    else:
        projection(float(sys.argv[2]) if len(sys.argv) > 2 else GPU_TFLOPS)
