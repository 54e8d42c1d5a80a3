"""What every command has in common: its arguments, and how it fails."""

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from quantskew.engine.costs import noted
from quantskew.engine.store import default_store
from quantskew.errors import UserError


def run(main: Callable[..., None]) -> None:
    """Call a function with the arguments of the command line, one a parameter.

    Modules of the user's own are found in the folder in which the command is run. A
    :class:`UserError` ends the program with its message and status 1, without a trace. While the
    same command is still at work, as a stage is whose ``dvc repro`` was killed, this one waits.
    Its time and memory are recorded by :mod:`quantskew.engine.costs`.
    """
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
    except KeyboardInterrupt:
        sys.exit("interrupted: finished cells are kept, the next run goes on from them")


@contextmanager
def _alone(name: str) -> Iterator[None]:
    default_store().mkdir(parents=True, exist_ok=True)
    lock = FileLock(default_store() / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{name}: waiting for the end of a run that is still at work", file=sys.stderr)
    with lock:
        yield
