"""A comparison as text, JSON, JUnit and Markdown, and the evidence that it can be repeated from."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from quantskew.analysis import gate
from quantskew.analysis.gate import Finding, Policy
from quantskew.analysis.typeset import (
    about,
    decimal,
    escape_markdown,
    in_units,
    interval,
    markdown,
    percent,
    points,
)
from quantskew.answers.judging import NOT_JUDGED, Compared, Decision, compare_answers
from quantskew.answers.reading import AnswersError, listed
from quantskew.data.groups import Groups
from quantskew.engine.fingerprint import file_hash
from quantskew.errors import UserError
from quantskew.fairness.verdicts import BETTER, CANNOT_TELL, EQUIVALENT, UNDEFINED, WORSE
from quantskew.files import as_json_text, write_json
from quantskew.names import WHOLE
from quantskew.sections import read

SCHEMA, EVIDENCE = "quantskew/compare/1", "quantskew/evidence/1"
STATUS = {"pass": 0, "fail": 1, "could not tell": 2}
_LIBRARIES = ("quantskew", "numpy", "pandas", "pyarrow", "scipy")
DIGITS = 6
_LONGEST = 40
_ORDER = (WORSE, CANNOT_TELL, NOT_JUDGED, UNDEFINED, BETTER, EQUIVALENT)


def _changes(rows: pd.DataFrame, *, in_points: bool) -> dict[str, Any]:
    """Columns that say in texts what was, what is, and what changed."""
    level, limits = (percent, interval) if in_points else (decimal, in_units)
    return {
        "before": rows["before"].map(level),
        "after": rows["after"].map(level),
        "change [limits]": [limits(r.change, r.low, r.high) for r in rows.itertuples()],
    }


def _by_weight(rows: pd.DataFrame) -> pd.DataFrame:
    """What matters first."""
    return rows.iloc[rows["verdict"].map(_ORDER.index).argsort(kind="stable")]


def table(decision: Decision) -> pd.DataFrame:
    """The groups of a table of answers, with what matters first, as texts."""
    rows = _by_weight(decision.groups)
    shown = pd.DataFrame(
        {
            "group": rows["attribute"] + " " + rows["group"],
            "n": rows["n"].map("{:,}".format),
            **_changes(rows, in_points=not decision.numeric),
            "verdict": rows["verdict"],
        }
    )
    if rows["decide"].notna().any():
        shown["samples that would do"] = rows["decide"].map(about)
    return shown


def scores_table(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of a table of answers that are not equivalent, what matters first, as texts."""
    rows = _by_weight(scores[~scores["verdict"].isin([EQUIVALENT, UNDEFINED])])
    return pd.DataFrame(
        {
            "score": rows["score"],
            "group": np.where(
                rows["group"] == WHOLE, "everyone", rows["attribute"] + " " + rows["group"]
            ),
            **_changes(rows, in_points=False),
            "verdict": rows["verdict"],
        }
    )


def slices_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The tested slices of a table of answers, the surest first, as texts."""
    return pd.DataFrame(
        {
            "slice": rows["slice"],
            "n": rows["n"].map("{:,}".format),
            **_changes(rows, in_points=True),
            "of all others": rows["rest"].map(points),
            "fdr": rows["fdr"].map("{:.2g}".format),
            "verdict": rows["verdict"],
        }
    )


def _parts(found: Compared, one: Decision) -> Iterator[tuple[str, pd.DataFrame]]:
    """What to say of a table of answers, each with the rows that follow; there may be none."""
    yield "\n".join([one.sentence, *(finding.line() for finding in one.findings)]), table(one)
    if one.scores is not None:
        whole = one.scores["group"] == WHOLE  # everyone is the same under each grouping
        scores = one.scores[~whole | (one.scores["attribute"] == one.scores["attribute"].iloc[0])]
        same, defined = ((scores["verdict"] == EQUIVALENT).sum(), scores["change"].count())
        said = (
            f"Scores of {one.name} against {found.reference}, in nats or shares of 1 (recall and "
            f"false positive rate at {found.threshold:g}): {same} of {defined} changes "
            f"{'is' if same == 1 else 'are'} equivalent. They do not decide the verdict."
        )
        yield said, scores_table(scores)
    if one.slices is not None:
        columns, rows = one.slices
        alpha = found.study.statistics.alpha
        sure = (rows["fdr"] <= alpha).sum()
        said = f"Slices by {listed(columns)}: chosen on one half of the samples, " + (
            "where no part of enough samples loses more than the rest."
            if rows.empty
            else f"and tested on the other, where {sure} of {len(rows)} "
            f"{'loses' if sure == 1 else 'lose'} more than the rest (false discovery rate at most "
            f"{100 * alpha:g} %); they do not decide the verdict."
        )
        yield said, slices_table(rows)


def as_text(found: Compared) -> str:
    """Say the decision in a sentence, then show the groups."""
    lines = []
    for one in found.decisions:
        for said, shown in _parts(found, one):
            lines += [said, ""]
            if len(shown):
                lines += [shown.head(_LONGEST).to_string(index=False), *_more(shown, " in --json")]
                lines += [""]
    return "\n".join([*lines, *(f"warning: {text}" for text in found.warnings)]).strip()


def _more(shown: pd.DataFrame, where: str = "") -> list[str]:
    more = len(shown) - _LONGEST
    return [f"… and {more:,} more rows{where}"] if more > 0 else []


def as_markdown(found: Compared) -> str:
    """Lay out a comparison as a comment on a pull request."""
    lines = [f"### Answers by group: **{found.verdict}**", ""]
    for one in found.decisions:
        for said, shown in _parts(found, one):
            first, *rules = said.split("\n")
            lines += [escape_markdown(first), "", *(f"- {escape_markdown(r)}" for r in rules)]
            lines += ["", markdown(shown.head(_LONGEST))] if len(shown) else []
            lines += [*_more(shown), ""]
    confidence = 100 * (1 - found.study.statistics.alpha)
    of, margin = "points of accuracy", f"{100 * found.margin:g} points"
    if found.numeric:
        of, margin = "mean absolute error", f"{found.margin:g}"
    lines += [
        f"Changes are in {of} against {escape_markdown(found.reference)}, with limits at "
        f"{confidence:g} %; equivalent: surely within {margin}.",
        "",
        *(f"- {escape_markdown(text)}" for text in found.warnings),
    ]
    return "\n".join(lines).rstrip() + "\n"


def as_json(
    found: Compared,
    *,
    policy: Policy | None = None,
    unit: str | None = None,
    hashes: Mapping[str, str] | None = None,
    date: str | None = None,
) -> dict[str, Any]:
    """Lay out a comparison for machines, as ``docs/compare.schema.json`` describes it."""
    predictions, settings = found.predictions, found.study.statistics
    labels = predictions["label"]

    def of_all(name: str) -> dict[str, float]:
        own = predictions[name]
        if found.numeric:
            return {"absolute_error": (own - labels).abs().clip(upper=np.ptp(found.numeric)).mean()}
        return {"accuracy": float((labels.cat.codes == own.cat.codes).mean())}

    return {
        "schema": SCHEMA,
        "verdict": found.verdict,
        "exit": STATUS[found.verdict],
        "reference": {"name": found.reference, **of_all(found.reference)},
        "samples": len(predictions),
        "classes": [] if found.numeric else [*labels.cat.categories],
        "numeric": found.numeric and [*found.numeric],
        "by": [*found.study.groups_of(found.study.datasets[0])],
        "unit": unit,
        "minimum": found.study.groups.minimum,
        "margin": found.margin,
        "alpha": settings.alpha,
        "draws": settings.draws,
        "seed": settings.seed,
        "warnings": [*found.warnings],
        "threshold": found.threshold,
        "tables": [
            {
                "name": one.name,
                "verdict": one.verdict,
                "sentence": one.sentence,
                **of_all(one.name),
                "groups": one.groups.to_dict("records"),
                "rules": [finding._asdict() for finding in one.findings],
                "scores": None if one.scores is None else one.scores.to_dict("records"),
                "slices": None
                if one.slices is None
                else {
                    "columns": [*one.slices.columns],
                    "tested": one.slices.tested.to_dict("records"),
                },
            }
            for one in found.decisions
        ],
        "policy": None if policy is None else policy.model_dump(mode="json"),
        "sha256": dict(hashes or {}),
        "versions": {name: version(name) for name in _LIBRARIES},
        "date": date,
    }


def as_junit(found: Compared) -> str:
    """Lay out a comparison for CI servers: a case for each group and each rule.

    A group that is worse, and a rule that fails, is a failure; what could not be told is an error;
    a group too small to be judged is skipped.
    """
    root = ElementTree.Element("testsuites", name="quantskew compare")
    for one in found.decisions:
        cases = [*_group_cases(one), *_rule_cases(one.findings)]
        kinds = [kind for _, _, kind, _ in cases]
        suite = ElementTree.SubElement(
            root, "testsuite", name=one.name, tests=str(len(cases)),
            failures=str(kinds.count("failure")), errors=str(kinds.count("error")),
            skipped=str(kinds.count("skipped")),
        )  # fmt: skip
        for kind_of, name, kind, said in cases:
            case = ElementTree.SubElement(suite, "testcase", classname=kind_of, name=name)
            if kind:
                ElementTree.SubElement(case, kind, message=said)
            else:
                ElementTree.SubElement(case, "system-out").text = said
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _group_cases(decision: Decision) -> Iterator[tuple[str, str, str, str]]:
    kinds = {WORSE: "failure", BETTER: "", EQUIVALENT: "", NOT_JUDGED: "skipped"}
    for row in decision.groups.itertuples():
        change = in_units(row.change, row.low, row.high)
        if not decision.numeric:
            limits = f"[{points(row.low)}, {points(row.high)}]"
            change = f"{points(row.change)} points {limits}"
        said = f"{row.verdict}: {change}, n = {row.n:,}"
        needs = about(row.decide)
        said += f"; samples that would do: {needs}" if needs else ""
        yield row.attribute, row.group, kinds.get(row.verdict, "error"), said


def _rule_cases(findings: Sequence[Finding]) -> Iterator[tuple[str, str, str, str]]:
    kinds = {"pass": "", "fail": "failure", "could not tell": "error"}
    for finding in findings:
        yield "policy", finding.rule, kinds[finding.verdict], finding.line()


def run(
    before: Path, after: Sequence[Path], *, policy: Path | None = None, labels: Path | None = None,
    unit: str | None = None, minimum: int | None = None, date: str | None = None, **options: Any,
) -> tuple[Compared, dict[str, Any]]:  # fmt: skip
    """Compare files, and describe the comparison as :func:`as_json` does.

    Parameters are those of :func:`quantskew.answers.judging.compare_answers`, with a file of the
    policy, and ``minimum``, the samples below which a group is not judged.
    """
    rules = None
    if policy is not None:
        rules = read(gate.Policy, policy, "see quantskew gate --help for what it holds")
    if minimum is not None and (rules is not None or minimum < 1):
        raise UserError(
            "--minimum: the policy says it" if rules else f"--minimum {minimum}: at least 1"
        )
    named = [path.name for path in after]
    names = [
        path.name if named.count(path.name) == 1 else "/".join(path.absolute().parts[-2:])
        for path in after
    ]
    if len({*names}) < len(names):
        raise UserError(f"two tables to judge are called alike: {listed(names)}")
    found = compare_answers(
        before, dict(zip(names, after, strict=True)), unit=unit, labels=labels, policy=rules,
        grouping=Groups() if minimum is None else Groups(minimum=minimum), **options,
    )  # fmt: skip
    files = [before, *after, *([labels] if labels else []), *([policy] if policy else [])]
    hashes = {str(path): file_hash(path) for path in files}
    return found, as_json(found, policy=rules, unit=unit, hashes=hashes, date=date)


def write_evidence(path: Path, content: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Keep a comparison with all that it takes to repeat it.

    Paths are kept relative to the evidence, so that a folder may move.
    """
    folder = path.absolute().parent

    def kept(value: Any) -> Any:
        if isinstance(value, Path):
            return {"path": os.path.relpath(value.absolute(), folder), "sha256": file_hash(value)}
        return [*map(kept, value)] if isinstance(value, list | tuple) else value

    asked = {name: kept(value) for name, value in options.items()}
    write_json(path, {"schema": EVIDENCE, "asked": asked, "found": content}, digits=DIGITS)


def verify(path: Path) -> list[str]:
    """Repeat a comparison from its evidence.

    Returns
    -------
    What differs, in lines of text; none where files and results are the same.

    Raises
    ------
    UserError
        When it is no evidence, or the comparison cannot be repeated.
    """
    try:
        evidence = json.loads(path.read_text(encoding="utf-8"))
        if evidence["schema"] != EVIDENCE:
            raise UserError(f"{path}: schema {evidence['schema']!r}, not {EVIDENCE!r}")
        asked, before = dict(evidence["asked"]), dict(evidence["found"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no evidence of quantskew compare: {error!r}") from None
    changed: list[str] = []

    def found_again(value: Any) -> Any:
        if isinstance(value, dict):
            file = path.absolute().parent / value["path"]
            if not file.is_file():
                raise UserError(f"{path}: {file} is named there and does not exist")
            if file_hash(file) != value["sha256"]:
                changed.append(f"{value['path']}: the file was changed since")
            return file
        return [*map(found_again, value)] if isinstance(value, list) else value

    try:
        options = {name: found_again(value) for name, value in asked.items()}
        _, content = run(**options)
    except TypeError as error:
        raise UserError(f"{path} is no evidence of quantskew compare: {error}") from None
    except AnswersError as error:
        if changed:
            return [*changed, f"and cannot be compared any more: {error}"]
        raise
    again = json.loads(as_json_text(content, DIGITS))
    ignored = ("sha256", "versions")
    return changed + [
        line
        for name in before
        if name not in ignored
        for line in _differences(name, before[name], again.get(name))
    ]


def _differences(name: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            yield from _differences(f"{name}.{key}", before.get(key), after.get(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(f"{name}[{place}]", one, other)
    elif before != after:
        yield f"{name}: was {before!r}, is {after!r}"
