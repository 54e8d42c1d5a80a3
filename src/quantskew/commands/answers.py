"""``quantskew answers``: a file answers images, and the table is kept."""

import argparse
from pathlib import Path

from quantskew.commands.common import PASS, Command, add_labels, feeding, target

TEXT = """\
run a network's file on labelled images, and write a table of what it answers

The suffix of the file says which runtime executes it: .onnx (ONNX Runtime), .tflite (LiteRT, pip
install 'quantskew[litert]'), .xml (OpenVINO, pip install 'quantskew[openvino]') or .pt2
(torch.export). The table has the id, label and all other columns of the data, the prediction, and
the logits, probabilities or score that the file gives.

The policy says how images are fed and scores are read: preprocess, output, threshold, max_rejects;
see quantskew gate --help. The layout, NCHW or NHWC, is seen from the shape of the input unless the
policy states it. A file whose input is integer pixels wants {scale: 1, mean: 0, std: 1}.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="file of a network")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE",
                         help="Parquet file with the columns image, label and others")  # fmt: skip
    parser.add_argument("-o", "--output", type=target, required=True, metavar="FILE",
                         help="Parquet file to write")  # fmt: skip
    parser.add_argument("--policy", type=Path, metavar="FILE", help="YAML file")
    add_labels(parser)


def _run(options: argparse.Namespace) -> int:
    from quantskew.deployment.answers import write_answers

    written = write_answers(options.file, options.data, options.output, **feeding(options))
    print(f"input: {written.input}", *(f"warning: {text}" for text in written.warnings), sep="\n")
    accuracy = f"{100 * written.accuracy:.1f} % of {written.images:,} images rightly"
    print(f"{options.file} answers {accuracy}; written to {options.output}")
    return PASS


COMMAND = Command("answers", TEXT, _run, arguments=_arguments)
