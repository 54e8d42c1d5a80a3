"""The command ``quantskew``: answers compared, gate, plans, latency, report, installation."""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from quantskew import __version__
from quantskew.errors import UserError, explained

PASS, FAIL, COULD_NOT_TELL = 0, 1, 2
USAGE = 64  # EX_USAGE of sysexits.h, distinct from the verdicts
SOFTWARE = 70  # EX_SOFTWARE
_EPILOGUE = """\
exit status: 0 pass, 1 fail, 2 could not tell, 64 the command could not be run,
70 an unexpected error
"""
_GATE = """\
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

A pair of files may need two more keys: `output: NAME` selects one of several outputs, and
`threshold: 0.5` reads a single score (class 1 from there on).
"""
_GATE_EXAMPLES = (
    """\
examples:
  a file of a study, in its folder
    quantskew gate policy.yaml int8_balanced-8bit-seed0 --model resnet18_quarter
  simulated int4 of the same study
    quantskew gate policy.yaml ptq-4bit-seed0 --model resnet18_quarter
  any two files on labelled images, with a summary for a pull request
    quantskew gate policy.yaml --fp32 a.onnx --int8 b.onnx --data test.parquet --markdown gate.md

"""
    + _EPILOGUE
)
_COMPARE = """\
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
_COMPARE_EXAMPLES = (
    """\
examples:
  quantskew compare fp32.parquet int8.csv --by race --by 'race*gender' --unit person
  quantskew compare fp32.csv int8.csv pruned.csv --labels people.csv --by age --report report.html
  quantskew compare fp32.csv int8.csv --policy policy.yaml --markdown - --junit verdict.xml
  quantskew compare fp32.parquet int8.parquet --by race --scores --find-slices

"""
    + _EPILOGUE
)
_VERIFY = """\
repeat a comparison from its evidence, and say what differs

The evidence of quantskew compare --evidence names its files with their hashes. Status 0: files and
results are the same; 1: they differ; 64: the comparison cannot be repeated.
"""
_ANSWERS = """\
run a network's file on labelled images, and write a table of what it answers

The suffix of the file says which runtime executes it: .onnx (ONNX Runtime), .tflite (LiteRT, pip
install 'quantskew[litert]'), .xml (OpenVINO, pip install 'quantskew[openvino]') or .pt2
(torch.export). The table has the id, label and all other columns of the data, the prediction, and
the logits, probabilities or score that the file gives.

The policy says how images are fed and scores are read: preprocess, output, threshold, max_rejects;
see quantskew gate --help. The layout, NCHW or NHWC, is seen from the shape of the input unless the
policy states it. A file whose input is integer pixels wants {scale: 1, mean: 0, std: 1}.
"""
_LAYERS = """\
say which quantized layers of an ONNX file hurt which group, whoever made the file

Each quantized layer of the file (QDQ format) gets back what it has in the fp32 file, alone: its
weights, its bias, and its input without rounding. What a group gains is what the layer costs it.
The groups are those of the policy (groups, bins), or the label.
"""
_CONVERT = """\
make a file of OpenVINO (.xml and .bin) of an ONNX file, in fp32 or in the QDQ format

The names of the classes and how images are fed go with it, so that it can be judged beside the ONNX
file: quantskew gate policy.yaml --fp32 a.onnx --int8 a.xml --data test.parquet
"""
_PLAN = """\
say how many images and seeds would decide, before they are gathered

Images of each group to certify that none loses more than --loss: from a pilot, which is the table
certificates of a study or two tables of answers, or from an assumed rate of flips (images on which
exactly one network is right). Seeds to show a --difference between methods: from its deviation
between seeds.
"""
_PLAN_EXAMPLES = """\
examples:
  quantskew plan --loss 0.02 data/analysis/certificates.parquet
  quantskew plan --loss 0.02 fp32.csv int8.csv --by race
  quantskew plan --loss 0.02 --flips 0.05 --groups 10
  quantskew plan --loss 0.02 --flips 0.05 --images-per-unit 5 --correlation 0.5
  quantskew plan --difference 0.05 --seed-sd 0.02
"""
_SLICES = """\
find the part of the data that loses most, when nobody listed the group

Parts are described by the attributes of the samples, the label, the brightness, contrast, sharpness
and size of the images, and clusters of the logits, or two of these together. They are found on one
half of the test samples and tested on the other: of those said to be worse, a share of at most
`statistics.alpha` is false on average.
"""
_LATENCY = """\
time the fp32 and int8 files of a study, and list the size of every variant

Writes metrics/latency/<data set>/<model>.json. Times vary between runs, so no stage produces this
file. No runtime executes variants of fewer than 8 bits, which are stored packed: only their size is
listed.
"""
_INIT = """\
write the files of a study of your own into a new folder

params.yaml, whose comments are its manual, the pipeline dvc.yaml with its stages, templates of
plots, and a README. Then `git init` and `dvc repro` there. No file is ever overwritten.
"""

_REPORT = """\
write the report of the study in this folder, from the tables that `dvc repro` left

One HTML file that opens without a network: the decision first, then groups, remedies, causes.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status."""
    options = _parser().parse_args(arguments)
    try:
        try:
            status = options.run(options)
        except ModuleNotFoundError as error:
            raise explained(error) from error
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = USAGE
    except Exception as error:  # a status of its own, so that no fault is taken for a verdict
        with tempfile.NamedTemporaryFile(
            "w", prefix="quantskew-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exc(file=file)
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        print(f"unexpected error: {reason}; its trace is in {file.name}", file=sys.stderr)
        status = SOFTWARE
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="quantskew",
        description=__doc__,
        epilog="The study itself is run by `dvc repro`.\n\n" + _EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"quantskew {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, text: str, run: Any, epilog: str = "") -> argparse.ArgumentParser:
        subparser = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(run=run)
        return subparser

    gate = command("gate", _GATE, _gate, _GATE_EXAMPLES)
    gate.add_argument("policy", type=Path, help="YAML file")
    gate.add_argument(
        "variant", nargs="?", help="file name of a variant of the study, without suffix"
    )
    for name in ("dataset", "model"):
        gate.add_argument(f"--{name}", help=f"{name} of the study, required if it has several")
    for name, text in (
        ("fp32", "file of the reference: .onnx, .tflite, .xml or .pt2"),
        ("int8", "file to judge, of any of these"),
        ("data", "Parquet file with the columns image, label and those that define the groups"),
        ("json", "write the verdict to this file"),
        ("markdown", "write a summary for a pull request to this file"),
    ):
        gate.add_argument(f"--{name}", type=Path, metavar="FILE", help=text)

    answers = command("answers", _ANSWERS, _answers)
    answers.add_argument("file", type=Path, help="file of a network")
    answers.add_argument("--data", type=Path, required=True, metavar="FILE",
                         help="Parquet file with the columns image, label and others")  # fmt: skip
    answers.add_argument("-o", "--output", type=Path, required=True, metavar="FILE",
                         help="Parquet file to write")  # fmt: skip
    answers.add_argument("--policy", type=Path, metavar="FILE", help="YAML file")

    convert = command("convert", _CONVERT, _convert)
    convert.add_argument("source", type=Path, help="ONNX file")
    convert.add_argument("target", type=Path, help=".xml file to write")

    layers = command("layers", _LAYERS, _layers)
    for name, text in (("fp32", "ONNX file in fp32"), ("int8", "ONNX file that was made from it"),
                       ("data", "Parquet file with labelled images")):  # fmt: skip
        layers.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=text)
    layers.add_argument("--policy", type=Path, metavar="FILE", help="YAML file")
    layers.add_argument("--images", type=int, default=500, help="at most (default: 500)")
    layers.add_argument("-o", "--output", type=Path, metavar="FILE",
                        help="write all layers and groups to this Parquet file")  # fmt: skip
    for one in (gate, answers, layers):
        one.add_argument("--label", default="label", help="column with the label (default: label)")
        one.add_argument(
            "--classes", help="names of the classes in the order of the outputs, or a file of them"
        )

    compare = command("compare", _COMPARE, _compare, _COMPARE_EXAMPLES)
    compare.add_argument("before", type=Path, help="answers of the reference")
    compare.add_argument("after", type=Path, nargs="+", help="answers to judge")
    _add_table_options(compare)
    for name, metavar, kind, what in (
        ("unit", "COLUMN", str, "who a sample comes from, where several are of one person"),
        ("margin", "X", float, "largest change of accuracy that does not matter (default: 0.02)"),
        ("policy", "FILE", Path, "rules that decide, as YAML"),
        ("minimum", "N", int, "samples below which a group is not judged (default: 30)"),
        ("date", "TEXT", str, "date to be noted in the JSON and the evidence"),
    ):
        compare.add_argument(f"--{name}", type=kind, metavar=metavar, help=what)
    compare.add_argument(
        "--scores",
        action="store_true",
        help="compare NLL, Brier score, calibration, AUC, … of tables that hold numbers, by group",
    )
    compare.add_argument(
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
        compare.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {what}")

    verify = command("verify", _VERIFY, _verify)
    verify.add_argument("evidence", type=Path, help="JSON of quantskew compare --evidence")

    plan = command("plan", _PLAN, _plan, _PLAN_EXAMPLES)
    plan.add_argument(
        "pilot", nargs="*", type=Path,
        help="table certificates of a study, or two tables of answers as quantskew compare takes",
    )  # fmt: skip
    plan.add_argument("--method", default="ptq", help="of the certificates (default: ptq)")
    _add_table_options(plan)
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

    slices = command("slices", _SLICES, _slices)
    for name in ("dataset", "model"):
        slices.add_argument(f"--{name}", help=f"{name} of the study, required if it has several")
    slices.add_argument(
        "--variant",
        help="such as ptq-4bit (all seeds) or ptq-4bit-seed0 (default: the reference method at the "
        "narrowest width)",
    )

    latency = command("latency", _LATENCY, _latency)
    for name in ("dataset", "model"):
        latency.add_argument(f"--{name}", help=f"only this {name} (default: all of the study)")
    latency.add_argument(
        "--seconds", type=float, default=4.0, help="time per batch size and pair (default: 4)"
    )
    latency.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")

    init = command("init", _INIT, _init)
    init.add_argument("folder", type=Path, metavar="DIR", help="new or empty folder")

    page = command("report", _REPORT, _report)
    page.add_argument(
        "--output", type=Path, default=Path("plots/report.html"), metavar="FILE",
        help="where the page is written (default: plots/report.html)",
    )  # fmt: skip

    command("doctor", "check the installation and list which data are available", _doctor)
    return parser


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how tables of answers are read and divided."""
    parser.add_argument(
        "--by", action="append", default=[], metavar="GROUPING",
        help="column that defines groups, or columns joined by *; may be given several times "
        "(default: label)",
    )  # fmt: skip
    for name, metavar, kind, what in (
        ("labels", "TABLE", Path, "table of labels and groups, where the answers lack them"),
        ("classes", "NAMES", str, "names of the classes in their order, or a file of them"),
        ("threshold", "X", float, "score from which on the second of two classes is answered"),
    ):
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=what)
    parser.add_argument(
        "--missing", type=float, default=0.0, metavar="X",
        help="largest share of the samples that a table may lack (default: 0)",
    )  # fmt: skip


def _of_tables(options: argparse.Namespace) -> dict[str, Any]:
    if not 0 <= options.missing < 1:
        raise UserError(f"--missing {options.missing:g}: a share from 0 to below 1")
    return {
        "by": options.by,
        "labels": options.labels,
        "classes": _names(options.classes) if options.classes else (),
        "threshold": options.threshold,
        "missing": options.missing,
    }


def _compare(options: argparse.Namespace) -> int:
    from quantskew.answers import output
    from quantskew.files import write_json, write_text

    asked = {name: getattr(options, name) for name in
             ("before", "after", "policy", "unit", "margin", "minimum", "date", "scores",
              "find_slices")}  # fmt: skip
    asked |= _of_tables(options)
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


def _verify(options: argparse.Namespace) -> int:
    from quantskew.answers import output

    differences = output.verify(options.evidence)
    print("\n".join(differences) or f"{options.evidence}: files and results are the same")
    return FAIL if differences else PASS


def _gate(options: argparse.Namespace) -> int:
    from quantskew import params, sections
    from quantskew.analysis import gate
    from quantskew.deployment import evidence
    from quantskew.engine.fingerprint import file_hash
    from quantskew.files import write_json, write_text

    policy = sections.read(
        gate.Policy, options.policy, "see quantskew gate --help for what it holds"
    )
    pair = (options.fp32, options.int8, options.data)
    if options.variant is not None and not any(pair):
        judged = evidence.from_study(
            params.load(), policy, options.variant, dataset=options.dataset, model=options.model
        )
    elif options.variant is None and all(pair):
        classes = _names(options.classes) if options.classes else ()
        judged = evidence.from_files(*pair, policy, label=options.label, classes=classes)
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
    return {"pass": PASS, "fail": FAIL, "could not tell": COULD_NOT_TELL}[verdict]


def _feeding(options: argparse.Namespace) -> dict[str, Any]:
    from quantskew import sections
    from quantskew.analysis.gate import Feeding

    policy = Feeding.model_validate({})
    if options.policy:
        policy = sections.read(Feeding, options.policy, "see quantskew gate --help")
    classes = _names(options.classes) if options.classes else ()
    return {"policy": policy, "label": options.label, "classes": classes}


def _answers(options: argparse.Namespace) -> int:
    from quantskew.deployment.answers import write_answers

    written = write_answers(options.file, options.data, options.output, **_feeding(options))
    print(f"input: {written.input}", *(f"warning: {text}" for text in written.warnings), sep="\n")
    accuracy = f"{100 * written.accuracy:.1f} % of {written.images:,} images rightly"
    print(f"{options.file} answers {accuracy}; written to {options.output}")
    return PASS


def _convert(options: argparse.Namespace) -> int:
    from quantskew.deployment.converting import to_openvino
    from quantskew.deployment.runtimes import inventory

    made = to_openvino(options.source, options.target)
    share = 100 * inventory(made.weights())["integer_bytes"]
    size = sum(part.stat().st_size for part in made.parts())
    print(f"{made.path}: {size:,} bytes, {share:.1f} % of the bytes of its weights are integers")
    return PASS


def _layers(options: argparse.Namespace) -> int:
    from quantskew import tables
    from quantskew.deployment.restoring import layer_damage, lines

    if options.images < 1:
        raise UserError(f"--images: got {options.images}; 1 or more are needed")
    found = layer_damage(
        options.fp32, options.int8, options.data, images=options.images, **_feeding(options)
    )
    print(*lines(found), sep="\n")
    if options.output:
        tables.write("file_layers", found.rows, options.output)
        print(f"written to {options.output}")
    return PASS


def _names(text: str) -> tuple[str, ...]:
    """Names of classes: the lines of a file, or a list separated by commas."""
    file = Path(text)
    parts = file.read_text(encoding="utf-8").splitlines() if file.is_file() else text.split(",")
    names = tuple(part.strip() for part in parts if part.strip())
    if len(set(names)) < len(names):
        raise UserError(f"--classes names a class twice: {', '.join(names)}")
    return names


def _plan(given: argparse.Namespace) -> int:
    from quantskew.analysis import planning

    sure = {"alpha": given.alpha, "power": given.power}
    lines: list[str] = []
    if given.loss is not None and (not given.pilot) == (given.flips is None):
        raise UserError("--loss needs either a pilot or --flips")
    if given.loss is not None and len(given.pilot) == 1:
        lines += planning.from_pilot(given.pilot[0], given.loss, method=given.method, **sure)
    elif given.loss is not None and given.pilot:
        from quantskew.answers.judging import compare_answers

        if len(given.pilot) > 2:
            raise UserError(f"a pilot is one table or two, and {len(given.pilot)} are given")
        pilot = compare_answers(*given.pilot, **_of_tables(given))
        rows = pilot.frames["certificates"]
        heading = "{method} against {model}, {attribute}:"
        judged = rows[rows["bound"].notna()]
        lines += planning.of_rows(judged, given.loss, heading=heading, **sure)
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


def _slices(options: argparse.Namespace) -> int:
    from quantskew import params
    from quantskew.analysis.slicing import slices_of_study

    where = {"dataset": options.dataset, "model": options.model, "variant": options.variant}
    title, rows = slices_of_study(params.load().judged(), **where)
    print(title)
    print(rows.to_string(index=False, float_format="{:.4f}".format) if len(rows) else
          "no part of the searched half loses more than the rest")  # fmt: skip
    return PASS


def _latency(options: argparse.Namespace) -> int:
    import torch

    from quantskew import params
    from quantskew.deployment.latency import study_latency

    study = params.load()
    torch.set_num_threads(options.threads)
    for dataset in [options.dataset] if options.dataset else study.datasets:
        for model in [options.model] if options.model else study.models:
            for line in study_latency(dataset, model, seconds=options.seconds):
                print(line)
    return PASS


def _init(options: argparse.Namespace) -> int:
    from quantskew.starting import start

    print(f"{options.folder}: {len(start(options.folder))} files of a study; next, in that folder:")
    print("  git init && dvc repro")
    return PASS


def _report(options: argparse.Namespace) -> int:
    from quantskew import params
    from quantskew.analysis.run import Source, write_report

    study = params.load()
    source = Source.of(study.model_dump(mode="json", exclude={"compute"}))
    try:
        write_report(options.output, study.judged(), source)
    except OSError as error:
        raise UserError(f"{options.output} cannot be written: {error}") from None
    print(options.output)
    return PASS


def _doctor(_: argparse.Namespace) -> int:
    from quantskew.doctor import examine

    checks = [*examine()]
    for check in checks:
        print(check.line())
    return FAIL if any(check.sound is False for check in checks) else PASS
