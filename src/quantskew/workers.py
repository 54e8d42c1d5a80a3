"""Where cells run on one machine: in this process, or in several beside it.

On CPU the cores are shared out in whole: a stage of more cells than cores gives each one thread
and runs as many at once as there are cores, for a small network is bound by overhead and gains
little from a second thread (``benchmarks/cells.py`` measures it); a stage of fewer cells gives each
its part of the cores. How many threads a cell has can change the last bits of a sum, so it depends
on the stage alone, never on what is already done. On GPUs as many cells run at once as fit, by the
share of a GPU that each takes, dealt out to the GPUs in turn.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Generator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
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


def _processes(
    do: Callable[..., str | None], tasks: Tasks, modules: Collection[str], workers: int
) -> Outcomes:
    """Run the tasks in processes, again those whose process was killed.

    One server imports ``modules`` and then forks the workers, so that the seconds this takes are
    spent once and not in each of them. The server itself is a fresh process without threads.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([*modules])
    for _ in range(TRIES):
        lost = {}
        # only this process holds the other end: whatever ends it closes the pipe
        alive, holding = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(workers, context, _enter, (alive, context.Value("i", 0), gpus()))
        try:
            names = {pool.submit(do, *task): name for name, task in tasks.items()}
            for future in as_completed(names):
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    lost[names[future]] = tasks[names[future]]
                else:
                    yield names[future], outcome
        except BaseException:
            holding.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            holding.close()
        tasks = lost
        if not tasks:
            return
    for name in tasks:
        yield name, f"processes were killed {TRIES} times, perhaps for want of memory"


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
