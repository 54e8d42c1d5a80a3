"""A kind of any setting of the training is one class: named in parameters, it is what runs."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from quantskew import baselines
from quantskew.architecture import Architecture
from quantskew.data.groups import ByGroup
from quantskew.data.loading import Samples
from quantskew.engine.fingerprint import identity
from quantskew.models import logits
from quantskew.sections import ParamsError, Section, checked
from quantskew.subject import Subject
from quantskew.training.augmentation import Augmentation
from quantskew.training.losses import Loss
from quantskew.training.optimizers import Optimizer, Schedule
from quantskew.training.recipe import Recipe
from quantskew.training.sampling import Sampling
from quantskew.training.training import Training

FAMILIES = {
    "optimizer": Optimizer, "schedule": Schedule, "sampling": Sampling,
    "augmentation": Augmentation, "loss": Loss,
}  # fmt: skip


@pytest.fixture
def kinds(monkeypatch):
    """One new kind of every family, and what each was asked for."""
    for family in FAMILIES.values():
        monkeypatch.setattr(family, "kinds", {**family.kinds})
    calls = {name: [] for name in FAMILIES}

    class SignSgd(Optimizer, kind="sign_sgd"):
        def over(self, groups, lr, weight_decay):
            class Sign(torch.optim.SGD):
                def step(self):
                    for group in self.param_groups:
                        for parameter in group["params"]:
                            parameter.grad.sign_()
                    super().step()

            calls["optimizer"].append((lr, weight_decay))
            return Sign(groups, lr)

    class Halving(Schedule, kind="halving"):
        every: float = 0.25

        def after_warmup(self, share, warmup):
            calls["schedule"].append(share)
            return 0.5 ** (share // self.every)

    class Largest(ByGroup, Sampling, kind="largest"):
        """The samples of the largest group alone."""

        def epoch(self, attributes, generator):
            codes = self.codes(attributes)
            chosen = torch.from_numpy(np.flatnonzero(codes == np.bincount(codes).argmax()))
            calls["sampling"].append(len(chosen))
            return chosen[torch.randperm(len(chosen), generator=generator)]

    class Negative(Augmentation, kind="negative"):
        def change(self, images, labels, classes):
            calls["augmentation"].append(len(images))
            return 1 - images, labels

    class Last(Loss, kind="last"):
        """Drive every sample to the last class, and count the batches."""

        weight: float = 1.0

        def start(self, train, accuracy, reference):
            return {"batches": torch.zeros(())}

        def of_batch(self, outputs, targets, batch, state):
            state["batches"] += 1
            calls["loss"].append(state["batches"].item())
            return -self.weight * outputs.log_softmax(1)[:, -1].mean()

    return calls


def linear(classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes, bias=False))


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train a tiny network by the cell of the study; return it and how it answers."""
    generator = torch.Generator().manual_seed(0)
    attributes = pd.DataFrame({"who": ["few", "most", "most"] * 20, "label": ["a", "b"] * 30})
    data = Samples(
        images=torch.randint(0, 256, (60, 1, 4, 4), generator=generator).to(torch.uint8),
        labels=torch.arange(60) % 2,
        ids=np.arange(60).astype(str),
        split=np.repeat(["test", "train"], 30),
        attributes=attributes,
        classes=("a", "b"),
        metadata={"shape": [1, 4, 4]},
    )
    monkeypatch.setattr("quantskew.data.loading.load", lambda _: data)

    own = Architecture(factory=f"{__name__}:linear", mean=(0,), std=(1,))

    def run(training, recipe):
        training = checked(Training, {"epochs": 2, "batch_size": 8, "warmup": 0, **training}, "")
        baselines.train(
            tmp_path, subject=Subject(samples=tmp_path, model="own", architecture=own), seed=0,
            training=training, recipe=checked(Recipe, recipe, "a recipe"),
        )  # fmt: skip
        weights = safetensors.torch.load_file(tmp_path / "network.safetensors")
        return torch.cat([weight.flatten() for weight in weights.values()]), data

    return run


def test_the_plain_training_asks_no_new_kind(kinds, train):
    train({}, {})
    assert not any(kinds.values())


@pytest.mark.parametrize(
    ("training", "recipe", "name", "expected"),
    [
        ({"optimizer": "sign_sgd", "lr": 0.5}, {}, "optimizer", [(0.5, 0.05)]),
        (
            {"schedule": {"kind": "halving", "every": 0.5}},
            {},
            "schedule",
            [k / 8 for k in range(8)],
        ),
        ({}, {"sampling": {"kind": "largest", "by": "who"}}, "sampling", [20, 20]),
        ({}, {"sampling": "largest"}, "sampling", [15, 15]),
        ({}, {"augmentation": "negative"}, "augmentation", [8, 8, 8, 6] * 2),
        ({}, {"loss": {"kind": "last", "weight": 5}}, "loss", [*range(1, 9)]),
    ],
    ids=str,
)
def test_a_new_kind_is_what_runs(kinds, train, training, recipe, name, expected):
    plain, _ = train({}, {})
    weights, _ = train(training, recipe)
    calls = sorted(set(kinds[name])) if name == "schedule" else kinds[name]
    assert calls == expected
    assert not torch.equal(weights, plain)
    assert not any(asked for other, asked in kinds.items() if other != name)


def test_new_kinds_work_together_as_they_say(kinds, train):
    lr, settings = 0.125, {"optimizer": "sign_sgd", "schedule": "halving", "lr": 0.125}
    recipe = {"sampling": "largest", "augmentation": "negative", "loss": "last"}
    weights, data = train(settings, recipe)
    torch.manual_seed(0)
    expected = linear(2, 1, 4)
    # no pixel is negative, so each step moves every weight by the rate, towards the last class
    steps = [lr * 0.5**number for number in range(4)]
    with torch.no_grad():
        expected[1].weight += sum(steps) * torch.tensor([[-1.0], [1.0]])
    torch.testing.assert_close(weights, expected[1].weight.flatten())
    assert (logits(expected, data.train.images).argmax(1) == 1).all()


def test_a_new_kind_has_an_identity_and_names_its_grouping(kinds):
    recipe = checked(Recipe, {"sampling": {"kind": "largest", "by": "who"}, "loss": "last"}, "")
    assert recipe.groupings == ("who",)
    sampling, loss = identity(recipe)["sampling"], identity(recipe)["loss"]
    assert (sampling["kind"], sampling["by"]) == ("largest", "who")
    assert (loss["kind"], loss["weight"]) == ("last", 1.0)
    with pytest.raises(ParamsError, match="did you mean 'largest'"):
        checked(Recipe, {"sampling": "larges"}, "")


@pytest.mark.parametrize(
    "section",
    [
        *(Training(**{name: kind}) for name in ("optimizer", "schedule")
          for kind in FAMILIES[name].kinds),
        *(Recipe(**{name: kind}) for name in ("sampling", "augmentation", "loss")
          for kind in FAMILIES[name].kinds),
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_goes_through_yaml_and_pickle(section: Section):
    plain = section.model_dump()
    assert type(section).model_validate(plain) == section
    assert pickle.loads(pickle.dumps(section)) == section
    assert hash(type(section).model_validate(plain)) == hash(section)
    changed = {str(identity(other)) for other in (Training(), Recipe(), section)}
    assert len(changed) == (2 if section in (Training(), Recipe()) else 3)


def test_the_parameters_load_no_torch():
    code = "import quantskew.params, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
