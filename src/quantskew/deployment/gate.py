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

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator
from scipy.stats import binomtest

from quantskew.data.groups import Grouping
from quantskew.fairness.certificate import certificate, loss_floor
from quantskew.fairness.metrics import Ints
from quantskew.fairness.paired import compare_accuracy, flips, parity_levels
from quantskew.sections import Count, Fraction, Section

Verdict = Literal["pass", "fail", "could not tell"]


class Policy(Section):
    """What a network must meet to ship; a rule that is left out asks nothing.

    ==================== ======================================================================
    largest_group_loss   no group loses more of its accuracy against the reference
    fvo_increase         the largest gap between groups grows by no more
    demographic_parity   share given a class: the largest difference of groups, worst class
    equalized_odds       the same of the true and the false positive rate
    accuracy             at least this, over all samples
    bytes                the file is no larger
    ==================== ======================================================================
    """

    groups: tuple[str, ...] = ()  # those of the study, or the label, unless given
    minimum: Count = 30  # smaller groups are named, not judged
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    draws: Annotated[int, Field(ge=100)] = 2000
    seed: int = 0
    largest_group_loss: Fraction | None = None
    fvo_increase: Fraction | None = None
    demographic_parity: Fraction | None = None
    equalized_odds: Fraction | None = None
    accuracy: Fraction | None = None
    bytes: Count | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> "Policy":
        if all(getattr(self, rule) is None for rule in _RULES):
            raise ValueError(f"no rule is given; there are {', '.join(_RULES)}")
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
        sign = "≥" if self.rule == "accuracy" else "≤"
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


def judge(evidence: Evidence, policy: Policy) -> list[Finding]:
    """Judge by every rule that the policy gives."""
    return [
        finding(evidence, policy, getattr(policy, rule))
        for rule, finding in _RULES.items()
        if getattr(policy, rule) is not None
    ]


def overall(findings: list[Finding]) -> Verdict:
    """Fail if any rule fails, else could not tell if any cannot, else pass."""
    verdicts = {finding.verdict for finding in findings}
    return next(v for v in ("fail", "could not tell", "pass") if v in verdicts)


def _decided(rule: str, bound: float, value: float, low: float, high: float, note: str) -> Finding:
    verdict: Verdict = "could not tell"
    if high <= bound:
        verdict = "pass"
    elif low > bound:
        verdict = "fail"
    return Finding(rule, verdict, bound, value, low, high, note)


def _worst(findings: Iterator[Finding], rule: str, bound: float) -> Finding:
    """Return the finding that decides: one that fails, or the least sure to pass."""
    known = [finding for finding in findings if not np.isnan(finding.value)]
    if not known:
        note = "no grouping has groups that are large enough, or its groups are the classes"
        return Finding(rule, "could not tell", bound, np.nan, np.nan, np.nan, note)
    order = ("fail", "could not tell", "pass")
    known.sort(key=lambda finding: (order.index(finding.verdict), -finding.high))
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


def _fvo_increase(evidence: Evidence, policy: Policy, bound: float) -> Finding:
    def findings() -> Iterator[Finding]:
        for attribute, codes, _, counted in evidence.divisions:
            effect = compare_accuracy(
                evidence.before == evidence.labels,
                evidence.after == evidence.labels,
                codes,
                counted=counted,
                draws=policy.draws,
                confidence=2 * policy.confidence - 1,
                rng=np.random.default_rng(policy.seed),
            )["fvo"]
            numbers = (float(effect.estimate), float(effect.low), float(effect.high))
            yield _decided("fvo_increase", bound, *numbers, f"by {attribute}")

    return _worst(findings(), "fvo_increase", bound)


def _parity(metric: str, evidence: Evidence, policy: Policy, bound: float) -> Finding:
    def findings() -> Iterator[Finding]:
        for attribute, codes, _, counted in evidence.divisions:
            levels = parity_levels(
                evidence.labels,
                evidence.after,
                codes,
                counted=counted,
                n_classes=evidence.n_classes,
                draws=policy.draws,
                confidence=2 * policy.confidence - 1,
                rng=np.random.default_rng(policy.seed),
            )
            value, low, high = map(float, levels[f"{metric}_worst"])
            yield _decided(metric, bound, value, low, high, f"by {attribute}")

    return _worst(findings(), metric, bound)


def _accuracy(evidence: Evidence, policy: Policy, bound: float) -> Finding:
    right, n = int((evidence.after == evidence.labels).sum()), len(evidence.labels)
    low, high = binomtest(right, n).proportion_ci(2 * policy.confidence - 1)
    turned = _decided("accuracy", -bound, -right / n, -high, -low, "")
    return turned._replace(bound=bound, value=right / n, low=low, high=high)


def _bytes(evidence: Evidence, policy: Policy, bound: float) -> Finding:
    size = float(evidence.bytes)
    return _decided("bytes", bound, size, size, size, "")


_RULES = {
    "largest_group_loss": _group_loss,
    "fvo_increase": _fvo_increase,
    "demographic_parity": lambda *given: _parity("demographic_parity", *given),
    "equalized_odds": lambda *given: _parity("equalized_odds", *given),
    "accuracy": _accuracy,
    "bytes": _bytes,
}


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
