"""From joined answers to verdicts: the same tables, tests and words as those of a study.

The first table is the reference of all others. No group that is large enough may be *worse*, and
each must be *equivalent* or *better*, for the comparison to pass; with a policy, its rules decide.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from quantskew.analysis import gate, result
from quantskew.analysis.effects import Predictions, analyze
from quantskew.analysis.gate import Evidence, Finding, Policy, Verdict
from quantskew.analysis.study import Statistics, Study
from quantskew.analysis.typeset import in_units, points
from quantskew.answers.joining import Joined, join
from quantskew.answers.reading import AnswersError, Codes, Source
from quantskew.answers.scoring import (
    Slices,
    error_tables,
    score_tables,
    score_threshold,
    slice_tables,
)
from quantskew.data.groups import Grouping, Groups
from quantskew.fairness.verdicts import (
    BETTER,
    CANNOT_TELL,
    EQUIVALENT,
    WORSE,
    deciding_samples,
)
from quantskew.names import BASELINE, FULL_PRECISION, UNKNOWN_WIDTH, WHOLE, Point
from quantskew.schemas import TABLES
from quantskew.sections import checked

DATASET = "answers"
NOT_JUDGED = "not judged"
Given: TypeAlias = str | Path | pd.DataFrame
_GROUPS, _STATISTICS = Groups(), Statistics()
_FOR_FILES = {"bytes", "preprocess", "preprocess_of", "output", "max_rejects", "threshold"}


class Decision(NamedTuple):
    """What was decided of one table of answers, by groups or by the rules of a policy.

    ``scores`` and ``slices`` decide nothing; they are None where they were not asked for. With
    ``numeric`` the columns of ``groups`` are mean absolute errors, in the unit of the target.
    """

    name: str
    verdict: Verdict
    sentence: str
    groups: pd.DataFrame
    findings: list[Finding]
    scores: pd.DataFrame | None = None
    slices: Slices | None = None
    numeric: bool = False


@dataclass(frozen=True, repr=False)
class Compared(result.Result):
    """Answers of several tables against those of the first.

    Attributes
    ----------
    frames, study, predictions, attributes
        As in :class:`quantskew.analysis.result.Result`. In the tables the reference is called
        ``fp32``, whatever it is, and every other table is a method whose width is not known. The
        tables ``scores`` and ``slices`` are there where they were asked for.
    decisions
        One for each table but the first.
    warnings
        What is to be doubted, or was left out.
    threshold
        Probability from which on recall and false positive rate count a class as given.
    numeric
        Lowest and highest number of a numeric target; None where there are classes. Then the table
        ``scores`` is the only one.
    """

    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...]
    threshold: float = 0.5
    numeric: tuple[float, float] | None = None

    @property
    def margin(self) -> float:
        """Largest change that does not matter: a share, or in the unit of a numeric target."""
        return self.study.statistics.margin * (np.ptp(self.numeric) if self.numeric else 1)

    @property
    def reference(self) -> str:
        """Name of the first table."""
        return str(self.predictions.columns[2])

    @property
    def verdict(self) -> Verdict:
        """Fail if any table fails, else could not tell if any cannot, else pass."""
        verdicts = [one.verdict for one in self.decisions]
        return next(v for v in ("fail", "could not tell", "pass") if v in verdicts)

    def sentences(self) -> list[str]:
        """Say of each table what was decided, and what is to be doubted."""
        said = [one.sentence for one in self.decisions]
        return [*said, *(f"warning: {text}" for text in self.warnings)]

    def report(self, path: str | Path) -> None:
        """Write the report, one page of HTML that opens offline."""
        if self.numeric:
            raise AnswersError("the report is about classes; a numeric target has none")
        super().report(path)

    def _repr_html_(self) -> str:
        if not self.numeric:
            return super()._repr_html_()
        parts = {one.name: one.groups for one in self.decisions}
        said = "".join(f"<p>{html.escape(text)}</p>" for text in self.sentences())
        return said + str(pd.concat(parts, names=["table", None]).to_html())


def compare_answers(
    before: Given,
    after: Given | Mapping[str, Given],
    *,
    by: str | Sequence[str] = (),
    unit: str | None = None,
    labels: Given | None = None,
    margin: float | None = None,
    classes: Sequence[str] = (),
    threshold: float | None = None,
    missing: float = 0.0,
    grouping: Groups = _GROUPS,
    statistics: Statistics = _STATISTICS,
    policy: Policy | None = None,
    scores: bool = False,
    find_slices: bool = False,
    numeric: Sequence[float] | None = None,
) -> Compared:
    """Judge tables of answers against a reference, by group.

    Parameters
    ----------
    before
        The reference: a file, or a frame, as :mod:`quantskew.answers.reading` describes them.
    after
        Whose answers are judged: one such table, or several by name.
    by
        Attributes that define the groups, ``a*b`` for intersections; those of the policy unless
        given, else the label.
    unit
        Column that names who each sample comes from, where several are of one person or video.
    labels
        A table of labels and groups, where the tables of answers do not hold them.
    margin
        Largest change of accuracy that does not matter, 0..1; that of ``statistics`` unless given.
    classes, threshold, missing
        As in :func:`quantskew.answers.joining.join`.
    grouping, statistics
        Bins and smallest size of groups, the confidence level and the number of draws.
    policy
        Rules that decide instead of the verdicts on groups. Its ``minimum`` and ``bins`` replace
        those of ``grouping``.
    scores
        Whether to compare what the tables say beyond answers (NLL, Brier score, calibration, AUC,
        …) by group. Each needs numbers: ``logits``, ``probabilities`` or ``p_<class>``, or a
        ``score``, which is a probability where all lie within 0..1, else a logit.
    find_slices
        Whether to search all other columns of the tables, the label and clusters of the numbers
        for the parts of the samples that lose most. Columns must describe samples: one that a
        network made, such as its confidence, makes the other look better.
    numeric
        Lowest and highest value of a numeric or ordinal target, such as an age (0, 116). ``label``
        and ``prediction`` are then numbers, absolute errors are compared, and ``margin`` is needed,
        in the unit of the target.

    Raises
    ------
    AnswersError
        When a table cannot be read or the tables do not fit together; the message says what would.
    GateError
        When the reference is no basis for the rules of a policy.

    Examples
    --------
    >>> labels = ["cat", "dog"] * 200
    >>> before = pd.DataFrame({"id": range(400), "label": labels, "prediction": labels})
    >>> after = before.assign(prediction=["cat"] * 200 + labels[200:])
    >>> found = compare_answers(before, after)
    >>> found.verdict
    'fail'
    >>> found.decisions[0].groups[["group", "before", "after", "verdict"]].round(2)
      group  before  after     verdict
    0   cat     1.0    1.0  equivalent
    1   dog     1.0    0.5       worse
    """
    by = (by,) if isinstance(by, str) else tuple(by)
    by = tuple(dict.fromkeys(by or (policy.groups if policy else ()) or ("label",)))
    if policy is not None:
        if used := policy.model_fields_set & _FOR_FILES:
            raise AnswersError(
                f"{', '.join(sorted(used))} in the policy is for networks in files, and tables of "
                "answers have none; leave it out"
            )
        unit = unit or policy.unit
        bins = {**grouping.bins, **policy.bins}
        grouping = grouping.model_copy(update={"minimum": policy.minimum, "bins": bins})
    span = None if numeric is None else _span(numeric, margin, policy, scores or find_slices)
    if span is not None and margin is not None:
        margin /= span[1] - span[0]
    if margin is not None:
        statistics = checked(Statistics, {**statistics.model_dump(), "margin": margin}, "margin")
    several = after if isinstance(after, Mapping) else {_name(after, "after"): after}
    if not several:
        raise AnswersError("after: no table is given to judge")
    reference = _name(before, "before")
    if reference in several:  # one tries a table on itself
        reference = f"{reference} (reference)"
    joined = join(
        {str(name): _source(one) for name, one in {reference: before, **several}.items()},
        by=by, unit=unit, labels=None if labels is None else _source(labels), classes=classes,
        threshold=threshold, missing=missing, numbers=scores or find_slices, features=find_slices,
        span=span,
    )  # fmt: skip
    _, *others = joined.answers
    study = Study(
        datasets=(DATASET,),
        models=(reference,),
        bits=(UNKNOWN_WIDTH,),
        seeds=(0,),
        methods={},
        reference=BASELINE,
        groups=grouping.model_copy(update={"by": {DATASET: by}}),
        statistics=statistics,
    )
    divisions = joined.divisions(by, study.groups)
    if span is not None:
        return _of_numbers(joined, divisions, study, span)
    predicted = {
        Point(DATASET, reference, BASELINE, FULL_PRECISION): joined.answers[reference][None]
    }
    for name in others:
        point = Point(DATASET, reference, name, UNKNOWN_WIDTH)
        predicted[point] = joined.answers[name][None]
    answers = Predictions(joined.labels, len(joined.classes), [0], predicted)
    frames = analyze(answers, divisions, study, joined.units)._asdict()
    scored = score_tables(joined, divisions, study, threshold) if scores else {}
    sliced = slice_tables(joined, study) if find_slices else {}
    for table, parts in (
        ("scores", scored), ("slices", {name: one.tested for name, one in sliced.items()})
    ):  # fmt: skip
        if parts:
            of_point = [p for p in predicted if p.method in parts]
            frames[table] = pd.concat(
                [parts[point.method].assign(**point._asdict()) for point in of_point]
            )
    for table, rows in frames.items():
        columns, key = TABLES[table].schema.names, list(TABLES[table].key)
        frames[table] = rows[columns].sort_values(key, ignore_index=True)
    decisions, warnings = [], list(joined.warnings)
    for name in others:
        evidence = Evidence(
            name=name, reference=reference, labels=joined.labels, before=joined.answers[reference],
            after=joined.answers[name], n_classes=len(joined.classes), divisions=divisions,
            bytes=0, classes=joined.classes, units=joined.units, unit=unit or "",
            warnings=joined.warnings,
        )  # fmt: skip
        findings = [] if policy is None else gate.judge(evidence, policy)
        groups = _groups(frames, evidence)
        decided = _decided(name, reference, groups, findings, study)
        own = _judged(scored[name]) if scored else None
        decisions.append(decided._replace(scores=own, slices=sliced.get(name)))
        same = bool((evidence.before == evidence.after).all())
        warnings += [f"{name} answers every sample as {reference} does"] if same else []
    accuracy, (majority, share) = evidence.accuracies[0], evidence.majority
    if accuracy <= share:
        warnings.append(
            f"the reference {reference} answers {100 * accuracy:.1f} % rightly, and always "
            f"answering {majority!r} would reach {100 * share:.1f} %"
        )
    cut = score_threshold(joined, threshold)
    return Compared(frames, study, *_said(joined), tuple(decisions), tuple(warnings), cut)


def _span(
    numeric: Sequence[float], margin: float | None, policy: Policy | None, more: bool
) -> tuple[float, float]:
    """Check what is asked of a numeric target, and return its range."""
    if len(numeric) != 2 or not -np.inf < numeric[0] < numeric[1] < np.inf:
        raise AnswersError(f"numeric: got {[*numeric]}; give the lowest number, then the highest")
    low, high = map(float, numeric)
    if margin is None or not 0 <= margin < high - low:
        raise AnswersError(
            f"margin: got {'nothing' if margin is None else margin}; of a numeric target, state "
            "the largest change of the absolute error that does not matter, in its unit, below "
            f"{high - low:g}"
        )
    if policy is not None or more:
        raise AnswersError(
            "a policy, scores and slices are about classes; a numeric target has none"
        )
    return low, high


def _of_numbers(
    joined: Joined, divisions: list[Grouping], study: Study, span: tuple[float, float]
) -> Compared:
    """Judge the absolute errors of each table."""
    reference, *others = joined.answers
    errors = error_tables(joined, divisions, study, span)
    margin = study.statistics.margin * (span[1] - span[0])
    decisions, parts = [], []
    for name in others:
        point = Point(DATASET, reference, name, UNKNOWN_WIDTH)
        parts.append(errors[name].assign(**point._asdict()))
        rows = _judged(errors[name])
        decide = deciding_samples(rows["n"], rows["change"], rows["low"], rows["high"], margin)
        rows["decide"] = np.where(rows["verdict"] == CANNOT_TELL, decide, np.nan)
        rows = rows[rows["group"] != WHOLE].drop(columns=["score", "note"]).reset_index(drop=True)
        decisions.append(_decided(name, reference, rows, [], study, span)._replace(numeric=True))
    columns, key = TABLES["scores"].schema.names, list(TABLES["scores"].key)
    frames = {"scores": pd.concat(parts)[columns].sort_values(key, ignore_index=True)}
    return Compared(frames, study, *_said(joined), tuple(decisions), joined.warnings, numeric=span)


def _name(given: Given, unnamed: str) -> str:
    return unnamed if isinstance(given, pd.DataFrame) else Path(given).name


def _source(given: Given) -> Source:
    return given if isinstance(given, pd.DataFrame) else Path(given)


def _groups(frames: Mapping[str, pd.DataFrame], evidence: Evidence) -> pd.DataFrame:
    """Each group of each grouping: its accuracy before and after, and what is known of it."""
    key = ["attribute", "group"]
    levels, effects = (
        frames[table][frames[table]["metric"] == "accuracy"] for table in ("levels", "effects")
    )
    before = levels[levels["method"] == BASELINE].set_index(key)["value"].rename("before")
    own = levels[levels["method"] == evidence.name].set_index(key)
    change = effects[
        (effects["method"] == evidence.name) & (effects["reference"] == BASELINE)
    ].set_index(key)
    counts = frames["certificates"]
    counts = counts[counts["method"] == evidence.name].set_index(key)[["lost", "gained", "bound"]]
    columns = ["change", "low", "high", "p_value", "fdr", "verdict", "decide"]
    rows = own[["n", "counted"]].assign(before=before, after=own["value"]).join(change[columns])
    order = [(d.attribute, name) for d in evidence.divisions for name in d.names]
    rows = _judged(rows.join(counts).loc[order].reset_index())
    return rows.assign(decide=rows["decide"].where(rows["judged"]))


def _judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows without verdicts on groups that are too small."""
    word = rows["verdict"].where(rows["counted"], NOT_JUDGED)
    return rows.assign(verdict=word).rename(columns={"counted": "judged"})


def _decided(
    name: str, reference: str, groups: pd.DataFrame, findings: list[Finding], study: Study,
    span: tuple[float, float] | None = None,
) -> Decision:  # fmt: skip
    """Decide by the rules of a policy where there are findings, else by the groups."""
    judged = groups[groups["judged"]]
    few = len(groups) - len(judged)
    small = ""
    if few:
        are = "group of fewer than {} is" if few == 1 else "groups of fewer than {} are"
        small = f" {few} {are.format(study.groups.minimum)} not judged."
    margin = f"{100 * study.statistics.margin:g} points"
    if span is not None:
        margin = f"{study.statistics.margin * (span[1] - span[0]):g} in absolute error"
    worse = judged[judged["verdict"] == WORSE]
    untold = judged[~judged["verdict"].isin([WORSE, BETTER, EQUIVALENT])]
    verdict: Verdict = "pass"
    if len(worse):
        verdict = "fail"
        most = worse.loc[worse["change"].idxmin() if span is None else worse["change"].idxmax()]
        change, low, high = (most[part] for part in ("change", "low", "high"))
        lost = f"{points(change)} points [{points(low)}, {points(high)}]"
        if span is not None:
            lost = f"{in_units(change, low, high)} in absolute error"
        are, lead = ("is", "") if len(worse) == 1 else ("are", "most of all ")
        text = (
            f"{_share(len(worse), len(judged))} {are} worse than with {reference}, {lead}"
            f"{most['attribute']} {most['group']}: {lost}."
        )
    elif len(untold) or judged.empty:
        verdict = "could not tell"
        text = (
            f"for {_share(len(untold), len(judged))} these samples cannot tell, and no group is "
            f"known to be worse than with {reference}."
            if len(judged)
            else f"no group has {study.groups.minimum} samples, so none is judged."
        )
    else:
        each = "the only group" if len(judged) == 1 else f"each of {len(judged)} groups"
        text = f"{each} is equivalent to {reference} (within {margin}), or better."
    if findings:
        verdict = gate.overall(findings)
        decided = [f.rule for f in findings if f.verdict == verdict]
        text = f"by the rules of the policy ({', '.join(decided)}); {text}"
    return Decision(name, verdict, f"{name}: {verdict}: {text}{small}", groups, findings)


def _share(some: int, many: int) -> str:
    return "the only group" if many == 1 else f"{some} of {many} groups"


def _said(joined: Joined) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ids, labels and answers, then the attributes."""
    names = [*joined.classes]
    columns = {
        name: Codes(values, names).categorical() if names else values
        for name, values in {"label": joined.labels, **joined.answers}.items()
    }
    ids = pd.Series(joined.ids, dtype=pd.ArrowDtype(joined.ids.type))
    attributes = {name: one.categorical() for name, one in joined.attributes.items()}
    return pd.DataFrame({"id": ids, **columns}), pd.DataFrame(attributes)
