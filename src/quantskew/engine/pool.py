"""Cells in several processes of one machine; a cell whose process is killed is tried again."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from quantskew.engine.compute import TRIES, Outcomes, Tasks, give_back_freed_memory, gpus

_ENDING = 2.0
"""Seconds that a killed fork server may take to end: until it has, it is asked again and again, and
each time costs the tasks one of their tries."""


def processes(
    do: Callable[..., str | None], tasks: Tasks, modules: Collection[str], workers: int
) -> Outcomes:
    """Run the tasks in ``workers`` processes.

    If a process is killed, all tasks that were running are repeated, one at a time. A fork server,
    which is a fresh process without threads, imports ``modules`` once for all workers.
    """
    # the workers read tables; pyarrow's own allocator keeps 25 MB in each that others cannot use
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    give_back_freed_memory()  # this process now waits
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([*modules, "quantskew.engine.frozen"])
    waiting = iter(tasks.items())
    lost: dict[str, tuple[Any, ...]] = {}
    while (killed := (yield from _pool(do, waiting, context, workers)))[0]:
        lost |= killed[0]
    for task in lost.items():  # alone, so that it has all the memory
        for _ in range(TRIES - 1):
            running, reason = yield from _pool(do, iter([task]), context, 1)
            if not running:
                break
        else:
            yield task[0], f"its process ended {TRIES} times: {reason}"


def _pool(
    do: Callable[..., str | None],
    waiting: Iterator[tuple[str, tuple[Any, ...]]],
    context: BaseContext,
    workers: int,
) -> Generator[tuple[str, str | None], None, tuple[Tasks, str]]:
    """Run tasks until all are done or a process ends; return those still running, and why."""
    # only this process holds the sending end, so the pipe closes however this process ends
    alive, holding = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _enter, (alive, context.Value("i", 0), gpus()))
    names: dict[Future[str | None], str] = {}
    running: dict[str, tuple[Any, ...]] = {}
    started: dict[int, BaseProcess] = {}
    try:
        while True:
            for name, task in islice(waiting, workers - len(running)):
                running[name] = task
                try:
                    names[pool.submit(do, *task)] = name
                except (EOFError, ConnectionError):  # killed while it was asked for a process
                    time.sleep(_ENDING)
                    return running, "the fork server ended"
                started |= pool._processes
            if not running:
                return {}, ""
            for future in wait(names, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                name = names.pop(future)
                del running[name]
                yield name, outcome
    except BrokenProcessPool:
        pool.shutdown()  # its thread asks how they ended; of two that ask at once, one is misled
        return running, _how_ended(started.values())
    except BaseException:
        holding.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        holding.close()


def _how_ended(workers: Iterable[BaseProcess]) -> str:
    """Signal or exit status with which a worker process ended."""
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    # the pool stops the remaining processes with SIGTERM
    code = next((code for code in codes if code != -signal.SIGTERM), -signal.SIGTERM)
    if code > 0:
        return f"exit status {code}"
    name = signal.Signals(-code).name
    return f"{name}, perhaps for lack of memory" if code == -signal.SIGKILL else name


def _enter(alive: Connection, entered: "Synchronized[int]", devices: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the stage, which stops its workers

    def end_with_the_stage() -> None:
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=end_with_the_stage, daemon=True).start()
    if devices:
        with entered.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[entered.value % len(devices)]
            entered.value += 1
