"""``quantskew runtimes``: files of one network are compared on their runtimes."""

import argparse
from pathlib import Path

from quantskew.commands.common import EPILOGUE, STATUS, Command, add_labels, names_of, target
from quantskew.errors import UserError

TEXT = """\
compare files of one network on several runtimes, by group, beside its simulation

Every file is judged against the first by the policy (see quantskew gate --help), and the answers of
each group are counted that are those of the first. A .parquet file among them is a table of
answers: what quantskew answers or a study wrote
(data/evaluations/<data set>/<model>/predictions/ptq-8bit-seed0.parquet), joined by id.
"""
EXAMPLES = (
    """\
examples:
  quantskew runtimes policy.yaml fp32.onnx int8.onnx fp32.xml int8.tflite --data test.parquet
  quantskew runtimes policy.yaml fp32.onnx int8.onnx simulated.parquet --data test.parquet \\
      -o runtimes.parquet --figure runtimes.svg

"""
    + EPILOGUE
)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", type=Path, help="YAML file")
    parser.add_argument("files", type=Path, nargs="+", metavar="file",
                        help="the reference, then what is judged")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FILE", required=True,
                        help="Parquet file with labelled images")  # fmt: skip
    parser.add_argument("--figure", type=target, metavar="FILE",
                        help="write a figure of all groups to this SVG file")  # fmt: skip
    parser.add_argument("-o", "--output", type=target, metavar="FILE",
                        help="write all files and groups to this Parquet file")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=0.0, metavar="X",
                        help="time each file beside the reference, by one thread, for so long per "
                        "batch size (default: not at all)")  # fmt: skip
    add_labels(parser)


def _run(options: argparse.Namespace) -> int:
    from quantskew import sections, tables
    from quantskew.analysis.gate import Policy
    from quantskew.deployment.several import compare_runtimes
    from quantskew.files import write_text

    policy = sections.read(Policy, options.policy, "see quantskew gate --help for what it holds")
    classes = names_of(options.classes)
    if not 0 <= options.seconds < float("inf"):
        raise UserError(f"--seconds: got {options.seconds:g}; 0 or more are needed")
    found = compare_runtimes(
        options.files, options.data, policy, label=options.label, classes=classes,
        seconds=options.seconds,
    )  # fmt: skip
    print(*found.lines(), f"runtimes: {found.verdict}", sep="\n")
    if options.output:
        tables.write("runtimes", found.rows, options.output)
    if options.figure:
        write_text(options.figure, found.figure())
    return STATUS[found.verdict]


COMMAND = Command("runtimes", TEXT, _run, arguments=_arguments, epilog=EXAMPLES)
