import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from quantskew.analysis.attribution import mediation, rank_correlations


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


def test_a_chain_is_carried_by_its_mediator_and_noise_carries_nothing(chain):
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
