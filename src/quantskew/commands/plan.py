"""``quantskew plan``: how many images and seeds would decide."""

import argparse
from pathlib import Path

from quantskew.commands.common import PASS, Command, add_table_options, of_tables
from quantskew.errors import UserError

TEXT = """\
say how many images and seeds would decide, before they are gathered

Images of each group to certify that none loses more than --loss: from a pilot, which is the table
certificates of a study or two tables of answers, or from an assumed rate of flips (images on which
exactly one network is right). Seeds to show a --difference between methods: from its deviation
between seeds.
"""
EXAMPLES = """\
examples:
  quantskew plan --loss 0.02 data/analysis/certificates.parquet
  quantskew plan --loss 0.02 fp32.csv int8.csv --by race
  quantskew plan --loss 0.02 --flips 0.05 --groups 10
  quantskew plan --loss 0.02 --flips 0.05 --images-per-unit 5 --correlation 0.5
  quantskew plan --difference 0.05 --seed-sd 0.02
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pilot", nargs="*", type=Path,
        help="table certificates of a study, or two tables of answers as quantskew compare takes",
    )  # fmt: skip
    parser.add_argument("--method", default="ptq", help="of the certificates (default: ptq)")
    add_table_options(parser)
    for name, kind, what in (
        ("loss", float, "share of accuracy that no group is to lose, such as 0.02"),
        ("flips", float, "share of images on which exactly one network is right"),
        ("difference", float, "between two methods, as a share, to be shown"),
        ("seed-sd", float, "standard deviation of the difference between seeds"),
    ):
        parser.add_argument(f"--{name}", type=kind, metavar="X", help=what)
    for name, number, default, what in (
        ("groups", int, 1, "groups whose bounds hold at once"),
        ("images-per-unit", float, 1.0, "images of one person, or other unit"),
        ("correlation", float, 0.0, "intra-class correlation of the changes within a unit"),
        ("common-sd", float, 0.0, "error of the difference from the common test images"),
        ("models", int, 1, "architectures, each trained with as many seeds"),
        ("alpha", float, 0.05, "1 − confidence"),
        ("power", float, 0.8, "chance of success wanted"),
    ):
        parser.add_argument(f"--{name}", type=number, default=default, metavar="X",
                          help=f"{what} (default: {default:g})")  # fmt: skip


def _run(given: argparse.Namespace) -> int:
    from quantskew.analysis import planning

    sure = {"alpha": given.alpha, "power": given.power}
    lines: list[str] = []
    if given.loss is None and (given.pilot or given.flips is not None):
        raise UserError("a pilot or --flips needs --loss")
    if given.loss is not None and (not given.pilot) == (given.flips is None):
        raise UserError("--loss needs either a pilot or --flips")
    if len(given.pilot) > 2:
        raise UserError(f"a pilot is one table or two, and {len(given.pilot)} are given")
    if len(given.pilot) == 1:
        lines += planning.from_pilot(given.pilot[0], given.loss, method=given.method, **sure)
    elif given.pilot:
        from quantskew.answers.judging import compare_answers

        rows = compare_answers(*given.pilot, **of_tables(given)).frames["certificates"]
        heading = "{method} against {model}, {attribute}:"
        lines += planning.of_rows(rows[rows["bound"].notna()], given.loss, heading=heading, **sure)
    elif given.flips is not None:
        units = {"images_per_unit": given.images_per_unit, "correlation": given.correlation}
        lines.append(
            planning.from_rate(given.flips, given.loss, groups=given.groups, **units, **sure)
        )
    if (given.difference is None) != (given.seed_sd is None):
        raise UserError("--difference and --seed-sd go together")
    if given.difference is not None:
        size = {"common_sd": given.common_sd, "models": given.models}
        lines.append(planning.of_seeds(given.difference, given.seed_sd, **size, **sure))
    if not lines:
        raise UserError("nothing is asked; give --loss, or --difference; see quantskew plan --help")
    print("\n".join(lines))
    return PASS


COMMAND = Command("plan", TEXT, _run, arguments=_arguments, epilog=EXAMPLES)
