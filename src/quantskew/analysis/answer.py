"""The answer to the question of the study, in sentences that are computed."""

import pandas as pd

from quantskew.analysis.study import Study
from quantskew.names import BASELINE, WHOLE, width_name
from quantskew.schemas import POINT


def points(share: float) -> str:
    """Format a change of a share as signed percentage points.

    Examples
    --------
    >>> points(-0.1234)
    '−12.3'
    """
    return f"{share * 100:+.1f}".replace("-", "−")


def headline(effects: pd.DataFrame, study: Study) -> pd.DataFrame:
    """What plain quantization does at each width, against fp32, on the first grouping.

    Returns
    -------
    pandas.DataFrame
        One row a data set, model and width: the changes of overall accuracy and FVO with their
        intervals, how many groups detectably lose, which of them loses most (of all, where none
        does), and the remedy with the highest accuracy of the worst group among those detectably
        better than plain.
    """
    plain = study.reference
    rows = []
    first = effects["attribute"] == effects["dataset"].map(lambda d: study.groups_of(d)[0])
    for (dataset, model), part in effects[first].groupby(["dataset", "model"], sort=True):
        for bits in sorted(study.bits, reverse=True):
            here = part[part["bits"] == bits]
            own = here[(here["method"] == plain) & (here["reference"] == BASELINE)]
            if own.empty:
                continue
            by_metric = own[own["group"] == WHOLE].set_index("metric")
            groups = own[own["metric"] == "accuracy"].set_index("group")
            remedies = here[
                (here["reference"] == plain)
                & (here["metric"] == "worst_group")
                & (here["verdict"] == "better")
            ].set_index("method")
            fvo, overall = by_metric.loc["fvo"], by_metric.loc["overall"]
            harmed = groups[groups["verdict"] == "worse"]
            most = groups.loc[(harmed if len(harmed) else groups)["change"].idxmin()]
            rows.append(
                {
                    "dataset": dataset,
                    "model": model,
                    "bits": bits,
                    "accuracy_change": overall["change"],
                    "fvo_change": fvo["change"],
                    "fvo_low": fvo["low"],
                    "fvo_high": fvo["high"],
                    "fvo_verdict": fvo["verdict"],
                    "groups": len(groups),
                    "groups_harmed": len(harmed),
                    "most_harmed": most.name,
                    "most_harmed_change": most["change"],
                    "most_harmed_low": most["low"],
                    "most_harmed_high": most["high"],
                    "most_harmed_verdict": most["verdict"],
                    "best_remedy": remedies["change"].idxmax() if len(remedies) else "",
                    "best_remedy_change": remedies["change"].max() if len(remedies) else None,
                }
            )
    return pd.DataFrame(rows)


def metrics(
    rows: pd.DataFrame, remedies: pd.DataFrame
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """The numbers of :func:`headline` by data set, model and width, for ``dvc metrics``.

    With them the distance from the targets that the cheapest remedy leaves, and its training.
    """
    kept = ["accuracy_change", "fvo_change", "groups_harmed", "most_harmed_change"]
    cheapest = remedies[remedies["cheapest"]].drop_duplicates(list(POINT))
    cheapest = cheapest.set_index(["dataset", "model", "bits"])
    costs = cheapest[["excess", "training"]].add_prefix("cheapest_").to_dict("index")
    result: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in rows.to_dict("records"):
        at = (row["dataset"], row["model"], row["bits"])
        place = result.setdefault(row["dataset"], {}).setdefault(row["model"], {})
        own = {name: row[name] for name in kept}
        place[width_name(row["bits"])] = own | costs.get(at, {})
    return result


def of_chance(study: Study) -> str:
    """Say what the intervals and verdicts speak of, and what they do not."""
    seeds = len(study.seeds)
    return (
        "What is sure: intervals and verdicts speak of other test images for these trained "
        f"networks, {seeds} of each kind; what another training would give is the seed sd"
        + (", which one network cannot tell. " if seeds == 1 else ". ")
        + "Verdicts are adjusted by Holm; intervals are not."
    )


def sentences(rows: pd.DataFrame, study: Study) -> list[str]:
    """Say for each data set and model who is hurt, by how much, how sure, and what helps."""
    told = []
    plain = study.reference
    for (dataset, model), part in rows.groupby(["dataset", "model"], sort=True):
        attribute = study.groups_of(str(dataset))[0]
        safe = part[part["groups_harmed"] == 0]["bits"]
        harmed = part[part["groups_harmed"] > 0].sort_values("bits", ascending=False)
        text = f"{dataset}, {model}: "
        if len(safe):
            names = ", ".join(width_name(bits) for bits in sorted(safe, reverse=True))
            text += f"at {names} {plain} costs no {attribute} group a detectable loss of accuracy. "
        for row in harmed.itertuples():
            text += (
                f"At {width_name(row.bits)} it harms {row.groups_harmed} of {row.groups} groups; "
                f"{attribute} {row.most_harmed} loses most, {points(row.most_harmed_change)} "
                f"points [{points(row.most_harmed_low)}, {points(row.most_harmed_high)}]"
            )
            if row.fvo_verdict != "undefined":
                text += (
                    f", and FVO changes by {points(row.fvo_change)} [{points(row.fvo_low)}, "
                    f"{points(row.fvo_high)}] ({row.fvo_verdict})"
                )
            text += ". " + (
                f"Best for the worst group there: {row.best_remedy}, "
                f"{points(row.best_remedy_change)} points over {plain}. "
                if row.best_remedy
                else f"No remedy tried is detectably better than {plain} for the worst group. "
            )
        told.append(text.strip())
    return told
