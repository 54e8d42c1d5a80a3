"""Run the commands of pages and write what they print into them: ``python docs/refresh.py``.

Run at the root of the project, after the default study (``make``) and with everything committed;
takes some minutes, as one page changes a method of the study. A page is a script, and the tests run
it too:

- a ``console`` block holds commands, each behind ``$``, and what they print. That is taken from a
  run only where the line before the block is ``<!-- refresh -->``; elsewhere it is written by hand;
- a block whose first line is a comment with the name of a file is that file;
- ``python`` blocks run in one namespace.

Commands of other blocks (``sh``, ``text``) are not run.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from quantskew.engine.command import run
from quantskew.errors import UserError
from quantskew.files import write_text

OF_THE_STUDY = ("README.md", "docs/reproduce.md", "docs/ship.md", "docs/benchmark.md")
"""Pages with numbers of the default study or of kept tables: only their marked blocks are run, and
run there."""
OF_THEMSELVES = ("docs/compare.md", "docs/sure.md")
"""Pages that make their own data: all of them is run, in a folder that is thrown away."""
MARK = "<!-- refresh -->"
VERDICTS = re.compile(r"quantskew (gate|runtimes|compare|verify|plan)\b")
"""Commands whose exit status is a verdict: 0, 1 or 2."""
HAD_ENOUGH = 128 + signal.SIGPIPE
"""Exit status of a command whose output `head` cut."""
NOT_RUN = ("make test",)
"""It runs the tests, which run the pages."""
_BLOCK = re.compile(
    rf"^(?P<mark>{MARK}\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_FILE = re.compile(r"# (?P<name>[\w.-]+\.(yaml|py|csv))\n")


class Block(NamedTuple):
    """A fenced block: where its text stands in the page, its kind, and whether it is refreshed."""

    start: int
    text: str
    kind: str
    marked: bool

    def commands(self) -> list[str]:
        """Return the commands of a console block, lines that ``>`` continues included."""
        found = re.findall(r"^\$ (.*(?:\n> .*)*)", self.text, re.MULTILINE)
        return [command.replace("\n> ", "\n") for command in found]


def blocks(page: str) -> list[Block]:
    """Find the fenced blocks of a page."""
    return [
        Block(found.start("text"), found["text"], found["kind"], found["mark"] is not None)
        for found in _BLOCK.finditer(page)
    ]


def play(
    page: str, folder: Path, *, marked_alone: bool = False, given: Mapping[str, Any] | None = None
) -> str:
    """Run a page in a folder.

    Parameters
    ----------
    page
        Its text.
    folder
        Where commands run and files are written.
    marked_alone
        Run no commands but those of blocks that are refreshed.
    given
        Names that the code of the page takes as given.

    Returns
    -------
    The page, with what was printed in blocks that are refreshed.

    Raises
    ------
    UserError
        If a command fails, with what it printed.
    """
    namespace = {"__name__": "page", **(given or {})}
    written, done = [], 0
    for block in blocks(page):
        named = _FILE.match(block.text)
        if named:
            (folder / named["name"]).write_text(block.text, encoding="utf-8")
        elif block.kind == "python" and not marked_alone:
            with contextlib.chdir(folder):
                exec(compile(block.text, "a page", "exec"), namespace)
        elif block.kind == "console" and (block.marked or not marked_alone):
            printed = "".join(_transcript(block, folder))
            if block.marked:
                written += [page[done : block.start], printed]
                done = block.start + len(block.text)
    return "".join([*written, page[done:]])


def _transcript(block: Block, folder: Path) -> Iterator[str]:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": tools, "COLUMNS": "100", "PAGER": "cat"}
    for command in block.commands():
        if command.partition("#")[0].strip() in NOT_RUN:
            continue
        said = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        legal = (0, 1, 2) if VERDICTS.match(command) else (0, HAD_ENOUGH)
        if said.returncode not in legal:
            raise UserError(f"$ {command}\nended with {said.returncode}:\n{said.stdout[-4000:]}")
        lines = [line.rpartition("\r")[2].rstrip() for line in said.stdout.splitlines()]
        yield "".join(f"{line}\n" for line in ["$ " + command.replace("\n", "\n> "), *lines])


def main() -> None:
    """Write all pages anew that show what commands print."""
    if not Path("plots/report.html").exists():
        raise UserError("there is no finished study here; run `make` first")
    for path in map(Path, OF_THE_STUDY):
        text = path.read_text(encoding="utf-8")
        write_text(path, play(text, Path.cwd(), marked_alone=True))
    for path in map(Path, OF_THEMSELVES):
        with tempfile.TemporaryDirectory() as folder:
            write_text(path, play(path.read_text(encoding="utf-8"), Path(folder)))


if __name__ == "__main__":
    run(main)
