"""Which variants nothing beats, and which one to ship under stated targets."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from quantskew.analysis.sampled import Sampled
from quantskew.analysis.study import Study
from quantskew.fairness.certificate import certificate
from quantskew.fairness.frontier import frontier_probability, on_frontier
from quantskew.fairness.metrics import fvo
from quantskew.names import BASELINE, FULL_PRECISION, Point, width_name
from quantskew.schemas import POINT

MAXIMIZE = (True, False, False)  # accuracy, FVO, bytes


def frontier(
    sampled: Sampled,
    sizes: Mapping[Point, float],
    levels: pd.DataFrame,
    certificates: pd.DataFrame,
    study: Study,
) -> pd.DataFrame:
    """Compute the table ``frontier`` of a data set, a frontier for each of its models.

    Parameters
    ----------
    sampled
        All networks of the data set, on its first grouping.
    sizes
        Bytes of each point, mean over seeds.

    Returns
    -------
    pandas.DataFrame
        One row a point. ``excess`` is how far the worse of ``loss_bound`` and ``fvo_high`` lies
        above its target, as a share of 1; a variant meets its targets where it is 0 and the file
        is small enough. The smallest of them is recommended, the more accurate of equals.
    """
    attribute = sampled.division.attribute
    seen = certificates[certificates["attribute"] == attribute]
    bounds = seen.groupby(list(POINT))["bound"].max().to_dict()
    chosen = levels[(levels["attribute"] == attribute) & (levels["metric"] == "fvo")]
    highs = chosen.set_index(list(POINT))["high"].to_dict()
    gaps = fvo(sampled.accuracy, sampled.division.counted).mean(-1)
    means = np.stack([sampled.overall.mean(-1), gaps], axis=-1)  # (1 + B, P, 2)
    parts = []
    for model in study.models:
        places = [i for i, point in enumerate(sampled.points) if point.model == model]
        points = [sampled.points[i] for i in places]
        size = np.array([sizes[point] for point in points])
        repeated = np.broadcast_to(size[:, None], (len(means), len(size), 1))
        values = np.concatenate([means[:, places], repeated], axis=-1)
        rows = pd.DataFrame(points).assign(
            attribute=attribute,
            bytes=size,
            accuracy=values[0, :, 0],
            fvo=values[0, :, 1],
            fvo_high=[highs[point] for point in points],
            loss=_largest_loss(sampled, points),
            loss_bound=[0.0 if p.method == BASELINE else bounds[p] for p in points],
            floor=_floor(sampled, study.statistics.alpha),
            on_frontier=on_frontier(values[0], MAXIMIZE),
            probability=frontier_probability(values[1:], MAXIMIZE),
        )
        parts.append(judged(rows, study))
    return pd.concat(parts, ignore_index=True)


def _largest_loss(sampled: Sampled, points: list[Point]) -> list[float]:
    mean = dict(zip(sampled.points, sampled.accuracy[0].mean(1), strict=True))
    base = mean[points[0]._replace(method=BASELINE, bits=FULL_PRECISION)]
    return [float((base - mean[p])[sampled.division.counted].max(initial=0)) for p in points]


def _floor(sampled: Sampled, alpha: float) -> float:
    nothing = np.zeros_like(sampled.sizes)
    counted = sampled.division.counted
    return certificate(nothing, nothing, sampled.sizes, counted=counted, alpha=alpha).bound


def judged(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Add how far each variant of a model is from the targets, and which is recommended."""
    targets = study.targets
    over = [np.maximum(0.0, rows["loss_bound"] - targets.worst_group_loss)]
    if targets.fvo is not None:
        over.append(np.maximum(0.0, rows["fvo_high"] - targets.fvo))
    # a bound that is not known is not met
    excess = np.max(over, axis=0)
    meets = (excess == 0) & (rows["bytes"] <= (targets.bytes or np.inf))
    best = rows[meets].sort_values(["bytes", "accuracy"], ascending=[True, False]).index[:1]
    return rows.assign(excess=excess, meets=meets, recommended=rows.index.isin(best))


def recommendations(rows: pd.DataFrame, study: Study) -> list[str]:
    """Say for each data set and model what to ship, or how far the best is from the targets."""
    return [
        f"What to do with {dataset}, {model}: {_advice(part, study)}"
        for (dataset, model), part in rows.groupby(["dataset", "model"], sort=True)
    ]


def _advice(rows: pd.DataFrame, study: Study) -> str:
    targets = study.targets
    attribute, floor = rows[["attribute", "floor"]].iloc[0]
    if np.isnan(floor):
        return f"no {attribute} group has the {study.groups.minimum} test samples to judge by."
    asked = [
        f"no {attribute} group loses more than {100 * targets.worst_group_loss:.1f} points "
        f"(certified with {100 * (1 - study.statistics.alpha):g} % for every seed)"
    ]
    if targets.fvo is not None:
        asked.append(f"the upper limit of FVO is at most {100 * targets.fvo:.1f} points")
    if targets.bytes is not None:
        asked.append(f"the file has at most {targets.bytes:,} bytes")
    wanted = " and ".join(asked)
    made = rows[rows["method"] != BASELINE]
    chosen = made[made["recommended"]]
    if len(chosen):
        row = chosen.iloc[0]
        share = row["bytes"] / rows.loc[rows["method"] == BASELINE, "bytes"].iloc[0]
        return (
            f"ship {_named(row)}, the smallest of {int(made['meets'].sum())} variants for which "
            f"{wanted}: {row['bytes']:,.0f} bytes ({100 * share:.0f} % of fp32), accuracy "
            f"{100 * row['accuracy']:.1f} %, {_fvo(row)}loss of a group at most "
            f"{100 * row['loss_bound']:.1f} points."
        )
    told = f"for no variant but fp32 itself can it be promised that {wanted}."
    fitting = made[made["bytes"] <= (targets.bytes or np.inf)]
    if fitting["excess"].notna().any():
        row = fitting.loc[fitting["excess"].idxmin()]
        told += (
            f" {_named(row)} comes closest, {100 * row['excess']:.1f} points off: a group may "
            f"lose up to {100 * row['loss_bound']:.1f} points"
        )
        known = not np.isnan(row["fvo_high"])
        told += f", and FVO may be {100 * row['fvo_high']:.1f}." if known else "."
    if floor > targets.worst_group_loss:
        told += (
            " The test set is too small for the promise: were no answer changed at all, "
            f"{100 * floor:.1f} points could be certified."
        )
    likely = fitting[fitting["loss"] <= targets.worst_group_loss]
    if targets.fvo is not None:
        likely = likely[likely["fvo"] <= targets.fvo]
    if len(likely):
        row = likely.loc[likely["bytes"].idxmin()]
        told += (
            f" Smallest on target by what was observed, without that certainty: {_named(row)}, "
            f"{row['bytes']:,.0f} bytes, accuracy {100 * row['accuracy']:.1f} %, {_fvo(row)}"
            f"largest loss of a group {100 * row['loss']:.1f} points."
        )
    return told


def _fvo(row: pd.Series) -> str:
    return "" if np.isnan(row["fvo"]) else f"FVO {100 * row['fvo']:.1f} points, "


def _named(row: pd.Series) -> str:
    width = width_name(row["bits"])
    return width if width == row["method"] else f"{row['method']} at {width}"
