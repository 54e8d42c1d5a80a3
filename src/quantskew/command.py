"""What every command has in common: its arguments, and how it fails."""

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something the user can put right; its message is all they need to see."""


def run(main: Callable[..., None]) -> None:
    """Call a function with the arguments of the command line, one a parameter.

    Modules of the user's own are found in the folder in which the command is run. A
    :class:`UserError` ends the program with its message and status 1, without a trace.
    """
    sys.path.insert(0, str(Path.cwd()))
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    for name in inspect.signature(main).parameters:
        parser.add_argument(name)
    try:
        main(**vars(parser.parse_args()))
    except UserError as error:
        sys.exit(f"error: {error}")
