"""``quantskew layers``: which quantized layers of a file hurt which group."""

import argparse
from pathlib import Path

from quantskew.commands.common import PASS, Command, add_labels, feeding, target
from quantskew.errors import UserError

TEXT = """\
say which quantized layers of an ONNX file hurt which group, whoever made the file

Each quantized layer of the file (QDQ format) gets back what it has in the fp32 file, alone: its
weights, its bias, and its input without rounding. What a group gains is what the layer costs it.
The groups are those of the policy (groups, bins), or the label.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    for name, text in (("fp32", "ONNX file in fp32"), ("int8", "ONNX file that was made from it"),
                       ("data", "Parquet file with labelled images")):  # fmt: skip
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=text)
    parser.add_argument("--policy", type=Path, metavar="FILE", help="YAML file")
    parser.add_argument("--images", type=int, default=500, help="at most (default: 500)")
    parser.add_argument("-o", "--output", type=target, metavar="FILE",
                        help="write all layers and groups to this Parquet file")  # fmt: skip
    add_labels(parser)


def _run(options: argparse.Namespace) -> int:
    from quantskew import tables
    from quantskew.deployment.restoring import layer_damage, lines

    if options.images < 1:
        raise UserError(f"--images: got {options.images}; 1 or more are needed")
    found = layer_damage(
        options.fp32, options.int8, options.data, images=options.images, **feeding(options)
    )
    print(*lines(found), sep="\n")
    if options.output:
        tables.write("file_layers", found.rows, options.output)
        print(f"written to {options.output}")
    return PASS


COMMAND = Command("layers", TEXT, _run, arguments=_arguments)
