from pathlib import Path

import pytest
import yaml

from quantskew.errors import close_names
from quantskew.params import load, parse
from quantskew.quantization.method import Method
from quantskew.sections import ParamsError, _StrictLoader
from quantskew.training.losses import Constrained
from quantskew.training.recipe import Recipe
from quantskew.variants import widths

ROOT = Path(__file__).parents[1]


def given(**changes):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, last = key.split("__")
        at = params
        for section in sections:
            at = at[section]
        at[last] = value
    return params


def mine(**parts):
    return {"mitigations__mine": parts}


def recipe(**parts):
    return mine(recipe=parts)


def loss(kind, **settings):
    return recipe(loss={"kind": kind, **settings})


def weights(**parts):
    return mine(weights=parts)


def qat(**parts):
    return mine(training="qat", **parts)


def own(loss=None):
    """A network that is not trained here; with a loss, under a remedy that acts in QAT alone."""
    stated = {"factory": "a:b", "checkpoint": "w", "mean": [0], "std": [1]}
    network = {"models": ["mine"], "architectures": {"mine": stated}}
    remedy = {"training": "qat", "recipe": {"loss": loss, "during": "qat"}}
    return network | ({"mitigations": {"mine": remedy}} if loss else {})


def test_a_checkpoint_goes_with_remedies_that_act_in_qat():
    loss = {"kind": "weighted", "class_weights": [1, 2]}
    study = parse(given(**own(loss), deploy={"networks": ["fp32"]}))
    assert study.mitigations["mine"].base_recipe() == Recipe()


def test_an_unknown_data_set_is_answered_with_close_names():
    with pytest.raises(ParamsError, match="no data set 'minst'"):
        load(ROOT / "params.yaml").source("minst")


def test_the_default_is_legal():
    study = load(ROOT / "params.yaml")
    assert study.bits == (8, 4, 2)
    assert len(study.seeds) >= 4


@pytest.mark.parametrize("section", ["methods", "mitigations"])
def test_the_methods_of_the_comments_are_legal(section):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    above = text.partition(f"\n{section}:")[0]
    example = above.rpartition("# For instance:\n")[2]
    examples = yaml.safe_load(example.replace("#", ""))
    assert len(examples) == 3
    study = parse(given(mitigations=examples, groups={"by": {"mnist5k": ["digit"]}}))
    assert set(study.mitigations) == set(examples)


def test_bits_may_be_one_number():
    assert parse(given(bits=2)).bits == (2,)


def test_a_method_may_be_kept_to_some_widths():
    method = parse(given(methods__qat__bits=[4, 2])).methods["qat"]
    assert widths(method, (8, 4, 2)) == (4, 2)
    assert widths(method, (8, 6)) == (8, 6)  # an experiment with none of them
    assert widths(method.model_copy(update={"bits": None}), (8, 4)) == (8, 4)
    with pytest.raises(ParamsError, match=r"methods\.qat\.bits"):
        parse(given(methods__qat__bits=[32]))


@pytest.mark.parametrize("text", ["1e-6", "1e-06", "1.0e-06", "0.000001"])
def test_small_numbers_are_numbers_however_they_are_written(text):
    value = yaml.safe_load(f"lr: {text}")["lr"]
    assert parse(given(training__lr=value)).training.lr == 1e-6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 9}, ["bits.0", "9", "less than or equal to 8"]),
        ({"bits": []}, ["bits", "at least 1"]),
        ({"bits": [4, 4]}, ["bits", "4 is given more than once"]),
        ({"seeds": [-1]}, ["seeds.0", "-1"]),
        ({"seeds": [True]}, ["seeds", "truth value"]),
        ({"seeds": True}, ["seeds", "truth value"]),
        ({"seeds": [2**32]}, ["seeds.0", "4294967296"]),
        ({"qat__lr": {8: True}}, ["qat.lr", "truth value"]),
        ({"qat__lr": {}}, ["qat.lr", "at least 1"]),
        ({"statistics__seed": -1}, ["statistics.seed", "-1"]),
        ({"statistics__draws": 10**9}, ["statistics.draws", "less than or equal to 1000000"]),
        ({"groups__bins": {"age": [0, float("nan")]}}, ["groups.bins", "rising numbers"]),
        ({"groups__by": {"mnist5k": []}}, ["groups.by.mnist5k", "at least 1"]),
        ({"groups__by": {"mnist5k": ["digit", "digit"]}}, ["groups.by", "more than once"]),
        ({"training__epochs": 0}, ["training.epochs", "0"]),
        ({"training__lr": "fast"}, ["training.lr", "'fast'"]),
        ({"training__lr": float("nan")}, ["training.lr", "nan"]),
        ({"training__epoch": 3}, ["training.epoch", "unknown key", "did you mean 'epochs'"]),
        ({"methods__ptq__weights": {"range": "mimmax"}}, ["methods.ptq.weights.range", "'minmax'"]),
        ({"methods__my/method": {}}, ["'my/method'", "file name"]),
        ({"methods__fp32": {}}, ["fp32 is the name of the networks before any method"]),
        ({"training__batch_size": 1}, ["training.batch_size", "greater than or equal to 2"]),
        (
            own()
            | {
                "mitigations": {
                    "mine": {"recipe": {"sampling": "balanced"}},
                    "another": {"recipe": {"augmentation": "erasing"}},
                }
            },
            ["architectures.mine.checkpoint", "for the fp32 network: mine, another; leave"],
        ),
        (own("weighted"), ["architectures.mine.checkpoint", "give mine recipe.loss.class_weights"]),
        ({"mitigations__ptq": {}}, ["ptq", "in methods and in mitigations"]),
        ({"datasets": ["minst5k"]}, ["minst5k", "sources", "did you mean 'mnist5k'"]),
        ({"statistics__alpha": 0.7}, ["statistics.alpha", "0.7"]),
        ({"targets": {"worst_group_loss": 2}}, ["targets.worst_group_loss", "2"]),
        ({"targets": {"size": 2}}, ["targets.size", "unknown key"]),
        (
            {"deploy": {"networks": ["fair_qat"]}},
            ["deploy.networks", "fp32, logit_adjusted_fp32"],
        ),
        ({"groups__bins": {"age": [40, 20]}}, ["groups.bins", "rising"]),
        ({"methods__ptq__oscillations": "dampen"}, ["methods.ptq", "training: qat"]),
        ({"methods__ptq__calibration": {"choice": "balanced"}}, ["calibration changes nothing"]),
        (
            {"methods__ptq__recipe": {"class_weights": [1, 2]}},
            ["recipe.class_weights", "unknown key"],
        ),
        ({"training__momentum": 0.5}, ["training.momentum", "unknown key"]),
        (
            {"training__optimizer": {"kind": "adamw", "momentum": 0.5}},
            ["training.optimizer.momentum"],
        ),
        (
            {"training__optimizer": {"kind": "sgd", "momentum": 2}},
            ["training.optimizer.momentum", "2"],
        ),
        ({"training__schedule": "cosin"}, ["training.schedule", "did you mean 'cosine'"]),
        (
            loss("weighted", class_weights=[0, 0]),
            ["loss.class_weights", "at least one weight must"],
        ),
        (
            loss("weighted", step_size=1),
            ["recipe.loss.step_size", "legal here: kind, class_weights"],
        ),
        (loss("group_dro", tolerance=0.1), ["recipe.loss.tolerance", "adjustment"]),
        (loss("constrained", adjustment=0.1), ["recipe.loss.adjustment", "tolerance"]),
        (loss("weighted", by="race"), ["recipe.loss.by", "unknown key"]),
        (loss("group_dor"), ["recipe.loss", "did you mean 'group_dro'"]),
        (recipe(sampling={"kind": "as_is", "by": "race"}), ["recipe.sampling.by", "unknown key"]),
        (recipe(sampling="grown"), ["sampling", "'grown'", "legal: as_is, balanced, oversample"]),
        (recipe(augmentation="mixip"), ["recipe.augmentation", "did you mean 'mixup'"]),
        (recipe(augmentation={"kind": "mixup", "flip": True}), ["augmentation.flip", "alpha"]),
        (recipe(augmentation={"kind": "erasing", "sides": [0.4, 0.1]}), ["the smaller share"]),
        (recipe(augmentation={"kind": "erasing", "side": 0.1}), ["unknown key", "'sides'"]),
        (recipe(augmentation="mixup", loss="constrained"), ["mixup mixes images of two groups"]),
        (
            recipe(augmentation="cutmix", loss={"kind": "group_dro", "by": "race"}),
            ["cutmix mixes images of two groups", "loss: group_dro keeps apart"],
        ),
        (recipe(sampling="oversample", during="qat"), ["during: qat needs training: qat"]),
        (weights(range={"kind": "mse", "percentile": 99}), ["weights.range.percentile", "unknown"]),
        (weights(range={"kind": "percentile", "percentile": 9}), ["range.percentile", "than 50"]),
        (weights(rounding={"kind": "nearest", "steps": 9}), ["rounding.steps", "unknown key"]),
        (weights(rounding={"steps": 9}), ["weights.rounding", "legal: nearest, adaround, gptq"]),
        (weights(rounding={"kind": ["gptq"]}), ["weights.rounding", "legal: nearest, adaround"]),
        (weights(rounding="adaroud"), ["weights.rounding", "did you mean 'adaround'"]),
        (weights(format="float16", range="mse"), ["mine.weights.range", "legal here: format"]),
        (weights(format="float64"), ["mine.weights", "legal: integer, float32, float16, bfloat16"]),
        (weights(rang="mse"), ["weights.rang", "legal here: format, granularity", "'range'"]),
        (qat(weights={"scheme": "symmetric"}), ["weights.scheme acts with training: none, or a"]),
        (qat(weights={"range": "mse"}), ["weights.range acts with training: none, or a policy of"]),
        (qat(weights={"rounding": "gptq"}), ["weights.rounding acts with training: none alone"]),
        (qat(weights={"fold_bn": False}), ["weights.fold_bn acts with training: none, or a pol"]),
        (qat(weights={"quantize_norms": True}), ["weights.quantize_norms", "training: none"]),
        (
            qat(weights={"bias_correction": "outputs"}, policy="measured"),
            ["weights.bias_correction acts with training: none alone"],
        ),
        (qat(activations={"kind": "static", "scheme": "symmetric"}), ["asymmetric activations"]),
        (qat(activations="dynamic"), ["asymmetric activations, not those of dynamic"]),
        (mine(activations={"bits": 4, "range": "mse"}), ["legal: none, static, dynamic"]),
        (mine(activations={"kind": "dynamic", "range": "mse"}), ["activations.range", "unknown"]),
        (
            mine(activations={"kind": "static", "range": {"kind": "entropy", "objective": "mean"}}),
            ["activations.range.objective", "unknown key"],
        ),
        (
            mine(weights={"format": "float16"}, activations="dynamic"),
            ["format: float16 goes with no other part"],
        ),
        (mine(policy={"kind": "uniform", "choices": [2, 3]}), ["policy.choices", "unknown key"]),
        (mine(policy={"kind": "hawq", "reduce": "max"}), ["policy.reduce", "unknown key"]),
        (mine(policy={"kind": "hawq", "objective": "min"}), ["legal: mean, worst_group"]),
        (
            mine(policy={"kind": "importance", "unit": {"kind": "channel", "share": 0.1}}),
            ["policy.unit.share", "legal here: kind, shuffle, choices"],
        ),
        (
            mine(policy={"kind": "measured", "choices": [8, 4]}),
            ["mine: policy", "is 4 bits", "the method runs at 2"],
        ),
        (
            mine(policy={"kind": "importance", "unit": {"kind": "layer", "choices": [8, 4]}}),
            ["mine: policy", "is 4 bits", "the method runs at 2"],
        ),
        ({"qat__start": "mean"}, ["qat.start", "legal: mse, lsq"]),
        (mine(post="logit_adjust"), ["post", "did you mean 'logit_adjustment'"]),
        (
            mine(post={"kind": "match_reference", "tau": 1}),
            ["post", "tau", "legal here: kind, map"],
        ),
        (
            mine(post={"kind": "logit_adjustment", "tau": "held_out"}),
            ["mine: post: tau: held_out", "set training.held_out"],
        ),
        (mine(post="batchnorm"), ["mitigations.mine", "fold_bn: false"]),
        (
            mine(post="logit_adjustment", recipe={"sampling": "balanced"}),
            ["mitigations.mine", "changes nothing here"],
        ),
        (weights(format="float32"), ["mitigations.mine", "give post"]),
        ({"methods__ptq__post": "temperature"}, ["reference: ptq", "post"]),
        ({"models": ["all"]}, ["models: 'all' is all of the study in tables"]),
        ({"methods__int8_random": {}}, ["int8_random stands in methods", "deploy.calibrations"]),
        (
            {"methods__int4_weights": {}, "deploy__four_bits": True},
            ["int4_weights stands in methods", "deploy.four_bits"],
        ),
        ({"deploy__networks": ["logit_adjusted"]}, ["'logit_adjusted' is no fp32 network"]),
        (loss("constrained", constraint="parity"), ["constraint", "legal: accuracy, demographic"]),
        (qat(oscillations={"kind": "freeze", "strength": 1}), ["oscillations.strength", "unknown"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_legal(changes, words):
    with pytest.raises(ParamsError) as error:
        parse(given(**changes))
    for word in words:
        assert word in str(error.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(ParamsError) as error:
        parse(given(bits=1, training__epochs=-1))
    assert "bits.0" in str(error.value)
    assert "training.epochs" in str(error.value)


@pytest.mark.parametrize(
    "parts",
    [
        # what the costs of a policy read, though QAT learns its grids
        {"weights": {"scheme": "symmetric", "fold_bn": False}, "policy": "measured"},
        {"weights": {"bias_correction": "weights"}, "policy": "hawq"},
        {"weights": {"fold_bn": False}, "policy": "importance"},
    ],
)
def test_parts_that_act_through_a_policy_go_with_qat(parts):
    assert parse(given(**qat(**parts)))


def test_choices_may_be_wide_where_a_method_is_kept_to_wide_bits():
    assert parse(given(**mine(policy={"kind": "measured", "choices": [8, 4]}, bits=[8, 4])))


def test_a_recipe_may_leave_the_fp32_network_plain():
    constrained = {"kind": "constrained", "by": "race"}
    parts = {"recipe": {"loss": constrained}, "training": "qat"}
    assert Method.model_validate(parts).base_recipe() == Recipe(loss=Constrained(by="race"))
    parts["recipe"]["during"] = "qat"
    assert Method.model_validate(parts).base_recipe() == Recipe()
    with pytest.raises(ValueError, match="a recipe that acts in it"):
        Method.model_validate({"recipe": {"during": "qat"}, "training": "qat"})


def test_a_missing_section_is_named():
    params = given()
    del params["models"]
    with pytest.raises(ParamsError, match="models: is required"):
        parse(params)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ParamsError, match="no such file"):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("bits: [4", encoding="utf-8")
    with pytest.raises(ParamsError, match="not YAML"):
        load(tmp_path / "params.yaml")


def test_parameters_cannot_be_changed():
    study = load(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        study.bits = (2,)


def test_close_names():
    assert close_names("minst", ["mnist", "utkface"]) == "; did you mean 'mnist'?"
    assert close_names("zzz", ["mnist"]) == ""


def test_looking_for_repeated_keys_takes_steps_as_many_as_keys():
    compared = 0

    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    def node(text):
        return yaml.ScalarNode("tag:yaml.org,2002:str", text)

    pairs = [(node(Key(f"m{number}")), node("x")) for number in range(1000)]
    made = _StrictLoader("").construct_mapping(yaml.MappingNode("tag:yaml.org,2002:map", pairs))
    assert len(made) == 1000
    assert compared < 10 * 1000
