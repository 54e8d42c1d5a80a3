"""``quantskew slices``: the part of a study's data that loses most."""

import argparse

from quantskew.commands.common import PASS, Command, add_place

TEXT = """\
find the part of the data that loses most, when nobody listed the group

Parts are described by the attributes of the samples, the label, the brightness, contrast, sharpness
and size of the images, and clusters of the logits, or two of these together. They are found on one
half of the test samples and tested on the other: of those said to be worse, a share of at most
`statistics.alpha` is false on average.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_place(parser)
    parser.add_argument(
        "--variant",
        help="such as ptq-4bit (all seeds) or ptq-4bit-seed0 (default: the reference method at the "
        "narrowest width)",
    )


def _run(options: argparse.Namespace) -> int:
    from quantskew import params
    from quantskew.analysis.slicing import slices_of_study

    where = {"dataset": options.dataset, "model": options.model, "variant": options.variant}
    title, rows = slices_of_study(params.load().judged(), **where)
    print(title)
    print(rows.to_string(index=False, float_format="{:.4f}".format) if len(rows) else
          "no part of the searched half loses more than the rest")  # fmt: skip
    return PASS


COMMAND = Command("slices", TEXT, _run, arguments=_arguments)
