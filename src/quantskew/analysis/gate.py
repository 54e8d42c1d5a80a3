"""A policy, and its verdict on a network against its reference.

Each rule compares a number of the test samples with its bound, and knows how far the number of
other samples like these could be off: ``low`` and ``high`` are one-sided limits at the policy's
confidence each.

==============  ====================================================
verdict         for a rule that bounds a number from above
==============  ====================================================
pass            ``high`` is within the bound
fail            ``low`` is beyond it
could not tell  the bound lies between: the samples are too few
==============  ====================================================

Rules over groups look at every grouping of the policy; the worst one decides and is named.

A reference that is no better than always answering the most frequent class, or worse than the
policy expects, is no basis: its images were probably prepared otherwise than it was trained on, and
nothing is judged.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field, FiniteFloat, model_validator

from quantskew.analysis.typeset import escape_markdown, markdown
from quantskew.data.groups import Bins, Grouping
from quantskew.data.preprocess import Preprocess
from quantskew.errors import UserError, close_names
from quantskew.fairness.catalogue import CATALOGUE, Metric
from quantskew.fairness.certificate import certified_losses, loss_floor
from quantskew.fairness.limits import Limits, change_limits, changes, share_limits, shares
from quantskew.fairness.metrics import Ints
from quantskew.fairness.paired import flips, measure
from quantskew.fairness.parity import Answers
from quantskew.sections import Count, Draws, Fraction, Section, Seed
from quantskew.units import units_by_group

Verdict = Literal["pass", "fail", "could not tell"]


class GateError(UserError, ValueError):
    """A reference that nothing can be judged against."""


class Policy(Section):
    """What a network must meet to ship; a rule that is left out asks nothing.

    ==================== ======================================================================
    largest_group_loss   no group loses more of its accuracy against the reference
    accuracy             at least this, over all samples
    bytes                the file is no larger
    ==================== ======================================================================

    Every metric of the catalogue (:data:`quantskew.fairness.catalogue.CATALOGUE`) has two rules
    more, where a lower value is better ``<metric>`` and ``<metric>_increase``, and where a higher
    one is, ``<metric>`` (at least this) and ``<metric>_decrease``, both against the reference:

    ==================== ======================================================================
    fvo_increase         the largest gap between groups grows by no more
    demographic_parity   share given a class: the largest difference of groups, worst class
    equalized_odds       the same of the true and the false positive rate
    ==================== ======================================================================

    Rates of fewer than ``minimum`` images take no part in the true and false positive rates that
    groups are compared by.

    Several images of one person are not as many persons: with ``unit: person``, a column of the
    data, persons are counted by every rule, and ``minimum`` is a number of them. A study has its
    own (``groups.unit``), which this one replaces.

    ``preprocess``, ``output`` and ``threshold`` say how files are fed and read; ``preprocess_of``
    says it for files, by their names, that are fed otherwise than the others. A file with one score
    for each image answers class 1 where the score reaches ``threshold``: 0.5 for probabilities, 0
    for logits.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Fraction]

    bins: Bins = {}
    groups: tuple[str, ...] = ()  # those of the study, or the label, unless given
    minimum: Count = 30  # smaller groups are named, not judged
    unit: str | None = None  # column: who an image is of
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    draws: Draws = 2000
    seed: Seed = 0
    bytes: Count | None = None
    expected_accuracy: Fraction | None = None  # of the reference
    max_rejects: Fraction = 0.02  # share of images that may be unusable
    preprocess: Preprocess | None = None
    preprocess_of: Mapping[str, Preprocess] = {}  # of files that are fed otherwise, by their names
    output: str | None = None  # name of the output that answers
    threshold: FiniteFloat | None = None  # of a file with a single score

    @model_validator(mode="after")
    def _knows_its_rules(self) -> "Policy":
        known = rules()
        for name in self.__pydantic_extra__:
            if name not in known:
                legal = [*type(self).model_fields, *known]
                raise ValueError(
                    f"{name}: unknown key; legal here: {', '.join(legal)}{close_names(name, legal)}"
                )
        return self

    @model_validator(mode="after")
    def _asks_something(self) -> "Policy":
        if not self.asked():
            raise ValueError(f"no rule is given; there are {', '.join(rules())}")
        return self

    def asked(self) -> dict[str, float]:
        """Bounds by rule, in the order of all rules."""
        given = {**self.__pydantic_extra__, **({} if self.bytes is None else {"bytes": self.bytes})}
        return {name: given[name] for name in rules() if name in given}

    def fed(self, path: Path) -> Preprocess | None:
        """How a file is fed: as is said of it by its path or name, else as all are."""
        own = self.preprocess_of
        return own.get(str(path), own.get(path.name, self.preprocess))


class Feeding(Policy):
    """A policy that need not ask anything: how files are fed and read, where none is judged."""

    @model_validator(mode="after")
    def _asks_something(self) -> "Feeding":
        return self


class Evidence(NamedTuple):
    """Answers of a network and of its reference on the same samples."""

    name: str
    reference: str
    labels: Ints  # (n,)
    before: Ints  # (n,) answers of the reference
    after: Ints  # (n,) answers of the network
    n_classes: int
    divisions: list[Grouping]
    bytes: int
    classes: tuple[str, ...] = ()
    units: Ints | None = None  # (n,) who each sample comes from; None where each is its own
    input: str = ""  # how images were prepared, where the gate did it
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = {}  # hashes, versions and rejected images, for the JSON
    unit: str = ""  # what they are called

    @property
    def counted_in(self) -> str:
        """What makes a group large enough, in the plural."""
        return f"{self.unit} units".lstrip() if self.units is not None else "images"

    @property
    def accuracies(self) -> tuple[float, float]:
        """Share of right answers of the reference and of the network."""
        before, after = (float((a == self.labels).mean()) for a in (self.before, self.after))
        return before, after

    @property
    def majority(self) -> tuple[str, float]:
        """Name of the most frequent class, and its share of the samples."""
        counts = np.bincount(self.labels)
        index = int(counts.argmax())
        name = self.classes[index] if self.classes else str(index)
        return name, float(counts[index] / counts.sum())


class Finding(NamedTuple):
    """One rule's verdict with the numbers behind it."""

    rule: str
    verdict: Verdict
    bound: float
    value: float
    low: float
    high: float
    note: str = ""

    def line(self) -> str:
        """Return the verdict as a line of text."""
        sign = "≥" if rules()[self.rule].at_least else "≤"
        if self.rule == "bytes":
            numbers = f"{self.value:,.0f} (asked {sign} {self.bound:,.0f})"
        elif np.isnan(self.value):
            numbers = f"asked {sign} {100 * self.bound:g} %"
        else:
            numbers = (
                f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] "
                f"(asked {sign} {100 * self.bound:g} %)"
            )
        return f"{self.verdict:14s}  {self.rule}: {numbers}{self.note and '; ' + self.note}"


class Rule(NamedTuple):
    """How a rule judges by a bound, and whether the bound is one from below."""

    judge: Callable[["Evidence", Policy, float], Finding]
    at_least: bool = False


def rules() -> dict[str, Rule]:
    """All rules by name: those of the gate itself, and two of every metric of the catalogue."""
    known = {"largest_group_loss": Rule(_group_loss)}
    for metric in CATALOGUE.values():
        if metric.of == "each group":
            continue
        worse = {"lower": "increase", "higher": "decrease"}[metric.better]
        rule = f"{metric.rule}_{worse}"
        known[rule] = Rule(partial(_by_metric, metric, rule, paired=True))
        if not metric.exact:  # of which there is the rule accuracy
            level = partial(_by_metric, metric, metric.rule, paired=False)
            known[metric.rule] = Rule(level, metric.better == "higher")
    return {**known, "accuracy": Rule(_accuracy, at_least=True), "bytes": Rule(_bytes)}


def judge(evidence: Evidence, policy: Policy) -> list[Finding]:
    """Judge by every rule that the policy gives.

    Raises
    ------
    GateError
        When the reference does not beat the most frequent class, or is significantly worse than the
        policy expects.
    """
    _check_basis(evidence, policy)
    known = rules()
    return [known[name].judge(evidence, policy, bound) for name, bound in policy.asked().items()]


def _check_basis(evidence: Evidence, policy: Policy) -> None:
    accuracy, (majority, share) = evidence.accuracies[0], evidence.majority
    n = len(evidence.labels)
    expected = policy.expected_accuracy
    high = _accuracy_limits(evidence, policy, evidence.before).high
    problem = ""
    if accuracy <= share:
        problem = f"always answering {majority!r} would reach {100 * share:.1f} %"
    elif expected is not None and high < expected:
        problem = f"the policy expects {100 * expected:g} %"
    if problem:
        fed = f" It was fed {evidence.input}." if evidence.input else ""
        raise GateError(
            f"the reference {evidence.reference} answers {100 * accuracy:.1f} % of {n:,} images "
            f"correctly, and {problem}: it is no basis for a verdict.{fed} Check the labels and "
            "the order of the classes, and for a pair of files state in the policy how they are "
            "fed: preprocess: {resize: …, crop: …, scale: …, mean: …, std: …, layout: …, "
            "channels: …}"
        )


def overall(findings: list[Finding]) -> Verdict:
    """Fail if any rule fails, else could not tell if any cannot, else pass."""
    verdicts = {finding.verdict for finding in findings}
    return next(v for v in ("fail", "could not tell", "pass") if v in verdicts)


def _decided(
    rule: str, bound: float, value: float, low: float, high: float, note: str, *, sign: int = 1
) -> Finding:
    """Decide by a bound from above, or from below if ``sign`` is −1."""
    least, most = (low, high) if sign > 0 else (-high, -low)
    verdict: Verdict = "could not tell"
    if most <= sign * bound:
        verdict = "pass"
    elif least > sign * bound:
        verdict = "fail"
    return Finding(rule, verdict, bound, value, low, high, note)


def _untold(rule: str, bound: float, note: str) -> Finding:
    return Finding(rule, "could not tell", bound, np.nan, np.nan, np.nan, note)


def _worst(findings: Iterator[Finding], rule: str, bound: float, sign: int = 1) -> Finding:
    """Return the finding that decides: one that fails, or the least sure to pass."""
    every = list(findings)
    known = [finding for finding in every if not np.isnan(finding.value)]
    unknown = "; ".join(finding.note for finding in every if np.isnan(finding.value))
    if not known:
        return _untold(rule, bound, f"nothing could be judged: {unknown}")
    order = ("fail", "could not tell", "pass")
    known.sort(key=lambda one: (order.index(one.verdict), -one.high if sign > 0 else one.low))
    first = known[0]
    also = [f.note.partition(" (")[0] for f in known[1:] if f.verdict == "fail"]
    notes = [first.note] if first.note else []
    notes += [f"fails too: {', '.join(also)}"] if also else []
    notes += [f"not judged: {unknown}"] if unknown else []
    return first._replace(note="; ".join(notes))


def by_group(evidence: Evidence, policy: Policy) -> pd.DataFrame:
    """Describe every group of every grouping, also those that are too small to be judged.

    Returns
    -------
    pandas.DataFrame
        ``attribute``, ``group``, ``images``, ``units`` (who they are of), ``judged``; ``reference``
        and ``accuracy``, the accuracies; ``lost`` and ``gained``, images whose answer became wrong
        or right; and ``loss_low`` and ``loss_high``, limits of the accuracy lost, valid for all
        groups of a grouping at once and NaN where a group is not judged.
    """
    alpha, units, parts = 1 - policy.confidence, evidence.units, []
    before, after = (answers == evidence.labels for answers in (evidence.before, evidence.after))
    for attribute, codes, names, counted in evidence.divisions:
        n, each = len(names), alpha / max(1, counted.sum())
        changed = flips(evidence.labels, evidence.before, evidence.after, codes, n)
        lost, gained = changed.right_to_wrong, changed.wrong_to_right
        sizes, *hits = (
            np.bincount(codes[(codes >= 0) & own], minlength=n) for own in (True, before, after)
        )
        lows = np.full(n, np.nan)
        if units is None:
            for g in np.flatnonzero(counted):
                lows[g] = loss_floor(lost[g], gained[g], sizes[g], alpha=each)
        else:
            change = change_limits(changes(before, after, codes, n, units=units), each)
            lows[counted] = -change.high[counted]
        highs = certified_losses(before, after, codes, counted=counted, alpha=alpha, units=units)
        columns = {
            "attribute": attribute, "group": names, "images": sizes,
            "units": units_by_group(codes, n, units), "judged": counted,
            "reference": hits[0] / sizes, "accuracy": hits[1] / sizes,
            "lost": lost, "gained": gained, "loss_low": lows, "loss_high": highs,
        }  # fmt: skip
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _group_loss(evidence: Evidence, policy: Policy, bound: float) -> Finding:
    groups = by_group(evidence, policy)
    small = groups[~groups["judged"]]
    rule, few = "largest_group_loss", f"under {policy.minimum} {evidence.counted_in}"
    if len(small) == len(groups):
        return _untold(rule, bound, f"no group could be judged: {len(groups)} groups {few}")
    findings = (
        _decided(
            rule, bound, (row.lost - row.gained) / row.images, row.loss_low, row.loss_high,
            f"{row.attribute} {row.group} ({_size(row, evidence)})",
        )
        for row in groups[groups["judged"]].itertuples()
    )  # fmt: skip
    worst = _worst(findings, rule, bound)
    if small.empty:
        return worst
    unseen = ", ".join(f"{row.attribute} {row.group}" for row in small.itertuples())
    return worst._replace(note=f"{worst.note}; {few}, not judged: {unseen}")


def _size(group: Any, evidence: Evidence) -> str:
    """Say how large a group is; one of units by both numbers."""
    images = f"{group.images} images"
    return images if evidence.units is None else f"{images} of {group.units} {evidence.counted_in}"


def _answers(evidence: Evidence, policy: Policy, division: Grouping, answers: Ints) -> Answers:
    return Answers(
        evidence.labels, answers[None], division.codes, division.counted, evidence.n_classes,
        units=evidence.units, least=policy.minimum,
    )  # fmt: skip


def _measured(
    metric: Metric, evidence: Evidence, policy: Policy, *, paired: bool
) -> Iterator[tuple[str, float, float, float]]:
    """Value of a metric with its limits, or its change for the worse, for each grouping."""
    # a metric of everyone is the same for every grouping
    for division in evidence.divisions[: 1 if metric.of == "everyone" else None]:
        after, before = (
            _answers(evidence, policy, division, answers)
            for answers in (evidence.after, evidence.before)
        )
        one = measure(
            after, before if paired else None, metrics=[metric], draws=policy.draws,
            confidence=2 * policy.confidence - 1, rng=np.random.default_rng(policy.seed),
        )[metric.name]  # fmt: skip
        note = "" if metric.of == "everyone" else f"by {division.attribute}"
        compares = metric.of == "grouping" and metric.chance is not None
        if compares and division.counted.sum() < 2:  # a single group has no gap to another
            sizes = f"{len(division.names)} groups, {division.counted.sum()} of them of"
            few = f"{note}: {sizes} {policy.minimum} {evidence.counted_in} or more"
            yield few, np.nan, np.nan, np.nan
            continue
        value, limits, (least, most) = one.value[0], (one.low, one.high), metric.span
        if one.effect is not None:
            value, limits = one.effect.estimate, (one.effect.low, one.effect.high)
            if metric.better == "higher":  # so that a rise is for the worse
                value, limits = -value, (-one.effect.high, -one.effect.low)
            least, most = least - most, most - least
        if np.isnan(value):
            note = f"{note}: {one.reason or 'every rate rests on too few images'}"
        low, high = (float(np.clip(end, least, most)) for end in limits)
        yield note, float(value), low, high


def _by_metric(
    metric: Metric, rule: str, evidence: Evidence, policy: Policy, bound: float, *, paired: bool
) -> Finding:
    """Judge a metric by its value, or by how far it changed for the worse."""
    sign = 1 if paired else -metric.sign
    findings = (
        _decided(rule, bound, value, low, high, note, sign=sign)
        for note, value, low, high in _measured(metric, evidence, policy, paired=paired)
    )
    return _worst(findings, rule, bound, sign)


def _accuracy(evidence: Evidence, policy: Policy, bound: float) -> Finding:
    value, (low, high) = evidence.accuracies[1], _accuracy_limits(evidence, policy, evidence.after)
    return _decided("accuracy", bound, value, float(low), float(high), "", sign=-1)


def _accuracy_limits(evidence: Evidence, policy: Policy, answers: Ints) -> Limits:
    """Bound the share of right answers by Clopper & Pearson, with units if there are any."""
    right, everyone = answers == evidence.labels, np.zeros(len(answers), int)
    limits = share_limits(shares(right, everyone, 1, units=evidence.units), 1 - policy.confidence)
    return Limits(*(end[0] for end in limits))


def _bytes(evidence: Evidence, policy: Policy, bound: float) -> Finding:
    size = float(evidence.bytes)
    return _decided("bytes", bound, size, size, size, "")


def heading(evidence: Evidence, policy: Policy) -> list[str]:
    """Say in lines of text what was compared, on what, and what is to be doubted about it."""
    (before, after), (majority, share) = evidence.accuracies, evidence.majority
    lines = [
        f"{evidence.name} against {evidence.reference}, {len(evidence.labels):,} test images",
        f"accuracy {100 * after:.1f} %, reference {100 * before:.1f} %, most frequent class "
        f"{majority} {100 * share:.1f} %",
    ]
    if evidence.units is not None:
        units = len(np.unique(evidence.units))
        lines.append(f"{evidence.counted_in} are counted, not images: there are {units:,}")
    if evidence.input:
        lines.append(f"input: {evidence.input}")
    left_out, rates = _rates_left_out(evidence, policy)
    by_class = {metric.rule for metric in CATALOGUE.values() if metric.by_class}
    asked = {rule.removesuffix("_increase").removesuffix("_decrease") for rule in policy.asked()}
    if left_out and by_class & asked:
        lines.append(
            f"true and false positive rates over fewer than {policy.minimum} images are left out: "
            f"{left_out} of {rates}"
        )
    return [*lines, *(f"warning: {text}" for text in evidence.warnings)]


def _rates_left_out(evidence: Evidence, policy: Policy) -> tuple[int, int]:
    """Count the rates of judged groups that rest on too few images, and all rates."""
    left_out = rates = 0
    for division in evidence.divisions:
        answers = _answers(evidence, policy, division, evidence.after)
        rated = answers.rated[:, division.counted]
        rated = rated[..., 1:] if evidence.n_classes == 2 else rated
        left_out, rates = left_out + int((~rated).sum()), rates + rated.size
    return left_out, rates


def as_json(evidence: Evidence, policy: Policy, findings: list[Finding]) -> dict[str, object]:
    """Lay out a verdict for machines: all rules, all groups, and what they rest on."""
    (before, after), (majority, share) = evidence.accuracies, evidence.majority
    left_out, rates = _rates_left_out(evidence, policy)
    return {
        "verdict": overall(findings),
        "network": evidence.name,
        "reference": evidence.reference,
        "samples": len(evidence.labels),
        "unit": evidence.unit or None,
        "accuracy": after,
        "reference_accuracy": before,
        "majority": {"class": majority, "share": share},
        "input": evidence.input,
        "warnings": evidence.warnings,
        "confidence": policy.confidence,
        "rules": [finding._asdict() for finding in findings],
        "groups": by_group(evidence, policy).to_dict("records"),
        "rates": {"all": rates, "left_out": left_out},
        "policy": policy.model_dump(mode="json"),
        **evidence.provenance,
    }


def as_markdown(evidence: Evidence, policy: Policy, findings: list[Finding]) -> str:
    """Lay out a verdict as a summary for a pull request."""
    rules_table = pd.DataFrame(
        {"verdict": one.verdict, "rule": one.rule,
         "number [limits]": one.line().partition(f"{one.rule}: ")[2]}
        for one in findings
    )  # fmt: skip
    groups = by_group(evidence, policy)
    judged = groups.pop("judged")
    if evidence.units is None:
        groups = groups.drop(columns="units")
    shares = ["reference", "accuracy", "loss_low", "loss_high"]
    groups[shares] *= 100
    groups["group"] = groups["group"].where(judged, groups["group"] + " (not judged)")
    first, *rest = heading(evidence, policy)
    hashes = evidence.provenance.get("sha256", {})
    lines = [
        f"### Gate: **{overall(findings)}**",
        "",
        escape_markdown(first),
        "",
        *(f"- {escape_markdown(line)}" for line in rest),
        f"- limits are one-sided at {100 * policy.confidence:g} %",
        "",
        markdown(rules_table),
        "Accuracy, and limits of the accuracy lost by a group, in percent:",
        "",
        markdown(groups),
        *(f"- {what}: sha256 `{digest}`" for what, digest in hashes.items()),
        "",
    ]
    return "\n".join(lines)
