"""``quantskew init``: the files of a study of one's own."""

import argparse
from pathlib import Path

from quantskew.commands.common import PASS, Command

TEXT = """\
write the files of a study of your own into a new folder

params.yaml, whose comments are its manual, the pipeline dvc.yaml with its stages, templates of
plots, and a README. Then `git init` and `dvc repro` there. No file is ever overwritten.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="new or empty folder")


def _run(options: argparse.Namespace) -> int:
    from quantskew.starting import start

    print(f"{options.folder}: {len(start(options.folder))} files of a study; next, in that folder:")
    print("  git init && dvc repro")
    return PASS


COMMAND = Command("init", TEXT, _run, arguments=_arguments)
