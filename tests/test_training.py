from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quantskew import models
from quantskew.architecture import Architecture
from quantskew.models import ModelError
from quantskew.names import Variant
from quantskew.params import parse
from quantskew.quantization.fitting import Dampen
from quantskew.quantization.method import Method
from quantskew.quantization.weights import Float16
from quantskew.sections import ParamsError
from quantskew.training.loop import DivergedError, fit, parameter_groups
from quantskew.training.losses import Weighted, difficulty_weights
from quantskew.training.optimizers import AdamW, Constant, Cosine, Sgd, Step
from quantskew.training.sampling import AsIs, Balanced, Oversample, balanced_subset
from quantskew.training.training import Training
from quantskew.variants import make_variants, widths


def blobs(n=96):
    """Images whose class is where the bright half is."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(n) % 2
    images[labels == 0, :, :4] += 150
    images[labels == 1, :, 4:] += 150
    return images, labels


def small_network(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.Flatten()),
        nn.Dropout(dropout), nn.Linear(256, 2),
    )  # fmt: skip


def order(epoch):
    return torch.randperm(96, generator=torch.Generator().manual_seed(epoch))


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.integers(0, 1000),
    st.sampled_from([Balanced(by="who"), Oversample(by="who")]),
)
def test_sampling_equalizes_counts(labels, seed, sampling):
    people = pd.DataFrame({"who": pd.Categorical(labels), "label": 0})
    chosen = sampling.epoch(people, torch.Generator().manual_seed(seed))
    labels = torch.tensor(labels)
    before, counts = labels.bincount(minlength=6), labels[chosen].bincount(minlength=6)
    mean = round(len(labels) / len(labels.unique()))
    size = before.max() if isinstance(sampling, Oversample) else mean
    assert torch.equal(counts, torch.where(before > 0, size, 0))
    # no sample of a group is seen twice more often than another
    times = chosen.bincount(minlength=len(labels))
    for group in labels.unique():
        seen = times[labels == group]
        assert seen.max() - seen.min() <= 1


def test_sampling_as_is_sees_every_sample_once():
    people = pd.DataFrame({"label": [0, 0, 0, 1]})
    chosen = AsIs().epoch(people, torch.Generator().manual_seed(1))
    assert sorted(chosen.tolist()) == [0, 1, 2, 3]


def test_the_watched_subset_is_balanced():
    groups = np.array([0] * 30 + [1] * 7 + [3] * 50)
    chosen = balanced_subset(groups, most=20, seed=0)
    assert np.bincount(groups[chosen]).tolist() == [7, 7, 0, 7]
    assert len(set(chosen)) == len(chosen)


def test_the_hardest_class_weighs_six_times_the_others():
    weights = difficulty_weights(np.array([0.9, 0.2, 0.8, 0.9, 0.7]))
    np.testing.assert_allclose(weights, [0.1, 0.6, 0.1, 0.1, 0.1])


def test_weights_of_classes_are_those_given_or_follow_the_baseline():
    three = SimpleNamespace(classes=("a", "b", "c"))
    accuracy = np.array([0.9, 0.2, np.nan])
    assert Weighted(class_weights=(1, 2, 3)).objective(three).weights.tolist() == [1, 2, 3]
    assert Weighted().objective(three, accuracy).weights.tolist() == [0.125, 0.75, 0.125]
    assert Weighted().needs_history
    assert not Weighted(class_weights=(1, 2)).needs_history
    with pytest.raises(ParamsError, match=r"got 2 numbers for 3 classes \(a, b, c\)"):
        Weighted(class_weights=(1, 2)).objective(three)
    with pytest.raises(ParamsError, match="loss: weighted needs class_weights here"):
        Weighted().objective(three)


def test_class_weights_pull_the_network_to_a_class():
    images, labels = blobs()
    noise = torch.randint(0, 255, images.shape, generator=torch.Generator().manual_seed(1))
    settings = Training(epochs=2, batch_size=32, lr=1e-2)
    shares = []
    two = SimpleNamespace(classes=("a", "b"))
    for weights in ([1.0, 1.0], [0.001, 1.0]):
        network = small_network()
        fit(network, noise.to(torch.uint8), labels, settings=settings, order=order,
            objective=Weighted(class_weights=weights).objective(two))  # fmt: skip
        shares.append((models.logits(network, noise.to(torch.uint8)).argmax(1) == 1).float().mean())
    assert shares[1] > 0.95
    assert shares[0] < 0.9


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_learns_and_records_history(optimizer):
    images, labels = blobs()
    network = small_network()
    settings = Training(epochs=3, batch_size=32, lr=1e-2, optimizer=optimizer)
    history = fit(network, images, labels, settings=settings, order=order, watched=(images, labels))
    assert torch.stack(history.correct).shape == (3, 96)
    assert history.correct[-1].float().mean() > 0.95
    assert history.loss[-1].mean() < history.loss[0].mean()


@pytest.mark.parametrize(("optimizer", "dropout"), [("adamw", 0.0), ("sgd", 0.0), ("adamw", 0.5)])
def test_training_goes_on_from_a_checkpoint_as_if_never_interrupted(
    tmp_path, monkeypatch, optimizer, dropout
):
    images, labels = blobs()
    monkeypatch.setattr("quantskew.training.loop.CHECKPOINT_SECONDS", -1)
    settings = Training(epochs=4, batch_size=32, lr=1e-2, optimizer=optimizer)
    options = {"settings": settings, "watched": (images, labels)}

    whole = small_network(dropout)
    torch.manual_seed(98)  # nothing may depend on the random state, nor on what ran before
    expected = fit(whole, images, labels, order=order, **options)

    def interrupted(epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return order(epoch)

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(small_network(dropout), images, labels, order=interrupted, checkpoint=path, **options)
    resumed = small_network(dropout)
    torch.manual_seed(99)
    history = fit(resumed, images, labels, order=order, checkpoint=path, **options)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(torch.stack(history.loss), torch.stack(expected.loss))
    assert history.images == expected.images == 4 * 96
    other = small_network(dropout)
    fit(other, images, labels, order=order, seed=1, **options)
    assert torch.equal(other[4].weight, whole[4].weight) is (dropout == 0)


def test_seconds_count_what_was_kept_and_no_interruption(tmp_path, monkeypatch):
    images, labels = blobs()
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("quantskew.training.loop.time", clock)

    def taking(epoch):
        clock.now += 70  # so that every epoch is kept
        if epoch == stop:
            raise KeyboardInterrupt
        return order(epoch)

    options = {"settings": Training(epochs=4, batch_size=32), "order": taking}
    path = tmp_path / "checkpoint.safetensors"
    stop = 2
    with pytest.raises(KeyboardInterrupt):
        fit(small_network(), images, labels, checkpoint=path, **options)
    clock.now += 10_000
    stop = None
    assert fit(small_network(), images, labels, checkpoint=path, **options).seconds == 280


def test_a_loss_that_diverges_is_told():
    images, labels = blobs()
    network = small_network()
    network[4].weight.data.fill_(float("inf"))
    settings = Training(epochs=2, batch_size=32)
    with pytest.raises(DivergedError, match=r"epoch 1 of 2 at a learning rate of 0\.003"):
        fit(network, images, labels, settings=settings, order=order)


def test_weight_decay_spares_biases_and_norms():
    decayed, spared = parameter_groups(small_network())
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert spared["weight_decay"] == 0.0
    assert {p.ndim for p in spared["params"]} == {1}


@pytest.mark.parametrize(
    ("optimizer", "reference"),
    [
        (AdamW(), lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.2)),
        (Sgd(), lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.2, momentum=0.9)),
        (Sgd(momentum=0), lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.2)),
    ],
    ids=["adamw", "sgd", "sgd without momentum"],
)
def test_an_optimizer_steps_as_that_of_pytorch(optimizer, reference):
    results = []
    for make in (lambda groups: optimizer.over(groups, lr=0.1, weight_decay=0.2), reference):
        decayed, spared = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        steps = make([{"params": [decayed]}, {"params": [spared], "weight_decay": 0.0, "lr": 0.01}])
        for _ in range(3):
            steps.zero_grad()
            (decayed.square().sum() + spared.square().sum()).backward()
            steps.step()
        results.append(torch.cat([decayed.detach(), spared.detach()]))
    torch.testing.assert_close(*results)


def test_an_optimizer_whose_state_cannot_be_stored_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("quantskew.training.loop.CHECKPOINT_SECONDS", -1)

    class Listing(torch.optim.SGD):
        def step(self):
            super().step()
            self.state[self.param_groups[0]["params"][0]]["steps"] = [1]

    monkeypatch.setattr(Sgd, "over", lambda self, groups, lr, weight_decay: Listing(groups, lr))
    images, labels = blobs()
    settings = Training(epochs=2, batch_size=32, optimizer=Sgd())
    with pytest.raises(AttributeError, match="list"):
        fit(small_network(), images, labels, settings=settings, order=order,
            checkpoint=tmp_path / "checkpoint.safetensors")  # fmt: skip


def test_the_learning_rate_rises_and_falls():
    shares = np.linspace(0, 0.999, 50)
    factors = np.array([Cosine().factor(share, 0.1) for share in shares])
    peak = factors.argmax()
    assert shares[peak] == pytest.approx(0.1, abs=0.03)
    assert (np.diff(factors[: peak + 1]) > 0).all()
    assert (np.diff(factors[peak:]) < 0).all()
    assert factors[-1] < 0.001
    assert [Step().factor(s, 0) for s in (0.1, 0.6, 0.8)] == pytest.approx([1, 0.1, 0.01])
    assert [Constant().factor(s, 0.2) for s in (0.1, 0.6, 0.8)] == pytest.approx(
        [0.5, 1, 1], abs=0.01
    )


@pytest.mark.parametrize("schedule", [Cosine(), Step(), Constant()], ids=repr)
def test_each_step_has_the_rate_of_the_schedule(monkeypatch, schedule):
    images, labels = blobs()
    settings = Training(
        epochs=2, batch_size=32, lr=0.5, warmup=0.3, optimizer=Sgd(), schedule=schedule
    )
    rates, step = [], torch.optim.SGD.step

    def recorded(optimizer, *arguments):
        rates.append([group["lr"] for group in optimizer.param_groups])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    fit(small_network(), images, labels, settings=settings, order=order)
    expected = [0.5 * schedule.factor(number / 6, 0.3) for number in range(6)]
    np.testing.assert_allclose(rates, [[rate, rate] for rate in expected])


def test_dampening_starts_after_a_quarter():
    dampen = Dampen(strength=0.1)
    assert dampen.strength_at(0.2) == 0
    assert dampen.strength_at(0.625) == pytest.approx(0.05)
    assert dampen.strength_at(1.0) == pytest.approx(0.1)


def test_a_float_format_has_a_width_of_its_own():
    assert widths(Method(), (8, 4)) == (8, 4)
    assert widths(Method(weights=Float16()), (8, 4)) == (16,)


def test_edges_of_groups_go_where_a_recipe_divides_by_them(monkeypatch):
    recipe = {"loss": {"kind": "group_dro", "by": "age*sex"}}
    study = parse(
        {
            "datasets": ["digits"], "sources": {"digits": None}, "models": ["own"], "bits": [4],
            "seeds": [0], "reference": "plain", "groups": {"bins": {"age": [30], "height": [1.7]}},
            "methods": {
                "plain": {}, "dro": {"recipe": recipe}, "qat": {"training": "qat"},
                "weighted": {"recipe": {"loss": "weighted"}},
            },
            "qat": {"epochs": 9}, "training": {"epochs": 8},
        }
    )  # fmt: skip
    asked, others = {}, {}

    def attempt(cells, **_):
        asked.update({cell.name: cell.arguments["bins"] for cell in cells})
        others.update({cell.name: cell.arguments for cell in cells})
        return SimpleNamespace(folders={cell.name: Path() for cell in cells}, failures={})

    baseline = {Variant("digits", "own", 0, "fp32", 32): SimpleNamespace(file=Path())}
    monkeypatch.setattr("quantskew.variants.attempt", attempt)
    monkeypatch.setattr("quantskew.variants.stored_variants", lambda *_: baseline)
    monkeypatch.setattr("quantskew.variants.collect", lambda *_: None)
    make_variants(study, "quantize", "digits", "own")
    assert asked["plain-4bit-seed0"] == {}
    assert asked["dro-32bit-seed0"] == asked["dro-4bit-seed0"] == {"age": (30,)}
    # nor does what a method does not look at
    epochs = {name: cell["training"].epochs for name, cell in others.items()}
    assert {name for name, count in epochs.items() if count == 8} == {
        "dro-32bit-seed0", "weighted-32bit-seed0", "qat-4bit-seed0"
    }  # fmt: skip
    assert others["qat-4bit-seed0"]["qat_settings"].epochs == 9
    assert others["plain-4bit-seed0"]["qat_settings"].epochs == 3
    assert {name for name, cell in others.items() if cell["baseline_history"]} == {
        "weighted-32bit-seed0", "weighted-4bit-seed0"
    }  # fmt: skip


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_runs_on_small_images(name):
    network = models.build(name, classes=3, channels=1, size=28)
    images = torch.randint(0, 255, (2, 1, 28, 28), dtype=torch.uint8)
    assert models.logits(network, images).shape == (2, 3)


def test_a_transformer_refuses_images_too_small_to_be_cut_into_patches():
    with pytest.raises(models.ModelError, match="of 7 pixels a side are too small"):
        models.build("vit_small", classes=3, channels=1, size=7)


def test_the_normalization_is_part_of_the_network():
    own = Architecture(factory=f"{__name__}:flat", mean=(0.25,), std=(0.5,))
    network = models.build("own", classes=2, channels=1, size=4, architecture=own)
    images = torch.rand(3, 1, 4, 4)
    expected = nn.functional.linear(((images - 0.25) / 0.5).flatten(1), network[1].weight)
    torch.testing.assert_close(network(images), expected + network[1].bias)


def flat(classes, channels, size, broken=False):
    if broken:
        raise ValueError("no such thing")
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))


def test_a_checkpoint_of_ones_own_is_loaded_whole_or_refused(tmp_path):
    network = flat(2, 1, 4)
    models.save_weights(network, tmp_path / "w.safetensors")
    again = flat(2, 1, 4)
    models.load_checkpoint(again, tmp_path / "w.safetensors")
    assert torch.equal(again[1].weight, network[1].weight)
    with pytest.raises(ModelError, match=r"w.safetensors does not hold the weights"):
        models.load_checkpoint(flat(3, 1, 4), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("name", "factory", "words"),
    [
        ("resnet81", None, "did you mean 'resnet18'"),
        ("mine", "nowhere_at_all:make", "No module named"),
        ("mine", f"{__name__}:missing", "missing"),
        ("mine", "timm:resnet1800", "resnet1800"),
        ("mine", f"{__name__}:order", "does not build a network"),
    ],
)
def test_a_network_that_cannot_be_built_is_named(name, factory, words):
    architecture = Architecture(factory=factory) if factory else None
    with pytest.raises(ModelError, match=words):
        models.build(name, classes=2, channels=1, size=8, architecture=architecture)
