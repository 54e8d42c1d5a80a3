"""What a command costs: its time, and the peak memory of all its processes together."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from quantskew.engine.store import default_store

LOG = "commands.jsonl"
"""Log in the store of cells, with one line for every command that succeeded."""
SECONDS = 2.0
"""Interval at which the memory is measured."""


@contextmanager
def noted(command: list[str]) -> Iterator[None]:
    """Append the costs of the block to the log, with the name and arguments of the ``command``.

    Memory is the sum of the proportional set sizes of all processes (RSS where the system does not
    report them), which counts shared pages once. Peaks between two measurements are missed.
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
            memory = process.memory_full_info()
        except psutil.Error:  # it has just ended
            continue
        total += getattr(memory, "pss", memory.rss)
    return total
