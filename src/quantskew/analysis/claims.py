"""Which claims of the papers about the impact flow hold here, as rank correlations over groups.

Two kinds are tested, for plain quantization and the first grouping of a data set:

- *over groups* at one width: Spearman's ρ of two columns, with the p of all (or 9999 random)
  permutations of the groups;
- *over widths*: Spearman's ρ of the width and a column within each group, averaged over groups,
  with the p of Page's test; groups of one network share its weights, so this p is a lower limit.

Both are two-sided, and adjusted by Holm over all claims and widths of a network. A claim *holds*
if the sign is as claimed and p is at most alpha, *does not hold* if the sign is the other, and is
*undecided* else. All of it is association.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from quantskew.analysis.study import Study
from quantskew.analysis.views import first_groupings, plain
from quantskew.fairness.paired import holm
from quantskew.names import FULL_PRECISION, width_name

DRAWS = 9999


class Claim(NamedTuple):
    """That two columns rise together (sign 1), or one as the other falls (−1)."""

    text: str
    x: str
    y: str
    sign: int


OVER_GROUPS = (
    Claim("a smaller group has a larger gradient norm", "n_train", "gradient_plain", -1),
    Claim("the same at equal n", "n_train", "gradient_equal_n", -1),
    Claim("less accuracy goes with a larger eigenvalue", "accuracy", "largest_eigenvalue", -1),
    Claim("so does a lower top probability", "top_probability", "largest_eigenvalue", -1),
    Claim("gradient norm and eigenvalue rise together", "gradient_plain", "largest_eigenvalue", 1),
)
OVER_WIDTHS = (
    Claim("the variance of logits falls with the width", "bits", "logit_variance", 1),
    Claim("the eigenvalue grows as the width falls", "bits", "largest_eigenvalue", -1),
)


def assess(surfaces: pd.DataFrame, groups: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Compute the table ``claims``: test every claim.

    Parameters
    ----------
    surfaces
        From :func:`quantskew.analysis.views.surfaces`.
    groups
        The table ``groups``.
    """
    surfaces, groups = (plain(first_groupings(rows, study), study) for rows in (surfaces, groups))
    groups = groups.groupby(["dataset", "model", "bits", "group"], as_index=False).mean(
        numeric_only=True
    )
    rows = []
    for (dataset, model), part in surfaces.groupby(["dataset", "model"]):
        here = groups[(groups["dataset"] == dataset) & (groups["model"] == model)]
        for row in (*_over_groups(part), *_over_widths(part, here, study.bits)):
            rows.append({"dataset": dataset, "model": model, **row})
    table = pd.DataFrame(rows)
    table["p_holm"] = table.groupby(["dataset", "model"])["p_value"].transform(
        lambda p: holm(p.to_numpy())
    )
    found = table["p_holm"] <= study.statistics.alpha
    agrees = table["spearman"] * table.pop("sign") > 0
    table["verdict"] = np.select(
        [found & agrees, found & ~agrees], ["holds", "does not hold"], "undecided"
    )
    return table


def _over_groups(part: pd.DataFrame) -> Iterator[dict[str, object]]:
    for bits, rows in part.groupby("bits", sort=False):
        for claim in OVER_GROUPS:
            yield _row(claim, width_name(bits), len(rows), *spearman(rows[claim.x], rows[claim.y]))


def _over_widths(
    surfaces: pd.DataFrame, groups: pd.DataFrame, bits: tuple[int, ...]
) -> Iterator[dict[str, object]]:
    for claim in OVER_WIDTHS:
        rows = surfaces if claim.y in surfaces else groups
        chosen = rows[rows["bits"].isin([*bits, FULL_PRECISION])]
        table = chosen.pivot(index="group", columns="bits", values=claim.y).sort_index(axis=1)
        yield _row(claim, "all", len(table), *trend(table.to_numpy()))


def _row(claim: Claim, width: str, n: int, rho: float, p: float) -> dict[str, object]:
    return {
        "claim": claim.text,
        "width": width,
        "groups": n,
        "spearman": rho,
        "p_value": p,
        "sign": claim.sign,
    }


def spearman(x: pd.Series, y: pd.Series) -> tuple[float, float]:
    """Spearman's ρ and its two-sided p by permutation; NaN where a side is constant.

    Examples
    --------
    >>> rho, p = spearman(pd.Series([1, 2, 3, 4]), pd.Series([9, 7, 5, 1]))
    >>> round(rho, 6), round(p, 6)  # two of 24 orders are as extreme
    (-1.0, 0.083333)
    """
    if x.nunique() < 2 or y.nunique() < 2:
        return math.nan, math.nan
    ranks = [(r - r.mean()) / r.std(ddof=0) for r in (stats.rankdata(x), stats.rankdata(y))]
    result = stats.permutation_test(
        (ranks[0],),
        lambda a, axis: (a * ranks[1]).mean(axis=axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=DRAWS,
        rng=np.random.default_rng(0),
    )
    return float(result.statistic), float(result.pvalue)


def trend(table: np.ndarray) -> tuple[float, float]:
    """Mean within-row Spearman's ρ along the columns, and the two-sided p of Page's test.

    NaN for fewer than two rows or three columns, where the test is not defined.
    """
    n, k = table.shape
    if n < 2 or k < 3:
        return math.nan, math.nan
    ranks = stats.rankdata(table, axis=1)
    order = np.arange(1, k + 1)
    rho = float(np.mean([stats.spearmanr(order, row).statistic for row in ranks]))
    tails = [stats.page_trend_test(r, ranked=True).pvalue for r in (ranks, k + 1 - ranks)]
    return rho, min(1.0, 2 * float(min(tails)))
