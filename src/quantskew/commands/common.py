"""What commands share: what a command is, exit statuses, options that several of them have."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from quantskew.errors import UserError

if TYPE_CHECKING:
    from quantskew.analysis.gate import Feeding

PASS, FAIL, COULD_NOT_TELL = 0, 1, 2
STATUS = {"pass": PASS, "fail": FAIL, "could not tell": COULD_NOT_TELL}
EPILOGUE = """\
exit status: 0 pass, 1 fail, 2 could not tell, 64 the command could not be run,
70 an unexpected error
"""


def _nothing(parser: argparse.ArgumentParser) -> None:
    """Ask for nothing."""


class Command(NamedTuple):
    """A command of ``quantskew``.

    Attributes
    ----------
    name
        As it is called.
    text
        Its description, of which the first line stands in the list of commands.
    run
        Does it, and returns the exit status.
    arguments
        Adds its arguments to a parser.
    epilog
        Stands below its arguments, such as examples.
    """

    name: str
    text: str
    run: Callable[[argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None] = _nothing
    epilog: str = ""


def target(text: str) -> Path:
    """Read the name of a file to write; one that cannot be written is refused before any work."""
    path = Path(text)
    above = next(one for one in path.absolute().parents if one.exists())
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file")
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{text}: no file can be written in {above}")
    return path


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add what says which data set and model of a study is meant."""
    for name in ("dataset", "model"):
        parser.add_argument(f"--{name}", help=f"{name} of the study, required if it has several")


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add what says how labelled images are read."""
    parser.add_argument("--label", default="label", help="column with the label (default: label)")
    parser.add_argument(
        "--classes", help="names of the classes in the order of the outputs, or a file of them"
    )


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how tables of answers are read and divided."""
    parser.add_argument(
        "--by", action="append", default=[], metavar="GROUPING",
        help="column that defines groups, or columns joined by *; may be given several times "
        "(default: label)",
    )  # fmt: skip
    for name, metavar, kind, what in (
        ("labels", "TABLE", Path, "table of labels and groups, where the answers lack them"),
        ("classes", "NAMES", str, "names of the classes in their order, or a file of them"),
        ("threshold", "X", float, "score from which on the second of two classes is answered"),
    ):
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=what)
    parser.add_argument(
        "--missing", type=float, default=0.0, metavar="X",
        help="largest share of the samples that a table may lack (default: 0)",
    )  # fmt: skip


def of_tables(options: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_table_options` asked, as ``compare_answers`` takes it."""
    return {
        "by": options.by,
        "labels": options.labels,
        "classes": names_of(options.classes),
        "threshold": options.threshold,
        "missing": options.missing,
    }


def policy_of(options: argparse.Namespace) -> "Feeding":
    """How images are fed to a file, which a policy may say."""
    from quantskew import sections
    from quantskew.analysis.gate import Feeding

    if options.policy:
        return sections.read(Feeding, options.policy, "see quantskew gate --help")
    return Feeding.model_validate({})


def feeding(options: argparse.Namespace) -> dict[str, Any]:
    """How images are fed to a file: its policy, and what :func:`add_labels` asked."""
    classes = names_of(options.classes)
    return {"policy": policy_of(options), "label": options.label, "classes": classes}


def names_of(text: str | None) -> tuple[str, ...]:
    """Names of classes: the lines of a file, or a list separated by commas; none of None."""
    if text is None:
        return ()
    is_file = os.path.isfile(text)  # which a list that is too long for a path is not
    parts = Path(text).read_text(encoding="utf-8").splitlines() if is_file else text.split(",")
    names = tuple(part.strip() for part in parts if part.strip())
    if len(set(names)) < len(names):
        raise UserError(f"--classes names a class twice: {', '.join(names)}")
    return names
