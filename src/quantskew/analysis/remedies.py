"""Which remedy is the cheapest that meets the targets, width by width, and what training adds.

A remedy is any method but the reference of the study. All of them store integer codes of the same
width, so what sets them apart is the training they take, then the bytes of the file.

What is trained is priced against the bar: at its width, and for each metric, the best of the
reference and of the free remedies (:meth:`~quantskew.analysis.study.Study.free_remedies`). Which of
them is best is seen on the same test samples, which favours the bar. The verdict is that of the
table ``effects``, where every comparison with a free remedy is one of the exploratory tests.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from quantskew.analysis.frontier import small_enough
from quantskew.analysis.study import Study
from quantskew.analysis.typeset import points
from quantskew.fairness.catalogue import CATALOGUE, find
from quantskew.layout import empty
from quantskew.names import BASELINE, FULL_PRECISION, WHOLE, Point, width_name
from quantskew.schemas import POINT

CHANGE = ["change", "low", "high", "verdict"]


def remedies(
    placed: pd.DataFrame,
    images: Mapping[Point, float],
    levels: pd.DataFrame,
    effects: pd.DataFrame,
    study: Study,
) -> pd.DataFrame:
    """Compute the table ``remedies``: every method at every width of the study.

    Parameters
    ----------
    placed
        Rows of the table ``frontier``.
    images
        Images that each point was trained on beyond fp32, mean over seeds; of fp32 its own.

    Returns
    -------
    pandas.DataFrame
        One row a point and metric of the catalogue, but those of each group. The changes are those
        against the reference of the same width, which itself has none; those over the ``bar`` are
        of what was trained alone. At each width one point is
        ``cheapest``: of those nearest to the targets (those that meet them, if any does) the one
        that takes the least training, of equals the reference itself, then the one of the fewest
        bytes.
    """
    columns = [*POINT, "attribute", "bytes", "excess", "meets"]
    rows = placed.loc[placed["bits"].isin(study.bits), columns].reset_index(drop=True)
    if rows.empty:
        return empty("remedies")
    places = [Point(*key) for key in rows[list(POINT)].itertuples(index=False)]
    rows["images_trained"] = [images[place] for place in places]
    whole = [images[p._replace(method=BASELINE, bits=FULL_PRECISION)] for p in places]
    methods = study.all_methods()
    for column in ("images", "labels"):
        rows[column] = [methods.get(p.method, {}).get(column, 0) for p in places]
    trained = np.array([study.retrained(p.method) for p in places], bool)
    rows["free"] = ~trained & (rows["images_trained"] == 0)
    # the user's own weights took no training that is known
    rows["training"] = rows["images_trained"] / np.where(np.equal(whole, 0), np.nan, whole)
    shown = [name for name, metric in CATALOGUE.items() if metric.of != "each group"]
    key = [*POINT, "attribute", "metric"]
    levels = levels[levels["metric"].isin(shown)]
    overall = levels[levels["metric"] == "overall"].set_index(key[:-1])["value"]
    fitting = rows[rows["excess"].notna() & small_enough(rows, study)]
    order = (
        fitting.join(1 - overall.rename("error"), on=key[:-1])
        .assign(remedy=fitting["method"] != study.reference)
        .sort_values(["excess", "images_trained", "remedy", "bytes", "error"])
    )
    best = order.drop_duplicates(["dataset", "model", "bits"]).index
    rows["cheapest"] = rows.index.isin(best)
    whole = effects.loc[effects["group"] == WHOLE, [*key, "reference", *CHANGE]]
    against = whole[whole["reference"] == study.reference].set_index(key)[CHANGE]
    rows = rows.merge(levels[[*key, "value"]], on=key[:-1]).join(against, on=key)
    rows = rows.merge(_bars(rows, study), how="left", on=["dataset", "model", "bits", "metric"])
    rows.loc[rows["free"], "bar"] = None
    over = whole.rename(columns={"reference": "bar"} | {name: f"over_{name}" for name in CHANGE})
    rows = rows.merge(over, how="left", on=[*key, "bar"])
    texts = ["verdict", "bar", "over_verdict"]
    return rows.assign(**rows[texts].fillna(""))


def _bars(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Name the best of what takes no training, for each width and metric."""
    known = rows[rows["method"].isin([study.reference, *study.free_remedies()])]
    signs = known["metric"].map(lambda name: find(name).sign)
    ranked = known.assign(rank=known["value"] * signs).dropna(subset="rank")
    key = ["dataset", "model", "bits", "metric"]
    best = ranked.sort_values("rank", ascending=False, kind="stable").drop_duplicates(key)
    return best[[*key, "method"]].rename(columns={"method": "bar"})


def side_by_side(rows: pd.DataFrame, metrics: Iterable[str], *, bars: bool = False) -> pd.DataFrame:
    """Lay out the table ``remedies`` with one row a point.

    The columns of a metric are its name, then ``<name>_change``, ``_low``, ``_high`` and
    ``_verdict``; with ``bars`` also ``<name>_bar``, ``_over_change`` and so on.
    """
    over = ["bar", *(f"over_{name}" for name in CHANGE)]
    parts = ["value", *CHANGE]
    costs = [c for c in rows if c not in (*parts, *over, "metric", *POINT)]
    parts += over * bars
    wide = rows.drop_duplicates(list(POINT)).set_index(list(POINT))[costs]
    for name in metrics:
        own = rows[rows["metric"] == find(name).name].set_index(list(POINT))[parts]
        wide = wide.join(own.add_prefix(f"{name}_").rename(columns={f"{name}_value": name}))
    return wide.reset_index()


def cheapest(rows: pd.DataFrame, study: Study) -> list[str]:
    """Say for each data set and model which remedy meets the targets at the lowest cost."""
    rows = side_by_side(rows, ["worst_group"])
    best = rows[rows["cheapest"]].sort_values("bits", ascending=False)
    return _by_width("Cheapest remedies for", best, lambda row: _choice(row, study.reference))


def against_free(rows: pd.DataFrame, study: Study) -> list[str]:
    """Say for each data set and model what the best trained remedy adds to the best free one.

    The trained remedy of each width is the one with the highest accuracy of the worst group.
    """
    trained = side_by_side(rows[~rows["free"]], ["worst_group", "fvo"], bars=True)
    trained = trained[trained["worst_group_bar"] != ""]
    order = trained.sort_values(["bits", "worst_group"], ascending=False)
    best = order.drop_duplicates(["dataset", "model", "bits"])
    return _by_width("What training adds to free remedies on", best, _added)


def _by_width(start: str, rows: pd.DataFrame, say: Callable[[pd.Series], str]) -> list[str]:
    """Say something of each row, a sentence for each data set and model."""
    return [
        f"{start} {dataset}, {model}: "
        + "; ".join(f"at {width_name(row['bits'])} {say(row)}" for _, row in part.iterrows())
        + "."
        for (dataset, model), part in rows.groupby(["dataset", "model"])
    ]


def _added(row: pd.Series) -> str:
    told = f"{row['method']}, for {_training(row)}"
    for name, words in (("worst_group", "the worst group"), ("fvo", "FVO")):
        bar, verdict = row[f"{name}_bar"], row[f"{name}_over_verdict"]
        if not bar or not verdict:
            continue
        change, low, high = (points(row[f"{name}_over_{part}"]) for part in CHANGE[:3])
        told += f", changes {words} by {change} points [{low}, {high}] against {bar} ({verdict})"
    return told


def _choice(row: pd.Series, plain: str) -> str:
    name, off = row["method"], f"{100 * row['excess']:.1f} points off"
    if name == plain:
        met, missed = "none is needed:", "none gets nearer to the targets than"
        return f"{met} {name} meets the targets" if row["meets"] else f"{missed} {name}, {off}"
    met, missed = f"{name} meets the targets", f"none does, and {name} is nearest, {off}"
    told = f"{met if row['meets'] else missed}, for {_training(row)} and {row['bytes']:,.0f} bytes"
    verdict = row["worst_group_verdict"]
    if not verdict:
        return told
    change, low, high = (points(row[f"worst_group_{part}"]) for part in ("change", "low", "high"))
    return f"{told} (worst group {change} points [{low}, {high}] against {plain}: {verdict})"


def _training(row: pd.Series) -> str:
    if not row["images_trained"]:
        return "no training"
    if np.isnan(row["training"]):
        return f"training on {row['images_trained']:,.0f} images"
    return f"{row['training']:.2g} times the training of fp32"
