"""The rows behind every figure: one table a figure, drawn by matplotlib and by DVC alike.

All views show the first grouping of a data set. ``panel`` names the data set and the model.
"""

import pandas as pd

from quantskew.analysis.study import Study
from quantskew.names import BASELINE, WHOLE, width_name


def first_groupings(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Rows of the first grouping of every data set, with the columns of a figure."""
    first = {dataset: study.groups_of(dataset)[0] for dataset in study.datasets}
    chosen = rows[rows["attribute"] == rows["dataset"].map(first)]
    return panel(chosen).sort_values(["panel", "method", "bits"], ascending=[True, True, False])


def panel(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the columns ``panel`` and ``width``."""
    return rows.assign(
        panel=rows["dataset"] + " · " + rows["model"],
        width=rows["bits"].map(width_name).astype(str),  # of no rows too
    )


def plain(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Rows of fp32, fp16 and plain quantization, from wide to narrow."""
    return rows[rows["method"].isin([BASELINE, "fp16", study.reference])].sort_values(
        ["dataset", "model", "bits"], ascending=[True, True, False], kind="stable"
    )


def accuracy_by_group(
    levels: pd.DataFrame, study: Study, groups: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Accuracy of each group at each width, plain quantization (Bellam & Kim, Figure 1).

    With the table ``groups``, its networks too: ``seeds`` lists the accuracy of each.
    """
    rows = plain(first_groupings(levels, study), study)
    rows = rows[rows["metric"] == "accuracy"]
    shown = ["panel", "group", "n", "width", "value", "low", "high"]
    if groups is None:
        return rows[shown]
    key = ["dataset", "model", "method", "bits", "attribute", "group"]
    each = groups.sort_values("seed").groupby(key)["accuracy"].agg(list).rename("seeds")
    return rows.join(each, on=key)[[*shown, "seeds"]]


def loss_by_group(groups: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Mean loss of each group at each width, plain quantization (Bellam & Kim, Figure 7).

    The limits are the lowest and the highest seed.
    """
    rows = plain(first_groupings(groups, study), study)
    keys = ["panel", "group", "n", "width"]
    return rows.groupby(keys, sort=False, as_index=False).agg(
        value=("loss", "mean"), low=("loss", "min"), high=("loss", "max")
    )


def fvo_by_width(levels: pd.DataFrame, study: Study) -> pd.DataFrame:
    """FVO of every method as the width falls, beside what chance alone would show."""
    rows = first_groupings(levels, study)
    rows = rows[rows["metric"] == "fvo"]
    return rows[["panel", "method", "width", "bits", "value", "low", "high", "chance_upper"]]


def trade_off(levels: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Overall accuracy and FVO of every method and width (Bellam & Kim, Figures 11 and 12)."""
    rows = first_groupings(levels, study)
    keys = ["panel", "method", "width", "bits"]
    sides = [
        rows[(rows["metric"] == metric) & (rows["group"] == WHOLE)]
        .set_index(keys)[["value", "low", "high"]]
        .rename(columns={"value": name, "low": f"{name}_low", "high": f"{name}_high"})
        for metric, name in (("overall", "accuracy"), ("fvo", "fvo"))
    ]
    return sides[0].join(sides[1]).reset_index()
