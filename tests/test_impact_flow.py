"""The impact flow from stored tables: the loss surface of a variant, its views and its claims."""

from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.nn import functional

from quantskew import methods, models
from quantskew.analysis.attribution import surveyed
from quantskew.analysis.claims import Evidence, Ranks, Trend, judge
from quantskew.analysis.figures import FIGURES
from quantskew.analysis.figures.drawing import HeatMap, Points
from quantskew.analysis.hypotheses import CLAIMS
from quantskew.analysis.sampled import sample
from quantskew.data.groups import Grouping, Groups
from quantskew.data.loading import load
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.description import bounded
from quantskew.evaluation import layer_damage
from quantskew.evaluation.loss_surface import survey
from quantskew.evaluation.plan import Curvature
from quantskew.evaluation.run import evaluate
from quantskew.impact.damage import predict, weight_change
from quantskew.impact.hessian import GroupLoss
from quantskew.names import Point
from quantskew.params import parse
from quantskew.quantization import packing
from quantskew.quantization.fitting import Qat
from quantskew.quantization.layers import fold_batch_norm, quantizable
from quantskew.quantization.method import Method
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.weights import Float16, IntegerWeights
from quantskew.schemas import TABLES, VARIANT
from quantskew.sections import ParamsError
from quantskew.subject import Subject
from quantskew.training.training import Training

MODEL = "resnet18_quarter"
PARAMS = parse(
    {
        "datasets": ["d"],
        "models": ["m"],
        "bits": [8, 4, 2],
        "seeds": [0],
        "sources": {"d": {"reader": "digits"}},
        "methods": {"ptq": {}},
    }
)
STUDY = PARAMS.judged()
FLOW = {name: claim for name, claim in CLAIMS.items() if claim.family == "impact flow"}


def made(sign: float, groups: int = 8, seeds: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables in which norms fall with size, and eigenvalues go with accuracy by a sign."""
    rows = [
        {
            "dataset": "d", "model": "m", "seed": seed, "method": "fp32" if bits == 32 else "ptq",
            "bits": bits, "attribute": "label", "group": f"g{g}", "n": 50, "counted": True,
            "n_train": 10 + g, "sampled": 12,
            "gradient_plain": 9.0 - g, "gradient_equal_n": 3.0, "accuracy": 0.5 + g / 100,
            "gradient_unbiased_square_error": 4.0, "largest_eigenvalue_error": 2.0,
            "top_probability": 0.9, "largest_eigenvalue": 50 + sign * g - bits,
            "logit_variance": bits + g, "cosine_distance": 1 / bits,
        }
        for seed in range(seeds)
        for bits in (32, 8, 4, 2)
        for g in range(groups)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    own = [c for c in table if c.startswith(("n_train", "sampled", "gradient_", "largest_"))]
    known = ["accuracy", "top_probability", "counted"]
    return table.drop(columns=known), table.drop(columns=own)


def judged(curvature: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Claims about the impact flow, which need no answers of the networks."""
    codes = np.array([0, 1])
    division = Grouping("label", codes, ["a", "b"], np.array([True, True]))
    answers = {Point("d", "m", "fp32", 32): np.ones((1, 2), bool)}
    sampled = sample(answers, division, np.array([1, 1]), STUDY.statistics)
    table = judge(Evidence(STUDY, sampled, {}, surveyed(groups, curvature, STUDY)), FLOW)
    assert set(table) == set(TABLES["claims"].schema.names)
    return table.set_index(["claim", "width"])


def test_claims_are_supported_refuted_or_cannot_be_told():
    table = judged(*made(-1))
    found = table["verdict"]
    assert (found["gradient_by_size"] == "supported").all()
    assert (found["eigenvalue_by_accuracy"] == "supported").all()
    assert (found["eigenvalue_by_gradient"] == "supported").all()
    assert (found["gradient_by_size_at_equal_n"] == "not testable").all()
    assert (
        table.loc["gradient_by_size_at_equal_n", "missing"]
        .eq("needs groups that differ in gradient_equal_n")
        .all()
    )
    assert (judged(*made(1))["verdict"]["eigenvalue_by_accuracy"] == "refuted").all()
    curvature, groups = made(-1)
    curvature["largest_eigenvalue"] = np.tile([3, 7, 1, 8, 2, 6, 5, 4], 4)
    assert (judged(curvature, groups)["verdict"]["eigenvalue_by_accuracy"] == "cannot tell").all()


def test_five_groups_cannot_decide_a_claim_at_one_width():
    table = judged(*made(-1, groups=5)).loc["eigenvalue_by_accuracy"]
    assert table["estimate"].to_numpy() == pytest.approx(-1)
    assert (table["verdict"] == "not testable").all()
    # three claims at four widths: 2 · 12 / 6! ≤ 0.05 < 2 · 12 / 5!
    assert table["missing"].str.startswith("needs 6 groups, has 5").all()
    assert table["p_holm"].isna().all()


def test_a_trend_over_widths_is_decided_by_networks_not_by_their_groups():
    one = judged(*made(-1, groups=40)).loc["logit_variance_falls"].loc["all"]
    assert one["verdict"] == "not testable"
    assert one["missing"] == "needs two networks at least: more seeds"
    few = judged(*made(-1, seeds=5)).loc["logit_variance_falls"].loc["all"]
    assert few["estimate"] == pytest.approx(1)
    assert few["missing"].startswith("needs 7 networks, has 5")  # 2 · 2 / 2⁷ ≤ 0.05 < 2 · 2 / 2⁶
    many = judged(*made(-1, seeds=7)).loc[["logit_variance_falls", "eigenvalue_grows"]]
    assert (many["verdict"] == "supported").all()
    assert many["p_value"].to_numpy() == pytest.approx(2 / 2**7)
    assert (many["units"] == 7).all()


def test_noise_that_groups_of_a_network_share_decides_no_trend():
    """Each network drifts up or down at random, all its groups alike."""
    rng = np.random.default_rng(0)

    def p_value() -> float:
        curvature, groups = made(-1, groups=6, seeds=8)
        drift = rng.normal(size=(8, 4)).cumsum(axis=1)
        network = groups["seed"].to_numpy(), groups["bits"].map({32: 0, 8: 1, 4: 2, 2: 3})
        groups["logit_variance"] = drift[network] + 0.1 * rng.normal(size=len(groups))
        return judged(curvature, groups).loc["logit_variance_falls"].loc["all", "p_value"]

    wrong = sum(p_value() <= 0.05 for _ in range(60))
    assert wrong <= 8  # of 60 at a chance of 0.05; more has chance below 0.01


def test_exchanging_signs_counts_all_of_them():
    values = np.array([0.9, 0.2, -0.4, 1.0, 0.6, 0.8])
    tested = Trend(values, "").tested(alpha=0.05)
    sums = [np.dot(signs, values) for signs in product([1, -1], repeat=6)]
    assert tested["p_value"] == pytest.approx(np.mean(np.abs(sums) >= values.sum() - 1e-9))
    assert tested["estimate"] == pytest.approx(values.mean())


def test_spearman_counts_all_orders():
    x, y = pd.Series([1.0, 5, 2, 8, 3]), pd.Series([2.0, 4, 9, 7, 1])
    tested = Ranks(x, y, "").tested(alpha=0.05)
    rho = stats.spearmanr(x, y).statistic
    assert tested["estimate"] == pytest.approx(rho)
    every = [stats.spearmanr(x, order).statistic for order in permutations(y)]
    tails = [np.mean(np.array(every) >= rho - 1e-9), np.mean(np.array(every) <= rho + 1e-9)]
    assert tested["p_value"] == pytest.approx(2 * min(tails))


def test_views_keep_the_numbers_and_can_be_drawn():
    curvature, groups = made(-1)
    heat = FIGURES["eigenvalues"].select(STUDY, curvature)
    assert list(heat["x"].unique()) == ["fp32", "int8", "int4", "int2"]
    cell = heat[(heat["x"] == "int4") & (heat["y"] == "g2, n=50")].set_index("drawing")["value"]
    assert cell["largest eigenvalue"] == 50 - 2 - 4
    assert "44" in HeatMap().svg(heat)
    norms = FIGURES["gradient_norms"].select(STUDY, curvature, groups)
    assert set(norms["series"]) == {"int4"}
    first = norms[(norms["group"] == "g1") & (norms["drawing"] == "norm against accuracy")]
    assert first[["x", "y"]].to_numpy().tolist() == [[0.51, 8.0]]
    # a square that is off by 4 is of a norm of 8 that is off by a quarter
    assert (first["high"] - first["y"]).item() == pytest.approx(2.201 * 0.25, rel=1e-3)
    assert norms.loc[norms["drawing"].str.startswith("at equal n"), "low"].isna().all()
    steep = FIGURES["steepness"].select(STUDY, curvature, groups)
    assert (steep["y"] - steep["low"]).to_numpy() == pytest.approx(2.201 * 2, rel=1e-3)
    assert "g7" in Points().svg(norms)


def test_layer_bits_show_methods_that_mix_widths_beside_plain():
    widths = {
        ("fp16", 16): [16, 16, 16],
        ("ptq", 8): [8, 8, 8],
        ("ptq", 4): [4, 4, 4],
        ("policy", 8): [8, 8, 8],
        ("policy", 4): [4, 2, 8],
        ("qat", 4): [4, 4, 4],
    }
    layers = pd.DataFrame(
        {
            "dataset": "d", "model": "m", "seed": seed, "method": method, "bits": bits,
            "layer": layer, "layer_bits": width + (seed == 1 and width == 2),
        }
        for seed in (0, 1)
        for (method, bits), values in widths.items()
        for layer, width in zip(["b.10", "b.9", "a", "all"], [*values, bits], strict=True)
    )  # fmt: skip
    rows = FIGURES["layer_bits"].select(STUDY, layers)
    assert rows["drawing"].unique().tolist() == ["int4"]
    table = rows.pivot(index="y", columns="x", values="value").loc[rows["y"].unique()]
    assert table.index.tolist() == ["a", "b.9", "b.10"]
    assert table.to_dict("list") == {"policy": [8, 2.5, 4], "ptq": [4, 4, 4]}
    HeatMap().svg(rows)
    plain = FIGURES["layer_bits"].select(STUDY, layers[layers["method"] != "policy"])
    assert plain["x"].unique().tolist() == ["ptq"]
    assert plain["drawing"].unique().tolist() == ["int8", "int4"]


def test_distributions_are_shares():
    common = {"dataset": "d", "model": "m", "method": "ptq", "bits": 4}
    weights = pd.DataFrame(
        {"seed": [0, 0, 1], "low": [0.0, 1, 0], "high": [1.0, 2, 9], "count": [3, 1, 7], **common}
    )
    boundaries = pd.DataFrame(
        {"seed": 0, "group": ["a", "b"], "low": 0.0, "high": 0.5, "count": [2, 2], **common}
    )
    rows = FIGURES["distributions"].select(STUDY, weights, boundaries)
    assert rows[rows["drawing"] == "weight"]["y"].tolist() == [0.75, 0.25]
    assert rows[rows["drawing"] != "weight"][["x", "y"]].to_numpy().tolist() == [[0.25, 1.0]]


def test_only_methods_of_the_study_can_be_surveyed():
    given = PARAMS.model_dump(mode="json") | {"curvature": {"methods": ["ptk"]}}
    with pytest.raises(ParamsError, match=r"curvature.methods: 'ptk' .*did you mean 'ptq'"):
        parse(given)


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory):
    """The digits, an untrained network, its 4-bit variant, and both surveys."""
    folder = tmp_path_factory.mktemp("surface")
    samples = folder / "samples.parquet"
    prepare("digits", Source(imbalance="paper"), folder).write(samples)
    data = load(samples)
    torch.manual_seed(0)
    base = folder / "base.safetensors"
    models.save_weights(models.build_for(data, MODEL, None), base)
    original = Subject(samples=samples, model=MODEL, weights=base)
    variant = folder / "variant"
    variant.mkdir()
    methods.quantize(
        variant, subject=original, baseline_history=None, seed=0, method=Method(), bits=4,
        training=Training(), qat_settings=Qat(),
    )  # fmt: skip
    file = variant / "network.safetensors"
    rows = []
    for subject, origin in ((original, None), (original.at(file, 4), base)):
        survey(
            folder, subject=subject, base=origin, attribute="slant", groups=Groups(), size=8,
            probes=1, errors=True,
        )  # fmt: skip
        rows.append(pd.read_parquet(folder / "curvature.parquet"))
    return data, base, file, rows


def subject(base):
    return Subject(samples=base.parent / "samples.parquet", model=MODEL, weights=base)


def test_logits_that_are_no_numbers_are_told_with_their_file(surfaces, tmp_path):
    data, base, *_ = surfaces
    network = models.build_for(data, MODEL, None, base)
    list(network.parameters())[-1].data[0] = torch.inf
    models.save_weights(network, tmp_path / "broken.safetensors")
    with pytest.raises(
        models.ModelError, match=r"broken.safetensors: .* NaN or infinite for \d+ of"
    ):
        evaluate(
            tmp_path, subject=subject(base).at(tmp_path / "broken.safetensors"), base=base,
            folds=True,
        )  # fmt: skip


@pytest.mark.parametrize("folds", [True, False])
def test_histograms_of_a_network_have_one_set_of_edges_where_all_are_folded(
    surfaces, tmp_path, folds
):
    data, base, file, _ = surfaces
    half = tmp_path / "half.safetensors"
    network = models.build_for(data, MODEL, None, base)
    packing.save(half, quantize_network(network, data.test.images[:1] / 255, bits=16,
                                        weights=Float16()))  # fmt: skip
    edges, counts = [], []
    for path, bits in ((base, 32), (half, 16), (file, 4)):
        evaluate(
            tmp_path, subject=subject(base).at(path, bits), base=base, folds=folds,
        )  # fmt: skip
        rows = pd.read_parquet(tmp_path / "weight_histograms.parquet")
        edges.append(rows[["low", "high"]].to_numpy().tolist())
        counts.append(rows["count"])
    assert edges[0] == edges[1]
    assert (edges[1] == edges[2]) is folds
    assert counts[0].sum() == counts[2].sum()
    assert (counts[0] - counts[1]).abs().max() <= 0.01 * counts[0].sum()
    whole = pd.read_parquet(tmp_path / "layers.parquet").set_index("layer").loc["all"]
    assert whole["weights"] == counts[0].sum()


def test_a_survey_fills_its_table(surfaces):
    *_, (before, after) = surfaces
    known = TABLES["curvature"].schema
    assert set(before) | set(VARIANT) == set(known.names)
    assert before["excess_loss"].isna().all()
    assert after.drop(columns="trace_error").notna().all(axis=None)
    assert (after["residual"] <= 1e-3).all()
    assert (bounded(after, before)["bound"] >= after["second_order"] - 1e-6).all()


def test_a_network_in_half_precision_is_surveyed_in_float32(surfaces, tmp_path):
    data, base, *_ = surfaces
    half, full = models.build_for(data, MODEL, None, base).eval(), tmp_path / "full"
    example = data.test.images[:2] / 255
    made = quantize_network(half, example, bits=16, weights=Float16())
    packing.save(tmp_path / "half", made)
    models.save_weights(half.half().float(), full)
    tables = []
    for one in (subject(base).at(tmp_path / "half", 16), subject(base).at(full)):
        survey(
            tmp_path, subject=one, base=base, attribute="slant", groups=Groups(), size=8,
            probes=0, errors=False,
        )  # fmt: skip
        tables.append(pd.read_parquet(tmp_path / "curvature.parquet"))
    pd.testing.assert_frame_equal(*tables)


def test_groups_that_are_too_small_are_not_surveyed_and_the_price_is_told(surfaces, tmp_path):
    data, base, *_ = surfaces
    sizes = data.test.attributes["slant"].value_counts()
    for minimum, left in ((sizes.max(), {sizes.idxmax()}), (sizes.max() + 1, set())):
        survey(
            tmp_path, subject=subject(base), base=None, attribute="slant",
            groups=Groups(minimum=minimum), size=2, probes=0, errors=False,
        )  # fmt: skip
        rows = pd.read_parquet(tmp_path / "curvature.parquet")
        assert {*rows.get("group", ())} == left
    told = Curvature(samples=4, errors=True, probes=2).price(networks=3, groups=5)
    assert "3 networks in 5 groups" in told
    assert f"at most {3 * 5 * (100 + 3 + 2):,}" in told


def test_a_survey_is_of_the_folded_network(surfaces):
    data, base, file, (before, after) = surfaces
    images = data.test.images / 255
    networks = [models.build_for(data, MODEL, None).eval() for _ in range(2)]
    models.load_checkpoint(networks[0], base)
    original = fold_batch_norm(networks[0], images[:1])[0].requires_grad_()
    quantized = packing.load(file, networks[1]).requires_grad_()
    group = before["group"][0]
    slants = data.test.attributes["slant"].astype(str).to_numpy()
    members = torch.as_tensor(np.flatnonzero(slants == group))
    labels = data.test.labels[members]
    loss = functional.cross_entropy(original(images[members]), labels)
    gradient = torch.autograd.grad(loss, list(original.parameters()))
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    assert before["gradient_plain"][0] == pytest.approx(float(norm), rel=1e-4)
    assert before["n_train"][0] == (data.train.attributes["slant"].astype(str) == group).sum()
    drawn = np.random.default_rng(0).choice(members.numpy(), 8, replace=False)
    some = torch.as_tensor(np.sort(drawn))
    part = GroupLoss(original, images[some], data.test.labels[some])
    told = predict(part, weight_change(original, quantized))
    curved = before["largest_eigenvalue"][0] * told["weight_distance"] ** 2 / 2
    bound = bounded(after, before)["bound"][0]
    assert bound == pytest.approx(told["bound"] + curved, rel=1e-3)
    assert after["second_order"][0] == pytest.approx(told["second_order"], rel=1e-2, abs=1e-4)


def test_one_layer_alone_is_quantized(surfaces, tmp_path):
    data, base, *_ = surfaces
    layer_damage.survey(
        tmp_path, subject=subject(base), bits=3, weights=IntegerWeights(), attribute="slant",
        groups=Groups(), size=999,
    )  # fmt: skip
    rows = pd.read_parquet(tmp_path / "layer_damage.parquet")
    assert set(rows) | set(VARIANT) == set(TABLES["layer_damage"].schema.names)
    network = models.build_for(data, MODEL, None, base).eval()
    images = data.test.images / 255
    names = [*quantizable(network)]
    assert rows.sort_values("position")["layer"].unique().tolist() == names
    row = rows[rows["layer"] == names[3]].iloc[1]
    widths = dict.fromkeys(names, 32) | {names[3]: 3}
    made = quantize_network(network, images[:2], bits=3, weights=IntegerWeights(), widths=widths)
    mine = torch.as_tensor([slant == row["group"] for slant in data.test.attributes["slant"]])
    with torch.no_grad():
        losses = [
            float(functional.cross_entropy(net(images[mine]), data.test.labels[mine]))
            for net in (network, made.network)
        ]
    assert row["sampled"] == mine.sum()
    assert row["rise"] == pytest.approx(losses[1] - losses[0], abs=1e-5)
