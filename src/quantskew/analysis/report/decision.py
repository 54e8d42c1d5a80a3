"""The first screen: may it ship, who is worst off, how sure, what helps and what it costs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from quantskew.analysis.frontier import shipped
from quantskew.analysis.remedies import CHANGE, side_by_side
from quantskew.analysis.report.tables import of_seeds, price
from quantskew.analysis.report.words import HARMS, SAFE
from quantskew.analysis.study import Study
from quantskew.analysis.typeset import groups_named, interval, percent, size
from quantskew.analysis.views import at, judged
from quantskew.fairness.gaps import may_lose_most
from quantskew.fairness.limits import Changes, change_limits
from quantskew.fairness.verdicts import BETTER, CANNOT_TELL, EQUIVALENT, WORSE, within
from quantskew.names import BASELINE, FULL_PRECISION, state_name
from quantskew.schemas import POINT

LONGEST = 30
"""Most words of the sentence above everything."""
NOTHING = "no group lost beyond the margin"
NO_BASIS = "fp32 does no better than always answering the most frequent class: it is no basis"
Frames = Mapping[str, pd.DataFrame]
Place = dict[str, Any]


class Decision(NamedTuple):
    """A row of the first table: a network at a width, or a file that ships."""

    dataset: str
    model: str
    width: str
    method: str
    note: str  # whether it is a file, or simulated, and of which seeds
    verdict: str
    counts: list[str]  # how many groups are harmed, safe or open, by grouping
    worst: list[str]  # who loses most, and how much; the first grouping comes first
    more: str  # the certificate of a file, or who loses most of each seed alone
    accuracy: str
    lowest: str  # the group of the lowest accuracy
    help: str
    size: str
    recommended: bool


def decisions(frames: Frames, study: Study) -> list[Decision]:
    """Judge the reference method at every width, and every file that ships.

    Of a network without the reference method, such as in a comparison of tables, every method is
    judged. A verdict speaks of all groupings: *safe* if every group is equivalent or better, which
    needs no adjustment because every one must be; *harms someone* if a group is worse.
    """
    effects, files = judged(frames["effects"], study), shipped(frames, study)
    shown = frames.get("deployed_groups", pd.DataFrame(columns=[*POINT]))
    rows = [
        decide(dict(zip(POINT, key, strict=True)), part, frames, study, files)
        for decide, groups in (
            (_of_point, effects[effects["metric"] == "accuracy"]),
            (_of_file, shown[shown["bits"] < FULL_PRECISION]),
        )
        for key, part in groups.groupby(list(POINT), sort=False)
    ]
    order = {name: place for place, name in enumerate(study.models)}
    rows.sort(key=lambda row: (row[0]["dataset"], order.get(row[0]["model"], 99),
                               -row[0]["bits"], not row[0]["ships"]))  # fmt: skip
    return [row for _, row in rows]


def _of_point(
    place: Place, groups: pd.DataFrame, frames: Frames, study: Study, files: pd.DataFrame
) -> tuple[Place, Decision]:
    frontier = frames.get("frontier", pd.DataFrame(columns=[*POINT, "bytes"]))
    network = frontier[_same_network(frontier, place)]
    own = at(network, place)
    told = ""
    if own["bytes"].notna().any():  # it is not known where there are answers alone
        share = own["bytes"].iloc[0] / network.loc[network["method"] == BASELINE, "bytes"]
        told = size(own["bytes"].iloc[0]) + "".join(f" ({100 * x:.0f} % of fp32)" for x in share)
    shipped_here = not files.empty and _same_network(files, place).any()
    nothing = pd.DataFrame(columns=[*POINT, "attribute", "group", "seed", "bound"])
    certified = at(frames.get("certificates", nothing), place)
    return {**place, "ships": False}, _decided(
        place, groups, frames, study, certified["bound"],
        note=of_seeds("simulated" if _simulated(place, study) else "", certified, study),
        more=_by_seed(certified, groups, study.groups_of(place["dataset"])[0]),
        accuracy=_accuracy(frames["levels"], place),
        lowest=_lowest(at(frames["levels"], place | {"metric": "accuracy"}), "value", study),
        size=told,
        recommended=len(own) > 0 and bool(own["recommended"].iloc[0]) and not shipped_here,
    )  # fmt: skip


def _of_file(
    place: Place, groups: pd.DataFrame, frames: Frames, study: Study, files: pd.DataFrame
) -> tuple[Place, Decision]:
    (file,) = at(files, place).to_dict("records")
    bound, counted = file["loss_bound"], groups["counted"].astype(bool)
    judged = _judged_file(groups[counted].reset_index(drop=True), study)
    return {**place, "ships": True}, _decided(
        place, pd.concat([judged, groups[~counted]]), frames, study, groups["bound"],
        note=of_seeds("ONNX file", groups, study, "mean accuracy and largest loss"),
        more="" if np.isnan(bound) else
        f"certificate: no group loses more than {100 * bound:.1f} points",
        accuracy=_against(file["accuracy"], file["fp32"]),
        lowest=_lowest(groups, "accuracy", study),
        size=f"{size(file['bytes'])} ({100 * file['share']:.0f} % of fp32)",
        recommended=bool(file["recommended"]),
    )  # fmt: skip


def _decided(
    place: Place,
    groups: pd.DataFrame,
    frames: Frames,
    study: Study,
    bounds: "pd.Series[float]",
    **known: Any,
) -> Decision:
    """Judge a network or a file by its groups; of a file, those of several seeds.

    Without a sound reference no group has one of the certified ``bounds``, however large it is.
    """
    judged = groups[groups["counted"].astype(bool)]
    worst, counts = [], []
    for attribute in study.groups_of(place["dataset"]):
        every = groups[groups["attribute"] == attribute]
        part = judged[judged["attribute"] == attribute]
        if len(every):
            small = every["group"].nunique() - part["group"].nunique()
            few = f"{small} under {study.groups.minimum} {study.counted_in(place['dataset'])}"
            counts.append(_counted(attribute, part["verdict"], few if small else ""))
        if len(part):
            part = part.sort_values("change", kind="stable")
            most = [*part.loc[part["may_lose_most"].astype(bool), "group"].astype(str).unique()]
            change = interval(part["change"].min(), part["low"].min(), part["high_all"].min())
            worst.append(
                f"{groups_named(attribute, most or [str(part['group'].iloc[0])])}: {change}"
            )
    verdict = _verdict(judged["verdict"])
    if len(judged) and len(bounds) and bounds.isna().all():
        verdict, counts = CANNOT_TELL, [NO_BASIS]
    return Decision(
        dataset=place["dataset"], model=place["model"], method=place["method"],
        width=state_name(place["method"], place["bits"]), verdict=verdict, counts=counts,
        worst=worst, help=_helps(place, verdict, frames, study), **known,
    )  # fmt: skip


def _judged_file(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Add to the groups of a file their change with limits, and a verdict.

    ``low`` and ``high`` hold one by one, ``high_all`` for all groups of a grouping. A group is
    worse where the limit that holds for all groups of all groupings is below zero. Where several
    samples come from one person the counts of samples bound nothing, and only the certificate does.
    """
    alpha, margin = study.statistics.alpha, study.statistics.margin
    change = Changes(
        (rows["lost"] / rows["n"]).to_numpy(), (rows["gained"] / rows["n"]).to_numpy(),
        rows["n"].to_numpy(float),
    )  # fmt: skip
    in_all = rows.groupby("seed")["n"].transform("size").to_numpy()
    in_one = rows.groupby(["seed", "attribute"])["n"].transform("size").to_numpy()
    low, high = change_limits(change, alpha / 2)
    high_all = change_limits(change, alpha / 2 / in_one).high
    sure = change_limits(change, alpha / 2 / in_all)
    choices = [within(low, high, margin), sure.high < 0, sure.low > 0]
    words = [EQUIVALENT, WORSE, BETTER]
    if len(rows) and study.unit_of(rows["dataset"].iloc[0]):
        low = high_all = np.full(len(rows), np.nan)
        choices, words = [(rows["bound"] <= margin).to_numpy()], [EQUIVALENT]
        most = np.ones(len(rows), bool)
    else:
        most = np.zeros(len(rows), bool)
        for place in rows.groupby(["seed", "attribute"]).indices.values():
            own = Changes(*(part[place] for part in change))
            most[place] = may_lose_most(own, np.ones(len(place), bool), alpha)
    return rows.assign(
        change=change.value, low=low, high_all=high_all, may_lose_most=most,
        verdict=np.select(choices, words, CANNOT_TELL),
    )  # fmt: skip


def _verdict(verdicts: "pd.Series[str]") -> str:
    if (verdicts == WORSE).any():
        return HARMS
    sound = len(verdicts) and verdicts.isin([EQUIVALENT, BETTER]).all()
    return SAFE if sound else CANNOT_TELL


def _counted(attribute: str, verdicts: "pd.Series[str]", few: str) -> str:
    few = f"; {few} not judged" if few else ""
    if verdicts.empty:
        return f"no {attribute} group could be judged{few}"
    found = verdicts.replace(BETTER, EQUIVALENT).value_counts()
    words = {WORSE: "worse", EQUIVALENT: "safe", CANNOT_TELL: "undecided"}
    told = ", ".join(f"{found[name]} {word}" for name, word in words.items() if name in found)
    return f"{attribute}: {told} of {len(verdicts)}{few}"


def _same_network(rows: pd.DataFrame, place: Mapping[str, object]) -> "pd.Series[bool]":
    return (rows["dataset"] == place["dataset"]) & (rows["model"] == place["model"])


def _against(accuracy: float, fp32: float) -> str:
    return f"{percent(accuracy)} (fp32 {percent(fp32)})"


def _simulated(place: Place, study: Study) -> bool:
    return place["method"] in study.all_methods() and place["model"] not in study.answers


def _accuracy(levels: pd.DataFrame, place: Mapping[str, object]) -> str:
    rows = levels[(levels["metric"] == "overall") & _same_network(levels, place)]
    rows = rows.drop_duplicates(["method", "bits"]).set_index(["method", "bits"])["value"]
    own, base = rows.get((place["method"], place["bits"])), rows.xs(BASELINE, level="method")
    if own is None or base.empty:
        return ""
    return _against(own, base.iloc[0])


def _lowest(groups: pd.DataFrame, column: str, study: Study) -> str:
    """Name the worst group of the first grouping, by the means over seeds."""
    counted = groups[groups["counted"].astype(bool)]
    first = counted[counted["attribute"] == counted["dataset"].map(lambda d: study.groups_of(d)[0])]
    means = first.groupby("group")[column].mean()
    return f"worst group {means.idxmin()}: {percent(means.min())}" if len(means) else ""


def _helps(place: Place, verdict: str, frames: Frames, study: Study) -> str:
    """Say which remedy lifts the worst group most, free ones first, and what it costs."""
    if verdict == SAFE:
        return NOTHING
    rows = frames.get("remedies", pd.DataFrame())
    if rows.empty and study.reference != BASELINE:
        first = study.groups_of(place["dataset"])[0]
        rows = at(frames["effects"], {"reference": study.reference, "attribute": first})
        rows = rows.assign(value=np.nan)
    if rows.empty:
        return ""
    here = at(side_by_side(rows, ["worst_group", "overall"]),
              {name: place[name] for name in ("dataset", "model", "bits")})  # fmt: skip
    better = here[here["worst_group_verdict"] == BETTER]
    if better.empty:
        return "no remedy tried is known to help" if len(here) else ""
    if "free" in better and better["free"].any():
        better = better[better["free"].astype(bool)]
    best = better.loc[better["worst_group_change"].idxmax()]
    group, accuracy = (
        interval(*best[[f"{name}_{part}" for part in CHANGE[:3]]])
        for name in ("worst_group", "overall")
    )
    told = [f"{best['method']}: worst group {group}", f"accuracy {accuracy}", *price(best)]
    return ", ".join(filter(None, [*told, size(best.get("bytes", np.nan))]))


def _by_seed(certified: pd.DataFrame, groups: pd.DataFrame, attribute: str) -> str:
    """Name the group that loses most with each seed alone, where there are several."""
    counted = at(groups, {"attribute": attribute, "counted": True})["group"]
    rows = certified[(certified["attribute"] == attribute) & certified["group"].isin(counted)]
    if rows["seed"].nunique() < 2:
        return ""
    rows = rows.assign(change=(rows["gained"] - rows["lost"]) / rows["n"]).reset_index(drop=True)
    worst = rows.loc[rows.groupby("seed")["change"].idxmin()]
    if len(set(worst["group"])) == 1:
        return f"loses most with each of {len(worst)} seeds: {worst['group'].iloc[0]}"
    seeds = "; ".join(f"{row.seed}: {row.group}" for row in worst.itertuples())
    return f"loses most with seed {seeds}"


def sentence(rows: Sequence[Decision], frames: Frames, study: Study) -> str:
    """Say in at most :data:`LONGEST` words what to do."""
    if not rows:
        return "No network could be judged; the failures below say why."
    told = " ".join(_clauses(rows, frames, study))
    if len(told.split()) <= LONGEST:
        return told
    networks = list(dict.fromkeys((row.dataset, row.model) for row in rows))
    if "frontier" in frames:
        files = shipped(frames, study)
        able = [n for n in networks if _advised(frames, files, n)["recommended"].any()]
        return (
            f"{len(able)} of {len(networks)} networks can ship within the target; the table says "
            "which file, who is worst off, and what helps."
        )
    count = pd.Series([row.verdict for row in rows]).value_counts()
    words = {HARMS: "harm someone", SAFE: "are safe", CANNOT_TELL: "cannot be told"}
    return f"Of {len(rows)} judged, " + ", ".join(
        f"{count[v]} {word}" for v, word in words.items() if v in count
    ) + "."  # fmt: skip


def _advised(frames: Frames, files: pd.DataFrame, network: tuple[str, str]) -> pd.DataFrame:
    """Files of a network, because they are what ships, or else its variants."""
    place = dict(zip(("dataset", "model"), network, strict=True))
    own, placed = files[_same_network(files, place)], frames["frontier"]
    made = placed[_same_network(placed, place) & (placed["method"] != BASELINE)]
    return own if len(own) else made


def _clauses(rows: Sequence[Decision], frames: Frames, study: Study) -> Iterator[str]:
    if "frontier" not in frames:
        yield from _by_verdict(rows, study)
        return
    target = f"{100 * study.targets.worst_group_loss:g}"
    by = {study.groups_of(dataset)[0] for dataset in study.datasets}
    group = f"{by.pop()} group" if len(by) == 1 else "group"
    files = shipped(frames, study)
    none: list[str] = []
    chosen_as: dict[str, list[tuple[str, str]]] = {}  # networks and their accuracy, by what ships
    for dataset, model in dict.fromkeys((row.dataset, row.model) for row in rows):
        name = model if len(study.datasets) == 1 else f"{model} on {dataset}"
        made = _advised(frames, files, (dataset, model))
        for place in made[made["recommended"]].to_dict("records"):
            what, accuracy = place["method"], _accuracy(frames["levels"], place)
            if "fp32" in place:
                accuracy = _against(place["accuracy"], place["fp32"])
            elif _simulated(place, study):
                what += f" {state_name(place['method'], place['bits'])} (simulated)"
            chosen_as.setdefault(what, []).append((name, accuracy))
        if made["recommended"].any():
            continue
        bounds = made["loss_bound"].dropna()
        best = f"to {100 * bounds.min():.1f}" if len(bounds) else "to no number"
        none.append(f"{name}'s{' best is certified' if not none else ''} {best}")
    for what, networks in chosen_as.items():
        names, accuracies = (" and ".join(texts) for texts in zip(*networks, strict=True))
        yield (
            f"Ship {names} as {what}: accuracy {accuracies}; no {group} loses over "
            f"{target} points, certified."
        )
    if none:
        what = "variant" if files.empty else "file"
        yield (
            f"No {what} is sure to keep every {group}'s loss within {target} points: "
            f"{', '.join(none)}."
        )


def _by_verdict(rows: Sequence[Decision], study: Study) -> Iterator[str]:
    words = {
        SAFE: f"Every group is within {100 * study.statistics.margin:g} points",
        HARMS: "Someone is harmed", CANNOT_TELL: "These images cannot tell",
    }  # fmt: skip
    for verdict, start in words.items():
        found = [row for row in rows if row.verdict == verdict]
        names = [
            row.width if row.method in (row.width, study.reference) else f"{row.method} {row.width}"
            for row in found
        ]
        if verdict == HARMS and len(found) == 1 and found[0].worst:
            names = [f"{names[0]}, {found[0].worst[0]} points"]
        if names:
            yield f"{start}: {', '.join(names)}."
