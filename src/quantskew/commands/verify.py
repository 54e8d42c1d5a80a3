"""``quantskew verify``: a comparison is repeated from its evidence."""

import argparse
from pathlib import Path

from quantskew.commands.common import FAIL, PASS, Command

TEXT = """\
repeat a comparison from its evidence, and say what differs

The evidence of quantskew compare --evidence names its files with their hashes. Status 0: files and
results are the same; 1: they differ; 64: the comparison cannot be repeated.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evidence", type=Path, help="JSON of quantskew compare --evidence")


def _run(options: argparse.Namespace) -> int:
    from quantskew.answers import output

    differences = output.verify(options.evidence)
    print("\n".join(differences) or f"{options.evidence}: files and results are the same")
    return FAIL if differences else PASS


COMMAND = Command("verify", TEXT, _run, arguments=_arguments)
