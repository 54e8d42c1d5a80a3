"""Every remedy of the training acts as its name says, and survives an interruption."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from quantskew import models
from quantskew.data.loading import Samples
from quantskew.training.augmentation import (
    Cutmix,
    Erasing,
    Geometric,
    Mixup,
    Unchanged,
)
from quantskew.training.loop import fit
from quantskew.training.losses import REMEMBERED, Constrained, CrossEntropy, GroupDro, Weighted
from quantskew.training.objective import Objective
from quantskew.training.optimizers import Constant
from quantskew.training.recipe import Recipe
from quantskew.training.sampling import Balanced, Oversample, Sampling
from quantskew.training.training import Training
from quantskew.training.transforms import erase, move

# isort: split
from torchvision.transforms import InterpolationMode, v2  # which quantskew lets load

FEW = 0  # the code of the group "few", before "most"
KINDS = (Geometric(), Erasing(), Mixup(), Cutmix())
SETTINGS = Training(epochs=6, batch_size=32, lr=1e-2, schedule=Constant(), warmup=0)


@pytest.fixture(scope="module")
def people():
    """One side of the image tells the class of most loudly, and of a few it tells the opposite.

    The upper and the lower half tell the class of all, in a low voice.
    """
    generator = torch.Generator().manual_seed(0)
    n = 400
    labels = torch.randint(0, 2, (n,), generator=generator)
    few = torch.rand(n, generator=generator) < 0.1
    side = torch.where(few, 1 - labels, labels)
    images = torch.randint(0, 60, (n, 1, 8, 8), generator=generator)
    columns, rows = torch.arange(8) // 4, torch.arange(8)[:, None] // 4
    images += 120 * (columns == side.view(n, 1, 1, 1)) + 30 * (rows == labels.view(n, 1, 1, 1))
    attributes = pd.DataFrame({"who": np.where(few, "few", "most"), "label": labels.numpy()})
    return Samples(
        images=images.to(torch.uint8), labels=labels, ids=attributes.index.to_numpy(str),
        split=np.full(n, "train"), attributes=attributes, classes=("a", "b"), metadata={},
    )  # fmt: skip


def train(data, recipe, network=None, **options):
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    goal = recipe.loss.objective(data)
    settings = options.pop("settings", SETTINGS)
    options = {"order": recipe.sampling.order(data.attributes, 0), **options}
    augment = recipe.augmentation.augmenter(classes=2, seed=0)
    fit(network, data.images, data.labels, settings=settings, objective=goal,
        augment=augment, **options)  # fmt: skip
    return network, goal


def accuracy(network, data, who):
    right = models.logits(network, data.images).argmax(1) == data.labels
    return right[torch.tensor((data.attributes["who"] == who).tolist())].float().mean()


def images_of(n, height=12, width=12, seed=0):
    return torch.rand(n, 2, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("by", ["who", "label", "who*label"])
@pytest.mark.parametrize("kind", [Balanced, Oversample])
def test_an_epoch_is_even_over_the_groups_asked_for(people, kind, by):
    chosen = kind(by=by).order(people.attributes, 0)(0)
    counts = people.attributes.groupby(by.split("*")).size()
    seen = people.attributes.iloc[chosen].groupby(by.split("*")).size()
    wanted = {Balanced: round(counts.mean()), Oversample: counts.max()}[kind]
    assert set(seen) == {wanted}
    assert len(seen) == len(counts)


def test_an_order_depends_on_the_seed_and_the_number_of_the_epoch_alone(people):
    for sampling in (Sampling.kinds[kind]() for kind in ("as_is", "balanced", "oversample")):
        first = sampling.order(people.attributes, 1)
        assert torch.equal(first(2), sampling.order(people.attributes, 1)(2))
        assert not torch.equal(first(2), first(3))
        assert not torch.equal(first(2), sampling.order(people.attributes, 0)(2))


@pytest.mark.parametrize("settings", KINDS, ids=repr)
def test_what_is_drawn_depends_on_seed_epoch_and_step_alone(settings):
    images, labels = images_of(8), torch.arange(8) % 3
    state = torch.get_rng_state()
    first = settings.augmenter(classes=3, seed=1)(images, labels, 2, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again = settings.augmenter(classes=3, seed=1)(images, labels, 2, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for seed, *at in ((0, 2, 3), (1, 3, 3), (1, 2, 4)):
        changed = settings.augmenter(classes=3, seed=seed)(images, labels, *at)[0]
        assert not torch.equal(changed, first[0])


@pytest.mark.parametrize("settings", [Geometric(), Erasing(), Unchanged()], ids=repr)
def test_labels_stay_where_images_are_not_mixed(settings):
    labels = torch.arange(8) % 3
    images = images_of(8)
    changed, same = settings.augmenter(classes=3, seed=0)(images, labels, 0, 0)
    assert not settings.mixes
    assert torch.equal(same, labels)
    differs = (changed != images).flatten(1).any(1)
    assert differs.tolist() == [settings != Unchanged()] * 8


@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 28)])
def test_images_are_moved_as_torchvision_moves_one(height, width):
    angles = torch.tensor([0.0, 20.0, -15.0, 0.0, 30.0])
    shifts = torch.tensor([[0.0, 0.0], [0, 0], [0.25, 0], [0, -0.125], [0.125, 0.25]])
    scales = torch.tensor([1.2, 1.0, 1.0, 0.8, 1.1])
    smooth = v2.functional.gaussian_blur(images_of(5, height, width), [5, 5])
    got = move(smooth, angles * torch.pi / 180, shifts, scales, torch.zeros(5, dtype=torch.bool))
    for i in range(5):
        expected = v2.functional.affine(
            smooth[i],
            angle=angles[i].item(),
            translate=[shifts[i, 0].item() * width, shifts[i, 1].item() * height],
            scale=scales[i].item(),
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
            fill=-100.0,
        )
        inside = expected >= 0
        assert inside.float().mean() > 0.4
        torch.testing.assert_close(got[i][inside], expected[inside], atol=1e-4, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_some_images_are_mirrored_where_that_is_asked_for(flip):
    images = images_of(20)
    settings = Geometric(degrees=0, shift=0, scale=0, flip=flip)
    changed, _ = settings.augmenter(classes=2, seed=0)(images, torch.zeros(20), 0, 0)
    same, mirrored = ((changed - x).abs().amax((1, 2, 3)) < 1e-5 for x in (images, images.flip(3)))
    assert torch.equal(same, ~mirrored)
    assert bool(mirrored.any()) == flip
    assert same.any()


@pytest.mark.parametrize(
    ("part", "largest"), [("degrees", 30.0), ("shift", 0.25), ("scale", 0.5)], ids=str
)
def test_each_geometric_change_stays_within_its_limit(monkeypatch, part, largest):
    drawn = {}

    def caught(images, angles, shifts, scales, mirrored):
        drawn.update(degrees=angles.rad2deg(), shift=shifts, scale=scales - 1, flip=mirrored)
        return images

    monkeypatch.setattr("quantskew.training.transforms.move", caught)
    settings = Geometric(**{"degrees": 0, "shift": 0, "scale": 0, part: largest})
    settings.augmenter(classes=2, seed=0)(images_of(500), torch.zeros(500), 0, 0)
    ends = {name: values.float().abs().max().item() for name, values in drawn.items()}
    assert ends.pop(part) == pytest.approx(largest, rel=0.02)
    assert set(ends.values()) == {0}
    assert drawn[part].min() < -0.9 * largest


@given(st.integers(0, 20), st.floats(0.1, 0.5), st.floats(0, 0.5))
def test_a_square_of_the_side_asked_for_is_erased(seed, low, more):
    images = images_of(16, 20, 30)
    settings = Erasing(sides=(low, low + more))
    changed, _ = settings.augmenter(classes=2, seed=seed)(images, torch.zeros(16), 0, 0)
    gone = changed != images
    assert torch.equal(gone[:, 0], gone[:, 1])
    rows, columns = gone[:, 0].any(2).sum(1), gone[:, 0].any(1).sum(1)
    assert torch.equal(rows, columns)
    assert torch.equal(gone[:, 0].sum((1, 2)), rows**2)
    assert rows.min() >= round(low * 20) - 1
    assert rows.max() <= round((low + more) * 20) + 1


def test_sides_differ_from_image_to_image_and_lie_anywhere():
    images = images_of(400, 20, 20)
    changed, _ = Erasing().augmenter(classes=2, seed=0)(images, torch.zeros(400), 0, 0)
    gone = (changed != images)[:, 0]
    sides = gone.any(2).sum(1)
    assert sides.min() == 1
    assert sides.max() == 8
    assert gone.any((0, 1)).all()
    assert gone.any((0, 2)).all()
    erased = erase(images[:1], torch.tensor([[2, 3]]), torch.tensor([4]))
    assert torch.equal(erased[0, :, 2:6, 3:7].amax((1, 2)), images[0].mean((1, 2)))


@pytest.mark.parametrize("settings", [Mixup(), Cutmix()], ids=repr)
def test_a_mixed_image_has_the_loss_of_both_in_their_shares(settings):
    images, labels = images_of(16), torch.arange(16) % 4
    mixed, shares = settings.augmenter(classes=4, seed=3)(images, labels, 0, 0)
    assert settings.mixes
    partners, other = images.roll(1, 0), labels.roll(1)
    share = shares[0, labels[0]]
    assert 0.05 < share < 0.95
    if isinstance(settings, Mixup):
        torch.testing.assert_close(mixed, share * images + (1 - share) * partners)
    else:
        own = mixed == images
        assert ((mixed == partners) | own).all()
        assert own.float().mean().item() == pytest.approx(share.item(), abs=1e-6)
    outputs = images_of(16).flatten(1)[:, :4]
    by_hand = share * cross_entropy(outputs, labels) + (1 - share) * cross_entropy(outputs, other)
    torch.testing.assert_close(Objective(CrossEntropy())(outputs, shares, labels), by_hand)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    both = torch.cat([share * weights[labels], (1 - share) * weights[other]])
    losses = torch.cat([cross_entropy(outputs, y, reduction="none") for y in (labels, other)])
    weighted = (both * losses).sum() / both.sum()
    goal = Weighted(class_weights=weights.tolist()).objective(classes(4))
    torch.testing.assert_close(goal(outputs, shares, labels), weighted)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_the_share_of_a_mixed_image_follows_the_beta_distribution(alpha):
    images, labels = images_of(2), torch.tensor([0, 1])
    augment = Mixup(alpha=alpha).augmenter(classes=2, seed=0)
    shares = [augment(images, labels, 0, step)[1][0, 0].item() for step in range(400)]
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.2)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_rectangles_are_pasted_as_torchvision_pastes_them(alpha):
    images, labels = images_of(8), torch.arange(8) % 2
    pasted = []
    for change in (
        lambda: Cutmix(alpha=alpha).change(images, labels, 2),
        lambda: v2.CutMix(alpha=alpha, num_classes=2)(images, labels),
    ):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pasted.append([change() for _ in range(5)])
    for ours, theirs in zip(*pasted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def classes(count):
    return SimpleNamespace(classes=tuple("abcd"[:count]))


def test_a_class_without_weight_is_not_learned_from():
    outputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    goal = Weighted(class_weights=(0.0, 1.0, 1000.0)).objective(classes(3))
    goal(outputs, labels, labels).backward()
    assert (outputs.grad[:2] == 0).all()
    assert (outputs.grad[2:] != 0).all()
    assert goal(outputs[:2], labels[:2], labels[:2]) == 0


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 1000.0)])
def test_the_weights_of_classes_act(people, weights):
    plain, _ = train(people, Recipe())
    weighted, _ = train(people, Recipe(loss=Weighted(class_weights=weights)))
    shares = [
        (models.logits(each, people.images).argmax(1) == 1).float().mean()
        for each in (plain, weighted)
    ]
    assert shares[1] > shares[0] + 0.1


def in_groups(groups):
    return SimpleNamespace(attributes=pd.DataFrame({"g": groups.numpy(), "label": 0}))


def test_group_dro_is_algorithm_1():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 3, (60,), generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator)
    goal = GroupDro(by="g", step_size=0.5, adjustment=2.0).objective(in_groups(groups))
    q = np.full(3, 1 / 3)
    for step in range(4):
        batch = torch.randperm(60, generator=generator)[: 3 if step == 2 else 20]
        outputs = torch.randn(len(batch), 4, generator=generator)
        loss = goal(outputs, labels[batch], batch)
        means = np.zeros(3)
        for g in range(3):
            inside = groups[batch] == g
            if inside.any():
                means[g] = cross_entropy(outputs[inside], labels[batch][inside])
            q[g] *= np.exp(0.5 * (means[g] + 2.0 / np.sqrt((groups == g).sum().item())))
        q /= q.sum()
        np.testing.assert_allclose(goal.weights, q, rtol=1e-5)
        assert loss.item() == pytest.approx((q * means).sum(), rel=1e-5)


def test_group_dro_turns_to_the_worst_group(people):
    few = (people.attributes["who"] == "few").tolist()
    coins = torch.randint(0, 2, (len(people),), generator=torch.Generator().manual_seed(1))
    hopeless = replace(people, labels=torch.where(torch.tensor(few), coins, people.labels))
    _, goal = train(hopeless, Recipe(loss=GroupDro(by="who", step_size=0.1)))
    assert goal.weights[FEW] > 0.9


def test_group_dro_helps_the_worst_group(people):
    plain, _ = train(people, Recipe())
    network, _ = train(people, Recipe(loss=GroupDro(by="who", step_size=0.1)))
    assert accuracy(network, people, "few") > accuracy(plain, people, "few") + 0.5


class Answering(nn.Module):
    """A network that gives these logits to images whose only pixel is their place."""

    def __init__(self, answers):
        super().__init__()
        self.answers = nn.Parameter(answers)

    def forward(self, images):
        return self.answers[(255 * images).round().long().flatten()]


def test_the_constraint_is_of_true_accuracies_and_its_surrogate_of_losses():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 3, (200,), generator=generator)
    labels = torch.randint(0, 4, (200,), generator=generator)
    reference = torch.rand(200, generator=generator) < 0.7
    samples = in_groups(groups)
    samples.images = torch.arange(200, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    samples.labels = labels
    samples.classes = tuple("abcd")
    answers = functional.one_hot(torch.where(reference, labels, (labels + 1) % 4)).float()
    settings = Constrained(by="g", tolerance=0.1, step_size=0.3)
    goal = settings.objective(samples, reference=Answering(answers))
    share = np.bincount(groups) / 200
    before = np.array([reference[groups == g].float().mean() for g in range(3)])
    history = {g: [] for g in range(3)}
    multipliers = np.zeros(3)
    for step in range(12):
        chosen = groups < 2 if step < 2 else groups >= 0  # the last group comes late
        batch = torch.nonzero(chosen).flatten()
        batch = batch[torch.randperm(len(batch), generator=generator)[:40]]
        outputs = torch.randn(len(batch), 4, generator=generator)
        wrong = (labels[batch] + 1) % 4
        outputs[torch.arange(len(batch)), wrong] += 3 * (groups[batch] == 0)
        loss = goal(outputs, labels[batch], batch)
        known = []
        for g in range(3):
            inside = groups[batch] == g
            history[g] += (outputs[inside].argmax(1) == labels[batch][inside]).tolist()
            known += [g] if history[g] else []
        now = np.array([np.mean(history[g][-REMEMBERED:]) for g in known])
        overall = (now * share[known]).sum() / share[known].sum()
        gap = (before * share).sum() - overall
        excess = (before[known] - now) - gap
        ours = settings.excess(dict(goal.named_buffers()))
        np.testing.assert_allclose(ours[0, known, 0], excess, atol=1e-5)
        multipliers[known] = np.maximum(0, multipliers[known] + 0.3 * (excess - 0.1))
        np.testing.assert_allclose(goal.multipliers.flatten(), multipliers, atol=1e-5)
        lagrangian, total = cross_entropy(outputs, labels[batch]).item(), 1.0
        for g in known:
            inside = groups[batch] == g
            if inside.any():
                mean = cross_entropy(outputs[inside], labels[batch][inside]).item()
                lagrangian += multipliers[g] * mean
                total += multipliers[g]
        assert loss.item() == pytest.approx(lagrangian / total, rel=1e-4)
    assert multipliers.max() > 0


def test_the_multiplier_moves_and_the_gap_shrinks(people):
    plain, _ = train(people, Recipe())
    network, goal = train(people, Recipe(loss=Constrained(by="who", tolerance=0.02, step_size=0.1)))
    assert goal.multipliers[0, FEW] > 0.5
    assert goal.multipliers[0, 1 - FEW] < 0.1
    gaps = [accuracy(n, people, "most") - accuracy(n, people, "few") for n in (plain, network)]
    assert gaps[0] > 0.5
    assert gaps[1] < gaps[0] / 2
    # a bound that nothing reaches binds nothing
    free, goal = train(people, Recipe(loss=Constrained(by="who", tolerance=1.0, step_size=0.1)))
    assert (goal.multipliers == 0).all()
    assert all(
        torch.equal(a, b) for a, b in zip(free.parameters(), plain.parameters(), strict=True)
    )


def test_a_gap_of_the_reference_is_excused(people):
    plain, _ = train(people, Recipe())
    loss = Constrained(by="who", tolerance=0.02)
    strict, excused = loss.objective(people), loss.objective(people, reference=plain)
    everyone = torch.arange(len(people))
    outputs = models.logits(plain, people.images)
    for goal in (strict, excused):
        goal(outputs, people.labels, everyone)
    assert strict.multipliers.max() > 0.004
    assert excused.multipliers.max() < 0.002


@pytest.fixture(scope="module")
def sides():
    """Left and right have the same images but for a light that tells the side, not the class.

    The class goes with the side, so a network that may look at the light answers by it.
    """
    generator = torch.Generator().manual_seed(1)
    n = 600
    left = torch.rand(n, generator=generator) < 0.5
    labels = (torch.rand(n, generator=generator) < torch.where(left, 0.8, 0.2)).long()
    images = torch.randint(0, 120, (n, 1, 8, 8), generator=generator)
    images[:, :, 0] += 60 * left[:, None, None]
    images[:, :, 4] += 40 * labels[:, None, None]
    attributes = pd.DataFrame({"side": np.where(left, "left", "right"), "label": labels.numpy()})
    return Samples(
        images=images.to(torch.uint8), labels=labels, ids=attributes.index.to_numpy(str),
        split=np.full(n, "train"), attributes=attributes, classes=("a", "b"), metadata={},
    )  # fmt: skip


def fairlearn_gap(name, network, data):
    gap = {
        "demographic_parity": demographic_parity_difference,
        "equalized_odds": equalized_odds_difference,
    }[name]
    predicted = models.logits(network, data.images).argmax(1).numpy()
    return gap(data.labels.numpy(), predicted, sensitive_features=data.attributes["side"])


@pytest.mark.parametrize("constraint", ["demographic_parity", "equalized_odds"])
def test_a_constraint_of_rates_closes_the_gap_that_it_names(sides, constraint):
    plain, _ = train(sides, Recipe())
    loss = Constrained(by="side", constraint=constraint, tolerance=0.05, step_size=0.1)
    network, goal = train(sides, Recipe(loss=loss))
    before, after = (fairlearn_gap(constraint, n, sides) for n in (plain, network))
    assert before > 0.25
    assert after < 0.6 * before
    assert goal.multipliers.max() > 0.3
    # a bound that nothing reaches binds nothing
    loose = Constrained(by="side", constraint=constraint, tolerance=1.0)
    free, _ = train(sides, Recipe(loss=loose))
    assert fairlearn_gap(constraint, free, sides) == before


@pytest.mark.parametrize("constraint", ["demographic_parity", "equalized_odds"])
def test_rates_are_compared_with_those_of_their_pool(sides, constraint):
    """Recomputed by hand from the samples that the loss remembers."""
    loss = Constrained(by="side", constraint=constraint, tolerance=0.05)
    outputs = torch.randn(len(sides), 2, generator=torch.Generator().manual_seed(3))
    goal = loss.objective(sides)
    first = torch.arange(60)  # fewer of each cell than it remembers
    goal(outputs[first], sides.labels[first], first)
    left = torch.tensor((sides.attributes["side"] == "left").tolist())
    found = loss.excess(dict(goal.named_buffers()))
    answers, labels = outputs[:60].argmax(1), sides.labels[:60]
    whole = {}
    for side in (0, 1):
        for label in (0, 1) if constraint == "equalized_odds" else (None,):
            inside = left == (side == 0)  # "left" is the first code
            inside = inside if label is None else inside & (sides.labels == label)
            whole[side, label] = (inside.sum(), [(answers[inside[:60]] == k).float().mean()
                                                 for k in (0, 1)])  # fmt: skip
    for cell, ((side, label), (_, rates)) in enumerate(sorted(whole.items(), key=str)):
        same = [one for (_, other), one in whole.items() if other == label]
        for k in (0, 1):
            pool = sum(n * r[k] for n, r in same) / sum(n for n, _ in same)
            gap = float(rates[k] - pool)
            assert found[0, cell, k].item() == pytest.approx(gap, abs=1e-5), (side, label, labels)
            assert found[1, cell, k].item() == pytest.approx(-gap, abs=1e-5)


def test_a_gap_of_rates_that_the_reference_has_is_excused_on_its_side(sides):
    plain, _ = train(sides, Recipe())
    everyone = torch.arange(len(sides))
    outputs = models.logits(plain, sides.images)
    found = {}
    for excuse in (True, False):
        loss = Constrained(by="side", constraint="demographic_parity", tolerance=0, excuse=excuse)
        goal = loss.objective(sides, reference=plain)
        goal(outputs, sides.labels, everyone)
        found[excuse] = loss.excess(dict(goal.named_buffers()))
        assert (goal.excused >= 0).all()
    assert found[False].max() > 0.1
    assert found[True].max() < found[False].max() / 2
    # no gap at all is as legal as before
    assert (found[True] <= found[False] + 1e-6).all()


@pytest.mark.parametrize(
    "recipe",
    [
        {"sampling": {"kind": "balanced", "by": "who"}},
        {"sampling": "oversample"},
        *({"augmentation": kind} for kind in KINDS),
        {
            "augmentation": "erasing",
            "sampling": {"kind": "oversample", "by": "who*label"},
            "loss": {"kind": "group_dro", "by": "who*label"},
        },
        {"loss": {"kind": "weighted", "class_weights": (1, 2)}},
        {"loss": {"kind": "group_dro", "by": "who"}},
        {"loss": {"kind": "constrained", "by": "who"}},
        {"loss": {"kind": "constrained", "by": "who", "constraint": "equalized_odds"}},
    ],
    ids=str,
)
def test_an_interrupted_remedy_goes_on_as_if_it_had_not_been(people, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr("quantskew.training.loop.CHECKPOINT_SECONDS", -1)
    recipe = Recipe.model_validate(recipe)
    settings = Training(epochs=3, batch_size=32, lr=1e-2)
    whole, expected = train(people, recipe, settings=settings)
    order = recipe.sampling.order(people.attributes, 0)

    def interrupted(epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return order(epoch)

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(people, recipe, settings=settings, order=interrupted, checkpoint=path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    resumed, goal = train(people, recipe, other, settings=settings, checkpoint=path)
    states = [{**n.state_dict(), **g.state_dict()} for n, g in ((whole, expected), (resumed, goal))]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.allclose(value, states[1][key], rtol=0, atol=0, equal_nan=True), key
    plain, _ = train(people, Recipe(), settings=settings)
    assert not torch.equal(plain[1].weight, whole[1].weight)
