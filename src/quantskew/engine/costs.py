"""What a command took: its time, and the memory of all its processes together at the peak."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from quantskew.engine.store import default_store

LOG = "commands.jsonl"
"""Beside the finished cells: a line for every command that ended well."""
SECONDS = 2.0
"""Between two looks at the memory."""


@contextmanager
def noted(command: list[str]) -> Iterator[None]:
    """Append to the log what the block took.

    Memory is the proportional share of each process (RSS where the system does not tell): pages
    that processes have in common are counted once. Peaks between two looks are missed.

    Parameters
    ----------
    command
        Name and arguments of what the block does.
    """
    started, over, peak = time.monotonic(), threading.Event(), [_memory()]

    def watch() -> None:
        while not over.wait(SECONDS):
            peak.append(max(peak.pop(), _memory()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    costs = {"command": command, "seconds": time.monotonic() - started, "peak_bytes": peak[0]}
    default_store().mkdir(parents=True, exist_ok=True)
    with (default_store() / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(costs) + "\n")


def _memory() -> int:
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            told = process.memory_full_info()
        except psutil.Error:  # it has just ended
            continue
        total += getattr(told, "pss", told.rss)
    return total
