"""Which variants nothing beats, and which one to ship under stated targets."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from quantskew.analysis.sampled import Sampled
from quantskew.analysis.study import Study
from quantskew.fairness.certificate import certified_losses
from quantskew.fairness.frontier import on_frontier
from quantskew.fairness.gaps import gap_limits
from quantskew.fairness.limits import Shares
from quantskew.fairness.metrics import fvo
from quantskew.names import BASELINE, FULL_PRECISION, UNKNOWN_WIDTH, Point, width_name
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
        is small enough. Of those the narrowest is recommended, and at its width what takes no
        training first, then the smallest file, then the more accurate.
    """
    attribute = sampled.division.attribute
    seen = certificates[certificates["attribute"] == attribute]
    bounds = seen.groupby(list(POINT))["bound"].max().to_dict()
    chosen = levels[(levels["attribute"] == attribute) & (levels["metric"] == "fvo")]
    highs = chosen.set_index(list(POINT))["high"].to_dict()
    gaps = fvo(sampled.accuracy, sampled.division.counted).mean(-1)
    means = np.stack([sampled.overall.mean(-1), gaps], axis=-1)  # (1 + B, P, 2)
    floor = _floor(sampled, study.statistics.alpha)
    parts = []
    for model in study.models:
        places = [i for i, point in enumerate(sampled.points) if point.model == model]
        points = [sampled.points[i] for i in places]
        size = np.array([sizes[point] for point in points])
        # files of a size that is not known are taken to be alike
        repeated = np.broadcast_to(np.nan_to_num(size)[:, None], (len(means), len(size), 1))
        values = np.concatenate([means[:, places], repeated], axis=-1)
        rows = pd.DataFrame(points).assign(
            attribute=attribute,
            bytes=size,
            accuracy=values[0, :, 0],
            fvo=values[0, :, 1],
            fvo_high=[highs[point] for point in points],
            loss=_largest_loss(sampled, points),
            loss_bound=[0.0 if p.method == BASELINE else bounds[p] for p in points],
            floor=floor,
            on_frontier=on_frontier(values[0], MAXIMIZE),
            probability=np.mean([on_frontier(draw, MAXIMIZE) for draw in values[1:]], axis=0),
        )
        parts.append(judged(rows, study))
    return pd.concat(parts, ignore_index=True)


def _largest_loss(sampled: Sampled, points: list[Point]) -> list[float]:
    mean = dict(zip(sampled.points, sampled.accuracy[0].mean(1), strict=True))
    base = mean[points[0]._replace(method=BASELINE, bits=FULL_PRECISION)]
    return [float((base - mean[p])[sampled.division.counted].max(initial=0)) for p in points]


def _floor(sampled: Sampled, alpha: float) -> float:
    """Return the largest certified loss of a network of which no answer changes."""
    _, codes, _, counted = sampled.division
    right = np.ones(len(codes), bool)
    bounds = certified_losses(
        right, right, codes, counted=counted, alpha=alpha, units=sampled.units
    )
    return float(bounds[counted].max()) if counted.any() else np.nan


def judged(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Add how far each variant of a model is from the targets, and which is recommended."""
    targets = study.targets
    over = [np.maximum(0.0, rows["loss_bound"] - targets.worst_group_loss)]
    if targets.fvo is not None:
        over.append(np.maximum(0.0, rows["fvo_high"] - targets.fvo))
    # a bound that is not known is not met
    excess = np.max(over, axis=0)
    meets = (excess == 0) & small_enough(rows, study)
    order = ["width", "trained", "bytes", "accuracy"]
    width = rows["bits"].replace(UNKNOWN_WIDTH, FULL_PRECISION - 1)  # after what is known narrower
    ranked = rows.assign(width=width, trained=rows["method"].map(study.retrained))[meets]
    best = ranked.sort_values(order, ascending=[True, True, True, False]).index[:1]
    return rows.assign(excess=excess, meets=meets, recommended=rows.index.isin(best))


def small_enough(rows: pd.DataFrame, study: Study) -> "pd.Series[bool]":
    """Whether a file is within the target; where there is one, its size has to be known."""
    most = study.targets.bytes
    return pd.Series(True, rows.index) if most is None else rows["bytes"] <= most


def shipped(frames: Mapping[str, pd.DataFrame], study: Study) -> pd.DataFrame:
    """Judge the files that ship by the targets of the study, on the first grouping.

    Parameters
    ----------
    frames
        Tables ``deployed`` and ``deployed_groups``; without them there are no files.

    Returns
    -------
    pandas.DataFrame
        One row a file in integers, over all seeds that ship: the columns of :data:`POINT`,
        ``bytes`` and their ``share`` of the fp32 file, ``accuracy`` and that of the ``fp32`` file,
        ``loss``, ``loss_bound``, ``fvo``, ``fvo_high``, ``excess``, ``meets`` and ``recommended``,
        as in the table ``frontier``. Where the fp32 network is a remedy's own, a loss is counted
        against that network, so such a file is not recommended.
    """
    columns = [*POINT, "bytes", "share", "accuracy", "fp32", "loss", "loss_bound", "fvo",
               "fvo_high", "excess", "meets", "recommended"]  # fmt: skip
    if not {"deployed", "deployed_groups"} <= frames.keys() or frames["deployed_groups"].empty:
        return pd.DataFrame(columns=columns)
    by_group = frames["deployed_groups"]
    first = by_group["dataset"].map(lambda dataset: study.groups_of(dataset)[0])
    by_group = by_group[(by_group["attribute"] == first) & by_group["counted"]]
    names = frames["deployed"]
    parent = names.loc[names["bits"] == FULL_PRECISION]
    key = ["dataset", "model", "seed", "base"]
    joined = names[names["bits"] < FULL_PRECISION].join(
        parent.set_index(key)[["bytes", "accuracy"]].add_prefix("parent_"), on=key
    )
    rows = []
    for place, part in joined.groupby(list(POINT), sort=False):
        groups = by_group.merge(part[["dataset", "model", "seed", "method", "bits"]])
        gaps = [_gap(own, study) for _, own in groups.groupby("seed")] or [(np.nan, np.nan)]
        gap, high = np.transpose(gaps)
        bound = groups["bound"]
        numbers = {
            "bytes": part["bytes"].mean(),
            "share": part["bytes"].mean() / part["parent_bytes"].mean(),
            "accuracy": part["accuracy"].mean(),
            "fp32": part["parent_accuracy"].mean(),
            "loss": (groups["fp32"] - groups["accuracy"]).max(),
            "loss_bound": bound.max(skipna=False),
            "fvo": gap.mean(),
            "fvo_high": high.max(),
            "plain": (part["base"] == BASELINE).all(),
        }
        rows.append(dict(zip(POINT, place, strict=True)) | numbers)
    if not rows:
        return pd.DataFrame(columns=columns)
    made = pd.DataFrame(rows)
    able = made.assign(loss_bound=made["loss_bound"].where(made["plain"]))
    parts = [judged(part, study) for _, part in able.groupby(["dataset", "model"], sort=False)]
    return made.join(pd.concat(parts)[["excess", "meets", "recommended"]])[columns]


def _gap(groups: pd.DataFrame, study: Study) -> tuple[float, float]:
    """Largest gap between the groups of a file, and its upper limit.

    Both are NaN without two groups, and so is the limit where several samples come from one unit,
    because the counts of samples then bound nothing.
    """
    if len(groups) < 2:
        return np.nan, np.nan
    gap = float(np.ptp(groups["accuracy"]))
    if study.unit_of(groups["dataset"].iloc[0]):
        return gap, np.nan
    own = Shares(groups[["accuracy"]].to_numpy().T, groups[["n"]].to_numpy(float).T)
    high = gap_limits(own, np.ones(len(groups), bool), study.statistics.alpha / 2).high
    return gap, float(high)


def files_first(placed: pd.DataFrame, files: pd.DataFrame) -> pd.DataFrame:
    """Recommend no simulated variant of a network of which files ship: they are what ships."""
    key = ["dataset", "model"]
    has = pd.MultiIndex.from_frame(placed[key]).isin(pd.MultiIndex.from_frame(files[key]))
    return placed.assign(recommended=placed["recommended"] & ~has)


def recommendations(
    rows: pd.DataFrame, study: Study, files: pd.DataFrame | None = None
) -> list[str]:
    """Say for each data set and model what to ship, or how far the best is from the targets.

    Where ``files`` of :func:`shipped` has any of a network, these are what is advised on, because
    they are what ships.
    """
    told = []
    for (dataset, model), part in rows.groupby(["dataset", "model"], sort=True):
        base = part[part["method"] == BASELINE]
        made, what = part[part["method"] != BASELINE], "variant"
        if len(made) and made["loss_bound"].isna().all() and base["floor"].notna().all():
            right = base["accuracy"].iloc[0]
            told.append(
                f"What to do with {dataset}, {model}: fp32 answers {100 * right:.1f} % correctly, "
                "and one class alone would do as well with one seed at least, so it is no basis "
                "and nothing is certified. Check mean, std, size and the order of the classes, or "
                "train longer."
            )
            continue
        if files is not None:
            own = files[(files["dataset"] == dataset) & (files["model"] == model)]
            made, what = (own, "file") if len(own) else (made, what)
        advice = _advice(base.iloc[0], made, what, study)
        told.append(f"What to do with {dataset}, {model}: {advice}")
    return told


def _advice(base: pd.Series, made: pd.DataFrame, what: str, study: Study) -> str:
    targets, attribute, floor = study.targets, base["attribute"], base["floor"]
    if np.isnan(floor):
        counted_in = study.counted_in(base["dataset"], "test samples")
        return f"no {attribute} group has the {study.groups.minimum} {counted_in} to judge by."
    asked = [
        f"no {attribute} group loses more than {100 * targets.worst_group_loss:.1f} points "
        f"(certified with {100 * (1 - study.statistics.alpha):g} % for every seed)"
    ]
    if targets.fvo is not None:
        asked.append(f"the upper limit of FVO is at most {100 * targets.fvo:.1f} points")
    if targets.bytes is not None:
        asked.append(f"the file has at most {targets.bytes:,} bytes")
    wanted = " and ".join(asked)
    chosen = made[made["recommended"]]
    if len(chosen):
        row, number = chosen.iloc[0], int(made["meets"].sum())
        ties = ", free ones first," if what == "variant" else ""
        first = f"the narrowest of {number} {what}s{ties}"
        among = first if number > 1 else f"the only {what}"
        parent = row.get("fp32", base["accuracy"])
        share = 100 * row.get("share", row["bytes"] / base["bytes"])
        return (
            f"ship {_named(row, what)}, {among} for which {wanted}: "
            f"{_size(row, f' ({share:.0f} % of fp32)')}accuracy {100 * row['accuracy']:.1f} % "
            f"(fp32 {100 * parent:.1f} %), {_fvo(row)}loss of a group at most "
            f"{100 * row['loss_bound']:.1f} points."
        ) + _by_itself(what, len(made))
    told = f"fp32 alone is sure to be within the targets: of no {what} is it certain that {wanted}."
    fitting = made[small_enough(made, study)]
    if fitting["excess"].notna().any():
        row = fitting.loc[fitting["excess"].idxmin()]
        told += (
            f" Closest is {_named(row, what)}, {100 * row['excess']:.1f} points off: a group may "
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
        row = likely.sort_values("bytes", kind="stable").iloc[0]
        start = "On target" if np.isnan(row["bytes"]) else "Smallest on target"
        told += (
            f" {start} by what was observed, without that certainty: {_named(row, what)}, "
            f"{_size(row)}accuracy {100 * row['accuracy']:.1f} %, {_fvo(row)}largest loss of a "
            f"group {100 * row['loss']:.1f} points."
        )
    return told


def _by_itself(what: str, number: int) -> str:
    """Say that simulated variants are not bounded for their number, as files are."""
    if what == "file" or number == 1:
        return ""
    return (
        f" Each of the {number} variants is certified by itself, so the risk that one of them "
        f"passes wrongly is up to {number} times that of one."
    )


def _size(row: pd.Series, share: str = "") -> str:
    return "" if np.isnan(row["bytes"]) else f"{row['bytes']:,.0f} bytes{share}, "


def _fvo(row: pd.Series) -> str:
    return "" if np.isnan(row["fvo"]) else f"FVO {100 * row['fvo']:.1f} points, "


def _named(row: pd.Series, what: str) -> str:
    if what == "file":
        return f"the file {row['method']}"
    width = width_name(row["bits"])
    return width if width == row["method"] else f"{row['method']} at {width}"
