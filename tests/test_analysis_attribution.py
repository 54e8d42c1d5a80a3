"""Which step of the flow goes with the accuracy lost, and which layer hurts which group."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from quantskew.analysis import attribution
from quantskew.analysis.attribution import EVERY, LOST, STEPS, mediation, rank_correlations
from quantskew.analysis.figures import FIGURES
from quantskew.analysis.figures.drawing import HeatMap
from quantskew.params import parse
from quantskew.schemas import TABLES

STUDY = parse(
    {
        "datasets": ["d"],
        "models": ["m"],
        "bits": [8, 4, 2],
        "seeds": [0, 1],
        "sources": {"d": {"reader": "digits"}},
        "methods": {"ptq": {}, "qat": {"training": "qat"}},
    }
).judged()
GROUPS = [f"g{g}" for g in range(6)]


@pytest.fixture
def tables():
    """Networks whose logits move as their accuracy falls, the loss of int8 not being surveyed."""
    rng = np.random.default_rng(0)
    rows, layers = [], []
    for seed in (0, 1):
        for method, bits in (("fp32", 32), ("ptq", 8), ("ptq", 4), ("ptq", 2), ("qat", 4)):
            network = {"dataset": "d", "model": "m", "seed": seed, "method": method, "bits": bits}
            layers.append({**network, "layer": "all", "relative_error": 1 / bits + seed / 100})
            layers.append({**network, "layer": "one", "relative_error": 9.0})
            for g, group in enumerate(GROUPS):
                moved = 0.0 if bits == 32 else (g + 1) / bits
                rows.append(
                    {
                        **network, "attribute": "label", "group": group,
                        "accuracy": 0.9 - moved / 9, "cosine_distance": moved,
                        "true_probability": 0.8 - moved / 8, "loss": rng.normal(),
                        "gradient_plain": rng.normal(), "largest_eigenvalue": 5.0,
                    }
                )  # fmt: skip
    groups = pd.DataFrame(rows)
    measured = ["gradient_plain", "largest_eigenvalue"]
    surfaces = groups.drop(columns=["accuracy", "cosine_distance", "true_probability", "loss"])
    return {
        "groups": groups.drop(columns=measured),
        "layers": pd.DataFrame(layers),
        "curvature": surfaces[surfaces["bits"] != 8],
    }


def test_changes_are_from_the_fp32_network_of_the_seed(tables):
    moved = attribution.changes(tables, STUDY)
    assert len(moved) == 2 * 3 * len(GROUPS)  # plain quantization alone
    row = moved[(moved["seed"] == 1) & (moved["bits"] == 4) & (moved["group"] == "g2")].iloc[0]
    groups = tables["groups"].query("seed == 1 and group == 'g2'").set_index(["method", "bits"])
    assert row[LOST] == pytest.approx(0.75 / 9)
    assert row["change of the weights"] == pytest.approx(0.26)
    assert row["turn of the logits"] == pytest.approx(0.75)
    assert row["fall of the true class's probability"] == pytest.approx(0.75 / 8)
    loss = groups["loss"]
    assert row["rise of the loss"] == pytest.approx(loss["ptq", 4] - loss["fp32", 32])
    surfaced = moved["rise of the gradient norm"].notna()
    assert (surfaced == (moved["bits"] != 8)).all()


def test_correlations_are_those_of_the_scope(tables):
    moved = attribution.changes(tables, STUDY)
    found = attribution.attribution(moved)
    for name, frame in found.items():
        assert set(frame) == set(TABLES[name].schema.names)
        assert not frame.duplicated([*TABLES[name].key]).any()
    table = found["attribution"].set_index(["width", "group", "step"])["spearman"]
    loss = "rise of the loss"
    means = moved[moved["bits"] == 4].groupby("group").mean(numeric_only=True)
    assert table["int4", EVERY, loss] == pytest.approx(
        stats.spearmanr(means[loss], means[LOST]).statistic
    )
    own = moved[moved["group"] == "g3"]
    assert table[EVERY, "g3", loss] == pytest.approx(
        stats.spearmanr(own[loss], own[LOST]).statistic
    )
    assert table["int2", EVERY, "turn of the logits"] == pytest.approx(1)
    # groups share their weights, and nothing here has a curvature that moves
    assert np.isnan(table["int4", EVERY, "change of the weights"])
    assert table.xs("rise of the largest eigenvalue", level="step").isna().all()
    assert np.isnan(table["int8", EVERY, "rise of the gradient norm"])


def test_each_step_is_followed_to_the_next(tables):
    mediated = attribution.attribution(attribution.changes(tables, STUDY))["mediation"]
    whole = mediated[mediated["width"] == EVERY]
    assert whole["step"].tolist() == [*STEPS][:-1]
    assert whole["mediator"].tolist() == [*STEPS][1:]
    first = whole.iloc[0]
    # the accuracy lost is a multiple of the turn of the logits
    assert first["association_through"] == pytest.approx(first["total"])
    assert first["direct"] == pytest.approx(0, abs=1e-9)


def test_the_view_can_be_drawn_where_nothing_is_known(tables):
    table = attribution.attribution(attribution.changes(tables, STUDY))["attribution"]
    rows = FIGURES["attribution"].select(STUDY, table)
    assert list(rows["x"].unique()) == [EVERY, "int8", "int4", "int2", *GROUPS]
    drawing = HeatMap(signed=True).svg(rows)
    assert "rise of the loss" in drawing
    assert "nan" not in drawing


def test_layers_keep_the_order_of_the_network():
    network = {"dataset": "d", "model": "m", "method": "ptq", "bits": 2, "attribute": "label"}
    rows = pd.DataFrame(
        {"seed": seed, "layer": layer, "position": place, "group": group, "rise": seed + place}
        for seed in (0, 1)
        for place, layer in enumerate(["stem", "block", "head"])
        for group in GROUPS
    ).assign(**network)
    shown = FIGURES["layer_damage"].select(STUDY, rows)
    assert shown["y"].drop_duplicates().tolist() == ["stem", "block", "head"]
    assert shown[shown["y"] == "head"]["value"].tolist() == [2.5] * len(GROUPS)
    assert (shown["drawing"] == "one layer alone: ptq, int2").all()


@pytest.fixture
def chain():
    """Weights → logits → loss of accuracy, where the weights act through the logits alone."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=400)
    logits = np.exp(weights + 0.5 * rng.normal(size=400))
    lost = np.log(logits) + 0.5 * rng.normal(size=400)
    return pd.DataFrame(
        {"weights": weights, "logits": logits, "noise": rng.normal(size=400), "lost": lost}
    )


def test_correlations_are_those_of_ranks(chain):
    chain.loc[:9, "noise"] = np.nan
    table = rank_correlations(chain, "lost", ["weights", "logits", "noise"]).set_index("step")
    for step, row in table.iterrows():
        known = chain.dropna(subset=[step])
        ranks = known[[step, "lost"]].rank().corr().iloc[0, 1]
        assert row["spearman"] == pytest.approx(ranks)
        assert row["kendall"] == pytest.approx(stats.kendalltau(known[step], known["lost"])[0])
    assert table.loc["noise", "rows"] == 390
    assert abs(table.loc["noise", "spearman"]) < 0.2
    assert table.loc["logits", "spearman"] > 0.8


def test_a_constant_or_short_series_has_no_correlation():
    frame = pd.DataFrame(
        {"a": [1.0, 1, 1, 1], "b": [1.0, 2, np.nan, np.nan], "lost": [1.0, 2, 3, 4]}
    )
    table = rank_correlations(frame, "lost", ["a", "b"])
    assert table[["spearman", "kendall"]].isna().all(axis=None)


def test_slopes_are_those_of_least_squares_on_ranks(chain):
    row = mediation(chain, "lost", ["weights", "logits"]).iloc[0]
    ranks = chain.rank()
    z = (ranks - ranks.mean()) / ranks.std()
    assert row["total"] == pytest.approx(sm.OLS(z["lost"], z["weights"]).fit().params.iloc[0])
    both = sm.OLS(z["lost"], z[["weights", "logits"]]).fit()
    assert row["direct"] == pytest.approx(both.params["weights"])


def test_a_chain_is_mediated_by_its_middle_and_noise_mediates_nothing(chain):
    table = mediation(chain, "lost", ["weights", "logits", "noise"])
    through, beside = table.to_dict("records")
    assert through["mediator"] == "logits"
    assert abs(through["direct"]) < 0.15 * through["total"]
    assert abs(beside["association_through"]) < 0.05


def test_collinear_steps_cannot_be_told_apart(chain):
    twin = chain.assign(twin=2 * chain["weights"])
    row = mediation(twin, "lost", ["weights", "twin"]).iloc[0]
    assert np.isnan(row["direct"])
    assert row["total"] > 0.5
