"""Latency of pairs of files on the CPU of this machine.

Machines are shared and clocks vary, so the ratio of two runs in close succession is more reliable
than either time: every round runs the reference and then the other file. Only files that a runtime
executes are timed; of simulated variants only the size is reported.
"""

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantskew import tables
from quantskew.deployment.runtimes import Network, open_file
from quantskew.files import write_json
from quantskew.layout import samples_path, stored_variants
from quantskew.names import FULL_PRECISION, Variant

BATCHES = (1, 32)
WARM_UP = 5
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def compare(
    networks: Mapping[str, Network], images: Sequence[np.ndarray], *, seconds: float = 4.0
) -> dict[str, dict[str, Any]]:
    """Measure the latency of a pair of files.

    Parameters
    ----------
    networks
        The reference and another file of the same network, by how their times are named.
    images
        What each takes (N, C, H, W), which is repeated to fill a batch.
    seconds
        Duration of the measurement of each batch size.

    Returns
    -------
    dict
        For ``batch 1`` and ``batch 32``: the number of ``rounds``, the milliseconds per batch
        ``<name>_ms`` of each, and ``speedup``, the ratio of the first to the second in each round;
        these have a ``median`` and the quartiles ``low`` and ``high``.
    """
    results = {}
    for size in BATCHES:
        batches = [one[np.arange(size) % len(one)] for one in images]
        pair = [*zip(networks.values(), batches, strict=True)]
        for _ in range(WARM_UP):
            for network, batch in pair:
                network(batch)
        taken: list[np.ndarray] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(taken) < WARM_UP:
            ticks = [time.perf_counter()]
            for network, batch in pair:
                network(batch)
                ticks.append(time.perf_counter())
            taken.append(1e3 * np.diff(ticks))
        first, second = np.transpose(taken)
        times = dict(zip(networks, (first, second), strict=True))
        results[f"batch {size}"] = {
            "rounds": len(taken),
            **{f"{name}_ms": _spread(ms) for name, ms in times.items()},
            "speedup": _spread(first / second),
        }
    return results


def _spread(values: Any) -> Mapping[str, float]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": median, "low": low, "high": high}


def machine() -> dict[str, Any]:
    """Processor, its vector and integer instructions, number of threads, and runtime version."""
    import onnxruntime
    import torch

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
    from quantskew import models
    from quantskew.data.loading import load

    target = Path("metrics/latency", dataset, f"{model}.json")
    deployed = Path("data/deployed", dataset, model)
    files = tables.read("deployed", deployed / "deployed.parquet").to_pandas()
    images = models.as_input(load(samples_path(dataset)).test.images[:32], models.CPU).numpy()
    cpu = machine()
    yield f"{dataset} {model}: {cpu['processor']}, {cpu['threads']} threads, {cpu['instructions']}"
    timed = {}
    for _, file in files[files["bits"] < FULL_PRECISION].iterrows():
        base = Variant(dataset, model, file["seed"], file["base"], FULL_PRECISION).stem
        names = {"fp32": f"{base}.onnx", f"int{file['bits']}": file["file"]}
        pair = {
            name: open_file(deployed / one, threads=cpu["threads"]) for name, one in names.items()
        }
        timed[Path(file["file"]).stem] = compare(pair, [images, images], seconds=seconds)
    sizes, widths = (dict(zip(files["file"], files[of], strict=True)) for of in ("bytes", "bits"))
    for variant, (file, _) in stored_variants(dataset, model).items():
        if variant.seed in set(files["seed"]):
            sizes[file.name] = file.stat().st_size
    write_json(target, {"machine": cpu, "bytes": sizes, "latency": timed})
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        speeds = timed.get(Path(name).stem, {}) if name.endswith(".onnx") else {}
        shown = "".join(
            f"  {batch}: {t[f'int{widths[name]}_ms']['median']:.2f} ms, "
            f"×{t['speedup']['median']:.2f} of fp32 "
            f"({t['speedup']['low']:.2f}–{t['speedup']['high']:.2f})"
            for batch, t in speeds.items()
        )
        yield f"  {name:44s} {size:>12,} bytes{shown}"
    yield f"  written to {target}"
