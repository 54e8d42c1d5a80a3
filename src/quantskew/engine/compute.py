"""Where cells run, and how much of the machine each takes (``compute:``).

A cell has one thread on a CPU unless ``cpus`` says otherwise: a small network is bound by overhead
and gains little from a second thread (``benchmarks/cells.py`` measures it), while as many cells run
at once as there are cores. The number of threads can change the last bits of a sum, so it is part
of the fingerprint of a cell; nothing else here can change a result. On GPUs as many cells run at
once as fit, by the share of a GPU that each takes, dealt out to the GPUs in turn.
"""

import ctypes
import os
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Literal

from quantskew.sections import Count, NonNegative, Section

Tasks = Mapping[str, tuple[Any, ...]]
"""Arguments of each call, by the name of its cell."""
Outcomes = Generator[tuple[str, str | None], None, None]
"""Names of cells as they end, each with what went wrong or ``None``."""

GPU_SHARE = 0.25
"""Of a GPU, that a cell takes unless ``compute.gpus`` says otherwise: small networks idle on it."""
TRIES = 3
"""Times that a cell is started when its process is killed."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>


class Compute(Section):
    """Where cells run (``compute:``)."""

    where: Literal["here", "processes", "ray"] = "processes"
    workers: Count | None = None  # processes at once on this machine; None: as many as fit
    cpus: Count = 1  # threads of a cell
    gpus: NonNegative = GPU_SHARE  # share of a GPU that a cell takes, if there are any
    address: str | None = None  # of a running Ray cluster

    def at_once(self) -> int:
        """Processes side by side on this machine, were there cells for all."""
        if self.workers is not None:
            return self.workers
        fit = max(1, cores() // self.cpus)
        share = self.gpus
        return min(fit, max(1, int(len(gpus()) / share))) if gpus() and share else fit


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """GPUs that this process may use, as CUDA names them, found without waiting for torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    return [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def keep_freed_memory() -> None:
    """Have the C library keep the memory that this process frees, where it is that of GNU.

    By default it gives every large tensor back to the system, which makes the pages anew for the
    next one: a tenth of a training step on a CPU. ``benchmarks/training.py`` measures it.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
