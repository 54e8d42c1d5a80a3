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
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from scipy.stats import binomtest

from quantskew.data.groups import Grouping
from quantskew.errors import close_names
from quantskew.fairness.catalogue import CATALOGUE, Metric
from quantskew.fairness.certificate import certificate, loss_floor
from quantskew.fairness.metrics import Ints
from quantskew.fairness.paired import flips, measure
from quantskew.fairness.parity import Answers
from quantskew.sections import Count, Fraction, Section

Verdict = Literal["pass", "fail", "could not tell"]


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
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Fraction]

    groups: tuple[str, ...] = ()  # those of the study, or the label, unless given
    minimum: Count = 30  # smaller groups are named, not judged
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    draws: Annotated[int, Field(ge=100)] = 2000
    seed: int = 0
    bytes: Count | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> "Policy":
        known = rules()
        for name in self.__pydantic_extra__:
            if name not in known:
                legal = [*type(self).model_fields, *known]
                raise ValueError(
                    f"{name}: unknown key; legal here: {', '.join(legal)}{close_names(name, legal)}"
                )
        if not self.asked():
            raise ValueError(f"no rule is given; there are {', '.join(known)}")
        return self

    def asked(self) -> dict[str, float]:
        """Bounds by rule, in the order of all rules."""
        given = {**self.__pydantic_extra__, **({} if self.bytes is None else {"bytes": self.bytes})}
        return {name: given[name] for name in rules() if name in given}


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
        known[f"{metric.rule}_{worse}"] = Rule(partial(_change, metric, f"{metric.rule}_{worse}"))
        if not metric.exact:  # of which there is the rule accuracy
            known[metric.rule] = Rule(partial(_level, metric), metric.better == "higher")
    return {**known, "accuracy": Rule(_accuracy, at_least=True), "bytes": Rule(_bytes)}


def judge(evidence: Evidence, policy: Policy) -> list[Finding]:
    """Judge by every rule that the policy gives."""
    known = rules()
    return [known[name].judge(evidence, policy, bound) for name, bound in policy.asked().items()]


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


def _worst(findings: Iterator[Finding], rule: str, bound: float, sign: int = 1) -> Finding:
    """Return the finding that decides: one that fails, or the least sure to pass."""
    known = [finding for finding in findings if not np.isnan(finding.value)]
    if not known:
        note = "no grouping has groups that are large enough, or its groups are the classes"
        return Finding(rule, "could not tell", bound, np.nan, np.nan, np.nan, note)
    order = ("fail", "could not tell", "pass")
    known.sort(
        key=lambda finding: (
            order.index(finding.verdict),
            -(finding.high if sign > 0 else -finding.low),
        )
    )
    first = known[0]
    also = [f.note.partition(" (")[0] for f in known[1:] if f.verdict == "fail"]
    return first._replace(note=f"{first.note}; fails too: {', '.join(also)}") if also else first


def _group_loss(evidence: Evidence, policy: Policy, bound: float) -> Finding:
    small: list[str] = []

    def findings() -> Iterator[Finding]:
        alpha = 1 - policy.confidence
        for attribute, codes, names, counted in evidence.divisions:
            changed = flips(evidence.labels, evidence.before, evidence.after, codes, len(names))
            lost, gained = changed.right_to_wrong, changed.wrong_to_right
            sizes = np.bincount(codes[codes >= 0], minlength=len(names))
            highs = certificate(lost, gained, sizes, counted=counted, alpha=alpha).groups
            small.extend(f"{attribute} {names[g]}" for g in np.flatnonzero(~counted))
            for g in np.flatnonzero(counted):
                low = loss_floor(lost[g], gained[g], sizes[g], alpha=alpha / counted.sum())
                value = (lost[g] - gained[g]) / sizes[g]
                note = f"{attribute} {names[g]} ({sizes[g]} images)"
                yield _decided("largest_group_loss", bound, value, low, highs[g], note)

    found = _worst(findings(), "largest_group_loss", bound)
    if small:
        unseen = f"under {policy.minimum} images, not judged: {', '.join(small)}"
        found = found._replace(note=f"{found.note}; {unseen}")
    return found


def _measured(
    metric: Metric, evidence: Evidence, policy: Policy, *, paired: bool
) -> Iterator[tuple[str, float, float, float]]:
    """Value or change of a metric with its limits, for each grouping."""
    # a metric of everyone is the same for every grouping
    for division in evidence.divisions[: 1 if metric.of == "everyone" else None]:
        after, before = (
            Answers(
                evidence.labels, answers[None], division.codes, division.counted, evidence.n_classes
            )
            for answers in (evidence.after, evidence.before)
        )
        one = measure(
            after,
            before if paired else None,
            metrics=[metric],
            draws=policy.draws,
            confidence=2 * policy.confidence - 1,
            rng=np.random.default_rng(policy.seed),
        )[metric.name]
        note = "" if metric.of == "everyone" else f"by {division.attribute}"
        numbers = (one.value[0], one.low, one.high)
        if one.effect is not None:
            numbers = (one.effect.estimate, one.effect.low, one.effect.high)
        value, low, high = map(float, numbers)
        yield note, value, low, high


def _level(metric: Metric, evidence: Evidence, policy: Policy, bound: float) -> Finding:
    sign = -metric.sign
    findings = (
        _decided(metric.rule, bound, value, low, high, note, sign=sign)
        for note, value, low, high in _measured(metric, evidence, policy, paired=False)
    )
    return _worst(findings, metric.rule, bound, sign)


def _change(metric: Metric, rule: str, evidence: Evidence, policy: Policy, bound: float) -> Finding:
    sign = -metric.sign  # so that a rise is for the worse
    findings = (
        _decided(rule, bound, sign * value, min(ends), max(ends), note)
        for note, value, *limits in _measured(metric, evidence, policy, paired=True)
        for ends in [[sign * limit for limit in limits]]
    )
    return _worst(findings, rule, bound)


def _accuracy(evidence: Evidence, policy: Policy, bound: float) -> Finding:
    right, n = int((evidence.after == evidence.labels).sum()), len(evidence.labels)
    low, high = binomtest(right, n).proportion_ci(2 * policy.confidence - 1)
    return _decided("accuracy", bound, right / n, low, high, "", sign=-1)


def _bytes(evidence: Evidence, policy: Policy, bound: float) -> Finding:
    size = float(evidence.bytes)
    return _decided("bytes", bound, size, size, size, "")


def as_json(evidence: Evidence, policy: Policy, findings: list[Finding]) -> dict[str, object]:
    """Lay out a verdict for machines."""
    return {
        "verdict": overall(findings),
        "network": evidence.name,
        "reference": evidence.reference,
        "samples": len(evidence.labels),
        "groups": [division.attribute for division in evidence.divisions],
        "confidence": policy.confidence,
        "rules": [finding._asdict() for finding in findings],
    }


def as_markdown(evidence: Evidence, policy: Policy, findings: list[Finding]) -> str:
    """Lay out a verdict as a summary for a pull request."""
    rows = [
        f"| {finding.verdict} | `{finding.rule}` | "
        + finding.line().partition(f"{finding.rule}: ")[2].replace("|", "\\|")
        + " |"
        for finding in findings
    ]
    return "\n".join(
        [
            f"### Gate: **{overall(findings)}**",
            "",
            f"`{evidence.name}` against `{evidence.reference}` on {len(evidence.labels):,} test "
            f"images; limits are one-sided at {100 * policy.confidence:g} %.",
            "",
            "| verdict | rule | number [limits] |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
