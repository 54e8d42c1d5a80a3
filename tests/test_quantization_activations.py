"""Quantized activations: ranges from histograms, groups, hooks, files; choosing images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quantization_networks import SMALL, network
from torch import nn

from quantskew.errors import UserError
from quantskew.quantization.activations import (
    DynamicActivations,
    Histogram,
    StaticActivations,
    observe,
)
from quantskew.quantization.affine import code_range, fake_quantize, scale_and_zero_point
from quantskew.quantization.calibration import BalancedChoice, RandomChoice
from quantskew.quantization.input_quantizers import ActivationQuantizer
from quantskew.quantization.packing import load, save
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.ranges import InputEntropy, InputMinMax, InputMse, InputPercentile
from quantskew.quantization.weights import IntegerWeights

GRID = {"bits": 8, "scheme": "asymmetric"}


def histogram_of(*groups):
    values = torch.cat(groups)
    low, high = values.min().clamp_max(0), values.max().clamp_min(0)
    counts = [torch.histc(group, 2048, low.item(), high.item()) for group in groups]
    return Histogram(low, high, torch.stack(counts))


def squared_error(values, ends, bits):
    grid = scale_and_zero_point(*ends, bits, "asymmetric")
    rounded = fake_quantize(values, *grid, *code_range(bits, "asymmetric"))
    return (rounded - values).square().mean().item()


@pytest.fixture
def skewed():
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(20000, generator=generator).relu()
    few = torch.randn(500, generator=generator).relu() * 4
    return many, few


def test_more_values_than_float32_counts_are_counted():
    images = torch.zeros(2, 2**23 + 50, 1)
    images[0, 0] = 1
    counts = observe(nn.Linear(1, 1).eval(), images)[""].counts
    assert counts[0, 0] == images.numel() - 1
    assert counts.sum() == images.numel()


def test_min_max_holds_zero_and_all_values():
    ends = InputMinMax().ends(histogram_of(torch.tensor([1.0, 3.0])), **GRID)
    assert [end.item() for end in ends] == [0.0, 3.0]


def test_percentile_is_that_of_the_values(skewed):
    values = torch.cat(skewed) - 0.5
    histogram = histogram_of(*[s - 0.5 for s in skewed])
    low, high = InputPercentile(percentile=99).ends(histogram, **GRID)
    width = (values.max() - values.min()).item() / 2048
    assert low.item() == pytest.approx(values.quantile(0.005).item(), abs=1.5 * width)
    assert high.item() == pytest.approx(values.quantile(0.995).item(), abs=1.5 * width)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_mse_is_the_best_of_the_candidates(skewed, bits):
    values = torch.cat(skewed)
    ends = InputMse().ends(histogram_of(*skewed), bits=bits, scheme="asymmetric")
    found = squared_error(values, ends, bits)
    best = min(
        squared_error(values, (values.min() * k / 100, values.max() * k / 100), bits)
        for k in range(1, 101)
    )
    assert found == pytest.approx(best, rel=0.02)


def test_worst_group_is_better_off_with_its_own_objective(skewed):
    histogram = histogram_of(*skewed)

    def worst(objective):
        ends = InputMse(objective=objective).ends(histogram, bits=3, scheme="asymmetric")
        return max(squared_error(group, ends, 3) for group in skewed)

    assert worst("worst_group") < worst("mean")


def test_entropy_clips_a_long_tail_and_keeps_a_flat_one():
    flat = torch.linspace(0, 1, 20480)
    tailed = torch.cat([flat, torch.tensor([20.0])])
    assert InputEntropy().ends(histogram_of(flat), **GRID)[1].item() > 0.95
    assert InputEntropy().ends(histogram_of(tailed), **GRID)[1].item() < 2


def test_a_range_without_a_value_is_not_the_closest():
    # two lumps far from zero, which the narrowest ranges leave out altogether
    lumps = torch.cat([torch.linspace(9, 10, 999), -torch.linspace(9, 10, 999)])
    assert InputEntropy().ends(histogram_of(lumps), **GRID)[1].item() >= 9


@torch.no_grad()
def test_static_hook_is_torchs_fake_quantization():
    x = torch.randn(4, 6)
    hook = ActivationQuantizer(4, "asymmetric", 0.25, 7)
    (made,) = hook(nn.Identity(), (x,))
    assert torch.equal(made, torch.fake_quantize_per_tensor_affine(x, 0.25, 7, 0, 15))


@torch.no_grad()
def test_dynamic_logits_do_not_depend_on_the_batch():
    made, images = network("vgg")
    DynamicActivations(bits=4).quantize(made)
    alone = torch.cat([made(image[None]) for image in images])
    torch.testing.assert_close(made(images), alone)


def test_gradient_is_straight_through():
    x = torch.tensor([[-9.0, 0.1, 0.9, 99.0]], requires_grad=True)
    (made,) = ActivationQuantizer(4, "asymmetric", 0.25, 4)(nn.Identity(), (x,))
    made.sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 0]]


def test_histograms_count_every_value_of_every_group():
    made, images = network("vgg")
    groups = torch.tensor([0, 2, 2, -1])
    histograms = observe(made, images, groups)
    seen = histograms["0"]
    assert seen.counts.sum(1).tolist() == [3 * 32 * 32, 0, 2 * 3 * 32 * 32]
    assert seen.minimum == images.min()
    assert seen.maximum == images.max()


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_files_keep_the_quantizers(name, tmp_path):
    original, images = network(name)
    for setting in (StaticActivations(bits=6), DynamicActivations(bits=6)):
        made = quantize_network(
            original,
            images,
            bits=8,
            weights=IntegerWeights(),
            activations=setting,
            calibration=images,
        )
        plain = quantize_network(original, images, bits=8, weights=IntegerWeights())
        assert not torch.equal(made.network(images), plain.network(images))
        save(tmp_path / "a", made)
        loaded = load(tmp_path / "a", network(name)[0])
        assert torch.equal(loaded(images), made.network(images))


class Windows(nn.Module):
    """The two halves of each image, one after the other, or of both images in turn."""

    def __init__(self, rows):
        super().__init__()
        self.layer, self.rows = nn.Linear(3, 2), rows

    def forward(self, images):
        return self.layer(images.reshape(self.rows, -1, 3)).reshape(len(images), -1)


def test_windows_belong_to_their_image_and_other_rows_are_refused():
    images, groups = torch.tensor([1.0, -1.0]).repeat_interleave(12).view(2, 4, 3), torch.arange(2)
    seen = observe(Windows(4).eval(), images, groups)["layer"]
    assert seen.counts[:, 0].tolist() == seen.counts[:, -1].tolist()[::-1] == [0, 12]
    with pytest.raises(UserError, match="layer 'layer' gets 1 rows of 2 images"):
        observe(Windows(1).eval(), images, groups)


def test_counts_of_the_calibration_set_are_recorded():
    original, images = network("vgg")
    made = quantize_network(
        original,
        images,
        bits=8,
        weights=IntegerWeights(),
        activations=StaticActivations(),
        calibration=images,
        groups=torch.tensor([0, 1, 1, -1]),
    )
    assert made.notes["calibration"] == {"0": 1, "1": 2}
    weights_only = quantize_network(
        original, images, bits=8, weights=IntegerWeights(), calibration=images
    )
    assert weights_only.notes["calibration"] == "none: it cannot matter"
    with pytest.raises(ValueError, match="look at calibration images"):
        quantize_network(original, images, bits=8, weights=IntegerWeights(rounding="gptq"))


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=60), st.integers(1, 30), st.integers(0, 5))
def test_balanced_choice_is_as_even_as_the_groups_allow(codes, samples, seed):
    groups = torch.tensor(codes)
    chosen = BalancedChoice().choose(groups, samples=samples, seed=seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(samples, int((groups >= 0).sum()))
    counts = {g: int((groups[chosen] == g).sum()) for g in set(codes) - {-1}}
    assert -1 not in groups[chosen]
    for group, count in counts.items():
        exhausted = count == codes.count(group)
        assert exhausted or count >= max(counts.values()) - 1


def test_random_choice_depends_on_the_seed_alone():
    groups = torch.zeros(1000, dtype=torch.long)
    first, again, other = (
        RandomChoice().choose(groups, samples=50, seed=seed).tolist() for seed in (0, 0, 1)
    )
    assert first == again != other
    assert first == sorted(set(first))
    assert len(RandomChoice().choose(groups, samples=5000, seed=0)) == 1000
