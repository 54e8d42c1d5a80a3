"""Time fp32 against int8 files in ONNX Runtime, as ratios within one run, and say where it goes.

* ResNet-18 on 64×64 and 224×224, MobileNetV2 on 224×224, one image and 32 at a time
* sizes of the files
* the profile of a batch of 32: milliseconds by kind of operator

    python benchmarks/deployment.py [seconds for each batch size] [threads]

How much int8 can gain depends on the processor. Of 256 bits, one multiplication does 8 products of
floats (fused multiply-add), or 16 of bytes without VNNI: 32 products take two, vpmaddubsw and then
vpmaddwd. So ×2 is what AVX2 has to give, where the arithmetic is all; with VNNI the 32 take one
instruction and the limit is ×4, with AMX it is higher.
"""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

from quantskew import models
from quantskew.deployment import onnx_files
from quantskew.deployment.latency import compare, machine
from quantskew.deployment.runtimes import open_file
from quantskew.deployment.runtimes.onnx_runtime import session

NETWORKS = (("resnet18", 64), ("resnet18", 224), ("mobilenetv2", 224))
RUNS = 5


def profile(path: Path, images: torch.Tensor, folder: Path) -> dict[str, float]:
    """Milliseconds a run by kind of operator."""
    running = session(path, profile=str(folder / "trace"))
    given = {onnx_files.INPUT: images.contiguous().numpy()}
    running.run(None, given)  # the first run also allocates; it is left out below
    for _ in range(RUNS):
        running.run(None, given)
    events = json.loads(Path(running.end_profiling()).read_text())
    nodes = [e for e in events if e["cat"] == "Node" and e["name"].endswith("_kernel_time")]
    found: dict[str, float] = defaultdict(float)
    for event in nodes[len(nodes) // (RUNS + 1) :]:
        found[event["args"]["op_name"]] += event["dur"] / 1e3 / RUNS
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main(seconds: float, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    for key, value in machine().items():
        print(f"{key}: {value}")
    for name, size in NETWORKS:
        network = models.build(name, classes=10, channels=3, size=size)
        for module in network.modules():  # as after training: a block that starts at 0 has no size
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
        images = torch.rand(32, 3, size, size)
        with tempfile.TemporaryDirectory() as folder:
            fp32, int8 = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
            onnx_files.export(network, images[:2], fp32, {})
            onnx_files.quantize(fp32, int8, images)
            sizes = [path.stat().st_size / 1e6 for path in (fp32, int8)]
            print(f"\n{name} on {size}×{size}: fp32 {sizes[0]:.2f} MB, int8 {sizes[1]:.2f} MB")
            pair = {
                name: open_file(path, threads=threads)
                for name, path in (("fp32", fp32), ("int8", int8))
            }
            for batch, times in compare(pair, 2 * [images.numpy()], seconds=seconds).items():
                ratio = times["speedup"]
                print(
                    f"  {batch:9s} fp32 {times['fp32_ms']['median']:9.2f} ms   "
                    f"int8 {times['int8_ms']['median']:9.2f} ms   ×{ratio['median']:.2f} "
                    f"(quartiles {ratio['low']:.2f}–{ratio['high']:.2f}, {times['rounds']} rounds)"
                )
            for kind, path in (("fp32", fp32), ("int8", int8)):
                spent = [*profile(path, images, Path(folder)).items()][:6]
                shown = ", ".join(f"{operator} {ms:.1f}" for operator, ms in spent)
                print(f"  {kind} profile, batch 32, ms: {shown}")


if __name__ == "__main__":
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else 10.0,
        int(sys.argv[2]) if len(sys.argv) > 2 else 1,
    )
