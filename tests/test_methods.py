"""Each part of a method acts, alone and in company, and what is stored is what was measured."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from quantskew import methods, models
from quantskew.baselines import hold_out, train
from quantskew.data.loading import load
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.deployment import shipping
from quantskew.engine.fingerprint import identity
from quantskew.errors import UserError
from quantskew.quantization import packing
from quantskew.quantization.calibration import Calibration
from quantskew.quantization.fitting import Dampen, Freeze, Qat
from quantskew.quantization.method import Method
from quantskew.quantization.post import TAUS
from quantskew.subject import Subject
from quantskew.training.recipe import Recipe
from quantskew.training.training import Training

MODEL = "resnet18_quarter"
TRAINING = Training(epochs=3, batch_size=64)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    prepare("digits", Source(imbalance="paper"), folder).write(folder / "samples.parquet")
    train(
        folder, subject=Subject(samples=folder / "samples.parquet", model=MODEL), seed=0,
        training=TRAINING, recipe=Recipe(),
    )  # fmt: skip
    return folder


@pytest.fixture
def apply(base, tmp_path):
    def run(bits=4, qat=None, **parts):
        number = len(list(tmp_path.iterdir()))
        folder = tmp_path / str(number)
        folder.mkdir()
        methods.quantize(
            folder,
            subject=Subject(
                samples=base / "samples.parquet", model=MODEL, weights=base / "network.safetensors"
            ),
            baseline_history=base / "history.safetensors",
            seed=0,
            method=Method.model_validate(parts),
            bits=bits,
            training=TRAINING,
            qat_settings=qat or Qat(epochs=1),
        )
        weights, _, notes = packing.read(folder / "network.safetensors")
        data = load(base / "samples.parquet")
        network = models.build_for(data, MODEL, None)
        packing.load(folder / "network.safetensors", network)
        return weights, notes, models.logits(network, data.test.images[:64])

    return run


def test_every_layer_has_the_width_asked_for(apply):
    weights, _, _ = apply(bits=3)
    assert {w.bits for w in weights.values()} == {3}


def test_first_and_last_layer_may_be_wider(apply):
    weights, _, _ = apply(bits=2, weights={"first_last": 8})
    widths = [weights[name].bits for name in weights]
    assert weights["conv1"].bits == weights["fc"].bits == 8
    assert sorted(set(widths)) == [2, 8]


@pytest.mark.parametrize(
    "parts",
    [
        {"weights": {"range": "mse"}},
        {"weights": {"granularity": "channel"}},
        {"weights": {"scheme": "symmetric"}},
        {"weights": {"fold_bn": False}},
        {"weights": {"fold_bn": False, "quantize_norms": True}},
        {"weights": {"quantize_biases": True}},
        {"weights": {"rounding": "gptq"}},
        {"weights": {"rounding": {"kind": "adaround", "steps": 5}}},
        {"weights": {"bias_correction": "weights"}},
        {"activations": {"kind": "static", "bits": 4}},
        {"activations": {"kind": "dynamic", "bits": 4}},
        {"training": "qat"},
        {"training": "qat", "activations": {"kind": "static", "bits": 4}},
    ],
    ids=str,
)
def test_each_part_changes_what_the_network_answers(apply, parts):
    _, _, plain = apply()
    _, _, changed = apply(**parts)
    assert torch.isfinite(changed).all()
    assert not torch.equal(plain, changed)


@pytest.mark.parametrize(
    "policy",
    [
        "measured",
        {"kind": "measured", "objective": "worst_group"},
        "importance",
        {"kind": "importance", "unit": "channel"},
        {"kind": "importance", "unit": {"kind": "salient_channel", "share": 0.05, "bits": 32}},
    ],
    ids=str,
)
def test_a_policy_shares_the_bits_unevenly_within_the_size(apply, policy):
    weights, _, _ = apply(policy=policy, calibration={"samples": 60})
    uniform, _, _ = apply()
    assert len({w.bits for w in weights.values()}) > 1
    size = [
        sum(w.mean_bits() * w.codes.numel() for w in each.values()) for each in (weights, uniform)
    ]
    assert size[0] <= size[1]


def test_a_balanced_calibration_set_is_balanced_and_recorded(apply):
    static = {"kind": "static", "bits": 4}
    _, notes, random = apply(activations=static, calibration={"samples": 100})
    _, balanced, other = apply(
        activations=static, calibration={"samples": 100, "choice": "balanced"}
    )
    assert sum(notes["calibration"].values()) == sum(balanced["calibration"].values()) == 100
    spread = [
        max(n.values()) - min(n.values()) for n in (notes["calibration"], balanced["calibration"])
    ]
    assert spread[1] < spread[0]
    assert not torch.equal(random, other)


def test_the_labels_that_a_range_for_the_worst_group_looks_at_are_counted():
    def labels(objective):
        given = {"kind": "static", "range": {"kind": "mse", "objective": objective}}
        return Method.model_validate({"activations": given}).described()["labels"]

    assert (labels("mean"), labels("worst_group")) == (0, 256)


@pytest.mark.parametrize("choice", ["random", "balanced"])
def test_images_without_a_value_have_no_group_in_calibration(base, choice):
    data = load(base / "samples.parquet").train
    side = np.where(np.arange(len(data)) % 4 == 0, None, np.arange(len(data)) % 2)
    data = dataclasses.replace(data, attributes=data.attributes.assign(side=side, none=None))
    seen = Calibration(samples=40, choice=choice, by="side").draw(data, seed=0)
    assert [*seen.counts] == ["0", "1"]
    assert sum(seen.counts.values()) == int((seen.groups >= 0).sum())
    assert (sum(seen.counts.values()) == 40) == (choice == "balanced")
    with pytest.raises(UserError, match="no calibration image has a value of none"):
        Calibration(choice=choice, by="none").draw(data, seed=0)


def test_dampening_and_freezing_act_during_qat(apply):
    dampen, freeze = Dampen(strength=1000.0), Freeze(threshold=(0.0, 0.0))
    results = [apply(training="qat", oscillations=o)[2] for o in ("as_is", dampen, freeze)]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_batch_norms_may_be_estimated_anew_after_qat(apply):
    plain = apply(training="qat")[2]
    anew = apply(training="qat", qat=Qat(epochs=1, bn_batches=3))[2]
    assert not torch.equal(plain, anew)


@pytest.mark.parametrize(
    "recipe",
    [
        {"sampling": "balanced", "loss": "weighted"},
        {"sampling": {"kind": "oversample", "by": "slant"}, "augmentation": "mixup"},
        {"loss": {"kind": "group_dro", "by": "slant*stroke"}},
        {"loss": {"kind": "constrained", "by": "stroke", "tolerance": 0}, "during": "qat"},
    ],
    ids=str,
)
def test_the_recipe_of_a_method_is_that_of_its_qat(apply, recipe):
    plain = apply(training="qat")[2]
    fair = apply(training="qat", recipe=recipe)[2]
    assert not torch.equal(plain, fair)


def test_a_corrected_fp32_network_ships_with_the_answers_that_were_evaluated(base, tmp_path):
    plain = Subject(
        samples=base / "samples.parquet", model=MODEL, weights=base / "network.safetensors"
    )
    method = Method.model_validate({"weights": {"format": "float32"}, "post": "logit_adjustment"})
    methods.quantize(
        tmp_path, subject=plain, baseline_history=None, seed=0, method=method, bits=32,
        training=TRAINING, qat_settings=Qat(),
    )  # fmt: skip
    adjusted = plain.at(tmp_path / "network.safetensors")
    data = load(base / "samples.parquet")
    before, after = (
        models.logits(packing.open_variant(one), data.test.images) for one in (plain, adjusted)
    )
    prior = data.train.labels.bincount() / len(data.train)
    torch.testing.assert_close(after, before - prior.log(), rtol=1e-4, atol=1e-4)
    shipping.ship(
        tmp_path, subject=adjusted, seed=0, bits=32, calibration=None, bins={}, ranges="minmax",
        reduce_range=True, notes={},
    )  # fmt: skip
    file = safetensors.torch.load_file(tmp_path / "logits.safetensors")["logits"]
    torch.testing.assert_close(file, after, rtol=1e-4, atol=1e-4)
    assert torch.equal(file.argmax(1), after.argmax(1))


def test_what_is_held_out_is_not_trained_on_and_tau_is_chosen_there(base, tmp_path):
    training = TRAINING.model_copy(update={"held_out": 0.3, "epochs": 1})
    subject = Subject(samples=base / "samples.parquet", model=MODEL)
    train(tmp_path, subject=subject, seed=0, training=training, recipe=Recipe())
    data = load(base / "samples.parquet")
    shown, out = hold_out(data.train, 0.3)
    images = json.loads((tmp_path / "cost.json").read_text())["images"]
    assert images == len(shown) == len(data.train) - len(out)
    watched = safetensors.numpy.load_file(tmp_path / "history.safetensors")["sample"]
    assert not {*data.ids[watched]} & {*out.ids}
    method = Method.model_validate({"post": {"kind": "logit_adjustment", "tau": "held_out"}})
    (tmp_path / "made").mkdir()
    methods.quantize(
        tmp_path / "made", subject=subject.at(tmp_path / "network.safetensors"), seed=0,
        baseline_history=None, method=method, bits=8, training=training, qat_settings=Qat(),
    )  # fmt: skip
    notes = packing.read(tmp_path / "made/network.safetensors")[2]
    seen = notes["calibration_after"]
    assert sum(seen.values()) == min(256, len(out))
    assert notes["post"][0]["tau"] in TAUS


OWN = """
from quantskew import models
from quantskew.quantization.weights import IntegerWeights, Weights
from quantskew.quantization.ptq import quantize_network


def halve(network, **given):
    for weight in network.parameters():
        weight.data.div_(2)
    return network


def halve_in_training_mode(network, **given):
    return halve(network).train()


def finish(network, *, example, bits, train, seed):
    weights = IntegerWeights(granularity="channel")
    return quantize_network(network, example, bits=bits + len(train.classes) - 10, weights=weights)


def halved_precision(network, *, example, bits, train, seed):
    return quantize_network(network, example, bits=bits, weights=Weights.kinds["float16"]())


def calibrated(network, *, example, bits, train, seed):
    images = models.as_input(train.images[:20], models.CPU)
    weights = IntegerWeights(rounding="gptq")
    return quantize_network(network, example, bits=bits, weights=weights, calibration=images)


def forget(network, **given):
    return network.conv1
"""


@pytest.fixture
def own(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_own_method.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)


def test_an_own_function_acts_before_the_other_parts(apply, own):
    plain, _, _ = apply(weights={"fold_bn": False})
    halved, _, _ = apply(function="my_own_method:halve", weights={"fold_bn": False})
    for name, weight in plain.items():
        torch.testing.assert_close(weight.dequantize() / 2, halved[name].dequantize())


def test_an_own_function_may_leave_its_network_in_training_mode(apply, own):
    _, _, halved = apply(function="my_own_method:halve")
    _, _, trained = apply(function="my_own_method:halve_in_training_mode")
    assert torch.equal(halved, trained)


def test_an_own_function_may_do_all_of_the_work(apply, own):
    _, _, finished = apply(function="my_own_method:finish")
    _, _, channels = apply(weights={"granularity": "channel"})
    assert torch.equal(finished, channels)
    _, notes, _ = apply(function="my_own_method:calibrated")
    assert notes["calibration"] == {"all": 20}
    _, notes, _ = apply(function="my_own_method:halved_precision")
    assert notes["format"] == "float16"
    with pytest.raises(methods.MethodError, match="so that activations, policy would change noth"):
        apply(function="my_own_method:finish", activations="static", policy="measured")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("my_own_method:forget", "gave a Conv2d that is neither"),
        ("my_own_method:halv", "fails: AttributeError: .* has no attribute 'halv'"),
        ("no_such_module:halve", "fails: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_an_own_function_that_does_not_fit_is_named(apply, own, function, problem):
    with pytest.raises(methods.MethodError, match=f"function: '{function}' {problem}"):
        apply(function=function)


def test_qat_without_training_samples_is_not_quietly_something_else():
    network = torch.nn.Linear(3, 2)
    with pytest.raises(methods.MethodError, match="no training samples are given"):
        methods.apply(
            network, Method(training="qat"), 4, example=torch.randn(2, 3), calibration=None,
            train=None, training=TRAINING, qat_settings=Qat(), seed=0,
        )  # fmt: skip


def test_history_is_kept_for_every_epoch(base):
    history = safetensors.numpy.load_file(base / "history.safetensors")
    assert history["correct"].shape == (3, len(history["sample"]))
    data = load(base / "samples.parquet")
    labels = data.labels.numpy()[history["sample"]]
    for split in ("train", "test"):
        inside = labels[data.split[history["sample"]] == split]
        assert len(set(torch.from_numpy(inside).bincount().tolist())) == 1


def test_what_is_said_about_a_method_changes_nothing():
    plain, told = Method(), Method(about="What the camera does.")
    assert identity(plain) == identity(told)
    assert told.model_dump()["about"] == "What the camera does."


def test_opened_networks_share_nothing_and_leave_the_random_state(base):
    subject = Subject(
        samples=base / "samples.parquet", model=MODEL, weights=base / "network.safetensors"
    )
    images = subject.data().test.images[:8]
    state = torch.get_rng_state()
    first = packing.open_variant(subject)
    logits = models.logits(first, images)
    with torch.no_grad():
        for tensor in first.parameters():
            tensor.zero_()
    assert torch.equal(models.logits(packing.open_variant(subject), images), logits)
    assert torch.equal(torch.get_rng_state(), state)
    built = subject.build(str(subject.file())).eval()
    assert torch.equal(models.logits(built, images), logits)
