from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from quantskew.analysis.claims import Contrast
from quantskew.analysis.hypotheses import assess, best_of_both
from quantskew.analysis.sampled import sample
from quantskew.data.groups import Grouping
from quantskew.names import Point
from quantskew.params import load
from quantskew.schemas import TABLES

SIZES = np.array([250, 250, 250, 250])
CODES = np.repeat(np.arange(4), SIZES)
DIVISION = Grouping("race", CODES, ["a", "b", "c", "d"], np.array([True] * 4))
TRAIN = np.array([400, 300, 200, 50])
STUDY = load(Path(__file__).parents[1] / "params.yaml").judged()
STUDY = STUDY.model_copy(
    update={
        "datasets": ("faces",),
        "models": ("large", "small"),
        "bits": (8, 4),
        "seeds": (0, 1, 2, 3),
        "statistics": STUDY.statistics.model_copy(update={"draws": 100}),
    }
)
BYTES = {"large": 1000.0, "small": 100.0}
NOT_SURVEYED = [TABLES[name].schema.empty_table().to_pandas() for name in ("groups", "curvature")]
POINTS = [
    Point("faces", model, method, bits)
    for model in STUDY.models
    for method, bits in [
        ("fp32", 32),
        ("logit_adjusted_fp32", 32),
        *product(("ptq", "qat", "mpqat", "fair_qat", "logit_adjusted", "repaired"), (8, 4)),
    ]
]


def outcomes(rng, harm=lambda point: np.zeros(4), between_seeds=0.02):
    """Right and wrong answers: seeds differ, test samples are shared, and points harm groups."""
    hard = rng.normal(size=len(CODES))  # the difficulty of a sample, the same for all networks
    correct = {}
    for point in POINTS:
        noise = rng.normal(size=(len(STUDY.seeds), len(CODES)))
        shift = rng.normal(scale=between_seeds * 4, size=(len(STUDY.seeds), 4))[:, CODES]
        score = (hard + noise) / np.sqrt(2)
        correct[point] = score < 1.0 + shift - 4 * harm(point)[CODES]
    return correct


def verdicts(rng, **options):
    sampled = sample(outcomes(rng, **options), DIVISION, TRAIN, STUDY.statistics)
    return pooled(assessed(sampled))["verdict"]


def assessed(sampled, study=STUDY):
    return assess(study, sampled, {p: BYTES[p.model] for p in POINTS}, *NOT_SURVEYED)


def pooled(rows):
    return rows[rows["width"] == "all"].set_index("claim")


def contrasted(values, **options):
    return Contrast(values, "", **options).tested(alpha=0.05)


@pytest.mark.parametrize("between_seeds", [0.0, 0.02])
def test_without_an_effect_a_claim_is_rarely_decided(between_seeds):
    rng = np.random.default_rng(0)
    found = [verdicts(rng, between_seeds=between_seeds) for _ in range(40)]
    # H4 is true without an effect: fp32 is kept
    wrong = [rows.drop("H4").isin(["supported", "refuted"]).any() for rows in found]
    # the family errs with chance 0.05 at most: more than 6 of 40 has chance below 0.01
    assert sum(wrong) <= 6


def test_planted_effects_are_found():
    """At 4 bits the minority loses, in the small model more, under QAT yet more."""
    size = {"ptq": 0.12, "qat": 0.25, "repaired": 0.25, "logit_adjusted": 0.2}

    def harm(point):
        wide = point.bits > 4
        model = 1.3 if point.model == "small" else 0.7
        return np.array([0, 0, 0, 0 if wide else size.get(point.method, 0) * model])

    rng = np.random.default_rng(1)
    found = [verdicts(rng, harm=harm, between_seeds=0.002) for _ in range(5)]
    free = ("training_beats_free_fvo", "training_beats_free_worst", "quantization_adds")
    for name in ("H5", "disparity_grows", "minority_pays", "fair_qat", "qat_less_fair", *free):
        assert [rows[name] for rows in found].count("supported") >= 4, name
    assert [rows["H2"] for rows in found].count("refuted") >= 4
    assert [rows["mixed_fairer"] for rows in found].count("supported") >= 4


def test_training_that_loses_to_a_free_remedy_is_refuted():
    size = {"mpqat": 0.2, "fair_qat": 0.25, "repaired": 0.3}

    def harm(point):
        return np.array([0, 0, 0, 0 if point.bits > 4 else size.get(point.method, 0)])

    sampled = sample(
        outcomes(np.random.default_rng(1), harm, 0.002), DIVISION, TRAIN, STUDY.statistics
    )
    rows = assessed(sampled)
    claims = ["training_beats_free_fvo", "training_beats_free_worst"]
    rows = rows[rows["claim"].isin(claims)]
    assert pooled(rows)["verdict"].eq("refuted").all()
    at4 = rows[rows["width"] == "int4"]  # the better of the two trained, and of the two free
    assert at4["verdict"].eq("refuted").all()
    assert at4["compared"].eq("mpqat − logit_adjusted").all()
    missing = pooled(assessed(sampled, STUDY.model_copy(update={"mitigations": {}})))["missing"]
    assert "needs a trained remedy" in missing["training_beats_free_fvo"]
    assert "logit_adjustment at integer widths" in missing["quantization_adds"]


def test_choosing_the_best_of_each_side_errs_no_more_often():
    """No remedy differs: of 400 studies of 8 networks few find that one does."""
    rng = np.random.default_rng(5)
    pairs, found = list(product("abc", "xy")), []
    for _ in range(400):
        common = rng.normal(scale=0.01, size=(60, 5))  # errors of the test samples, by remedy
        common[0] = 0
        remedies = dict(zip("abcxy", rng.normal(scale=0.02, size=(5, 8)), strict=True))
        values = {
            name: own + common[:, [place]] + rng.normal(scale=0.01)
            for place, (name, own) in enumerate(remedies.items())
        }
        contrasts = {(a, b): Contrast(values[a] - values[b], f"{a} − {b}") for a, b in pairs}
        best = best_of_both(contrasts, -1)
        a, _, b = best.compared.split()
        means = {name: value[0].mean() for name, value in values.items()}
        assert means[a] == min(means[name] for name in "abc")
        assert means[b] == min(means[name] for name in "xy")
        found.append(best.tested(alpha=0.05)["p_value"] <= 0.05)
    assert np.mean(found) <= 0.05


def test_a_loss_on_the_boundary_is_rarely_called_kept_or_lost():
    values = np.random.default_rng(2).normal(0.02, 0.01, size=(400, 1, 5)).repeat(3, axis=1)
    found = [contrasted(each, boundary=0.02)["p_value"] <= 0.05 for each in values]
    assert np.mean(found) < 0.09


def test_without_error_from_the_test_samples_it_is_the_t_test():
    observed = np.array([0.01, 0.04, 0.02, 0.05])
    values = np.tile(observed, (50, 1))
    expected = ttest_1samp(observed, 0.01)
    found = contrasted(values, boundary=0.01)
    assert found["p_value"] == pytest.approx(expected.pvalue)
    limits = expected.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((limits.low, limits.high))


def test_error_shared_by_all_networks_does_not_average_out():
    rng = np.random.default_rng(3)
    shared = rng.normal(scale=0.02, size=(400, 1))
    values = np.vstack([[0.03] * 8, 0.03 + np.repeat(shared, 8, axis=1)])
    found = contrasted(values)
    assert found["high"] - found["low"] == pytest.approx(2 * 2.365 * 0.02, rel=0.1)


def test_a_group_with_nothing_left_to_lose_does_not_decide_who_pays():
    """Others lose more at 4 bits because the minority, all wrong by then, had less to lose."""
    correct = outcomes(np.random.default_rng(8), between_seeds=0.002)
    few, rest = CODES == 3, CODES != 3
    for point, rows in correct.items():
        rows[:, few] &= np.arange(few.sum()) % 5 == 0  # a fifth of right answers at most
        if point.bits == 8:
            rows[:, few] &= np.arange(few.sum()) % 10 == 0  # halved: it pays
        if point.bits == 4:
            rows[:, few] = False
            rows[:, rest] &= np.arange(rest.sum()) % 2 == 0
    sampled = sample(correct, DIVISION, TRAIN, STUDY.statistics)
    rows = assessed(sampled)
    found = rows[rows["claim"] == "minority_pays"].set_index("width")
    assert found["verdict"].to_dict() == {
        "all": "supported", "int8": "supported", "int4": "not testable",
    }  # fmt: skip
    assert found.loc["all", "compared"] == "ptq − fp32 at 8 bits: race d − others"
    assert found.loc["all", "estimate"] == found.loc["int8", "estimate"]
    assert "1% of right answers" in found.loc["int4", "missing"]


def test_a_mean_over_widths_is_the_mean_of_its_widths():
    sampled = sample(outcomes(np.random.default_rng(9)), DIVISION, TRAIN, STUDY.statistics)
    rows = assessed(sampled)
    # what is best is chosen anew at each width
    rows = rows[~rows["claim"].str.startswith("training_beats_free")]
    for _, part in rows[rows["missing"] == ""].groupby("claim"):
        by_width = part[part["width"] != "all"]
        if len(by_width):
            assert part["estimate"].iloc[0] == pytest.approx(by_width["estimate"].mean())
            assert (by_width["p_holm"] >= by_width["p_value"]).all()


def test_what_is_missing_is_said():
    rng = np.random.default_rng(4)
    sampled = sample(outcomes(rng), DIVISION, TRAIN, STUDY.statistics)

    def missing(**changes):
        rows = pooled(assessed(sampled, STUDY.model_copy(update=changes)))
        assert (rows["verdict"].eq("not testable") == rows["missing"].ne("")).all()
        return rows["missing"]

    assert "static" in missing()["H3"]
    assert missing(models=("large",))["H1"] == "needs two models of different size"
    assert missing(models=("large",))["H6"] == "needs two models"
    assert missing(bits=(8,))["H5"] == "needs 4 among the bits"
    assert "training: qat" in missing(mitigations={}, methods={"ptq": STUDY.methods["ptq"]})["H2"]
    assert (missing(methods={}, mitigations={}) != "").all()


def test_methods_are_compared_at_the_widths_they_share():
    correct = outcomes(np.random.default_rng(7))
    kept = {p: rows for p, rows in correct.items() if (p.method, p.bits) != ("qat", 8)}
    sampled = sample(kept, DIVISION, TRAIN, STUDY.statistics)
    rows = assessed(sampled)
    row = pooled(rows).loc["H2"]
    assert row["compared"] == "qat − ptq at 4 bits"
    by_width = rows[rows["claim"] == "H2"].set_index("width")
    assert by_width.loc["int8", "missing"] == "needs a width at which qat and ptq run"
    assert by_width.loc["int4", "estimate"] == row["estimate"]
    accuracy = {p: rows.mean() for p, rows in correct.items()}
    by_hand = [
        accuracy[Point("faces", m, "qat", 4)] - accuracy[Point("faces", m, "ptq", 4)]
        for m in STUDY.models
    ]
    assert row["estimate"] == pytest.approx(np.mean(by_hand))


def test_without_two_large_groups_there_is_no_fairness_to_test():
    alone = DIVISION._replace(counted=np.array([True, False, False, False]))
    sampled = sample(outcomes(np.random.default_rng(6)), alone, TRAIN, STUDY.statistics)
    rows = pooled(assessed(sampled))
    assert rows.loc["disparity_grows", "missing"] == "needs two groups that are large enough"
    assert rows.loc["minority_pays", "missing"] == "needs two groups that are large enough"
    assert rows.loc["H2", "verdict"] != "not testable"


@pytest.mark.parametrize("choice", ["balanced", {"kind": "balanced"}])
def test_balanced_calibration_is_recognized_by_its_settings(choice):
    ptq = STUDY.methods["ptq"]
    static = ptq | {"activations": {"kind": "static"}}
    balanced = static | {"calibration": ptq["calibration"] | {"choice": choice}}
    methods = {**STUDY.methods, "qat": balanced, "mpqat": static}
    study = STUDY.model_copy(update={"methods": methods, "mitigations": {}})
    sampled = sample(outcomes(np.random.default_rng(5)), DIVISION, TRAIN, STUDY.statistics)
    rows = pooled(assessed(sampled, study))
    assert rows.loc["H3", "compared"] == "qat − mpqat"


def test_the_default_has_two_methods_that_differ_in_balanced_calibration_alone():
    own = {"qat": STUDY.methods["static_balanced"], "mpqat": STUDY.methods["static"]}
    assert own["qat"]["labels"] != own["mpqat"]["labels"]  # balancing needs them
    study = STUDY.model_copy(
        update={"methods": {"ptq": STUDY.methods["ptq"], **own}, "mitigations": {}}
    )
    sampled = sample(outcomes(np.random.default_rng(5)), DIVISION, TRAIN, STUDY.statistics)
    assert pooled(assessed(sampled, study)).loc["H3", "compared"] == "qat − mpqat"


def test_a_description_or_a_choice_of_widths_does_not_part_two_methods():
    static, balanced = (STUDY.methods[name] for name in ("static", "static_balanced"))
    own = {"qat": balanced | {"about": "ours", "bits": (4,)}, "mpqat": static | {"bits": None}}
    study = STUDY.model_copy(
        update={"methods": {"ptq": STUDY.methods["ptq"], **own}, "mitigations": {}}
    )
    sampled = sample(outcomes(np.random.default_rng(5)), DIVISION, TRAIN, STUDY.statistics)
    assert pooled(assessed(sampled, study)).loc["H3", "compared"] == "qat − mpqat"


def test_a_control_with_shuffled_channels_is_no_mixed_precision():
    ptq = STUDY.methods["ptq"]
    mixed, control = (
        ptq | {"policy": {"kind": "importance", "unit": {"kind": "channel", "shuffle": shuffle}}}
        for shuffle in (False, True)
    )
    methods = {"ptq": ptq, "qat": control, "mpqat": mixed}
    sampled = sample(outcomes(np.random.default_rng(5)), DIVISION, TRAIN, STUDY.statistics)
    study = STUDY.model_copy(update={"methods": methods, "mitigations": {}})
    assert pooled(assessed(sampled, study)).loc["H4", "compared"] == "mpqat − fp32"


def test_an_adjustment_is_compared_with_the_same_one_in_fp32():
    free = STUDY.mitigations["logit_adjusted"]
    weaker = free | {"post": [{"kind": "logit_adjustment", "tau": 0.5}]}
    full = STUDY.mitigations["logit_adjusted_fp32"]
    sampled = sample(outcomes(np.random.default_rng(5)), DIVISION, TRAIN, STUDY.statistics)
    remedies = {"repaired": weaker, "logit_adjusted": free, "logit_adjusted_fp32": full}
    rows = pooled(assessed(sampled, STUDY.model_copy(update={"mitigations": remedies})))
    assert rows.loc["quantization_adds", "compared"] == "logit_adjusted − logit_adjusted_fp32"
    del remedies["logit_adjusted"]
    rows = pooled(assessed(sampled, STUDY.model_copy(update={"mitigations": remedies})))
    assert "at integer widths" in rows.loc["quantization_adds", "missing"]


def test_what_an_augmentation_does_is_not_read_off_a_network_that_is_corrected_too():
    erasing = STUDY.methods["ptq"] | {
        "recipe": STUDY.methods["ptq"]["recipe"] | {"augmentation": {"kind": "erasing"}}
    }
    corrected = erasing | {"post": [{"kind": "temperature"}]}
    methods = {"ptq": STUDY.methods["ptq"], "qat": corrected, "mpqat": erasing}
    sampled = sample(outcomes(np.random.default_rng(5)), DIVISION, TRAIN, STUDY.statistics)
    study = STUDY.model_copy(update={"methods": methods, "mitigations": {}})
    assert pooled(assessed(sampled, study)).loc["augmented_fairer", "compared"] == "mpqat − ptq"


FOOTING = load(Path(__file__).parents[1] / "studies" / "footing.yaml").judged()
ARMS = {
    "uniform": ("ptq", "qat", "qat_fair"),
    "aware": ("importance_max", "importance_max_tuned", "importance_max_fair"),
}


def on_one_footing(spared, seeds=5):
    """Judge the footing's claims where an arm spares the worst group some of the answers."""
    study = FOOTING.model_copy(update={"datasets": ("faces",), "bits": (8, 4)})
    names = [(name, 4) for arms in ARMS.values() for name in arms]
    names += [("fp32", 32), ("ptq", 8), ("gptq_worst", 4), ("gptq_shuffled", 4)]
    names += [("augmented", bits) for bits in study.bits]
    rng = np.random.default_rng(3)
    hard = rng.normal(size=len(CODES))
    correct = {}
    for name, bits in names:
        worst = np.where(CODES == 3, 1.0 - spared.get((name, bits), 0), 0)
        noise = rng.normal(size=(seeds, len(CODES)))
        shift = rng.normal(scale=0.05, size=(seeds, 1))
        point = Point("faces", study.models[0], name, bits)
        correct[point] = (hard + noise) / np.sqrt(2) < 1.2 + shift - worst
    sampled = sample(correct, DIVISION, TRAIN, STUDY.statistics)
    rows = assess(study, sampled, dict.fromkeys(correct, 1.0), *NOT_SURVEYED)
    return pooled(rows[rows["family"] == "footing"])


def test_the_columns_of_one_footing_tell_training_from_widths():
    """Training alone helps: the published comparison is won, and like with like is not."""
    trained = {(arms[column], 4): 0.5 * column for arms in ARMS.values() for column in (1, 2)}
    rows = on_one_footing(trained)
    assert rows["missing"].eq("").all()
    compared = rows["compared"].to_dict()
    assert compared["aware_beats_8"] == "importance_max_fair at 4 − ptq at 8"
    for place, column in enumerate(("untrained", "tuned", "fair")):
        names = [ARMS[arm][place] for arm in ("aware", "uniform")]
        assert compared[f"widths_{column}"] == " − ".join(names) + " at 4 bits"
    verdicts = rows["verdict"]
    for name in ("aware_recovers", "aware_beats_8", "aware_beats_4", "training_adds_more"):
        assert verdicts[name] == "supported", name
    for name in ("widths_untrained", "widths_tuned", "widths_fair", "weighted_rounding"):
        assert verdicts[name] == "cannot tell", name


def test_widths_that_help_at_equal_training_are_seen_to():
    spared = {(name, 4): 0.8 for name in ARMS["aware"]} | {("gptq_worst", 4): 0.8}
    verdicts = on_one_footing(spared | {("augmented", bits): 0.9 for bits in (8, 4)})["verdict"]
    for column in ("untrained", "tuned", "fair"):
        assert verdicts[f"widths_{column}"] == "supported", column
    assert verdicts["weighted_rounding"] == "supported"
    assert verdicts["augmented_fairer"] == "supported"
    assert verdicts["training_adds_more"] == "refuted"


def test_a_rounding_is_compared_with_its_own_control():
    footing = FOOTING.all_methods()
    shuffled = footing["gptq_shuffled"]
    other = shuffled | {"weights": shuffled["weights"] | {"granularity": "another"}}
    names = {"qat": footing["gptq_worst"], "mpqat": other, "fair_qat": shuffled}
    study = STUDY.model_copy(
        update={"methods": {"ptq": STUDY.methods["ptq"], **names}, "mitigations": {}}
    )
    sampled = sample(outcomes(np.random.default_rng(5)), DIVISION, TRAIN, STUDY.statistics)
    row = pooled(assessed(sampled, study)).loc["weighted_rounding"]
    assert row["compared"] == "qat − fair_qat"


def test_a_study_without_the_columns_says_what_it_lacks():
    missing = pooled(assessed(sample(outcomes(np.random.default_rng(1)), DIVISION, TRAIN,
                                     STUDY.statistics)))["missing"]  # fmt: skip
    assert "looks at groups in the column tuned" in missing["widths_tuned"]
    assert "with weighting: {kind: worst_group}" in missing["weighted_rounding"]
    assert "augmentation in its recipe" in missing["augmented_fairer"]
