"""The tables that papers print, in percentage points, on the first grouping of each data set."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from quantskew.analysis.claims import in_four_words
from quantskew.analysis.remedies import side_by_side
from quantskew.analysis.study import Study
from quantskew.analysis.typeset import about
from quantskew.analysis.views import first_groupings
from quantskew.names import BASELINE, FULL_PRECISION, WHOLE, width_name

PLACE = ["dataset", "model", "method", "bits"]
_SHARE = re.compile(
    r"(value|low|high|change|seed_sd|estimate|boundary|bound|fp32|pytorch|agreement_\w+)"
    r"|(accuracy|overall|worst_group|fvo)(_low|_high|_change|_seed_sd)?"
)
_WIDTHS = {bits: width_name(bits) for bits in (*range(2, 9), 16, 32)}


def published(frames: Mapping[str, pd.DataFrame], study: Study) -> dict[str, pd.DataFrame]:
    """Lay out the results as the tables of Diyora (2024), by file name.

    Parameters
    ----------
    frames
        Tables ``levels``, ``effects``, ``frontier``, ``remedies`` and ``claims``, of the loss
        surfaces ``curvature``, and of the files that ship ``deployed`` and ``deployed_groups``.
        ``certificates`` may be among them.

    Returns
    -------
    ``baseline``, ``ptq_int8`` and so on for every width, ``post_training`` (the other methods of
    that kind), ``qat``, ``mitigation``, ``groups`` and ``evidence``; ``methods``, all of them with
    intervals over seeds, and ``policies``, those of them that give layers different widths;
    ``damage``, how unequal it is and how well its expansion predicts it; ``files`` that ship, and
    ``shipped``, their accuracy for each group. A table without rows is left out.
    """
    plain = study.reference
    standing = _standing(frames, study)
    against_fp32 = _against_fp32(standing, first_groupings(frames["effects"], study))
    against_plain = _columns(
        side_by_side(first_groupings(frames["remedies"], study), ["overall", "fvo", "worst_group"]),
        _AGAINST_PLAIN,
    )
    qat = [name for name, method in study.methods.items() if method["training"]["kind"] == "qat"]
    tables = {"baseline": _columns(standing.loc[standing["method"] == BASELINE], _STANDING)}
    for bits in sorted(study.bits, reverse=True):
        rows = against_fp32[(against_fp32["method"] == plain) & (against_fp32["bits"] == bits)]
        tables[f"{plain}_{width_name(bits)}"] = rows
    others = [name for name in study.methods if name not in (plain, *qat)]
    tables["post_training"] = against_plain[against_plain["method"].isin(others)]
    tables["qat"] = against_plain[against_plain["method"].isin(qat)]
    tables["mitigation"] = against_plain[against_plain["method"].isin(study.mitigations)]
    tables["methods"] = _over_seeds(standing, frames.get("certificates"), study)
    policies = [name for name, m in study.all_methods().items() if m["policy"]["kind"] != "uniform"]
    shared = tables["methods"]["method"].isin([plain, *policies] if policies else [])
    tables["policies"] = tables["methods"][shared]
    tables["groups"] = _by_group(first_groupings(frames["levels"], study), study)
    claims = in_four_words(frames["claims"], study.statistics)
    claims["decide"] = claims["decide"].map(about)
    in_points = claims["scale"] == "share"  # those about rank correlations are not
    tables["evidence"] = _columns(claims[in_points], _EVIDENCE)
    tables["damage"] = _damage(first_groupings(frames["curvature"], study))
    shipped = first_groupings(frames["deployed_groups"], study)
    tables["files"] = _columns(frames["deployed"], _FILES)
    tables["shipped"] = _columns(shipped[shipped["bits"] < FULL_PRECISION], _SHIPPED)
    return {
        name: rows.rename(columns={"bits": "width"}).replace({"width": _WIDTHS})
        for name, rows in tables.items()
        if len(rows)
    }


def _titles(*columns: str) -> dict[str, str]:
    return {name: name for name in columns}


# the columns of a table, and their titles
_STANDING = _titles(*PLACE) | {
    "overall": "accuracy, %", "overall_low": "low", "overall_high": "high",
    "worst_group": "worst group, %", "fvo": "FVO", "bytes": "kB",
}  # fmt: skip
_AGAINST_FP32 = _titles(*PLACE) | {
    "overall": "accuracy, %", "overall_change": "change", "fvo": "FVO", "change": "change of FVO",
    "low": "low", "high": "high", "p_holm": "p", "verdict": "verdict", "bytes": "kB",
}  # fmt: skip
_AGAINST_PLAIN = _titles(*PLACE)
for _name, _title, _unit in (
    ("overall", "accuracy", ", %"), ("fvo", "FVO", ""), ("worst_group", "worst group", ", %"),
):  # fmt: skip
    _AGAINST_PLAIN |= {_name: _title + _unit}
    _AGAINST_PLAIN |= {
        f"{_name}_{part}": f"{_title} {part}" for part in ("change", "low", "high", "verdict")
    }
_AGAINST_PLAIN |= {"training": "training, × fp32", "bytes": "kB"}
_EVIDENCE = {
    "dataset": "dataset", "claim": "name", "text": "claim", "width": "width",
    "compared": "compared", "units": "networks", "estimate": "estimate", "boundary": "boundary",
    "low": "low", "high": "high", "d": "d", "d_low": "d low", "d_high": "d high", "p_holm": "p",
    "difference": "verdict", "verdict": "the claim is", "decide": "networks that would do",
    "missing": "missing",
}  # fmt: skip
_FILES = _titles(*PLACE, "seed") | {
    "accuracy": "accuracy, %", "agreement_fp32": "answers as fp32, %",
    "agreement_pytorch": "answers as simulated, %", "bytes": "kB",
}  # fmt: skip
_SHIPPED = _titles("dataset", "model", "method", "seed", "group", "n") | {
    "fp32": "fp32, %", "pytorch": "simulated, %", "accuracy": "file, %", "low": "low",
    "high": "high", "bound": "certified loss, points", "lost": "lost, images",
    "gained": "gained, images",
}  # fmt: skip


def _columns(rows: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Columns under their titles; shares become points, and bytes kilobytes."""
    scaled = rows[[*titles]].copy()
    for column in titles:
        if _SHARE.fullmatch(column):
            scaled[column] = scaled[column] * 100
        elif column == "bytes":
            scaled[column] = scaled[column] / 1000
    return scaled.rename(columns=dict(titles))


def _standing(frames: Mapping[str, pd.DataFrame], study: Study) -> pd.DataFrame:
    """One row a variant: ``<metric>``, ``<metric>_low``, ``_high`` and ``_seed_sd``, ``bytes``."""
    levels = first_groupings(frames["levels"], study)
    wide = levels[levels["group"] == WHOLE].pivot(
        index=PLACE, columns="metric", values=["value", "low", "high", "seed_sd"]
    )
    wide.columns = [f"{metric}_{part}".removesuffix("_value") for part, metric in wide.columns]
    return wide.join(frames["frontier"].set_index(PLACE)["bytes"]).reset_index()


def _against_fp32(standing: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    whole = effects[(effects["group"] == WHOLE) & (effects["reference"] == BASELINE)]
    overall, fvo = (whole[whole["metric"] == name].set_index(PLACE) for name in ("overall", "fvo"))
    fvo = fvo[["change", "low", "high", "p_holm", "verdict"]]
    rows = fvo.join(standing.set_index(PLACE)).assign(overall_change=overall["change"])
    return _columns(rows.reset_index(), _AGAINST_FP32)


def _over_seeds(
    standing: pd.DataFrame, certificates: pd.DataFrame | None, study: Study
) -> pd.DataFrame:
    """Accuracy, worst group and FVO, each with half of Student's interval over 3 seeds or more.

    Tables of answers may be of other seeds than the networks; their certificates tell of how many.
    """
    seeds = pd.Series(len(study.seeds), standing.index)
    if certificates is not None:
        network = ["dataset", "model"]
        known = certificates.groupby(network)["seed"].nunique().rename("known")
        seeds = standing.join(known, on=network)["known"].fillna(seeds)
    # with two seeds the interval is 18 times their deviation, which says nothing
    seeds = seeds.where(seeds > 2)
    half = stdtrit(seeds - 1, 1 - study.statistics.alpha / 2) / np.sqrt(seeds)
    titles = _titles(*PLACE)
    for metric, title in (("overall", "accuracy"), ("worst_group", "worst group"), ("fvo", "FVO")):
        titles[metric] = title if title == "FVO" else f"{title}, %"
        titles[f"{metric}_seed_sd"] = f"{title} ±"
    rows = _columns(standing, titles | {"bytes": "kB"})
    spreads = [name for name in rows if name.endswith("±")]
    rows[spreads] = rows[spreads].mul(half, axis=0)
    order = {name: place for place, name in enumerate([BASELINE, *study.all_methods()])}
    return rows.sort_values(
        "method", key=lambda names: names.map(order), kind="stable"
    ).sort_values(["dataset", "model", "bits"], ascending=[True, True, False], kind="stable")


def _by_group(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    chosen = rows["method"].isin([BASELINE, study.reference]) & (rows["metric"] == "accuracy")
    key = ["dataset", "model", "attribute", "group", "n"]
    wide = rows[chosen].pivot(index=key, columns="bits", values=["value", "seed_sd"]) * 100
    shown = {}
    for bits in sorted(wide["value"].columns, reverse=True):
        shown[width_name(bits)] = wide["value", bits]
        shown[f"{width_name(bits)} seed sd"] = wide["seed_sd", bits]
    shown[f"change at {width_name(bits)}"] = wide["value", bits] - wide["value", FULL_PRECISION]
    return pd.DataFrame(shown).reset_index()


def _damage(curvature: pd.DataFrame) -> pd.DataFrame:
    """Spread φ over groups of the loss that quantization adds (Liu et al.), and of its expansion.

    The error of the expansion to second order is its mean over groups, and as a share of the mean
    loss added: from 1 on, it tells no more than that nothing changes. Means over seeds.
    """
    rows = curvature.dropna(subset="second_order")
    error = (rows["second_order"] - rows["excess_loss"]).abs()
    rows = rows.assign(error=error, size=rows["excess_loss"].abs())
    network = rows.groupby([*PLACE, "seed"])
    spread = network[["excess_loss", "second_order"]].agg(np.ptp)
    sizes = network[["error", "size"]].mean()
    shown = {
        "φ, nats": spread["excess_loss"],
        "predicted, nats": spread["second_order"],
        "error, nats": sizes["error"],
        "error share": sizes["error"] / sizes["size"],
    }
    means = pd.DataFrame(shown).groupby(PLACE).mean().reset_index()
    return means.sort_values([*PLACE[:3], "bits"], ascending=[True, True, True, False])
