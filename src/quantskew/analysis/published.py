r"""Tables as papers print them, in LaTeX (booktabs, siunitx) and in Markdown.

Accuracies, FVO and their changes are in percentage points, on the first grouping of each data set.
In a LaTeX document: ``\usepackage{booktabs, siunitx}`` and ``\input`` of the file.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy.stats import t as student

from quantskew.analysis.remedies import side_by_side
from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings
from quantskew.names import BASELINE, FULL_PRECISION, WHOLE, width_name

PLACE = ["dataset", "model", "method", "bits"]


def published(frames: Mapping[str, pd.DataFrame], study: Study) -> dict[str, pd.DataFrame]:
    """Lay out the results as the tables of Diyora (2024), by file name.

    Parameters
    ----------
    frames
        Tables ``levels``, ``effects``, ``frontier``, ``remedies`` and ``claims``, of the loss
        surfaces ``curvature``, and of the files that ship ``deployed`` and ``deployed_groups``.
    study
        All parameters.

    Returns
    -------
    ``baseline``, ``ptq_int8`` and so on for every width, ``post_training`` (other methods of that
    kind), ``qat``, ``mitigation``, ``groups`` and ``evidence``; ``methods``, all with intervals
    over seeds, and of those ``policies``, which share the bits of plain quantization unevenly;
    ``damage``, how unequal it is and how well its expansion tells; ``files`` that ship and
    ``shipped``, what they answer for each group. A table without rows is left out.
    """
    plain = study.reference
    against_fp32 = _against_fp32(frames, study)
    against_plain = _against_plain(first_groupings(frames["remedies"], study))
    qat = [name for name, method in study.methods.items() if method["training"]["kind"] == "qat"]
    tables = {"baseline": _standing(frames, study, [BASELINE])}
    for bits in sorted(study.bits, reverse=True):
        rows = against_fp32[(against_fp32["method"] == plain) & (against_fp32["bits"] == bits)]
        tables[f"{plain}_{width_name(bits)}"] = rows
    others = [name for name in study.methods if name not in (plain, *qat)]
    tables["post_training"] = against_plain[against_plain["method"].isin(others)]
    tables["qat"] = against_plain[against_plain["method"].isin(qat)]
    tables["mitigation"] = against_plain[against_plain["method"].isin(study.mitigations)]
    tables["methods"] = _over_seeds(frames, study)
    policies = [name for name, m in study.all_methods().items() if m["policy"]["kind"] != "uniform"]
    same_size = tables["methods"]["method"].isin([plain, *policies] if policies else [])
    tables["policies"] = tables["methods"][same_size]
    tables["groups"] = _by_group(frames["levels"], study)
    tables["evidence"] = _evidence(frames["claims"])
    tables["damage"] = _damage(first_groupings(frames["curvature"], study))
    tables["files"] = _files(frames["deployed"])
    tables["shipped"] = _shipped(first_groupings(frames["deployed_groups"], study))
    return {
        name: rows.rename(columns={"bits": "width"}).replace({"width": _WIDTHS})
        for name, rows in tables.items()
        if len(rows)
    }


_WIDTHS = {bits: width_name(bits) for bits in (*range(2, 9), 16, 32)}


def _standing(
    frames: Mapping[str, pd.DataFrame], study: Study, methods: list[str] | None = None
) -> pd.DataFrame:
    levels = first_groupings(frames["levels"], study)
    whole = levels[levels["group"] == WHOLE]
    if methods is not None:
        whole = whole[whole["method"].isin(methods)]
    wide = whole.pivot(index=PLACE, columns="metric", values=["value", "low", "high"]) * 100
    sizes = frames["frontier"].set_index(PLACE)["bytes"]
    shown = {
        "accuracy, %": wide["value", "overall"],
        "low": wide["low", "overall"],
        "high": wide["high", "overall"],
        "worst group, %": wide["value", "worst_group"],
        "FVO": wide["value", "fvo"],
        "kB": sizes / 1000,
    }
    return pd.DataFrame(shown).loc[wide.index].reset_index()


def _over_seeds(frames: Mapping[str, pd.DataFrame], study: Study) -> pd.DataFrame:
    """Accuracy, worst group and FVO, each with half of Student's interval over 3 seeds or more."""
    levels = first_groupings(frames["levels"], study)
    whole = levels[levels["group"] == WHOLE]
    wide = whole.pivot(index=PLACE, columns="metric", values=["value", "seed_sd"]) * 100
    seeds = len(study.seeds)
    # of two, with one degree of freedom, the interval is 18 times their deviation: it says nothing
    half = student.ppf(1 - study.statistics.alpha / 2, seeds - 1) if seeds > 2 else np.nan
    half /= np.sqrt(seeds)
    shown = {}
    for metric, name in (("overall", "accuracy"), ("worst_group", "worst group"), ("fvo", "FVO")):
        shown[name if name == "FVO" else f"{name}, %"] = wide["value", metric]
        shown[f"{name} ±"] = wide["seed_sd", metric] * half
    rows = pd.DataFrame(shown).join(frames["frontier"].set_index(PLACE)["bytes"] / 1000)
    order = {name: place for place, name in enumerate([BASELINE, *study.all_methods()])}
    return (
        rows.rename(columns={"bytes": "kB"})
        .reset_index()
        .sort_values("method", key=lambda names: names.map(order), kind="stable")
        .sort_values(["dataset", "model", "bits"], ascending=[True, True, False], kind="stable")
    )


def _against_fp32(frames: Mapping[str, pd.DataFrame], study: Study) -> pd.DataFrame:
    standing = _standing(frames, study).set_index(PLACE)
    effects = first_groupings(frames["effects"], study)
    whole = effects[(effects["group"] == WHOLE) & (effects["reference"] == BASELINE)]
    overall, fvo = (
        whole[whole["metric"] == metric].set_index(PLACE) for metric in ("overall", "fvo")
    )
    shown = {
        "accuracy, %": standing["accuracy, %"],
        "change": overall["change"] * 100,
        "FVO": standing["FVO"],
        "change of FVO": fvo["change"] * 100,
        "low": fvo["low"] * 100,
        "high": fvo["high"] * 100,
        "p": fvo["p_holm"],
        "verdict": fvo["verdict"],
        "kB": standing["kB"],
    }
    return pd.DataFrame(shown).loc[fvo.index].reset_index()


def _against_plain(rows: pd.DataFrame) -> pd.DataFrame:
    names = {"overall": "accuracy, %", "fvo": "FVO", "worst_group": "worst group, %"}
    rows = side_by_side(rows, names)
    shown = {column: rows[column] for column in PLACE}
    for name, title in names.items():
        shown[title] = rows[name] * 100
        for part in ("change", "low", "high"):
            shown[f"{title.removesuffix(', %')} {part}"] = rows[f"{name}_{part}"] * 100
        shown[f"{title.removesuffix(', %')} verdict"] = rows[f"{name}_verdict"]
    return pd.DataFrame({**shown, "training, × fp32": rows["training"], "kB": rows["bytes"] / 1000})


def _by_group(levels: pd.DataFrame, study: Study) -> pd.DataFrame:
    rows = first_groupings(levels, study)
    chosen = rows["method"].isin([BASELINE, study.reference]) & (rows["metric"] == "accuracy")
    key = ["dataset", "model", "attribute", "group", "n"]
    wide = rows[chosen].pivot(index=key, columns="bits", values=["value", "seed_sd"]) * 100
    shown = {}
    for bits in sorted(wide["value"].columns, reverse=True):
        shown[width_name(bits)] = wide["value", bits]
        shown[f"{width_name(bits)} seed sd"] = wide["seed_sd", bits]
    shown[f"change at {width_name(bits)}"] = wide["value", bits] - wide["value", FULL_PRECISION]
    return pd.DataFrame(shown).reset_index()


def _evidence(claims: pd.DataFrame) -> pd.DataFrame:
    """Claims about accuracy and FVO, in points; those about rank correlations stay in Parquet."""
    names = {
        "dataset": "dataset",
        "claim": "name",
        "text": "claim",
        "width": "width",
        "compared": "compared",
        "units": "networks",
        "estimate": "estimate",
        "boundary": "boundary",
        "low": "low",
        "high": "high",
        "d": "d",
        "d_low": "d low",
        "d_high": "d high",
        "p_holm": "p",
        "verdict": "verdict",
        "missing": "missing",
    }
    points = claims[claims["scale"] == "share"].copy()
    points[["estimate", "boundary", "low", "high"]] *= 100
    return points[list(names)].rename(columns=names)


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


def _files(deployed: pd.DataFrame) -> pd.DataFrame:
    """Size and accuracy of the ONNX files, and how often they answer as fp32 and as simulated."""
    shares = {
        "accuracy": "accuracy, %",
        "agreement_fp32": "answers as fp32, %",
        "agreement_pytorch": "answers as simulated, %",
    }
    points = deployed[[*PLACE, "seed", *shares]].rename(columns=shares)
    points[[*shares.values()]] *= 100
    return points.assign(kB=deployed["bytes"] / 1000)


def _shipped(groups: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each group by the file that ships, in fp32 and as simulated."""
    shares = {
        "fp32": "fp32, %",
        "pytorch": "simulated, %",
        "accuracy": "file, %",
        "low": "low",
        "high": "high",
        "bound": "certified loss, points",
    }
    quantized = groups[groups["bits"] < FULL_PRECISION].rename(columns=shares)
    key = ["dataset", "model", "method", "seed", "group", "n"]
    points = quantized[[*shares.values()]] * 100
    flips = quantized[["lost", "gained"]].add_suffix(", images")
    return pd.concat([quantized[key], points, flips], axis=1)


def _digits(name: str) -> int:
    if name == "p" or name.endswith(", nats"):
        return 3
    return 2 if name.split()[0] in ("d", "training,", "error") else 1


def _text(name: str, missing: str) -> Callable[[float], str]:
    """How the numbers of a column are set; a p is never shown as 0."""

    def said(value: float) -> str:
        if value != value:
            return missing
        small = name == "p" and value < 0.001
        return "< 0.001" if small else f"{value:.{_digits(name)}f}"

    return said


def latex(rows: pd.DataFrame, caption: str) -> str:
    """Set a table with rules of booktabs and columns that siunitx aligns at the point."""
    numbers = rows.select_dtypes("number").columns
    rows = _rounded(rows)
    style = (
        rows.style.hide(axis="index")
        .format(escape="latex")
        .format_index(lambda name: name.replace("_", " "), escape="latex", axis=1)
    )
    for name in numbers:
        told = _text(name, "{--}") if rows[name].dtype.kind == "f" else "{:.0f}"
        style = style.format(told, subset=[name], na_rep="{--}")
    text = style.to_latex(hrules=True, siunitx=True, caption=caption.replace("_", " "))
    text = str(text).replace("< 0.001", "{$<$ 0.001}")
    return text.replace("−", "--")  # the sign is not in the usual fonts


def _rounded(rows: pd.DataFrame) -> pd.DataFrame:
    """Round as shown, so that no −0.0 remains."""
    floats = rows.select_dtypes("float").columns
    return rows.assign(
        **{name: rows[name].round(_digits(name)) + 0.0 for name in floats if name != "p"}
    )


def markdown(rows: pd.DataFrame) -> str:
    """Write a table of GitHub's Markdown."""
    rows = _rounded(rows)
    texts = rows.astype(object)
    for name in rows.select_dtypes("float").columns:
        texts[name] = [*map(_text(name, "–"), rows[name])]
    right = set(rows.select_dtypes("number").columns)
    lines = [
        list(rows.columns),
        ["---:" if name in right else "---" for name in rows.columns],
        *texts.to_numpy().tolist(),
    ]
    return "".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )
