"""The rows behind the figures of the impact flow: weights, logits, gradients, curvature, damage.

Each view has the columns ``panel`` and ``drawing``, one a row and a column of small drawings, and
``x``, ``y`` and ``series`` or ``value``; all but the last are of plain quantization.
"""

import re
from collections.abc import Mapping

import pandas as pd
from scipy.stats import t as student

from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, panel, plain
from quantskew.names import BASELINE
from quantskew.schemas import POINT

POINT_GROUP = [*POINT, "attribute", "group"]


def weight_change(layers: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Change and sparsity of the weights by width (Bellam & Kim, Figure 3)."""
    rows = layers[(layers["layer"] == "all") & layers["method"].isin(study.methods)]
    rows = rows[rows["bits"] < 16]
    rows = panel(rows.sort_values(["bits", "method"], ascending=[False, True], kind="stable"))
    rows = rows.assign(change=rows["absolute_change"] / rows["weights"])
    return pd.concat(
        rows.groupby(["panel", "width", "method"], sort=False, as_index=False)
        .agg(value=(column, "mean"), low=(column, "min"), high=(column, "max"))
        .assign(drawing=field)
        for field, column in (
            ("mean |change| of a weight", "change"),
            ("share of weights that are 0", "sparsity"),
        )
    ).rename(columns={"width": "x", "method": "series"})


def layer_bits(layers: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Width of each layer by method: those that give layers different ones, beside plain.

    Layers come in the order of their names, numbers in them by value; means over seeds, and over
    the channels of a layer where those differ.
    """
    rows = panel(layers[(layers["layer"] != "all") & (layers["bits"] < 16)])
    place = ["panel", "width", "method"]
    mixed = rows.groupby(place)["layer_bits"].transform("nunique") > 1
    shown = rows["width"].isin(rows.loc[mixed, "width"]) | (not mixed.any())
    rows = rows[mixed | (shown & (rows["method"] == study.reference))]
    rows = rows.sort_values("layer", key=lambda names: names.map(_by_number), kind="stable")
    rows = rows.sort_values(["panel", "bits"], ascending=[True, False], kind="stable")
    names = {"width": "drawing", "method": "x", "layer": "y", "layer_bits": "value"}
    rows = rows.groupby([*place, "layer"], sort=False, as_index=False)["layer_bits"].mean()
    return rows.rename(columns=names)


def _by_number(name: str) -> tuple[tuple[int, str], ...]:
    parts = re.findall(r"\d+|\D+", name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def distributions(
    weight_histograms: pd.DataFrame, boundaries: pd.DataFrame, study: Study
) -> pd.DataFrame:
    """Weights, and distances to the decision boundary, by width (Figures 4 and 6b)."""
    parts = []
    for field, rows in (
        ("weight", weight_histograms),
        ("probability of the true class", boundaries),
    ):
        rows = panel(plain(rows, study))
        rows = rows.assign(x=(rows["low"] + rows["high"]) / 2)
        # networks of other seeds have edges of their own
        rows = rows[rows["seed"] == rows.groupby("panel")["seed"].transform("min")]
        counts = rows.groupby(["panel", "width", "x"], sort=False, as_index=False)["count"].sum()
        whole = counts.groupby(["panel", "width"])["count"].transform("sum")
        parts.append(counts.assign(y=counts["count"] / whole, drawing=field))
    rows = pd.concat(parts).rename(columns={"width": "series"})
    return rows[["panel", "drawing", "series", "x", "y"]]


def logits(groups: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Turn and variance of each group's logits by width (Figures 5a and 5d)."""
    rows = plain(first_groupings(groups, study), study)
    return _by_group(
        rows,
        {
            "cosine_distance": "cosine distance of logits to fp32",
            "logit_variance": "variance of logits",
        },
    )


def eigenvalues(curvature: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Largest Hessian eigenvalue and gradient norm of each group by width (Figure 10)."""
    rows = plain(first_groupings(curvature, study), study)
    return _by_group(
        rows, {"largest_eigenvalue": "largest eigenvalue", "gradient_plain": "gradient norm"}
    )


def _by_group(rows: pd.DataFrame, fields: dict[str, str]) -> pd.DataFrame:
    return pd.concat(
        rows.assign(y=rows["group"] + ", n=" + rows["n"].astype(str))
        .groupby(["panel", "y", "width"], sort=False, as_index=False)
        .agg(value=(column, "mean"))
        .assign(drawing=field)
        for column, field in fields.items()
    ).rename(columns={"width": "x"})


def surfaces(curvature: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Curvature of each group beside its accuracy, averaged over the seeds that have both."""
    keys = ["seed", *POINT_GROUP]
    known = ["accuracy", "top_probability"]
    joined = curvature.merge(groups[[*keys, *known]], on=keys)
    return joined.groupby(POINT_GROUP, sort=False, as_index=False).mean(numeric_only=True)


def gradient_norms(surfaces: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Gradient norms at int4 against group size and accuracy (Figure 8)."""
    rows = plain(first_groupings(surfaces, study), study)
    rows = rows[rows["bits"] == (4 if (rows["bits"] == 4).any() else rows["bits"].min())]
    error = rows["gradient_unbiased_square_error"] / (2 * rows["gradient_plain"])
    rows = rows.assign(gradient_plain_error=error)
    fields = (
        ("norm against training samples", "n_train", "gradient_plain"),
        ("at equal n, against training samples", "n_train", "gradient_equal_n"),
        ("norm against accuracy", "accuracy", "gradient_plain"),
    )
    return _points(rows, fields, study)


def steepness(surfaces: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Largest eigenvalue against accuracy, top probability and gradient norm (Figure 9)."""
    rows = plain(first_groupings(surfaces, study), study)
    fields = (
        ("eigenvalue against accuracy", "accuracy", "largest_eigenvalue"),
        ("against top probability", "top_probability", "largest_eigenvalue"),
        ("against gradient norm", "gradient_plain", "largest_eigenvalue"),
    )
    return _points(rows, fields, study)


def predicted_damage(curvature: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Excess loss as gradient and curvature at fp32 predict it, against the measured (Liu et al.).

    A drawing a method; every seed is a point.
    """
    rows = first_groupings(curvature, study).dropna(subset="second_order")
    return rows.rename(
        columns={"method": "drawing", "width": "series", "second_order": "x", "excess_loss": "y"}
    )[["panel", "drawing", "series", "group", "x", "y"]]


def _points(
    rows: pd.DataFrame, fields: tuple[tuple[str, str, str], ...], study: Study
) -> pd.DataFrame:
    kept = rows[["panel", "width", "group"]].rename(columns={"width": "series"})
    # errors are those of the samples that were drawn of a group
    half = student.ppf(1 - study.statistics.alpha / 2, rows["sampled"] - 1)
    parts = []
    for field, x, y in fields:
        part = kept.assign(drawing=field, x=rows[x], y=rows[y])
        if f"{y}_error" in rows:
            reach = half * rows[f"{y}_error"]
            # no norm is below 0, and no λmax: to shift all logits alike has no curvature
            part = part.assign(low=(rows[y] - reach).clip(0), high=rows[y] + reach)
        parts.append(part)
    return pd.concat(parts)


def layer_damage(damage: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Rise of each group's loss where one layer alone is quantized, in the order of the layers.

    A drawing a method and width; the mean over seeds.
    """
    rows = first_groupings(damage, study).sort_values("position", kind="stable")
    rows = rows.assign(drawing="one layer alone: " + rows["method"] + ", " + rows["width"])
    keys = ["panel", "drawing", "layer", "group"]
    means = rows.groupby(keys, sort=False, as_index=False).agg(value=("rise", "mean"))
    return means.rename(columns={"group": "x", "layer": "y"})


def example_difficulty(history: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each class by epoch of the fp32 training, at equal numbers (§4.6)."""
    rows = panel(history[history["method"] == BASELINE])
    rows["split"] += ", " + rows["n"].astype(str) + " samples a class"
    return (
        rows.groupby(["panel", "split", "group", "epoch"], as_index=False)["accuracy"]
        .mean()
        .rename(columns={"split": "drawing", "group": "series", "epoch": "x", "accuracy": "y"})
        .sort_values(["panel", "drawing", "series", "x"], ascending=[True, False, True, True])
    )


def views(tables: Mapping[str, pd.DataFrame], study: Study) -> dict[str, pd.DataFrame]:
    """All of them by name, from the tables of the stage ``evaluate``."""
    merged = surfaces(tables["curvature"], tables["groups"])
    return {
        "weight_change": weight_change(tables["layers"], study),
        "layer_bits": layer_bits(tables["layers"], study),
        "distributions": distributions(tables["weight_histograms"], tables["boundaries"], study),
        "logits": logits(tables["groups"], study),
        "gradient_norms": gradient_norms(merged, study),
        "eigenvalues": eigenvalues(tables["curvature"], study),
        "steepness": steepness(merged, study),
        "predicted_damage": predicted_damage(tables["curvature"], study),
        "layer_damage": layer_damage(tables["layer_damage"], study),
        "example_difficulty": example_difficulty(tables["history"]),
    }
