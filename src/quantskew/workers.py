"""Where cells run on one machine: in this process, or in several beside it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")


def here(
    do: Callable[..., Result], tasks: Sequence[tuple[Any, ...]]
) -> Generator[Result, None, None]:
    """Call a function with the arguments of each task, one after another."""
    return (do(*task) for task in tasks)


def processes(
    do: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    modules: Collection[str],
) -> Generator[Result, None, None]:
    """Call a function with the arguments of each task in processes; give results as they come.

    One server imports ``modules`` and then forks the workers, so that the seconds this takes are
    spent once and not in each of them. The server itself is a fresh process without threads.

    Workers end with this process, however it ends, and when the results are no longer wanted.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([*modules])
    # only this process holds the other end: whatever ends it closes the pipe
    alive, holding = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _start, (alive,))
    try:
        for future in as_completed([pool.submit(do, *task) for task in tasks]):
            yield future.result()
    except BaseException:
        holding.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        holding.close()


def _start(alive: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is meant for the stage, which ends them

    def end_with_the_stage() -> None:
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=end_with_the_stage, daemon=True).start()
