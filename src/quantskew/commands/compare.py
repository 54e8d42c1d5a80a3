"""``quantskew compare``: tables of answers are judged against a reference."""

import argparse
from importlib import import_module
from pathlib import Path

from quantskew.commands.common import EPILOGUE, Command, add_table_options, of_tables
from quantskew.errors import UserError

TEXT = """\
judge tables of answers against those of a reference, by group

A table is Parquet, CSV or JSON lines (.parquet, .csv, .tsv, .jsonl), one row a sample, with the
columns id; label; one of prediction, logits, probabilities, score, or p_<class> of each class; and
any columns of groups. Label and groups may stand in either table, or in a third (--labels). Tables
are joined by id; what does not fit together is an error that names the rows.

Without a policy the comparison fails if a group of --by is surely worse, and passes if each is
surely within the margin or better; otherwise the samples cannot tell, and it says for each group
how many would. With a policy (see quantskew gate --help), its rules decide.

--scores compares what the tables say beyond answers, and --find-slices searches their other columns
for a part that nobody listed. Neither decides the verdict.
"""
EXAMPLES = (
    """\
examples:
  quantskew compare fp32.parquet int8.csv --by race --by 'race*gender' --unit person
  quantskew compare fp32.csv int8.csv pruned.csv --labels people.csv --by age --report report.html
  quantskew compare fp32.csv int8.csv --policy policy.yaml --markdown - --junit verdict.xml
  quantskew compare fp32.parquet int8.parquet --by race --scores --find-slices

"""
    + EPILOGUE
)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", type=Path, help="answers of the reference")
    parser.add_argument("after", type=Path, nargs="+", help="answers to judge")
    add_table_options(parser)
    for name, metavar, kind, what in (
        ("unit", "COLUMN", str, "who a sample comes from, where several are of one person"),
        ("margin", "X", float, "largest change of accuracy that does not matter (default: 0.02)"),
        ("policy", "FILE", Path, "rules that decide, as YAML"),
        ("minimum", "N", int, "samples below which a group is not judged (default: 30)"),
        ("date", "TEXT", str, "date to be noted in the JSON and the evidence"),
    ):
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=what)
    parser.add_argument(
        "--numeric", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="label and prediction are numbers within this range, such as ages, of which the "
        "absolute error is compared; --margin is in their unit",
    )  # fmt: skip
    parser.add_argument(
        "--scores",
        action="store_true",
        help="compare NLL, Brier score, calibration, AUC, … of tables that hold numbers, by group",
    )
    parser.add_argument(
        "--find-slices", action="store_true",
        help="search the other columns of the tables for the part that loses most",
    )  # fmt: skip
    for name, what in (
        ("report", "a report as one page of HTML"),
        ("json", "the verdict for machines"),
        ("junit", "the verdict for CI servers, as JUnit XML"),
        ("markdown", "a comment for a pull request; - prints it instead of the text"),
        ("evidence", "what quantskew verify repeats the comparison from"),
    ):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {what}")


def _run(options: argparse.Namespace) -> int:
    from quantskew.answers import output
    from quantskew.files import write_json, write_text

    if options.report:  # what it lacks is named before the work
        import_module("quantskew.analysis.report")

    asked = {name: getattr(options, name) for name in
             ("before", "after", "policy", "unit", "margin", "minimum", "date", "scores",
              "find_slices", "numeric")}  # fmt: skip
    asked |= of_tables(options)
    found, content = output.run(**asked)
    on_screen = str(options.markdown) == "-"
    print(output.as_markdown(found) if on_screen else output.as_text(found))
    try:
        if options.json:
            write_json(options.json, content, digits=output.DIGITS)
        if options.junit:
            write_text(options.junit, output.as_junit(found))
        if options.markdown and not on_screen:
            write_text(options.markdown, output.as_markdown(found))
        if options.evidence:
            output.write_evidence(options.evidence, content, asked)
        if options.report:
            found.report(options.report)
    except OSError as error:
        raise UserError(f"the verdict is {found.verdict} and cannot be written: {error}") from None
    return int(content["exit"])


COMMAND = Command("compare", TEXT, _run, arguments=_arguments, epilog=EXAMPLES)
