"""``quantskew convert``: a file of another runtime is made of an ONNX file."""

import argparse
from pathlib import Path

from quantskew.commands.common import PASS, Command

TEXT = """\
make a file of OpenVINO (.xml and .bin) of an ONNX file, in fp32 or in the QDQ format

The names of the classes and how images are fed go with it, so that it can be judged beside the ONNX
file: quantskew gate policy.yaml --fp32 a.onnx --int8 a.xml --data test.parquet
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="ONNX file")
    parser.add_argument("target", type=Path, help=".xml file to write")


def _run(options: argparse.Namespace) -> int:
    from quantskew.deployment.converting import to_openvino
    from quantskew.deployment.runtimes import inventory

    made = to_openvino(options.source, options.target)
    share = 100 * inventory(made.weights())["integer_bytes"]
    size = sum(part.stat().st_size for part in made.parts())
    print(f"{made.path}: {size:,} bytes, {share:.1f} % of the bytes of its weights are integers")
    return PASS


COMMAND = Command("convert", TEXT, _run, arguments=_arguments)
