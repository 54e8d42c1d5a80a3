"""A new kind of a part is one class, and every kind there is differs from its neighbours."""

import itertools
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from quantskew import methods
from quantskew.data.loading import Samples
from quantskew.engine.fingerprint import code_hash, identity
from quantskew.quantization.activations import Activations, Histogram, StaticActivations
from quantskew.quantization.calibration import Calibration, CalibrationChoice
from quantskew.quantization.fitting import Fitting, Oscillations, Qat
from quantskew.quantization.layers import quantizable
from quantskew.quantization.logit_maps import Correction, correct
from quantskew.quantization.method import Method
from quantskew.quantization.objectives import Objective
from quantskew.quantization.packing import load, save
from quantskew.quantization.policies import Allocation, Importance, Policy, Reduction, Unit
from quantskew.quantization.post import Post
from quantskew.quantization.ranges import ActivationRange, WeightRange
from quantskew.quantization.rounding import Rounding
from quantskew.quantization.starts import ScaleStart
from quantskew.quantization.weighting import Weighting
from quantskew.quantization.weights import BiasCorrection, IntegerWeights, Weights
from quantskew.sections import Choice
from quantskew.training.training import Training


class Half(WeightRange, kind="test_half"):
    """Half of the min–max range, or another share of it."""

    share: float = 0.5

    def clip(self, weight, dims, bits, scheme):
        return tuple(
            self.share * end
            for end in (weight.amin(dims, keepdim=True), weight.amax(dims, keepdim=True))
        )


class Down(Rounding, kind="test_down"):
    """Every weight gets the code below its nearest one."""

    needs_images = False

    def __call__(self, layer, nearest, seen):
        low, _ = nearest.limits()
        return type(nearest)(
            (nearest.codes - 1).maximum(low).short(), nearest.scale, nearest.zero_point,
            nearest.bits, nearest.scheme,
        )  # fmt: skip


class Fixed(ActivationRange, kind="test_fixed"):
    """From 0 to 0.25, whatever was seen."""

    def clip(self, histogram, bits, scheme):
        return torch.tensor(0.0), torch.tensor(0.25)


class FirstWide(Policy, kind="test_first_wide"):
    """The first free layer at 8 bits, the others at the width of the method."""

    def allocate(self, problem):
        return [8] + [problem.bits] * (len(problem.layers) - 1)


class Fp8(Weights, kind="test_fp8"):
    """Eight-bit floating point, which this network is only cast to and back."""

    own_bits = 8

    def quantize(self, network, example, **given):
        from quantskew.quantization.packing import Quantized

        for parameter in network.parameters():
            parameter.data.copy_(parameter.to(torch.float8_e4m3fn).float())
        notes = {"format": self.kind, "folded": [], "left_out": {}}
        return Quantized(network, {}, notes, {})


class Louder(Post, kind="test_louder"):
    """The first class is answered more often."""

    def __call__(self, quantized, material):
        shift = torch.tensor([1.0, 0.0, 0.0])
        correct(quantized.network, Correction(shift), material.example, coded=())
        return {"kind": self.kind}


OURS = (Half, Down, Fixed, FirstWide, Fp8, Louder)


IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def samples(n=64):
    """Six groups, the largest of half of the images; the rarer a group, the brighter it is."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (n,), generator=generator)
    groups = torch.tensor([0, 1, 2, 3, 4, 5]).repeat_interleave(torch.tensor([32, 16, 8, 4, 2, 2]))
    noise = torch.rand(n, 1, 8, 8, generator=generator) * (40 + 40 * groups[:, None, None, None])
    return Samples(
        images=noise.byte(),
        labels=labels,
        ids=np.array([f"i{i}" for i in range(n)]),
        split=np.full(n, "train"),
        attributes=pd.DataFrame({"label": labels.numpy().astype(str), "group": groups.numpy()}),
        classes=("x", "y", "z"),
        metadata={},
    )


def small():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Tanh()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 3))
    net[1].running_mean.data.normal_(std=0.2)
    net[1].running_var.data.uniform_(0.5, 1.5)
    net[3].bias.data.sub_(0.5)  # more below zero than above it
    net[6].weight.data.normal_(std=0.1).pow_(3).mul_(20)  # a long tail
    return net.eval()


def apply(train=None, bits=3, qat=None, **parts):
    train = train or samples()
    return methods.apply(
        small(),
        Method.model_validate(parts),
        bits,
        example=train.images[:2].float() / 255,
        calibration=train,
        train=train,
        training=Training(epochs=1, batch_size=16),
        qat_settings=qat or Qat(epochs=2, lr=0.02),
        seed=0,
    )


def answers(quantized):
    with torch.no_grad():
        return quantized.network(IMAGES)


def test_a_range_of_your_own_clips():
    range_ = apply(weights={"range": "test_half"}).weights
    wider = apply(weights={"range": {"kind": "test_half", "share": 1.0}}).weights
    plain = apply().weights
    for name, weight in plain.items():
        assert torch.equal(wider[name].scale, weight.scale)
        torch.testing.assert_close(range_[name].scale, weight.scale / 2)


def test_a_rounding_of_your_own_chooses_the_codes():
    down, plain = apply(weights={"rounding": "test_down"}).weights, apply().weights
    for name, weight in plain.items():
        assert torch.equal(down[name].codes, (weight.codes - 1).clamp_min(0))


def test_an_activation_range_of_your_own_sets_the_grids():
    notes = apply(activations={"kind": "static", "bits": 4, "range": "test_fixed"}).notes
    assert [*notes["activations"]["layers"].values()] == [[pytest.approx(0.25 / 15), 0]] * 4


def test_a_policy_of_your_own_allocates_the_bits(tmp_path):
    quantized = apply(policy="test_first_wide")
    assert [weight.bits for weight in quantized.weights.values()] == [8, 3, 3, 3]
    assert quantized.notes["calibration"] == dict(
        samples().attributes["label"].value_counts().sort_index()
    )
    save(tmp_path / "a", quantized)
    assert torch.equal(answers(quantized), load(tmp_path / "a", small())(IMAGES))
    trained = apply(policy="test_first_wide", training="qat")
    assert [weight.bits for weight in trained.weights.values()] == [8, 3, 3, 3]


def test_a_format_of_your_own_has_its_width():
    method = Method.model_validate({"weights": {"format": "test_fp8"}})
    assert method.weights.own_bits == 8
    assert not torch.equal(answers(apply(weights={"format": "test_fp8"})), small()(IMAGES))


def test_a_correction_of_your_own_follows_the_others():
    made, plain = apply(post=["match_reference", "test_louder"]), apply(post="match_reference")
    torch.testing.assert_close(answers(made), answers(plain) + torch.tensor([1.0, 0, 0]))


def test_a_kind_of_your_own_brings_its_code_into_the_fingerprint():
    parts = {"weights": {"range": "test_half"}}
    told = identity(Method.model_validate(parts))["weights"]["range"]
    assert told == {"kind": "test_half", "share": 0.5, "code": code_hash(__name__)}
    assert "code" not in identity(Method())["weights"]["range"]


KINDS = {
    "weights.range": (WeightRange, lambda kind: {"weights": {"range": kind}}),
    "weights.rounding": (
        Rounding,
        lambda kind: {
            "weights": {"rounding": {"kind": kind} | ({"steps": 3} if kind == "adaround" else {})}
        },
    ),
    "weights.rounding.steps": (
        (3, 30), lambda n: {"weights": {"rounding": {"kind": "adaround", "steps": n}}},
    ),
    "weights.rounding.weighting": (
        Weighting,
        lambda kind: {
            "weights": {"rounding": {"kind": "gptq", "weighting": kind}},
            "calibration": {"by": "group"},
        },
    ),
    "weights.bias_correction": (
        BiasCorrection, lambda kind: {"weights": {"bias_correction": kind}},
    ),
    "weights": (
        Weights,
        lambda kind: {
            "weights": {"format": kind}, "post": ["temperature"] if kind == "float32" else [],
        },
    ),
    "post": (
        [kind for kind in Post.kinds if kind not in ("threshold", "batchnorm")],
        lambda kind: {"post": kind},
    ),
    "weights.scheme": (
        ("asymmetric", "symmetric", "symmetric_narrow"), lambda kind: {"weights": {"scheme": kind}},
    ),
    "weights.granularity": (
        ("tensor", "channel"), lambda kind: {"weights": {"granularity": kind}},
    ),
    "activations": (Activations, lambda kind: {"activations": kind}),
    "activations.scheme": (
        ("asymmetric", "symmetric", "symmetric_narrow"),
        lambda kind: {"activations": {"kind": "static", "bits": 4, "scheme": kind}},
    ),
    "activations.range": (
        ActivationRange, lambda kind: {"activations": {"kind": "static", "bits": 3, "range": kind}},
    ),
    "activations.range.objective": (
        Objective,
        lambda kind: {
            "activations": {
                "kind": "static", "bits": 2, "range": {"kind": "mse", "objective": kind},
            },
            "calibration": {"by": "group"},
        },
    ),
    "calibration.choice": (
        CalibrationChoice,
        lambda kind: {
            "activations": "static", "calibration": {"samples": 12, "choice": kind, "by": "group"},
        },
    ),
    "training": (Fitting, lambda kind: {"training": kind}),
    "oscillations": (
        Oscillations,
        lambda kind: {
            "training": "qat",
            "oscillations": {"kind": kind} | {"dampen": {"strength": 50},
                                              "freeze": {"threshold": [0, 0]}}.get(kind, {}),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_a_part_answers_in_its_own_way(name):
    family, parts = KINDS[name]
    kinds = family if isinstance(family, tuple | list) else [
        # the studies of other tests bring kinds of their own, which may do what one of these does
        kind for kind, made in family.kinds.items()
        if made.__module__.startswith(("quantskew.", __name__))
    ]  # fmt: skip
    results = {kind: answers(apply(**parts(kind))) for kind in kinds}
    assert all(torch.isfinite(result).all() for result in results.values())
    same = [pair for pair in itertools.combinations(results, 2)
            if torch.equal(*(results[kind] for kind in pair))]  # fmt: skip
    assert not same


def importance(**parts):
    return {"kind": "importance", "unit": "channel", **parts}


CHOICES = ([2, 4, 8], [2, 8])
POLICIES = {
    "policy": [*Policy.kinds],
    "objective": [{"kind": "measured", "objective": kind} for kind in Objective.kinds],
    "importance": [importance(importance=kind) for kind in Importance.kinds],
    "reduce": [importance(reduce=kind) for kind in Reduction.kinds],
    "share of cvar": [importance(reduce={"kind": "cvar", "share": s}) for s in (0.3, 0.6)],
    "unit": [importance(unit=kind) for kind in Unit.kinds],
    "shuffle": [importance(unit={"kind": "channel", "shuffle": s}) for s in (False, True)],
    "share": [importance(unit={"kind": "salient_channel", "share": s}) for s in (0.1, 0.3)],
    "bits": [importance(unit={"kind": "salient_channel", "bits": b}) for b in (8, 32)],
    "probes": [{"kind": "hawq", "probes": n} for n in (1, 8)],
    **{
        f"choices of {kind}": [{"kind": kind, "choices": choices} for choices in CHOICES]
        for kind in ("hawq", "measured", "learned")
    },
    **{
        f"choices of {kind}": [importance(unit={"kind": kind, "choices": c}) for c in CHOICES]
        for kind in ("layer", "channel")
    },
}


@pytest.fixture(scope="module")
def problem():
    """Nine layers of unlike scales, and groups that look at unlike inputs."""
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(8) for m in (nn.Linear(9, 9), nn.Tanh())])
    net.append(nn.Linear(9, 4)).eval()
    for place, layer in enumerate(net[::2]):
        layer.weight.data.mul_(1 + (5 * place) % 3)
    groups = torch.arange(50) % 5
    images = torch.randn(50, 9) * (1 + groups[:, None]) * (torch.arange(9) % 5 == groups[:, None])
    labels = torch.randint(0, 4, (50,))
    weights = IntegerWeights(rgb_first=None)
    return Allocation(net, quantizable(net), images, labels, groups, 4, weights, seed=0)


@pytest.mark.parametrize("name", POLICIES)
def test_every_kind_and_setting_of_a_policy_allocates_bits_of_its_own(problem, name):
    allocations = []
    for policy in POLICIES[name]:
        method = Method.model_validate({"policy": policy})
        allocations.append(tuple(method.policy.allocate(problem)))
        assert len(allocations[-1]) == len(problem.layers)
    assert len({*allocations}) == len(allocations)


def test_every_start_of_the_learned_scales_is_another():
    weight = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    scales = [start()(weight, 3, per_channel=False).item() for start in ScaleStart.kinds.values()]
    assert len({*scales}) == len(scales) == 2
    networks = [answers(apply(training="qat", qat=Qat(start=kind))) for kind in ScaleStart.kinds]
    assert not torch.equal(*networks)


SETTINGS = [
    {"weights": {"range": {"kind": "percentile", "percentile": 80}}},
    {"activations": {"kind": "static", "range": {"kind": "percentile", "percentile": 80}}},
    {"activations": {"kind": "static", "bits": 3}},
    {"activations": {"kind": "dynamic", "bits": 3}},
    {"activations": {"kind": "dynamic", "scheme": "symmetric"}},
    {"training": {"kind": "qat"}, "oscillations": {"kind": "dampen", "strength": 50}},
    {"training": {"kind": "qat"}, "oscillations": {"kind": "freeze", "threshold": [0, 0]}},
    {"weights": {"equalize": True}},
    {"weights": {"fold_bn": False}},
    {"weights": {"fold_bn": False, "quantize_norms": True}},
    {"weights": {"quantize_biases": True}},
    {"weights": {"first_last": 8}},
    {"weights": {"classifier": 32}},
]


@pytest.mark.parametrize("parts", SETTINGS, ids=str)
def test_every_setting_of_a_kind_acts(parts):
    def plain(part):
        inner = {key: plain(value) for key, value in part.items() if isinstance(value, dict)}
        return inner | {key: part[key] for key in ("kind",) if key in part}

    assert not torch.equal(answers(apply(**parts)), answers(apply(**plain(parts))))


def families():
    waiting, seen = [Choice], []
    while waiting:
        for family in waiting.pop().__subclasses__():
            if family.__module__.startswith("quantskew.quantization"):
                seen.append(family)
                waiting.append(family)
    return [family for family in seen if family.kind]


@pytest.mark.parametrize(
    "kind", [*families(), *OURS], ids=lambda kind: f"{kind.__module__}.{kind.kind}"
)
def test_kinds_are_picklable_hashable_and_told_from_each_other(kind):
    instance = kind()
    assert pickle.loads(pickle.dumps(instance)) == instance
    assert hash(instance) == hash(kind())
    others = [other() for other in kind.kinds.values() if other is not kind]
    assert instance not in others
    dumped = instance.model_dump()
    assert dumped[kind.tag] == kind.kind
    assert kind.kinds[dumped.pop(kind.tag)].model_validate(dumped) == instance


def test_the_parameters_are_read_without_torch():
    code = "import quantskew.params, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_images_that_a_function_changes_in_place_reach_no_other_method(monkeypatch):
    train = samples()

    def spoil(network, *, train, **given):
        train.images.zero_()
        train.labels.zero_()
        train.attributes["group"] = 5
        for parameter in network.parameters():
            parameter.data.zero_()
        return network

    monkeypatch.setattr(sys.modules[__name__], "spoil", spoil, raising=False)
    parts = {"activations": "static", "calibration": {"choice": "balanced", "by": "group"}}
    alone = answers(apply(**parts))
    spoilt = apply(train, function=f"{__name__}:spoil")
    assert all((weight.dequantize() == 0).all() for weight in spoilt.weights.values())
    assert torch.equal(answers(apply(train, **parts)), alone)


def test_a_method_that_lacks_its_images_is_refused_by_name():
    with pytest.raises(methods.MethodError, match="calibration images, and none are given"):
        methods.apply(
            small(), Method(policy=FirstWide()), 4, example=torch.rand(2, 1, 8, 8),
            calibration=None, train=None, training=Training(), qat_settings=Qat(), seed=0,
        )  # fmt: skip


def test_what_a_kind_of_your_own_refuses_is_a_problem_of_its_key(monkeypatch):
    monkeypatch.setattr(Activations, "kinds", {**Activations.kinds})

    class Picky(Activations, kind="test_picky"):
        def quantize(self, network, images=None, groups=None):
            return None

        def check_learnable(self):
            raise ValueError("nobody learns these")

    with pytest.raises(ValidationError, match="fails: ValueError: nobody learns these"):
        Method(training="qat", activations="test_picky")


def test_an_empty_histogram_has_the_range_that_was_seen():
    zero = torch.tensor(0.0)
    histogram = Histogram(zero, zero, torch.zeros(1, 2048))
    for kind in ActivationRange.kinds.values():
        assert kind().ends(histogram, bits=4, scheme="asymmetric") == (zero, zero)
    assert StaticActivations(range=Fixed()).range == Fixed()
    assert Calibration(choice="balanced").choice.kind == "balanced"
