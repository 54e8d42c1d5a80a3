"""Where cells run, and what part of the machine each uses (``compute:``).

By default a cell has one CPU thread and as many cells run at once as there are cores: a small
network gains little from a second thread (``benchmarks/cells.py`` measures it). The number of
threads can change the last bits of a sum and is therefore part of the fingerprint of a cell; no
other setting here can change a result. On GPUs the share that each cell takes determines how many
run at once; they are assigned to the GPUs in turn.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Literal

from quantskew.sections import Count, NonNegative, Section

Tasks = Mapping[str, tuple[Any, ...]]
"""Arguments of each call, by the name of the cell."""
Outcomes = Generator[tuple[str, str | None], None, None]
"""Name of each cell as it ends, with its error message or ``None``."""

TRIES = 3
"""How often a cell is started if its process is killed."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from <malloc.h>


class Compute(Section):
    """Where cells run (``compute:``)."""

    where: Literal["here", "processes", "ray"] = "processes"
    workers: Count | None = None  # processes on this machine; None: as many as fit
    cpus: Count = 1  # threads per cell
    # share of a GPU per cell, if there are GPUs: a small network does not keep one busy
    gpus: NonNegative = 0.25
    address: str | None = None  # address of a running Ray cluster

    def at_once(self) -> int:
        """Largest number of processes at once on this machine."""
        if self.workers is not None:
            return self.workers
        fit = max(1, cores() // self.cpus)
        share = self.gpus
        return min(fit, max(1, int(len(gpus()) / share))) if gpus() and share else fit


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """GPUs that this process may use, as CUDA names them, determined without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    return [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def keep_freed_memory() -> None:
    """Make the GNU C library keep the memory that this process frees.

    By default it returns the memory of every large tensor to the system and asks for new pages for
    the next one, a tenth of a training step on a CPU (``benchmarks/training.py``).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Return to the system what this process has freed, for a step that needs other memory.

    What :func:`keep_freed_memory` keeps suits the tensors of the step before, and the next one
    would take new pages beside it.
    """
    gc.collect()  # sessions of ONNX Runtime are in cycles
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
