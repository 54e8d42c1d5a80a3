"""The command ``quantskew``: answers compared, gate, plans, latency, report, installation."""

import argparse
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import NoReturn

from quantskew import __version__
from quantskew.commands import COMMANDS
from quantskew.commands.common import EPILOGUE
from quantskew.errors import UserError, extras
from quantskew.files import use_utf8

USAGE = 64  # EX_USAGE of sysexits.h, distinct from the verdicts
SOFTWARE = 70  # EX_SOFTWARE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status."""
    if arguments is None:
        use_utf8()
    options = _parser().parse_args(arguments)
    try:
        with extras():
            status = options.run(options)
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = USAGE
    except Exception as error:  # a status of its own, so that no fault is taken for a verdict
        if isinstance(error, BrokenPipeError) and _has_enough():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(128 + signal.SIGPIPE)
        with tempfile.NamedTemporaryFile(
            "w", prefix="quantskew-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exc(file=file)
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        print(f"unexpected error: {reason}; its trace is in {file.name}", file=sys.stderr)
        status = SOFTWARE
    sys.exit(status)


def _has_enough() -> bool:
    """Whether the output is a pipe that its reader, such as head, has left."""
    output = select.poll()
    output.register(1, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="quantskew",
        description=__doc__,
        epilog="The study itself is run by `dvc repro`.\n\n" + EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"quantskew {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.text.partition("\n")[0],
            description=command.text,
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
