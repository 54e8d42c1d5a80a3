"""A claim is one function: declared, it reaches the table with its words and a verdict."""

import numpy as np
import pytest

from quantskew import tables
from quantskew.analysis import hypotheses
from quantskew.analysis.claims import Contrast, Evidence
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
    ("right", "verdict"),
    [(0.5, "supported"), (0.8, "cannot tell"), (0.95, "refuted"), ("as at 8", "equivalent")],
)
def test_a_claim_of_one_function_reaches_the_table_with_a_verdict(right, verdict, tmp_path):
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
    row = table[table["width"] == "all"].set_index("claim").loc["narrow_hurts"]
    assert row["text"] == "Networks of 4 bits are less accurate than those of 8."
    assert row["verdict"] == verdict
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
