"""The command ``quantskew``: may it ship, what would decide, how fast is it, is all installed."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from quantskew.errors import UserError

PASS, FAIL, COULD_NOT_TELL = 0, 1, 2
USAGE = 64  # EX_USAGE of sysexits.h: apart from the verdicts
_EPILOGUE = """\
exit status: 0 pass, 1 fail, 2 could not tell, 64 the command cannot be carried out
"""
_GATE = """\
judge a network by a policy, and fail the build when a group pays too much

A policy is a YAML file; a rule that is left out asks nothing:

  groups: [race, race*gender]  # those of the study, or the label, unless given
  minimum: 30                  # smaller groups are named, not judged
  confidence: 0.95             # of each limit
  largest_group_loss: 0.05     # no group loses more of its accuracy against fp32
  fvo_increase: 0.05           # the largest gap between groups grows by no more
  demographic_parity: 0.2      # largest difference of groups, worst class
  equalized_odds: 0.3
  accuracy: 0.8                # at least
  bytes: 1_000_000             # of the file, at most

A rule passes when its limit is within the bound, fails when the opposite limit is beyond it, and
cannot be told when the bound lies between the two: more test images would tell.
"""
_GATE_EXAMPLES = (
    """\
examples:
  a file of a study, in its folder
    quantskew gate policy.yaml int8_balanced-8bit-seed0 --model resnet18_quarter
  simulated int4 of the same study
    quantskew gate policy.yaml ptq-4bit-seed0 --model resnet18_quarter
  any two ONNX files on labelled images, with a summary for a pull request
    quantskew gate policy.yaml --fp32 a.onnx --int8 b.onnx --data test.parquet --markdown gate.md

"""
    + _EPILOGUE
)
_PLAN = """\
say how many images and seeds would decide, before they are gathered

Images of each group to certify that none loses more than --loss: from a pilot, which is the table
certificates of a study, or from an assumed rate of flips (images on which exactly one network is
right). Seeds to show a --difference between methods: from its deviation between seeds.
"""
_PLAN_EXAMPLES = """\
examples:
  quantskew plan --loss 0.02 data/analysis/certificates.parquet
  quantskew plan --loss 0.02 --flips 0.05 --groups 10
  quantskew plan --loss 0.02 --flips 0.05 --images-per-unit 5 --correlation 0.5
  quantskew plan --difference 0.05 --seed-sd 0.02
"""
_LATENCY = """\
time the fp32 and int8 files of a study, and list the size of every variant

Writes metrics/latency/<data set>/<model>.json. Times differ from run to run, so no stage owns that
file. Variants of fewer than 8 bits are stored packed but executed nowhere: they have a size alone.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status."""
    given = _parser().parse_args(arguments)
    try:
        status = given.run(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = USAGE
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="quantskew",
        description=__doc__,
        epilog="The study itself is run by `dvc repro`.\n\n" + _EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, what: str, run: Any, epilog: str = "") -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=what.strip().partition("\n")[0],
            description=what,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        return made

    gate = command("gate", _GATE, _gate, _GATE_EXAMPLES)
    gate.add_argument("policy", type=Path, help="YAML file")
    gate.add_argument("variant", nargs="?", help="name of a file of the study, without suffix")
    for name in ("dataset", "model"):
        gate.add_argument(f"--{name}", help=f"of the study; needed if it has several {name}s")
    for name, what in (
        ("fp32", "ONNX file of the reference"),
        ("int8", "ONNX file to judge"),
        ("data", "Parquet file with the columns image, label and those of the groups"),
        ("json", "write the verdict to this file"),
        ("markdown", "write a summary for a pull request to this file"),
    ):
        gate.add_argument(f"--{name}", type=Path, metavar="FILE", help=what)
    gate.add_argument("--label", default="label", help="column of the label (default: label)")

    plan = command("plan", _PLAN, _plan, _PLAN_EXAMPLES)
    plan.add_argument("pilot", nargs="?", type=Path, help="table certificates of a study")
    plan.add_argument("--method", default="ptq", help="of the pilot (default: ptq)")
    for name, kind, what in (
        ("loss", float, "share of accuracy that no group is to lose, such as 0.02"),
        ("flips", float, "share of images on which exactly one network is right"),
        ("difference", float, "between two methods, as a share, to be shown"),
        ("seed-sd", float, "standard deviation of the difference between seeds"),
    ):
        plan.add_argument(f"--{name}", type=kind, metavar="X", help=what)
    for name, number, default, what in (
        ("groups", int, 1, "groups whose bounds hold at once"),
        ("images-per-unit", float, 1.0, "images of one person, or other unit"),
        ("correlation", float, 0.0, "intra-class correlation of the changes within a unit"),
        ("common-sd", float, 0.0, "error of the difference from the common test images"),
        ("models", int, 1, "architectures, each trained with as many seeds"),
        ("alpha", float, 0.05, "1 − confidence"),
        ("power", float, 0.8, "chance of success wanted"),
    ):
        plan.add_argument(f"--{name}", type=number, default=default, metavar="X",
                          help=f"{what} (default: {default:g})")  # fmt: skip

    latency = command("latency", _LATENCY, _latency)
    for name in ("dataset", "model"):
        latency.add_argument(f"--{name}", help="only this; all of the study by default")
    latency.add_argument("--seconds", type=float, default=4.0, help="for each batch size and pair")
    latency.add_argument("--threads", type=int, default=1, help="(default: 1)")

    command("doctor", "say whether the installation is sound and which data are at hand", _doctor)
    return parser


def _gate(given: argparse.Namespace) -> int:
    from quantskew import params, sections
    from quantskew.analysis import gate
    from quantskew.deployment import evidence
    from quantskew.files import write_json, write_text

    policy = sections.read(gate.Policy, given.policy, "see quantskew gate --help for what it holds")
    pair = (given.fp32, given.int8, given.data)
    if given.variant is not None and not any(pair):
        found = evidence.from_study(
            params.load(), policy, given.variant, dataset=given.dataset, model=given.model
        )
    elif given.variant is None and all(pair):
        found = evidence.from_files(*pair, policy, label=given.label)
    else:
        raise UserError("give either a variant of the study, or all of --fp32, --int8 and --data")
    findings = gate.judge(found, policy)
    verdict = gate.overall(findings)
    print(f"{found.name} against {found.reference}, {len(found.labels):,} test images")
    for finding in findings:
        print(finding.line())
    print(f"gate: {verdict}")
    if given.json:
        write_json(given.json, gate.as_json(found, policy, findings))
    if given.markdown:
        write_text(given.markdown, gate.as_markdown(found, policy, findings))
    return {"pass": PASS, "fail": FAIL, "could not tell": COULD_NOT_TELL}[verdict]


def _plan(given: argparse.Namespace) -> int:
    from quantskew.analysis import planning

    sure = {"alpha": given.alpha, "power": given.power}
    lines: list[str] = []
    if given.loss is not None and (given.pilot is None) == (given.flips is None):
        raise UserError("--loss needs either a pilot or --flips")
    if given.loss is not None and given.pilot:
        lines += planning.from_pilot(given.pilot, given.loss, method=given.method, **sure)
    if given.loss is not None and given.flips is not None:
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


def _latency(given: argparse.Namespace) -> int:
    import torch

    from quantskew import params
    from quantskew.deployment.latency import study_latency

    study = params.load()
    torch.set_num_threads(given.threads)
    for dataset in [given.dataset] if given.dataset else study.datasets:
        for model in [given.model] if given.model else study.models:
            for line in study_latency(dataset, model, seconds=given.seconds):
                print(line)
    return PASS


def _doctor(_: argparse.Namespace) -> int:
    from quantskew.doctor import examine

    checks = [*examine()]
    for check in checks:
        print(check.line())
    return FAIL if any(check.sound is False for check in checks) else PASS
