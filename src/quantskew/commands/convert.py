"""``quantskew convert``: a file for another runtime, or with integer weights, is made."""

import argparse
import math
from pathlib import Path

from quantskew.commands.common import PASS, Command, add_place, policy_of, target
from quantskew.errors import UserError

TEXT = """\
make a file for another runtime, or with integer weights, or both

The suffix of the target says for which runtime it is:

  .onnx    of a network of the study
  .pt2     of a network of the study, by torch.export
  .xml     of an ONNX file in fp32 or QDQ, or of a network of the study
  .tflite  of a .pt2 file, or of a network of the study (pip install litert-torch, which writes
           wrong weights of some networks of many layers; such a file is refused)

--bits 8 or 4 quantizes the weights: .onnx by ONNX Runtime, .xml by nncf, .tflite by
ai-edge-quantizer (pip install 'quantskew[convert]'). Activations are calibrated on training images
of the study, or on --data; do not give it the images that you judge on.

Names of classes and how images are fed go with a file, so that it can be judged beside the others:
quantskew runtimes policy.yaml a.onnx a.xml a.tflite --data test.parquet
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="a file, or a network of the study in floating point (fp32-32bit-seed0)"
    )
    parser.add_argument("target", type=target, help="file to write")
    parser.add_argument("--bits", type=int, choices=(8, 4), help="width of the weights")
    add_place(parser)
    parser.add_argument("--data", type=Path, metavar="FILE",
                        help="Parquet file with the column image: what a file is calibrated "
                        "on")  # fmt: skip
    parser.add_argument("--label", default="label", help="column with the label (default: label)")
    parser.add_argument("--policy", type=Path, metavar="FILE",
                        help="how these are fed, and which output of a file answers")  # fmt: skip
    parser.add_argument("--images", type=int, default=128, help="at most (default: 128)")


def _run(options: argparse.Namespace) -> int:
    from quantskew import params
    from quantskew.deployment.converting import convert, convert_network
    from quantskew.deployment.feeding import as_stated, calibration_images
    from quantskew.deployment.runtimes import Network, share_by_type

    if options.images < 1:
        raise UserError(f"--images: got {options.images}; 1 or more are needed")
    source = Path(options.source)
    if source.suffix.lower() in Network.kinds:
        images, policy = None, policy_of(options)
        if options.data:
            images = calibration_images(
                source, options.data, policy, options.images, label=options.label
            )
        made = convert(
            source, options.target, bits=options.bits, images=images, **as_stated(policy, source)
        )
    elif options.data or options.policy:
        raise UserError(
            "--data and --policy are for files; a network of the study has its training images"
        )
    else:
        made = convert_network(
            params.load(), options.source, options.target, dataset=options.dataset,
            model=options.model, bits=options.bits, images=options.images,
        )  # fmt: skip
    shares = share_by_type(made.file.weights())
    size = sum(part.stat().st_size for part in made.file.parts())
    types = ", ".join(f"{100 * share:.1f} % {name}" for name, share in shares.items())
    print(f"{options.target}: {size:,} bytes; weights, by their bytes: {types}")
    if made.ranges:
        alike = f"; {100 * made.agreement:.1f} % of the calibration images answered"
        alike = "" if math.isnan(made.agreement) else f"{alike} as in floating point"
        print(f"activations: {made.ranges}{alike}")
    return PASS


COMMAND = Command("convert", TEXT, _run, arguments=_arguments)
