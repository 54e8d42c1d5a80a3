"""Latency of fp32 and int8 files on the CPU of this machine, measured in pairs.

Machines are shared and clocks vary, so the ratio of two runs in close succession is more reliable
than either time: every round runs the fp32 file and then the int8 file. Only files that a runtime
executes are timed; of variants with fewer than 8 bits only the size is reported.
"""

import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from quantskew import models, tables
from quantskew.data.loading import load
from quantskew.deployment.onnx_files import OnnxNetwork
from quantskew.files import write_json
from quantskew.layout import samples_path, stored_variants
from quantskew.names import Variant

BATCHES = (1, 32)
WARM_UP = 5
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def compare(
    fp32: Path, int8: Path, images: torch.Tensor, *, seconds: float = 4.0
) -> dict[str, dict[str, Any]]:
    """Measure the latency of a pair of files.

    Parameters
    ----------
    fp32, int8
        ONNX files of one network.
    images
        Input images (N, C, H, W) in [0, 1], which are repeated to fill a batch.
    seconds
        Duration of the measurement of each batch size.

    Returns
    -------
    dict
        For ``batch 1`` and ``batch 32``: the number of ``rounds``, the milliseconds per batch
        ``fp32_ms`` and ``int8_ms``, and ``speedup``, the ratio of fp32 to int8 of each round; these
        have a ``median`` and the quartiles ``low`` and ``high``.
    """
    networks = {"fp32": OnnxNetwork(fp32), "int8": OnnxNetwork(int8)}
    results = {}
    for size in BATCHES:
        batch = images[torch.arange(size) % len(images)].contiguous()
        taken: dict[str, list[float]] = {name: [] for name in networks}
        for _ in range(WARM_UP):
            for network in networks.values():
                network(batch)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(taken["int8"]) < WARM_UP:
            for name, network in networks.items():
                start = time.perf_counter()
                network(batch)
                taken[name].append(1e3 * (time.perf_counter() - start))
        results[f"batch {size}"] = {
            "rounds": len(taken["int8"]),
            **{f"{name}_ms": _spread(times) for name, times in taken.items()},
            "speedup": _spread(np.divide(taken["fp32"], taken["int8"])),
        }
    return results


def _spread(values: Any) -> Mapping[str, float]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": median, "low": low, "high": high}


def machine() -> dict[str, Any]:
    """Processor, its vector and integer instructions, number of threads, and runtime version."""
    flags: set[str] = set()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line.partition(":") for line in cpuinfo.read_text("utf-8").splitlines()]
        values = {key.strip(): value.strip() for key, _, value in lines}
        flags = {*values.get("flags", values.get("Features", "")).split()}
        model = values.get("model name", model)
    return {
        "processor": model,
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "threads": torch.get_num_threads(),
        "onnxruntime": onnxruntime.__version__,
    }


def study_latency(dataset: str, model: str, *, seconds: float) -> Iterator[str]:
    """Time the files of the stage ``deploy``, and write ``metrics/latency/<dataset>/<model>.json``.

    Yields
    ------
    str
        Lines of text: the machine, then the size and, if it was timed, the latency of each variant.
    """
    target = Path("metrics/latency", dataset, f"{model}.json")
    deployed = Path("data/deployed", dataset, model)
    files = tables.read("deployed", deployed / "deployed.parquet").to_pandas()
    images = models.as_input(load(samples_path(dataset)).test.images[:32], torch.device("cpu"))
    cpu = machine()
    yield f"{dataset} {model}: {cpu['processor']}, {cpu['threads']} threads, {cpu['instructions']}"
    timed = {}
    for _, file in files[files["bits"] == 8].iterrows():
        base = Variant(dataset, model, file["seed"], file["base"], 32).stem
        times = compare(deployed / f"{base}.onnx", deployed / file["file"], images, seconds=seconds)
        timed[Path(file["file"]).stem] = times
    sizes = dict(zip(files["file"], files["bytes"], strict=True))
    for variant, (file, _) in stored_variants(dataset, model).items():
        if variant.seed in set(files["seed"]):
            sizes[file.name] = file.stat().st_size
    write_json(target, {"machine": cpu, "bytes": sizes, "latency": timed})
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        speeds = timed.get(Path(name).stem, {}) if name.endswith(".onnx") else {}
        shown = "".join(
            f"  {batch}: {t['int8_ms']['median']:.2f} ms, ×{t['speedup']['median']:.2f} of fp32 "
            f"({t['speedup']['low']:.2f}–{t['speedup']['high']:.2f})"
            for batch, t in speeds.items()
        )
        yield f"  {name:44s} {size:>12,} bytes{shown}"
    yield f"  written to {target}"
