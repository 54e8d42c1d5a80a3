"""What the answers of a file take beside a loop of its runtime, in time and memory.

    python benchmarks/feeding.py [images]

JPEGs of 224×224 pixels lie in a Parquet table, and MobileNetV2 in an ONNX file. ``quantskew
answers`` and a loop of ONNX Runtime that decodes the same batches by the same threads of Pillow
answer them in turn, each in a process of its own. Exits with 1 if their answers differ.
"""

import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow.parquet as pq
import torch

from quantskew import models
from quantskew.analysis.gate import Feeding
from quantskew.deployment import onnx_files
from quantskew.deployment.answers import write_answers
from quantskew.deployment.runtimes import BATCH
from quantskew.deployment.runtimes.onnx_runtime import session

SIDE, CLASSES = 224, 10


def write(folder: Path, count: int) -> None:
    """Write the file of the network and the table of images."""
    torch.manual_seed(0)
    network = models.build("mobilenetv2", classes=CLASSES, channels=3, size=SIDE).eval()
    onnx_files.export(network, torch.rand(2, 3, SIDE, SIDE), folder / "fp32.onnx", {})
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = PIL.Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((SIDE, SIDE)).save(file, "JPEG")
        images.append(file.getvalue())
    rows = pd.DataFrame({"id": range(count), "image": images, "label": np.arange(count) % CLASSES})
    rows.to_parquet(folder / "test.parquet")


def ours(folder: Path) -> None:
    """Answer as ``quantskew answers`` does."""
    plainly = Feeding.model_validate({})
    write_answers(folder / "fp32.onnx", folder / "test.parquet", folder / "ours.parquet", plainly)


def loop(folder: Path) -> None:
    """Answer in a loop that keeps nothing but the answers."""

    def values(image: bytes) -> np.ndarray:
        with PIL.Image.open(io.BytesIO(image)) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.float32)
        return pixels.transpose(2, 0, 1) / 255

    network, answers = session(folder / "fp32.onnx"), []
    (given,) = network.get_inputs()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in pq.ParquetFile(folder / "test.parquet").iter_batches(BATCH, columns=["image"]):
            images = np.stack([*pool.map(values, batch["image"].to_pylist())])
            answers.append(network.run(None, {given.name: images})[0].argmax(1))
    pd.DataFrame({"prediction": np.concatenate(answers)}).to_parquet(folder / "loop.parquet")


def measured(work: Callable[[Path], None], folder: Path, report: str) -> None:
    """Print what some work takes, from after the imports on."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work(folder)
    took, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path(folder, report).write_text(f"{took} {(peak - before) / 1024}", encoding="utf-8")


def main(count: int) -> int:
    """Compare both, twice in turn."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        folder, ratios = Path(scratch), []
        write(folder, count)
        for _ in range(2):
            seconds = []
            for work in (ours, loop):
                process = context.Process(target=measured, args=(work, folder, "report"))
                process.start()
                process.join()
                took, more = map(float, (folder / "report").read_text().split())
                seconds.append(took)
                print(f"{work.__name__}: {count:,} images in {took:.1f} s, {more:.0f} MB more than "
                      "before", flush=True)  # fmt: skip
            ratios.append(seconds[0] / seconds[1])
        print("ours to loop:", ", ".join(f"{ratio:.2f}" for ratio in ratios))
        found = [pd.read_parquet(folder / f"{name}.parquet") for name in ("ours", "loop")]
    same = (found[0]["prediction"].astype(int) == found[1]["prediction"]).mean()
    print(f"answers alike: {100 * same:.2f} %")
    return int(same < 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
