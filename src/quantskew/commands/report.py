"""``quantskew report``: the report of the study in this folder."""

import argparse
from pathlib import Path

from quantskew.commands.common import PASS, Command
from quantskew.errors import UserError

TEXT = """\
write the report of the study in this folder, from the tables that `dvc repro` left

One HTML file that opens without a network: the decision first, then groups, remedies, causes.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("plots/report.html"), metavar="FILE",
        help="where the page is written (default: plots/report.html)",
    )  # fmt: skip


def _run(options: argparse.Namespace) -> int:
    from quantskew import params
    from quantskew.analysis.run import Source, write_report

    study = params.load()
    source = Source.of(study.model_dump(mode="json", exclude={"compute"}))
    try:
        write_report(options.output, study.judged(), source)
    except OSError as error:
        raise UserError(f"{options.output} cannot be written: {error}") from None
    print(options.output)
    return PASS


COMMAND = Command("report", TEXT, _run, arguments=_arguments)
