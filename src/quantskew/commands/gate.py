"""``quantskew gate``: a network is judged by a policy."""

import argparse
from pathlib import Path

from quantskew.commands.common import EPILOGUE, STATUS, Command, add_labels, add_place, names_of
from quantskew.errors import UserError

TEXT = """\
judge a network by a policy, and fail the build if a group loses too much

A policy is a YAML file; rules that are left out are not checked:

  groups: [race, race*gender]  # default: those of the study, or the label
  bins: {age: [0, 19, 60]}     # lower edges of groups of a number, for pairs of files
  minimum: 30                  # smaller groups are listed, not judged
  confidence: 0.95             # of each limit
  largest_group_loss: 0.05     # largest loss of accuracy of a group against fp32
  fvo_increase: 0.05           # largest increase of the gap between groups
  demographic_parity: 0.2      # largest difference between groups, worst class
  equalized_odds: 0.3
  accuracy: 0.8                # at least
  bytes: 1_000_000             # of the file, at most
  expected_accuracy: 0.92      # of the reference; if it is lower, nothing is judged
  max_rejects: 0.02            # largest share of unusable images
  preprocess:                  # input of ONNX files from elsewhere; never assumed
    {resize: 256, crop: 224, scale: 255, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225],
     layout: NCHW, channels: RGB}

A rule passes if its confidence limit is within the bound and fails if the opposite limit is beyond
it. If the bound lies between the two, the gate could not tell; more test images would help. Nothing
is judged against a reference that is no better than always answering the most frequent class.

A pair of files may need three more keys: `output: NAME` selects one of several outputs,
`threshold: 0.5` reads a single score (class 1 from there on), and `preprocess_of: {b.tflite: {…}}`
says how a file is fed that takes other images than the rest.
"""
EXAMPLES = (
    """\
examples:
  a file of a study, in its folder
    quantskew gate policy.yaml int8_balanced-8bit-seed0 --model resnet18_quarter
  simulated int4 of the same study
    quantskew gate policy.yaml ptq-4bit-seed0 --model resnet18_quarter
  any two files on labelled images, with a summary for a pull request
    quantskew gate policy.yaml --fp32 a.onnx --int8 b.onnx --data test.parquet --markdown gate.md

"""
    + EPILOGUE
)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", type=Path, help="YAML file")
    parser.add_argument(
        "variant", nargs="?", help="file name of a variant of the study, without suffix"
    )
    add_place(parser)
    for name, text in (
        ("fp32", "file of the reference: .onnx, .tflite, .xml or .pt2"),
        ("int8", "file to judge, of any of these"),
        ("data", "Parquet file with the columns image, label and those that define the groups"),
        ("json", "write the verdict to this file"),
        ("markdown", "write a summary for a pull request to this file"),
    ):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=text)
    add_labels(parser)


def _run(options: argparse.Namespace) -> int:
    from quantskew import params, sections
    from quantskew.analysis import gate
    from quantskew.deployment import evidence
    from quantskew.engine.fingerprint import file_hash
    from quantskew.files import write_json, write_text

    # a study may bring metrics that the policy names
    study = None if options.variant is None else params.load()
    policy = sections.read(
        gate.Policy, options.policy, "see quantskew gate --help for what it holds"
    )
    pair = (options.fp32, options.int8, options.data)
    if study is not None and not any(pair):
        judged = evidence.from_study(
            study, policy, options.variant, dataset=options.dataset, model=options.model
        )
    elif study is None and all(pair):
        judged = evidence.from_files(
            *pair, policy, label=options.label, classes=names_of(options.classes)
        )
    else:
        raise UserError("give either a variant of the study or all of --fp32, --int8 and --data")
    findings = gate.judge(judged, policy)
    verdict = gate.overall(findings)
    print(*gate.heading(judged, policy), *(f.line() for f in findings), sep="\n")
    print(f"gate: {verdict}")
    hashes = {**judged.provenance["sha256"], "policy": file_hash(options.policy)}
    judged = judged._replace(provenance={**judged.provenance, "sha256": hashes})
    try:
        if options.json:
            write_json(options.json, gate.as_json(judged, policy, findings))
        if options.markdown:
            write_text(options.markdown, gate.as_markdown(judged, policy, findings))
    except OSError as error:
        raise UserError(f"the verdict is {verdict} and cannot be written: {error}") from None
    return STATUS[verdict]


COMMAND = Command("gate", TEXT, _run, arguments=_arguments, epilog=EXAMPLES)
