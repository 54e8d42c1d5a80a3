"""A claim is one function: declared, it reaches the table with its words and a verdict."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t

from quantskew import tables
from quantskew.analysis import hypotheses
from quantskew.analysis.claims import Contrast, Evidence, in_four_words
from quantskew.analysis.hypotheses import assess, claim
from quantskew.analysis.sampled import sample
from quantskew.data.groups import Grouping
from quantskew.names import Point
from quantskew.params import parse
from quantskew.schemas import TABLES

STUDY = parse(
    {
        "datasets": ["d"],
        "models": ["m"],
        "bits": [8, 4],
        "seeds": [0, 1, 2, 3],
        "sources": {"d": {"reader": "digits"}},
        "methods": {"ptq": {}},
        "statistics": {"draws": 200},
    }
).judged()


@pytest.fixture
def declared(monkeypatch):
    monkeypatch.setattr(hypotheses, "CLAIMS", dict(hypotheses.CLAIMS))

    @claim("narrow_hurts", -1, "overall accuracy, int4 less int8")
    def narrow_hurts(evidence: Evidence) -> Contrast:
        """Networks of 4 bits are less accurate than those of 8."""
        overall, reference = evidence.sampled.overall, evidence.reference
        narrow, wide = (
            evidence.over_models(lambda m, bits=bits: evidence.at(overall, m, reference, bits))
            for bits in (4, 8)
        )
        return Contrast(narrow - wide, "int4 − int8")


@pytest.mark.usefixtures("declared")
@pytest.mark.parametrize(
    ("right", "verdict", "difference"),
    [
        (0.5, "supported", "worse"),
        (0.8, "cannot tell", "cannot tell"),
        (0.95, "refuted", "better"),
        ("as at 8", "equivalent", "equivalent"),
    ],
)
def test_a_claim_of_one_function_reaches_the_table_with_a_verdict(
    right, verdict, difference, tmp_path
):
    rng = np.random.default_rng(0)
    share = {("fp32", 32): 0.8, ("ptq", 8): 0.8, ("ptq", 4): right}
    drawn = {point: rng.random((4, 600)) for point in share}
    if right == "as at 8":
        drawn["ptq", 4], share["ptq", 4] = drawn["ptq", 8], share["ptq", 8]
    correct = {Point("d", "m", *point): drawn[point] < p for point, p in share.items()}
    codes = np.arange(600) % 3
    division = Grouping("label", codes, ["a", "b", "c"], np.array([True] * 3))
    sampled = sample(correct, division, np.array([10, 20, 30]), STUDY.statistics)
    not_surveyed = [TABLES[n].schema.empty_table().to_pandas() for n in ("groups", "curvature")]
    rows = assess(STUDY, sampled, dict.fromkeys(correct, 1.0), *not_surveyed)
    tables.write("claims", rows, tmp_path / "claims.parquet")
    table = tables.read("claims", tmp_path / "claims.parquet").to_pandas()
    table = in_four_words(table, STUDY.statistics)
    row = table[table["width"] == "all"].set_index("claim").loc["narrow_hurts"]
    assert row["text"] == "Networks of 4 bits are less accurate than those of 8."
    assert (row["verdict"], row["difference"]) == (verdict, difference)
    assert (row["decide"] > row["units"]) == (verdict == "cannot tell")
    assert row["estimate"] == pytest.approx(
        correct[Point("d", "m", "ptq", 4)].mean() - correct[Point("d", "m", "ptq", 8)].mean()
    )
    assert row["family"] == "quantization"


@pytest.mark.usefixtures("declared")
def test_a_name_is_declared_once_and_with_words():
    with pytest.raises(ValueError, match="'H1': it needs words, and a name of its own"):
        claim("H1", 1, "anything")(len)
    with pytest.raises(ValueError, match="'new': it needs words"):
        claim("new", 1, "anything")(lambda evidence: evidence)
    for estimand in ("gap between groups", "accuracy less FVO"):
        with pytest.raises(ValueError, match="must say accuracy, of which more is better, or FVO"):
            claim("new", 1, estimand, "Words.")(len)
    assert "new" not in hypotheses.CLAIMS


def test_the_words_of_a_difference_follow_what_is_compared():
    """The estimates are +0.06 ± 0.02 but for the last two."""
    rows = pd.DataFrame(
        [
            ("overall accuracy", "share", 0, "supported", "better"),
            ("debiased FVO", "share", 0, "refuted", "worse"),
            ("debiased FVO", "share", 0.1, "supported", "worse"),  # within what is allowed
            ("Spearman's rho", "rank correlation", 0, "supported", ""),
            ("debiased FVO", "share", 0, "not testable", ""),
            ("debiased FVO", "share", 0, "cannot tell", "cannot tell"),
        ],
        columns=["estimand", "scale", "boundary", "verdict", "wanted"],
    )
    rows = rows.assign(estimate=0.06, low=0.04, high=0.08, d=2.0, units=4, p_value=1.0, p_holm=1.0,
                       dataset="d", model="all", family=[*"aaaaab"])  # fmt: skip
    rows["missing"] = np.where(rows["verdict"] == "not testable", "more", "")
    half = 0.03 * t.isf(0.025, 3) / 2  # of a deviation of 3 points between 4 networks
    p_value = 2 * t.sf(2 * 0.02 / 0.03, 3)
    rows.loc[5, ["estimate", "low", "high", "d"]] = 0.02, 0.02 - half, 0.02 + half, 2 / 3
    rows.loc[5, ["p_value", "p_holm"]] = p_value
    told = in_four_words(rows, STUDY.statistics)
    assert told["difference"].tolist() == rows["wanted"].tolist()
    assert told["decide"].dropna().tolist() == [np.ceil((norm.isf(0.025) * 1.5) ** 2)]
    # of nine open claims of a family the one to be decided next is adjusted for all of them,
    # also where a p that is adjusted could not rise beyond 1
    family = rows.loc[[5] * 10].assign(
        p_holm=[0.01, *[1.0] * 9], verdict=["supported", *9 * ["cannot tell"]]
    )
    told = in_four_words(family, STUDY.statistics)
    assert set(told["decide"].dropna()) == {np.ceil((norm.isf(0.025 / 9) * 1.5) ** 2)}
