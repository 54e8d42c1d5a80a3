"""One network on several runtimes: who gets another answer, and the verdict on each file.

Every file, and every table of answers of a simulation, is compared with the same reference on the
same images: the share of the samples of each group that are answered alike, the accuracy of each
group, the verdict of the gate, and if wanted the speed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from quantskew.analysis import gate
from quantskew.analysis.figures.drawing import BarsByGroup
from quantskew.analysis.gate import Evidence, Finding, Policy, Verdict
from quantskew.deployment import latency
from quantskew.deployment.evidence import from_several
from quantskew.deployment.feeding import Feed, opened, read_labelled
from quantskew.deployment.runtimes import Network
from quantskew.fairness.limits import share_limits, shares

SIMULATED = "table of answers"
_PARTS = ("", "_low", "_high")
_UNTIMED = {f"speed_{size}{part}": np.nan for size in latency.BATCHES for part in _PARTS}
_SHARES = {"accuracy": "accuracy", "agreement": "answered as the reference"}


@dataclass(frozen=True)
class Runtimes:
    """What :func:`compare_runtimes` found.

    Attributes
    ----------
    rows
        The table ``runtimes``: a row a file and group.
    files
        Answers of each file, beside the reference.
    findings
        The rules of the policy on each file, by its name.
    """

    rows: pd.DataFrame
    files: tuple[Evidence, ...]
    findings: dict[str, list[Finding]]

    @property
    def verdict(self) -> Verdict:
        """Fail if any file fails, else could not tell if any cannot, else pass."""
        every = [one for findings in self.findings.values() for one in findings]
        return gate.overall(every) if every else "could not tell"

    def figure(self) -> str:
        """Accuracy and agreement of each group, and speed, by file, with intervals, as an SVG."""
        first = self.rows[self.rows["file"] == self.rows["file"].iloc[0]]
        reference = first.assign(
            file=self.files[0].reference, accuracy=first["reference"],
            accuracy_low=np.nan, accuracy_high=np.nan,
        )  # fmt: skip
        bars = [
            rows.assign(
                panel=rows["attribute"] + f": {title}",
                n=rows["images"],
                width=_short(rows["file"]),
                value=100 * rows[name],
                low=100 * rows[f"{name}_low"],
                high=100 * rows[f"{name}_high"],
            )
            for name, title in _SHARES.items()
            for rows in ([reference, self.rows] if name == "accuracy" else [self.rows])
        ]
        drawn = pd.concat(bars, ignore_index=True).sort_values("attribute", kind="stable")
        timed = self.rows.dropna(subset="speed_1").drop_duplicates("file")
        speeds = [
            timed.assign(
                panel="speed: % of that of the reference", group=f"{size} at a time", n=size,
                width=_short(timed["file"]), value=100 * timed[f"speed_{size}"],
                low=100 * timed[f"speed_{size}_low"], high=100 * timed[f"speed_{size}_high"],
            )
            for size in latency.BATCHES
        ]  # fmt: skip
        return BarsByGroup(y_label="%").svg(pd.concat([drawn, *speeds], ignore_index=True))

    def lines(self) -> Iterator[str]:
        """Say in lines of text what each file answers, and its verdict."""
        first = self.files[0]
        yield (
            f"{len(first.labels):,} test images; reference {first.reference} "
            f"({_runtime(first.reference)}), accuracy {100 * first.accuracies[0]:.1f} %"
        )
        for one in self.files:
            own = self.rows[self.rows["file"] == one.name]
            same = 100 * float((one.before == one.after).mean())
            judged = own[own["judged"]]
            least = ""
            if len(judged):
                at = judged.loc[judged["agreement"].idxmin()]
                least = f", least of {at['attribute']} {at['group']}: {100 * at['agreement']:.1f} %"
            integers = one.provenance.get("integers", {}).get("integer_bytes")
            stored = "" if integers is None else f", {100 * integers:.0f} % integers"
            yield (
                f"{one.name} ({_runtime(one.name)}{stored}): {own['verdict'].iloc[0]}; accuracy "
                f"{100 * one.accuracies[1]:.1f} %; {same:.1f} % answered alike{least}"
            )
            if own["speed_1"].notna().all():
                yield "  times as fast as the reference: " + ", ".join(
                    "{:.2f} ({:.2f}–{:.2f}) of batches of {}".format(
                        *own[[f"speed_{size}{part}" for part in _PARTS]].iloc[0], size
                    )
                    for size in latency.BATCHES
                )
            yield from (f"  {f.line()}" for f in self.findings[one.name] if f.verdict != "pass")
            yield from (f"  warning: {text}" for text in one.warnings)
        for attribute, rows in self.rows.groupby("attribute", sort=False):
            shown = (100 * rows["accuracy"]).map("{:.1f}".format) + (100 * rows["agreement"]).map(
                " ({:.1f})".format
            )
            wide = rows.assign(shown=shown, file=_short(rows["file"])).pivot(
                index="group", columns="file", values="shown"
            )
            wide = wide.loc[rows["group"].unique(), _short(rows["file"]).unique()]
            yield f"{attribute}: accuracy, and in parentheses the share answered alike, in percent"
            yield wide.rename_axis(index=None, columns=None).to_string()


def compare_runtimes(
    files: Sequence[str | Path],
    data: str | Path,
    policy: Policy,
    *,
    label: str = "label",
    classes: tuple[str, ...] = (),
    seconds: float = 0.0,
) -> Runtimes:
    """Compare files of one network, and tables of what it answered elsewhere, with the first.

    Parameters
    ----------
    files
        The reference, and one or more to judge, as in
        :func:`quantskew.deployment.evidence.from_several`. A table of answers has no size, so that
        a rule on ``bytes`` does not judge it.
    data, policy, label, classes
        Likewise.
    seconds
        How long each file is timed beside the reference, by one thread, for each size of a batch;
        none is timed unless given.

    Raises
    ------
    GateError
        When the reference is no basis, or no file is given to judge.
    """
    paths = [*map(Path, files)]
    if len(paths) < 2 or len({*paths}) < len(paths):
        raise gate.GateError("give the reference and one or more other files, each once")
    found = from_several(paths, Path(data), policy, label=label, classes=classes)
    run = [path for path in paths if path.suffix != ".parquet"]
    speeds = _speeds(run, Path(data), policy, label, seconds) if seconds else {}
    findings, rows = {}, []
    for one in found:
        rules = policy
        if _runtime(one.name) == SIMULATED:
            rules = policy.model_copy(update={"bytes": None})
        findings[one.name] = gate.judge(one, rules)
        verdict = gate.overall(findings[one.name]) if findings[one.name] else "not judged"
        speed = speeds.get(one.name, _UNTIMED)
        rows.append(_by_group(one, policy).assign(verdict=verdict, **speed))
    return Runtimes(pd.concat(rows, ignore_index=True), tuple(found), findings)


def _speeds(
    paths: Sequence[Path], data: Path, policy: Policy, label: str, seconds: float
) -> dict[str, dict[str, float]]:
    """How many times as fast as the first each file is: columns of the table, by its name."""
    networks = opened(paths, policy, threads=1)
    feed = Feed(read_labelled(data, label), networks, policy, at_most=max(latency.BATCHES))
    images = [np.concatenate(parts) for parts in zip(*(fed for _, fed in feed), strict=True)]
    speeds = {}
    for network, own in zip(networks[1:], images[1:], strict=True):
        pair = {"reference": networks[0], "file": network}
        timed = latency.compare(pair, [images[0], own], seconds=seconds)
        ratios = [timed[f"batch {size}"]["speedup"] for size in latency.BATCHES]
        values = (ratio[part] for ratio in ratios for part in ("median", "low", "high"))
        speeds[str(network.path)] = dict(zip(_UNTIMED, values, strict=True))
    return speeds


def _by_group(evidence: Evidence, policy: Policy) -> pd.DataFrame:
    rows = gate.by_group(evidence, policy)
    alike = evidence.before == evidence.after
    right = evidence.after == evidence.labels
    limits: dict[str, list[np.ndarray]] = {}
    for division in evidence.divisions:
        for name, hits in (("agreement", alike), ("accuracy", right)):
            counts = shares(hits, division.codes, len(division.names), units=evidence.units)
            ends = share_limits(counts, (1 - policy.confidence) / 2)
            own = {name: counts.value, f"{name}_low": ends.low, f"{name}_high": ends.high}
            for column, values in own.items():
                limits.setdefault(column, []).append(values)
    columns = {column: np.concatenate(values) for column, values in limits.items()}
    return rows.assign(
        file=evidence.name, runtime=_runtime(evidence.name), bytes=evidence.bytes, **columns
    )


def _runtime(file: str) -> str:
    return SIMULATED if Path(file).suffix == ".parquet" else Network.of(file).runtime


def _short(files: "pd.Series[str]") -> "pd.Series[str]":
    """Names of files without folders, where these tell them apart."""
    names = {file: Path(file).name for file in files.unique()}
    alone = len({*names.values()}) == len(names)
    return files.map(names) if alone else files
