"""Selections of rows that several figures, tables and claims share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from quantskew.analysis.study import Study
from quantskew.names import BASELINE, UNKNOWN_WIDTH, WHOLE, state_name, width_name
from quantskew.schemas import POINT

_PLACE = ["dataset", "model", "bits"]
_POINT_GROUP = [*POINT, "attribute", "group"]


def first_groupings(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Rows of the first grouping of every data set, with the columns of :func:`panel`."""
    first = {dataset: study.groups_of(dataset)[0] for dataset in study.datasets}
    chosen = rows[rows["attribute"] == rows["dataset"].map(first)]
    return panel(chosen).sort_values(["panel", "method", "bits"], ascending=[True, True, False])


def panel(rows: pd.DataFrame) -> pd.DataFrame:
    """Add ``panel``, which names the data set and the model, and ``width``, such as ``int4``."""
    return rows.assign(
        panel=rows["dataset"] + " · " + rows["model"],
        width=rows["bits"].map(width_name).astype(str),  # an empty column would not be text
    )


def at(rows: pd.DataFrame, place: Mapping[str, Any]) -> pd.DataFrame:
    """Rows with these values of these columns."""
    return rows[np.logical_and.reduce([rows[name] == value for name, value in place.items()])]


def states(rows: pd.DataFrame) -> "pd.Series[str]":
    """Name the state of each row; after its method where several of a network have that width."""
    names = pd.Series([*map(state_name, rows["method"], rows["bits"])], rows.index, dtype=str)
    several = rows.groupby(_PLACE)["method"].transform("nunique") > 1
    return names.where(~several | (names == rows["method"]), rows["method"] + " " + names)


def judged(effects: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Rows against fp32 of what is judged: the reference method, or all methods where it is not.

    A network of which only answers are known, under names of their own, has no reference method.
    """
    rows = effects[effects["reference"] == BASELINE]
    plain = rows["method"] == study.reference
    network = rows["dataset"] + "\n" + rows["model"]
    return rows[plain | ~network.isin(network[plain])]


def plain(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Rows of fp32, fp16 and the reference method, from wide to narrow; all tables of answers.

    What a table of answers, whose width is not known, has as ``width`` is its name.
    """
    named = rows["method"].isin([BASELINE, "fp16", study.reference])
    rows = rows[named | (rows["bits"] == UNKNOWN_WIDTH)]
    if "width" in rows:
        width = np.where(rows["bits"] == UNKNOWN_WIDTH, rows["method"], rows["width"])
        rows = rows.assign(width=width.astype(object))
    return rows.sort_values(_PLACE, ascending=[True, True, False], kind="stable")


def against_accuracy(effects: pd.DataFrame, metric: str, study: Study) -> pd.DataFrame:
    """Changes against fp32 of accuracy (``x``) and of another metric (``y``), in points.

    One row is a network, method and width, with limits (``x_low``, …), the field (``drawing``) and
    the ``margin``. Of FVO, less is better.
    """
    rows = first_groupings(effects, study)
    rows = rows[(rows["reference"] == BASELINE) & (rows["group"] == WHOLE) & (rows["bits"] < 16)]
    key = ["panel", "bits", "width", "method"]
    sides = [
        100 * rows[rows["metric"] == name].set_index(key)[["change", "low", "high"]]
        .set_axis([axis, f"{axis}_low", f"{axis}_high"], axis=1)
        for name, axis in (("overall", "x"), (metric, "y"))
    ]  # fmt: skip
    both = sides[0].join(sides[1]).dropna(subset=["x", "y"]).reset_index()
    both = both.sort_values(["panel", "bits"], ascending=[True, False], kind="stable")
    return both.assign(margin=100 * study.statistics.margin).rename(columns={"width": "drawing"})


def surfaces(curvature: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Curvature of each group beside its accuracy, averaged over the seeds that have both."""
    measured = groups[["seed", *_POINT_GROUP, "accuracy", "top_probability"]]
    joined = curvature.merge(measured, on=["seed", *_POINT_GROUP])
    return joined.groupby(_POINT_GROUP, sort=False, as_index=False).mean(numeric_only=True)


def by_group(rows: pd.DataFrame, fields: Mapping[str, str]) -> pd.DataFrame:
    """Rows of a heat map of group by width, means over seeds; ``fields`` are columns and titles."""
    rows = rows.assign(y=rows["group"] + ", n=" + rows["n"].astype(str))
    keys = ["panel", "y", "width"]
    means = [
        rows.groupby(keys, sort=False, as_index=False)
        .agg(value=(column, "mean"))
        .assign(drawing=title)
        for column, title in fields.items()
    ]
    return pd.concat(means).rename(columns={"width": "x"})


def scattered(
    rows: pd.DataFrame, fields: Mapping[str, tuple[str, str]], alpha: float
) -> pd.DataFrame:
    """Rows of points, a field for each pair of columns, with limits where the error is known.

    Parameters
    ----------
    rows
        One row for each group and width. A column ``<y>_error`` is the standard error of ``<y>``
        over the ``sampled`` samples that were drawn of the group.
    fields
        The columns on the axes of each field, by its title.
    alpha
        One less the coverage of the limits, which are Student's.
    """
    named = rows[["panel", "width", "group"]].rename(columns={"width": "series"})
    half = stdtrit(rows["sampled"] - 1, 1 - alpha / 2)
    parts = []
    for title, (x, y) in fields.items():
        part = named.assign(drawing=title, x=rows[x], y=rows[y])
        if f"{y}_error" in rows:
            reach = half * rows[f"{y}_error"]
            # no norm is below 0, and no largest eigenvalue: shifting all logits alike is flat
            part = part.assign(low=(rows[y] - reach).clip(0), high=rows[y] + reach)
        parts.append(part)
    return pd.concat(parts)
