"""What all commands have in common: arguments, errors, and one run at a time."""

import argparse
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from quantskew.engine.costs import noted
from quantskew.engine.store import default_store
from quantskew.errors import UserError, of_the_machine
from quantskew.files import use_utf8


def run(main: Callable[..., None]) -> None:
    """Call a function with the arguments of the command line, one per parameter.

    The user's own modules are imported from the folder in which the command runs. A
    :class:`UserError` ends the program with its message and status 1, without a traceback, and so
    do a full disk, too little memory and a folder that cannot be written. A run of the same command
    waits for the one before it, and a stage ends with its ``dvc repro``, however that ended.
    :mod:`quantskew.engine.costs` records time and memory.
    """
    use_utf8()
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.path.insert(0, str(Path.cwd()))
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    for name in inspect.signature(main).parameters:
        parser.add_argument(name)
    arguments = vars(parser.parse_args())
    try:
        command = [Path(sys.argv[0]).stem, *arguments.values()]
        with _alone("-".join(command)), noted(command):
            main(**arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        memory = isinstance(error, MemoryError) or "can't start new thread" in str(error)
        if not (memory or of_the_machine(error)):
            raise
        said = f"too little memory ({error})" if memory else error
        sys.exit(f"error: {said}; finished cells are kept, the next run goes on from them")
    except KeyboardInterrupt:
        sys.exit("interrupted: finished cells are kept, the next run goes on from them")


def _end_with(parent: int) -> None:
    """End this process when its parent has: the next ``dvc repro`` removes what it would write.

    The parent may have ended before this looks; a process that is no ``dvc`` has taken its place.
    """
    import psutil

    with suppress(psutil.Error):
        command = " ".join(psutil.Process(parent).cmdline())  # of dvc, or of its shell
        while os.getppid() == parent and ("dvc" in command or sys.argv[0] in command):
            time.sleep(0.2)
    os._exit(1)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    default_store().mkdir(parents=True, exist_ok=True)
    lock = FileLock(default_store() / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{name}: waiting for another run of the same command to end", file=sys.stderr)
    with lock:
        yield
