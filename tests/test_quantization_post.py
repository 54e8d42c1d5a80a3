"""Corrections without training: right by a second derivation, and carried by the files."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import nn
from torch.nn.functional import log_softmax as torch_log_softmax

from quantskew import methods
from quantskew.api import material, quantize
from quantskew.baselines import hold_out
from quantskew.data.loading import Samples
from quantskew.deployment import onnx_files
from quantskew.models import logits
from quantskew.quantization import packing
from quantskew.quantization.fitting import MethodError, Qat
from quantskew.quantization.logit_maps import Correction, correct
from quantskew.quantization.method import Method
from quantskew.quantization.post import (
    Looks,
    best_tau,
    best_temperature,
    best_threshold,
    fitted_biases,
)
from quantskew.quantization.selfcheck import difference
from quantskew.training.training import Training

COUNTS = [60, 30, 10]
KINDS = [
    {"post": "logit_adjustment"},
    {"post": "class_biases"},
    {"post": {"kind": "class_biases", "objective": "worst_group"}},
    {"post": "match_reference"},
    {"post": {"kind": "match_reference", "map": "affine"}},
    {"post": "batchnorm", "weights": {"fold_bn": False}},
    {"post": "temperature"},
    {"post": ["match_reference", "temperature", "logit_adjustment"]},
    {"post": "logit_adjustment", "weights": {"quantize_biases": True}},
    {"post": ["temperature", {"kind": "match_reference", "map": "affine"}]},
    {"post": "logit_adjustment", "activations": "static"},
    {"post": "logit_adjustment", "training": "qat"},
    {"post": "batchnorm", "training": "qat"},
]
FLOATS = [
    {"post": part, "weights": {"format": format_}}
    for part in ("logit_adjustment", "temperature")
    for format_ in ("float32", "float16", "bfloat16")
]


def samples(counts=COUNTS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    noise = torch.rand(len(labels), 1, 8, 8, generator=generator)
    noise[:, 0, 0] += 0.5 * labels[:, None]
    return Samples(
        images=(noise * 100).byte(),
        labels=labels,
        ids=np.array([f"i{i}" for i in range(len(labels))]),
        split=np.full(len(labels), "train"),
        attributes=pd.DataFrame({"label": labels.numpy().astype(str)}),
        classes=tuple("xyz"[: len(counts)]),
        metadata={},
    )


def small(classes=3, *, bias=True):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(216, classes, bias=bias),
    )  # fmt: skip
    net[1].running_mean.data.normal_(std=0.2)
    net[1].running_var.data.uniform_(0.5, 1.5)
    return net.eval()


class Pooled(nn.Module):
    """As SqueezeNet: the last convolution is followed by a ReLU and a pooling."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, images):
        return self.conv(images).relu().mean((2, 3))


def apply(network=None, bits=4, train=None, **parts):
    train = train or samples()
    return methods.apply(
        network or small(), Method.model_validate(parts), bits,
        example=train.images[:2].float() / 255, calibration=train, train=train,
        training=Training(epochs=1, batch_size=16), qat_settings=Qat(epochs=1), seed=0,
    )  # fmt: skip


def plain(parts):
    return {key: value for key, value in parts.items() if key != "post"} or {"weights": {}}


@pytest.mark.parametrize("parts", [*KINDS, *FLOATS], ids=str)
def test_files_answer_what_was_evaluated_and_no_code_changes(parts, tmp_path):
    images = samples().images
    made = apply(**parts)
    evaluated = logits(made.network, images)
    packing.save(tmp_path / "after", made)
    read = packing.load(tmp_path / "after", small())
    assert torch.equal(logits(read, images), evaluated)
    assert [one["kind"] for one in made.notes["post"]] == [
        part.kind for part in Method.model_validate(parts).post
    ]
    if parts.get("weights", {}).get("format") != "float32":
        before = apply(**plain(parts))
        assert not torch.equal(logits(before.network, images), evaluated)
        for name, weight in before.codes().items():
            after = made.codes()[name]
            for part in ("codes", "scale", "zero_point"):
                assert torch.equal(getattr(weight, part), getattr(after, part)), (name, part)
        old = before.network.state_dict()
        unlike = {
            name
            for name, tensor in made.network.state_dict().items()
            if not torch.equal(tensor, old.get(name, torch.empty(0)))
        }
        assert unlike <= {"4.bias", "logit_map_weight", "logit_map_bias", "1.running_mean",
                          "1.running_var", "1.num_batches_tracked"}  # fmt: skip


@pytest.mark.parametrize("parts", [KINDS[0], KINDS[4], KINDS[5], KINDS[7], FLOATS[0]], ids=str)
def test_onnx_files_answer_what_was_evaluated(parts, tmp_path):
    images = samples().images
    made = apply(**parts)
    path = tmp_path / "network.onnx"
    onnx_files.export(made.network, images[:2].float() / 255, path, {})
    found, expected = logits(onnx_files.OnnxNetwork(path), images), logits(made.network, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_logit_adjustment_by_hand():
    train = samples()
    before, after = (apply(train=train, **p).network for p in ({}, {"post": "logit_adjustment"}))
    prior = np.log(np.array(COUNTS) / 100)
    expected = logits(before, train.images) - torch.from_numpy(prior).float()
    torch.testing.assert_close(logits(after, train.images), expected)
    half = apply(train=train, post={"kind": "logit_adjustment", "tau": 0.5}).notes["post"][0]
    np.testing.assert_allclose(half["bias"], -0.5 * prior, rtol=1e-6)
    assert half["in"] == "4"


def test_the_sampling_of_the_recipe_is_what_the_training_saw():
    train = samples()
    attributes = train.attributes.assign(side=["l", "r"] * 50)
    train = Samples(**{**vars(train), "attributes": attributes})
    recipe = {"sampling": {"kind": "oversample", "by": "side"}}
    made = apply(train=train, recipe=recipe, training="qat", post="logit_adjustment")
    order = Method(recipe=recipe, training="qat").recipe.sampling.order(attributes, 0)(0)
    seen = train.labels[order].bincount().double().numpy()
    np.testing.assert_allclose(made.notes["post"][0]["bias"], -np.log(seen / seen.sum()), rtol=1e-6)


def test_a_layer_without_a_bias_gets_one():
    made = apply(small(bias=False), post="logit_adjustment")
    assert made.network[4].bias is not None
    assert not hasattr(made.network, "logit_map_bias")


def test_where_the_last_layer_does_not_give_the_logits_a_layer_stands_behind(tmp_path):
    train = samples()
    made = apply(Pooled(), train=train, post=["match_reference", "logit_adjustment"])
    assert [one["in"] for one in made.notes["post"]] == ["logit_map", "logit_map"]
    packing.save(tmp_path / "file", made)
    read = packing.load(tmp_path / "file", Pooled())
    assert torch.equal(logits(read, train.images), logits(made.network, train.images))
    shift = sum(np.array(one["bias"]) for one in made.notes["post"])
    before = logits(apply(Pooled(), train=train).network, train.images)
    torch.testing.assert_close(
        logits(made.network, train.images), before + torch.from_numpy(shift).float()
    )


def test_corrections_in_turn_are_their_composition():
    images = torch.rand(6, 1, 8, 8)
    torch.manual_seed(3)
    steps = [
        Correction(torch.randn(3), torch.tensor([0.5])),
        Correction(torch.randn(3), torch.randn(3, 3)),
        Correction(torch.randn(3)),
        Correction(torch.randn(3), torch.tensor([2.0])),
    ]
    network = small()
    expected = network(images).detach()
    for step in steps:
        expected = step(expected)
        correct(network, step, images, coded=())
    torch.testing.assert_close(network(images), expected)


def test_codes_of_a_bias_are_left_alone():
    made = apply(post="logit_adjustment", weights={"quantize_biases": True})
    assert made.notes["post"][0]["in"] == "logit_map"


def problem(seed=0, n=300, classes=4, groups=4, skew=1.5):
    """Logits that are too high for the first classes; the groups are the classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    values = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    values -= skew * np.arange(classes)
    return Looks(values, labels, labels % groups)


def group_losses(biases, seen):
    rows = np.arange(len(seen.labels))
    loss = -log_softmax(seen.logits + biases, axis=1)[rows, seen.labels]
    return np.array([loss[seen.groups == g].mean() for g in np.unique(seen.groups)])


@pytest.mark.parametrize("groups", [4, 3, 2])
def test_balanced_biases_are_those_of_a_convex_solver(groups):
    seen = problem(groups=groups)
    found = fitted_biases(seen, "balanced")
    expected = minimize(
        lambda b: group_losses(b, seen).mean(), np.zeros(4), method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000},
    ).x  # fmt: skip
    np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-4)


@pytest.mark.parametrize("groups", [4, 3, 2])
def test_worst_group_biases_close_the_gap_to_the_dual(groups):
    """Any weights of groups bound the largest loss from below; the best weights reach it."""
    seen = problem(groups=groups)
    primal = group_losses(fitted_biases(seen, "worst_group"), seen).max()

    def dual(scores):
        weights = softmax(scores)
        inner = minimize(lambda b: group_losses(b, seen) @ weights, np.zeros(4), method="BFGS")
        losses = group_losses(inner.x, seen)  # the slope in the weights, by Danskin's theorem
        return -inner.fun, -weights * (losses - losses @ weights)

    found = minimize(dual, np.zeros(groups), jac=True, method="L-BFGS-B", options={"maxiter": 40})
    assert -found.fun <= primal + 1e-6
    assert primal == pytest.approx(-found.fun, abs=1e-4)
    assert primal < group_losses(fitted_biases(seen, "balanced"), seen).max() - 1e-3 or groups < 4


def accuracy(values, seen, codes):
    right = values.argmax(1) == seen.labels
    return np.array([right[codes == g].mean() for g in np.unique(codes)])


def test_groups_that_are_classes_are_helped_and_others_of_the_same_classes_are_not():
    """Group and label independent: the noisier group stays behind, by as much as before."""
    seen = problem(n=4000)
    rng = np.random.default_rng(1)
    side = rng.integers(2, size=4000)
    values = np.where(
        side[:, None], rng.normal(scale=2, size=seen.logits.shape), 1.5 * np.eye(4)[seen.labels]
    )
    values += seen.logits
    classes = Looks(values, seen.labels, seen.labels)
    sides = classes._replace(groups=side)
    before = accuracy(values, seen, seen.labels)
    after = accuracy(values + fitted_biases(classes, "worst_group"), seen, seen.labels)
    assert np.ptp(after) < 0.4 * np.ptp(before)
    gap = np.ptp(accuracy(values, seen, side))
    biases = fitted_biases(sides, "worst_group")
    assert gap > 0.15
    assert np.ptp(accuracy(values + biases, seen, side)) > 0.9 * gap
    # within a class, what one side gains the other gains too
    moved = [
        accuracy(values + biases, seen, side * 4 + seen.labels)
        - accuracy(values, seen, side * 4 + seen.labels)
    ][0].reshape(2, 4)
    assert (np.sign(moved[0]) == np.sign(moved[1])).all()


def test_a_class_without_images_is_named():
    train = samples()
    lacking = train.at(np.flatnonzero(train.labels.numpy() < 2))
    with pytest.raises(MethodError, match=r"no calibration image of class \[2\]"):
        apply(train=lacking, post="class_biases")
    other = {"train": (train.images, train.labels)}
    other["calibration"] = (lacking.images, lacking.labels)
    tau = {"post": {"kind": "logit_adjustment", "tau": "held_out"}}
    with pytest.raises(MethodError, match=r"logit_adjustment: no calibration image of class \[2\]"):
        quantize(small(), method=tau, bits=4, **other)
    alone = samples([40, 0])
    with pytest.raises(MethodError, match=r"threshold: no calibration image of class \[1\]"):
        apply(small(2), train=alone, post="threshold")
    with pytest.raises(MethodError, match=r"no sample of class \[2\]"):
        apply(train=lacking, post="logit_adjustment")


def test_label_free_repair_recovers_a_planted_shift():
    train, network = samples(), small()
    shifted = copy.deepcopy(network)
    shift = torch.tensor([1.0, -2.0, 0.5])
    correct(shifted, Correction(shift), train.images[:2].float() / 255, coded=())
    seen = SimpleNamespace(images=train.images[:64].float() / 255)
    part = Method(post="match_reference").post[0]
    given = SimpleNamespace(images=lambda: seen, reference=network)
    found, _ = part.correction(shifted, given)
    torch.testing.assert_close(found.bias, -shift, atol=1e-5, rtol=1e-4)
    mixed = Correction(shift, torch.tensor([[1.0, 0.2, 0], [0, 0.7, 0.1], [0.3, 0, 1.2]]))
    turned = copy.deepcopy(network)
    correct(turned, mixed, train.images[:2].float() / 255, coded=())
    affine = Method(post={"kind": "match_reference", "map": "affine"}).post[0]
    back, _ = affine.correction(turned, given)
    torch.testing.assert_close(
        back(logits(turned, train.images)), logits(network, train.images), atol=2e-3, rtol=1e-3
    )


def test_label_free_repair_looks_at_no_label():
    train = samples()
    other = Samples(**{**vars(train), "labels": train.labels.flip(0)})
    given = {"post": "match_reference", "calibration": {"samples": 64}}
    assert apply(train=train, **given).notes["post"] == apply(train=other, **given).notes["post"]
    method = Method.model_validate(given)
    assert (method.described()["images"], method.described()["labels"]) == (64, 0)


def test_an_affine_map_needs_more_images_than_columns():
    with pytest.raises(MethodError, match="got 4 calibration images"):
        apply(post={"kind": "match_reference", "map": "affine"}, calibration={"samples": 4})


def test_batch_norm_statistics_are_those_of_the_images():
    """A naive pass: the mean over batches of what the convolution gives."""
    train = samples()
    made = apply(train=train, post="batchnorm", weights={"fold_bn": False})
    images = train.images.float() / 255  # all 100 of them, in batches of 64
    conv, norm = made.network[0], made.network[1]
    batches = [conv(part).detach() for part in images.split(64)]
    mean = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    variance = torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert not norm.training


def test_one_image_gives_no_statistics_of_batch_norms():
    parts = {"post": "batchnorm", "weights": {"fold_bn": False}}
    with pytest.raises(MethodError, match="of one image there may be none"):
        apply(calibration={"samples": 1}, **parts)


def test_batch_norms_that_are_gone_are_not_estimated():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(MethodError, match="no batch norm"):
        apply(network, post="batchnorm", weights={"fold_bn": False})


def test_temperature_is_the_best_of_a_grid_and_keeps_the_answers():
    seen = problem(skew=0)._replace(logits=3 * problem(skew=0).logits)
    found = best_temperature(seen)

    def loss(t):
        scaled = torch_log_softmax(torch.from_numpy(seen.logits / t), 1)
        return -scaled[range(len(seen.labels)), seen.labels].mean().item()

    grid = np.exp(np.linspace(np.log(found) - 0.5, np.log(found) + 0.5, 201))
    assert loss(found) <= min(map(loss, grid)) + 1e-9
    assert 1.5 < found < 6
    train = samples()
    before, after = (
        logits(apply(train=train, **parts).network, train.images)
        for parts in ({}, {"post": "temperature"})
    )
    assert torch.equal(before.argmax(1), after.argmax(1))


@pytest.mark.parametrize("objective", ["balanced", "worst_group"])
def test_a_threshold_is_the_best_of_all(objective):
    rng = np.random.default_rng(4)
    labels = (np.arange(200) % 5 == 0).astype(int)
    values = rng.normal(size=(200, 2)) + np.stack([1 + 0 * labels, 2.0 * labels], 1)
    seen = Looks(values, labels, labels)
    found = best_threshold(seen, objective)
    score = values[:, 1] - values[:, 0]
    probability = 1 / (1 + np.exp(-score))

    def judged(at):
        right = (probability > at) == (labels == 1)
        parts = [right[labels == c].mean() for c in (0, 1)]
        return min(parts) if objective == "worst_group" else sum(parts) / 2

    assert judged(found) == max(judged(at) for at in np.linspace(0.001, 0.999, 4001))
    assert judged(found) > judged(0.5)


def test_a_threshold_moves_the_answers_of_two_classes_alone(tmp_path):
    train = samples([60, 20])
    made = apply(small(2), train=train, post={"kind": "threshold", "at": 0.2})
    before = logits(apply(small(2), train=train).network, train.images)
    expected = before.softmax(1)[:, 1] > 0.2
    assert torch.equal(logits(made.network, train.images).argmax(1) == 1, expected)
    fitted = apply(small(2), train=train, post="threshold")
    assert 0 < fitted.notes["post"][0]["at"] < 1
    with pytest.raises(MethodError, match="for two classes, and the network has 3"):
        apply(post={"kind": "threshold", "at": 0.2})


def test_tau_is_chosen_on_images_that_were_held_out():
    seen = problem(n=3000)
    prior = -1.5 * np.arange(4.0)  # what skews the logits
    assert best_tau(seen, prior) == pytest.approx(1.0, abs=0.2)
    assert best_tau(seen, prior / 2) == pytest.approx(2.0, abs=0.3)
    part = {"post": {"kind": "logit_adjustment", "tau": "held_out"}}
    with pytest.raises(MethodError, match="not trained on"):
        apply(**part)
    train = samples()
    data = (train.images, train.labels)
    other = samples(seed=5)
    made = quantize(
        small(), method=part, bits=4, train=data, calibration=(other.images, other.labels)
    )
    assert 0 <= made.notes["post"][0]["tau"] <= 2
    assert material(small(), data, None).held_out is None
    with pytest.raises(MethodError, match="frequencies of the classes"):
        quantize(small(), method={"post": "logit_adjustment"}, bits=4)


def test_what_is_held_out_is_a_share_of_each_class_and_no_network_sees_it():
    train = samples()
    shown, out = hold_out(train, 0.25)
    assert out.labels.bincount().tolist() == [15, 7, 2]
    assert sorted([*shown.ids, *out.ids]) == sorted(train.ids)
    assert hold_out(train, 0) == (train, None)


def test_a_correction_of_a_network_in_memory_is_checked():
    network = small()
    before = copy.deepcopy(network)
    images = torch.rand(4, 1, 8, 8)
    correct(network, Correction(torch.tensor([1.0, 0, 0])), images, coded=())
    assert difference(before, network, images) > 0.01
