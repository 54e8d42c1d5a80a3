"""The answer to the question of the study, in sentences that are computed."""

import numpy as np
import pandas as pd

from quantskew.analysis.study import Study
from quantskew.analysis.typeset import groups_named, points
from quantskew.analysis.views import judged, states
from quantskew.fairness.verdicts import BETTER, CANNOT_TELL, EQUIVALENT, UNDEFINED, WORSE
from quantskew.names import UNKNOWN_WIDTH, WHOLE, width_name
from quantskew.schemas import POINT


def headline(effects: pd.DataFrame, study: Study) -> pd.DataFrame:
    """What plain quantization does at each width, against fp32, on the first grouping.

    Of a network of which only answers are known, under names of their own, each stands for a width.

    Returns
    -------
    pandas.DataFrame
        One row a data set, model, method and width: the changes of overall accuracy and FVO with
        their intervals; how many groups are large enough to be judged, how many are not, and of the
        former how many have each verdict; the largest loss of any of them with an interval that
        holds whichever it is, and who loses that much: one group, or those of which none is known
        to lose less than another, in their order; and the remedy with the highest accuracy of the
        worst group among those that are better than plain.
    """
    plain = study.reference
    rows = []
    first = effects["dataset"].map(lambda dataset: study.groups_of(dataset)[0])
    effects = effects[effects["attribute"] == first]
    for (dataset, model), part in judged(effects, study).groupby(["dataset", "model"], sort=True):
        there = effects[(effects["dataset"] == dataset) & (effects["model"] == model)]
        widths = part.sort_values("bits", ascending=False, kind="stable")
        for (bits, method), own in widths.groupby(["bits", "method"], sort=False):
            here = there[there["bits"] == bits]
            by_metric = own[own["group"] == WHOLE].set_index("metric")
            everyone = own[own["metric"] == "accuracy"].set_index("group")
            groups = everyone[everyone["counted"]].sort_values("change", kind="stable")
            untold = groups[groups["verdict"] == CANNOT_TELL]
            remedies = here[
                (here["reference"] == plain)
                & (here["metric"] == "worst_group")
                & (here["verdict"] == BETTER)
            ].set_index("method")
            fvo, overall = by_metric.loc["fvo"], by_metric.loc["overall"]
            most = [*map(str, groups.index[groups["may_lose_most"]])]
            rows.append(
                {
                    "dataset": dataset,
                    "model": model,
                    "method": method,
                    "bits": bits,
                    "accuracy_change": overall["change"],
                    "accuracy_verdict": overall["verdict"],
                    "fvo_change": fvo["change"],
                    "fvo_low": fvo["low"],
                    "fvo_high": fvo["high"],
                    "fvo_verdict": fvo["verdict"],
                    "groups": len(groups),
                    "groups_too_small": len(everyone) - len(groups),
                    "groups_harmed": (groups["verdict"] == WORSE).sum(),
                    "groups_better": (groups["verdict"] == BETTER).sum(),
                    "groups_equivalent": (groups["verdict"] == EQUIVALENT).sum(),
                    "groups_untold": len(untold),
                    "images_to_tell": untold["decide"].max(),
                    "most_harmed": most,
                    "most_harmed_change": groups["change"].min(),
                    "most_harmed_low": groups["low"].min(),
                    "most_harmed_high": groups["high_all"].min(),
                    "best_remedy": remedies["change"].idxmax() if len(remedies) else "",
                    "best_remedy_change": remedies["change"].max() if len(remedies) else None,
                }
            )
    return pd.DataFrame(rows)


SUMMARY = {
    "accuracy_change": ("accuracy", 100), "fvo_change": ("fvo", 100),
    "groups_harmed": ("harmed", 1), "most_harmed_change": ("worst", 100),
    "excess": ("off", 100), "training": ("training", 1),
}  # fmt: skip
"""Short names of the numbers that ``dvc metrics`` compares, and what they are multiplied with."""


def metrics(
    rows: pd.DataFrame, remedies: pd.DataFrame
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """A few numbers by data set, model and width, for ``dvc metrics``, under short names.

    In points, against fp32: the changes of ``accuracy`` and of ``fvo``, and the largest loss of a
    group, ``worst``; ``harmed`` counts the groups that are worse. Of the cheapest remedy: how many
    points it leaves ``off`` the targets, and its ``training`` as a ratio to that of fp32. Tables of
    answers, whose width is not known, stand under their own names.
    """
    if rows.empty:
        return {}
    cheapest = remedies[remedies["cheapest"]].drop_duplicates(list(POINT))
    costs = cheapest.set_index(["dataset", "model", "bits"])[["excess", "training"]]
    result: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    joined = rows.join(costs, on=["dataset", "model", "bits"])
    for state, row in zip(states(rows), joined.to_dict("records"), strict=True):
        place = result.setdefault(row["dataset"], {}).setdefault(row["model"], {})
        place[state] = {
            short: round(factor * row[name], 2) + 0
            for name, (short, factor) in SUMMARY.items()
            if not pd.isna(row[name])
        }
    return result


def of_chance(study: Study) -> str:
    """Say what the intervals and verdicts speak of, and what they do not."""
    seeds = len(study.seeds)
    about = (
        "All verdicts are about these very networks, one of each kind, on other test images: "
        "one seed cannot tell what another training would give."
        if seeds == 1
        else "Verdicts on methods that train are over seeds: about other networks that the method "
        f"would give, judged by {seeds} of them. Verdicts on what is quantized without training "
        "are about these very networks."
    )
    return (
        f"What is sure: {about} A change is equivalent if it surely lies within "
        f"{100 * study.statistics.margin:g} points, worse or better if it is surely "
        "not zero, and else these data cannot tell. The changes of overall accuracy, FVO and the "
        "worst group of the first grouping are one family of tests, adjusted by Holm; all else is "
        "exploratory, with its false discovery rate. Intervals hold one by one."
    )


def sentences(rows: pd.DataFrame, study: Study) -> list[str]:
    """Say for each data set and model who is hurt, by how much, how sure, and what helps."""
    if rows.empty:
        return []
    return [
        f"{dataset}, {model}: "
        + " ".join(
            _of_width(row, study) for _, row in part.sort_values("bits", ascending=False).iterrows()
        )
        for (dataset, model), part in rows.groupby(["dataset", "model"], sort=True)
    ]


def _of_width(row: pd.Series, study: Study) -> str:
    attribute, plain = study.groups_of(row["dataset"])[0], row["method"]
    start, who = f"At {width_name(row['bits'])}", plain
    if row["bits"] == UNKNOWN_WIDTH:
        start, who = f"With {plain}", "it"
    if not row["groups"]:
        counted_in = study.counted_in(row["dataset"])
        few = f"{row['groups_too_small']} groups under {study.groups.minimum} {counted_in}"
        return f"{start} no {attribute} group could be judged: {few}."
    margin = f"{EQUIVALENT} to fp32 (within {100 * study.statistics.margin:g} points)"
    counts = {WORSE: "groups_harmed", BETTER: "groups_better", margin: "groups_equivalent"}
    is_so = [
        f"{word} for {row[name]} of {row['groups']} groups"
        for word, name in counts.items()
        if row[name]
    ]
    parts = [f"{who} is {' and '.join(is_so)}"] if is_so else []
    if row["groups_untold"]:
        parts.append(
            f"for {row['groups_untold']} of {row['groups']} groups these images cannot tell "
            f"({_enough(row['images_to_tell'])})"
        )
    if not row["groups_harmed"]:
        return f"{start} {'; '.join(parts)}."
    parts.append(
        f"{groups_named(attribute, row['most_harmed'])} loses most: "
        f"{points(row['most_harmed_change'])} points [{points(row['most_harmed_low'])}, "
        f"{points(row['most_harmed_high'])}]"
    )
    if row["fvo_verdict"] != UNDEFINED:
        parts[-1] += (
            f", and FVO changes by {points(row['fvo_change'])} [{points(row['fvo_low'])}, "
            f"{points(row['fvo_high'])}] ({row['fvo_verdict']})"
        )
    text = f"{start} {'; '.join(parts)}."
    if row["bits"] == UNKNOWN_WIDTH:
        return text
    if not row["best_remedy"]:
        return f"{text} No remedy tried is known to be better than {plain} for the worst group."
    gain = f"{points(row['best_remedy_change'])} points over {plain}"
    return f"{text} Best for the worst group there: {row['best_remedy']}, {gain}."


def _enough(images: float) -> str:
    if not np.isfinite(images):
        return "no number would while the change stays what it is"
    return f"about {float(f'{images:.2g}'):,.0f} of each would"
