"""Where cells run on one machine: in this process, or in several beside it.

On CPU the cores are shared out in whole: a stage of more cells than cores gives each one thread
and runs as many at once as there are cores, for a small network is bound by overhead and gains
little from a second thread (``benchmarks/cells.py`` measures it); a stage of fewer cells gives each
its part of the cores. How many threads a cell has can change the last bits of a sum, so it depends
on the stage alone, never on what is already done. On GPUs as many cells run at once as fit, by the
share of a GPU that each takes, dealt out to the GPUs in turn.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from quantskew.params import Compute

Tasks = Mapping[str, tuple[Any, ...]]
"""Arguments of each call, by the name of its cell."""
Outcomes = Generator[tuple[str, str | None], None, None]
"""Names of cells as they end, each with what went wrong or ``None``."""

GPU_SHARE = 0.25
"""Of a GPU, that a cell takes unless ``compute.gpus`` says otherwise: small networks idle on it."""
TRIES = 3
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def start(
    do: Callable[..., str | None], tasks: Tasks, modules: Collection[str], compute: Compute
) -> Outcomes:
    """Call a function with the arguments of each task where ``compute`` says.

    The outcomes come as the calls end. Closing the generator ends what still runs.

    Parameters
    ----------
    do
        Function of a module, which gives ``None`` or what went wrong.
    tasks
        Its arguments.
    modules
        What its calls import, besides.
    compute
        Where and how many at once.
    """
    if compute.where == "ray":
        from quantskew import ray_workers

        return ray_workers.cluster(do, tasks, compute)
    several = min(at_once(compute), len(tasks))
    if compute.where == "here" or several <= 1:
        return ((name, do(*task)) for name, task in tasks.items())
    return _processes(do, tasks, modules, several)


def threads(compute: Compute, cells: int) -> int:
    """Threads of each of the cells of a stage."""
    if compute.cpus is not None:
        return compute.cpus
    return 1 if compute.where == "ray" else max(1, cores() // max(1, cells))


def at_once(compute: Compute) -> int:
    """Processes side by side on this machine, were there cells for all."""
    if compute.workers is not None:
        return compute.workers
    fit = max(1, cores() // (compute.cpus or 1))
    share = GPU_SHARE if compute.gpus is None else compute.gpus
    return min(fit, max(1, int(len(gpus()) / share))) if gpus() and share else fit


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """GPUs this process may use, as CUDA names them, found without waiting for torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    return [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def keep_freed_memory() -> None:
    """Have the C library keep what this process frees, where it is that of GNU.

    By default it gives every large tensor back to the system, which makes the pages anew for the
    next one: a tenth of a training step on a CPU. ``benchmarks/training.py`` measures it.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def _processes(
    do: Callable[..., str | None], tasks: Tasks, modules: Collection[str], workers: int
) -> Outcomes:
    """Run the tasks in processes; those that were at work when one was killed again, alone.

    One server imports ``modules`` and then forks the workers, so that the seconds this takes are
    spent once and not in each of them. The server itself is a fresh process without threads.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([*modules])
    waiting = iter(tasks.items())
    lost: dict[str, tuple[Any, ...]] = {}
    while killed := (yield from _pool(do, waiting, context, workers)):
        lost |= killed
    for task in lost.items():  # alone, each has all the memory, and the blame
        for _ in range(TRIES - 1):
            if not (yield from _pool(do, iter([task]), context, 1)):
                break
        else:
            yield task[0], f"processes were killed {TRIES} times, perhaps for want of memory"


def _pool(
    do: Callable[..., str | None],
    waiting: Iterator[tuple[str, tuple[Any, ...]]],
    context: BaseContext,
    workers: int,
) -> Generator[tuple[str, str | None], None, Tasks]:
    """Run tasks until none waits, or a process is killed: then return those that were at work."""
    # only this process holds the other end: whatever ends it closes the pipe
    alive, holding = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _enter, (alive, context.Value("i", 0), gpus()))
    names: dict[Future[str | None], str] = {}
    running: dict[str, tuple[Any, ...]] = {}
    try:
        while True:
            for name, task in islice(waiting, workers - len(running)):
                running[name] = task
                names[pool.submit(do, *task)] = name
            if not running:
                return {}
            for future in wait(names, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                name = names.pop(future)
                del running[name]
                yield name, outcome
    except BrokenProcessPool:
        return running
    except BaseException:
        holding.close()
        raise
    finally:
        pool.shutdown()
        holding.close()


def _enter(alive: Connection, entered: "Synchronized[int]", devices: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is meant for the stage, which ends them

    def end_with_the_stage() -> None:
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=end_with_the_stage, daemon=True).start()
    if devices:
        with entered.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[entered.value % len(devices)]
            entered.value += 1
