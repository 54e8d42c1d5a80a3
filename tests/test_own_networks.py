"""Networks as people bring them: each is handled exactly, or refused or left out by name."""

import copy
import io
import subprocess
import sys
from types import SimpleNamespace

import data_layouts as layouts
import numpy as np
import own_factories
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from own_factories import images_of, plain_network
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations, prune

import quantskew
from quantskew import inputs, methods, models
from quantskew.architecture import Architecture
from quantskew.data.loading import load
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.engine import fingerprint
from quantskew.errors import UserError
from quantskew.impact.curvature import measure
from quantskew.impact.gradients import NoDerivativeError
from quantskew.impact.hessian import GroupLoss
from quantskew.models import ModelError
from quantskew.quantization import equalization, layers, packing, selfcheck
from quantskew.quantization.fitting import Qat
from quantskew.quantization.layers import LayerError, fold, fold_batch_norm, left_out, quantizable
from quantskew.quantization.method import Method
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.weights import IntegerWeights
from quantskew.sections import ParamsError
from quantskew.training.loop import fit
from quantskew.training.training import Training

# isort: split
from timm.layers import ScaledStdConv2d, StdConv2d

SIDE = 8


def body(*middle: nn.Module) -> nn.Sequential:
    """A convolution of 4 channels, what is given, and a linear layer of 3 outputs."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), *middle, nn.AdaptiveMaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


def trained(network: nn.Module) -> nn.Module:
    """Give a network weights and statistics of which none is trivial."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def quantized(network: nn.Module, bits: int = 8, method: Method | None = None) -> packing.Quantized:
    return methods.apply(
        network, method or Method(), bits, example=images_of(2), calibration=None, train=None,
        training=Training(), qat_settings=Qat(), seed=0,
    )  # fmt: skip


# a network compared with itself


class Recurrent(nn.Module):
    """One kernel, used by two layers, each with a norm of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.second.weight = self.first.weight
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, x):
        return self.norms[1](self.second(self.norms[0](self.first(x)).relu()))


class Framed(nn.Module):
    """The edge of a feature map is blackened before it is normalized."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        x[:, :, 0] = 0
        return self.norm(x)


class Turned(nn.BatchNorm2d):
    """A norm that does more than its class says, which no rule can know."""

    def forward(self, x):
        return super().forward(x).flip(1)


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (Recurrent(), "shares its weight with another layer"),
        (Framed(), "is changed in place"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), Turned(4)), "would change the logits"),
    ],
)
@torch.no_grad()
def test_a_norm_that_cannot_be_folded_stays_and_says_why(middle, reason):
    network, images = trained(body(nn.BatchNorm2d(4), middle)), images_of(6)
    folded, pairs = fold_batch_norm(network, images[:2])
    assert pairs == [["0", "1"]]
    torch.testing.assert_close(folded(images), network(images), rtol=1e-4, atol=1e-5)
    made = quantized(network)
    stayed = {name: why for name, why in made.notes["left_out"].items() if "batch norm" in why}
    assert stayed
    assert all(reason in why for why in stayed.values())
    before, after = network(images), made.network(images)
    assert (after - before).abs().max() < 0.1 * before.std()


@torch.no_grad()
def test_what_the_self_check_calls_equal_is_far_below_what_8_bits_do():
    network, images = trained(body(nn.BatchNorm2d(4), nn.ReLU())), images_of(2)
    folded, _ = fold_batch_norm(network, images)
    rounding = selfcheck.difference(network, folded, images)
    assert 0 < rounding < selfcheck.TOLERANCE / 100
    assert selfcheck.difference(network, quantized(network).network, images) > selfcheck.TOLERANCE
    assert selfcheck.difference(network, network, images) == 0
    with pytest.raises(selfcheck.SelfCheckError, match=r"^painting changes the logits .* by "):
        selfcheck.same_logits(network, quantized(network, 2).network, images, step="painting")
    broken = trained(body())
    broken[0].weight.fill_(torch.nan)
    with pytest.raises(selfcheck.SelfCheckError, match="by nan"):
        selfcheck.same_logits(broken, network, images, step="painting")


@torch.no_grad()
def test_an_example_of_zeros_hides_nothing():
    network, other = trained(body()), trained(body())
    for made in (network, other):
        made[0].bias.zero_()
    other[0].weight.mul_(-2)
    zeros = torch.zeros(2, 1, SIDE, SIDE)
    assert torch.equal(network(zeros), other(zeros))
    assert selfcheck.difference(network, other, zeros) > selfcheck.TOLERANCE


class Switched(nn.Module):
    """Equalized channels would pass a threshold that does not scale with them."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        x = self.act(self.first(x))
        x[:, 0] = 5.0  # seen by no count of operations: it returns nothing
        return self.second(x)


@torch.no_grad()
def test_a_pair_whose_channels_are_written_between_is_not_equalized():
    torch.manual_seed(0)
    network, images = Switched().eval(), torch.rand(5, 3)
    network.first.weight[0] *= 100
    before = network(images)
    assert equalization.equalize(network, images) == []
    torch.testing.assert_close(network(images), before)


@torch.no_grad()
def test_tied_layers_are_not_equalized_apart():
    torch.manual_seed(0)
    network, images = (
        nn.Sequential(*(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))),
        torch.rand(5, 4),
    )
    network[2].weight = network[0].weight
    network[0].weight[0] *= 100
    before = network.eval()(images)
    assert equalization.equalize(network, images) == []
    assert torch.equal(network(images), before)


# weights that are computed


def parametrized(layer):
    return parametrizations.weight_norm(layer)


def hooked(layer):
    return nn.utils.weight_norm(layer)


def spectral(layer):
    return parametrizations.spectral_norm(layer)


def spectral_hooked(layer):
    return nn.utils.spectral_norm(layer)


def masked(layer):
    return prune.l1_unstructured(layer, "weight", amount=0.5)


WRAPPERS = [parametrized, hooked, spectral, spectral_hooked, masked]


def wrapped(wrap) -> nn.Module:
    """A network whose two weights are computed, run once in training as any would be."""
    torch.manual_seed(0)
    network = body(nn.BatchNorm2d(4), nn.ReLU())
    wrap(network[0])
    wrap(network[-1])
    network(images_of(8))
    return trained(network)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", WRAPPERS)
@torch.no_grad()
def test_a_computed_weight_is_baked_in_and_has_few_levels(wrap, tmp_path):
    network, images = wrapped(wrap), images_of(6)
    before = network(images)
    made = quantized(network, bits=2)
    assert made.notes["baked"] == ["0.weight", "5.weight"]
    assert made.notes["share"]["weights"] == 1
    for layer in quantizable(made.network).values():
        assert all(len(row.unique()) <= 4 for row in layer.weight)
    assert torch.equal(network(images), before)  # not changed itself
    eight = quantized(network, bits=8).network(images)
    assert (eight - before).abs().max() < 0.1 * before.std()
    packing.save(tmp_path / "w.safetensors", made)
    fresh = wrapped(wrap)
    assert torch.equal(
        packing.load(tmp_path / "w.safetensors", fresh)(images), made.network(images)
    )


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_computed_weight_is_refused_where_it_was_not_baked(wrap):
    with pytest.raises(LayerError, match=r"layer '0' computes its weight at each run.*parametriz"):
        quantizable(wrapped(wrap))


class HalfOfTheTime(nn.Conv2d):
    """Writes its own weight whenever it runs."""

    def forward(self, x):
        self.weight.data.mul_(0.5)
        return super().forward(x)


class Standardized(nn.Conv2d):
    """Weight standardization (Qiao et al. 2019), as ResNets with group norm have it."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Scaled(nn.Linear):
    """A learning rate of its own (Karras et al. 2018): linear in the weight."""

    def forward(self, x):
        return F.linear(x, self.weight * 3, self.bias)


class Deaf(nn.Linear):
    """Does not use its weight at all."""

    def forward(self, x):
        return x[:, : self.out_features] + self.bias


@pytest.mark.parametrize(
    ("layer", "fits"),
    [
        (Standardized(1, 4, 3), False),
        (Deaf(4, 2), False),
        (Scaled(4, 2), True),
        (nn.Conv2d(2, 4, 3, groups=2, padding="same", padding_mode="circular"), True),
    ],
)
def test_a_layer_with_a_forward_of_its_own_is_tried(layer, fits):
    before = layer.weight.detach().clone()
    assert layers.computes_with_weight(layer) is fits
    assert layers.computes_with_weight(copy.deepcopy(layer).half()) is fits
    assert torch.equal(layer.weight, before)
    assert list(quantizable(nn.Sequential(layer))) == ["0"] * fits


class Dependent(nn.Conv2d):
    """The weight is computed from the images too, as in a dynamic convolution."""

    def forward(self, x):
        weight = F.normalize(self.weight) * x.mean().sigmoid()
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class Padded(nn.Conv2d):
    """A border on one side beside a weight of its own: more than a convolution."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 2, 0, 2)), F.normalize(self.weight), self.bias)


class Normalized(nn.Linear):
    """Rows of length 1, as heads for faces have them."""

    def forward(self, x):
        return F.linear(input=x, weight=F.normalize(self.weight), bias=self.bias)


@pytest.mark.parametrize(
    "layer",
    [
        Standardized(4, 4, 3, padding=1),
        Standardized(4, 4, 3, padding="same", bias=False),
        Normalized(4, 4),
        StdConv2d(4, 4, 3, padding=1),
        ScaledStdConv2d(4, 4, 3, padding=1),
    ],
)
@torch.no_grad()
def test_a_weight_that_a_layer_computes_is_baked_in(layer, tmp_path):
    turned = [] if isinstance(layer, nn.Conv2d) else [Channels(layer)]
    network = trained(body(*(turned or [layer]), nn.BatchNorm2d(4)))
    name = "1.layer" if turned else "1"
    made, images = quantized(network), images_of(4)
    assert name in made.weights
    assert made.notes["baked"] == [f"{name}.weight"]
    assert made.notes["share"]["weights"] == 1
    assert (["1", "2"] in made.notes["folded"]) is not bool(turned)
    assert 0 < selfcheck.difference(network, made.network, images) < 0.1
    assert selfcheck.difference(network, layers.plain(network, images), images) < 1e-6
    packing.save(tmp_path / "file", made)
    fresh = copy.deepcopy(network)
    nn.init.zeros_(fresh.get_submodule(name).weight)
    again = packing.load(tmp_path / "file", fresh)
    assert torch.equal(again(images), made.network(images))


class Channels(nn.Module):
    """A linear layer over the channels of images."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize("kind", [Dependent, Padded])
@torch.no_grad()
def test_a_layer_that_does_more_is_left_out_by_name_and_its_norm_is_not_folded(kind):
    network = trained(body(kind(4, 4, 3, padding=1), nn.BatchNorm2d(4)))
    made, images = quantized(network), images_of(4)
    reason = f"{kind.__name__} does not compute with its weight as it is"
    assert made.notes["left_out"]["1"] == reason
    assert "does not compute with its weight" in made.notes["left_out"]["2"]
    size = {name: p.numel() for name, p in network.named_parameters() if p.ndim > 1}
    assert made.notes["share"]["weights"] == pytest.approx(
        1 - size["1.weight"] / sum(size.values())
    )
    assert selfcheck.difference(network, made.network, images) < 0.1


@torch.no_grad()
def test_a_layer_that_others_share_or_watch_is_not_replaced():
    shared = Standardized(4, 4, 3, padding=1)
    watched = Standardized(4, 4, 3, padding=1)
    watched.register_forward_hook(lambda module, given, output: output * 2)
    tied = nn.Sequential(Standardized(4, 4, 1), Standardized(4, 4, 1))
    tied[1].weight = tied[0].weight
    network = trained(body(shared, shared, watched, tied))
    made = quantized(network)
    assert list(made.weights) == ["0", "7"]
    assert {"1", "3", "4.0", "4.1"} <= {*made.notes["left_out"]}
    assert selfcheck.difference(network, made.network, images_of(4)) < 0.1


@torch.no_grad()
def test_a_network_of_which_no_weight_has_codes_is_refused():
    network = trained(nn.Sequential(Dependent(1, 3, 8), nn.Flatten()))
    with pytest.raises(LayerError, match=r"^Sequential runs no .*; 0: Dependent does not compute"):
        quantized(network)


def test_codes_that_a_run_destroys_are_refused():
    network = body()
    network[0] = HalfOfTheTime(1, 4, 3, padding=1)
    with pytest.raises(packing.PackingError, match=r"^0\.weight is changed when the network runs"):
        quantized(trained(network))


# how much is quantized


class Loose(nn.Module):
    """Most weights belong to no layer."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 1, 3, 3))
        self.second = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = F.conv2d(F.conv2d(x, self.kernel, padding=1).relu(), self.second, padding=1)
        return self.head(F.adaptive_max_pool2d(x, 2).flatten(1))


def test_the_answer_says_which_share_of_the_weights_it_speaks_of():
    network = trained(Loose())
    share = 48 / (36 + 144 + 48)
    made = quantized(network, bits=4)
    assert made.notes["share"] == pytest.approx({"weights": share, "parameters": 48 / 231})
    images = images_of(60)
    with torch.no_grad():  # labels by which it is a basis for verdicts
        logits = network(images)
        network.head.bias -= logits.mean(0)
        labels = network(images).argmax(1)
    result = quantskew.audit(network, (images, labels), bits=4)
    assert "at int4 holds 21% of the weights at that width" in str(result)
    assert "in floating point stay kernel, second" in str(result)
    whole = quantskew.audit(trained(body()), (images, labels), bits=4)
    assert "of the weights at that width" not in str(whole)


def test_channels_that_are_kept_and_tied_weights_count_as_what_they_are():
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    network[1].weight = network[0].weight
    made = quantize_channels(network, (4, 4, 4, 32))
    assert packing.quantized_share(made.network, made.codes()).weights == 0.75
    half = packing.in_half(trained(body()), "bfloat16")
    assert packing.quantized_share(half, {}) == (1, 1)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = (nn.Linear(64, 64) for _ in range(3))
        self.again.weight = self.first.weight

    def forward(self, images):
        return self.last(self.again(self.first(images.flatten(1)).relu()).relu())[:, :3]


def test_a_shared_weight_is_stored_once_and_stays_shared(tmp_path):
    torch.manual_seed(0)
    network, images = Tied().eval(), torch.rand(4, 1, 8, 8)
    models.save_weights(network, tmp_path / "fp32")
    assert (tmp_path / "fp32").stat().st_size < 2.2 * 64**2 * 4
    opened = Tied().eval()
    models.load_checkpoint(opened, tmp_path / "fp32")
    assert torch.equal(opened(images), network(images))
    made = quantize_network(network, images, bits=4, weights=IntegerWeights())
    packing.save(tmp_path / "int4", made)
    assert (tmp_path / "int4").stat().st_size < 2 * 64**2 / 2 + 4000
    again = packing.load(tmp_path / "int4", Tied())
    assert again.first.weight is again.again.weight
    assert torch.equal(again(images), made.network(images))


def test_a_training_with_a_shared_weight_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("quantskew.training.loop.CHECKPOINT_SECONDS", -1)
    images, labels = images_of(6), torch.arange(6) % 3
    settings = Training(epochs=1, batch_size=2)
    fit(
        Tied(), images, labels, settings=settings, order=lambda _: torch.arange(6),
        checkpoint=tmp_path / "checkpoint",
    )  # fmt: skip
    assert (tmp_path / "checkpoint").exists()


def quantize_channels(network, widths):
    return quantize_network(
        network, torch.rand(2, 4), bits=4, weights=IntegerWeights(), widths={"0": widths}
    )


# what a network answers


class Answers(nn.Module):
    def __init__(self, inner, dress):
        super().__init__()
        self.inner, self.dress = inner, dress

    def forward(self, x):
        return self.dress(self.inner(x))


DRESSES = [
    lambda y: {"logits": y, "hidden": y * 2},
    lambda y: SimpleNamespace(logits=y, loss=None),
    lambda y: (y,),
    lambda y: {"scores": y},
]


@pytest.mark.parametrize("dress", DRESSES)
def test_logits_are_taken_out_of_what_a_network_answers(dress):
    network, images = trained(body(nn.BatchNorm2d(4), nn.ReLU())), images_of(60)
    labels = torch.arange(60) % 3
    plain = quantskew.audit(network, (images, labels), bits=2).to_frame()
    dressed = quantskew.audit(Answers(network, dress), (images, labels), bits=2).to_frame()
    pd.testing.assert_frame_equal(plain.drop(columns="model"), dressed.drop(columns="model"))


def test_an_answer_of_two_tensors_is_refused_by_its_kind():
    network = Answers(trained(body()), lambda y: (y, y))
    with pytest.raises(ModelError, match=r"^Answers answers a tuple, which holds 2 tensors and no"):
        quantskew.audit(network, (images_of(6), torch.arange(6) % 3))
    network = Answers(trained(body()), lambda y: {"a": y, "b": y})
    with pytest.raises(ModelError, match="a dict with the keys a, b, which holds 2"):
        quantskew.quantize(network)


# networks that cannot be worked with


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), r"layer '1' \(LazyLinear\) has no weights"),
        (body().double(), r"layer '0' computes in float64; give .* float32, as model\.float\(\)"),
        (body().bfloat16(), "layer '0' computes in bfloat16"),
        (torch.jit.script(body()), "the network is TorchScript"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_what_cannot_be_quantized_is_refused_before_any_work(network, words):
    data = images_of(6), torch.arange(6) % 3
    for work in (lambda: quantskew.audit(network, data), lambda: quantskew.quantize(network)):
        with pytest.raises(ModelError, match=words):
            work()
    with pytest.raises(ModelError, match=words):
        inputs.samples(data, network, split="test")


# architectures


def architecture(**settings) -> Architecture:
    return Architecture.model_validate({"factory": "own_factories:plain_network"} | settings)


def test_a_checkpoint_needs_the_normalization_it_was_trained_with():
    for stated in ({}, {"mean": [0.5]}, {"std": [1]}):
        with pytest.raises(
            ValueError, match=r"mean: \[0\] and std: \[1\] leave images in \[0, 1\]"
        ):
            architecture(checkpoint="w.safetensors", **stated)
    assert architecture().mean == (0.5,)
    assert architecture(checkpoint="w.safetensors", mean=[0], std=[1]).std == (1,)


@pytest.mark.parametrize("inside", [False, True])
def test_a_network_from_elsewhere_answers_as_it_did_there(tmp_path, inside):
    """Fed by torchvision with its own normalization, or with one of its own within."""
    from torchvision.transforms import v2

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    kind = "normalizing_network" if inside else "plain_network"
    network = getattr(own_factories, kind)(classes=3, channels=3, size=16)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "theirs.safetensors")
    pictures = [layouts.picture(seed, 26, 31) for seed in range(12)]
    table = pa.table({"image": pictures, "label": [*"abc"] * 4, "split": ["train", "test"] * 6})
    pq.write_table(table, tmp_path / "mine.parquet")
    steps = [v2.Resize(24), v2.CenterCrop(16), v2.PILToTensor(), v2.ConvertImageDtype()]
    feed = v2.Compose([*steps, *([] if inside else [v2.Normalize(mean, std)])])
    images = [feed(PIL.Image.open(io.BytesIO(one)).convert("RGB")) for one in pictures]
    with torch.no_grad():
        theirs = network.eval()(torch.stack(images))
    path = str(tmp_path / "mine.parquet")
    source = Source(reader="parquet", path=path, size=16, resize=24)
    prepare("mine", source, tmp_path).write(tmp_path / "samples.parquet")
    data = load(tmp_path / "samples.parquet")
    stated = {"mean": [0], "std": [1]} if inside else {"mean": mean, "std": std}
    architecture = Architecture(
        factory=f"own_factories:{kind}", checkpoint=str(tmp_path / "theirs.safetensors"), **stated
    )
    mine = models.build_for(data, "mine", architecture, architecture.checkpoint)
    order = [int(name.rpartition("/")[2]) for name in data.ids]
    torch.testing.assert_close(models.logits(mine, data.images), theirs[order])


def test_a_factory_with_another_number_of_outputs_is_refused():
    for outputs in (2, 7):
        own = architecture(options={"outputs": outputs})
        with pytest.raises(
            ModelError, match=rf"^architectures\.mine: .*\(2, {outputs}\).*5 classes"
        ):
            models.build("mine", classes=5, channels=1, size=SIDE, architecture=own)
    own = architecture(factory="own_factories:lazy_network")
    with pytest.raises(ModelError, match=r"layer '1' \(LazyLinear\)"):
        models.build("mine", classes=5, channels=1, size=SIDE, architecture=own)


def test_a_baseline_is_refused_by_other_code_or_another_normalization(tmp_path, monkeypatch):
    code = tmp_path / "changing_network.py"
    monkeypatch.syspath_prepend(tmp_path)

    def built(text="", **settings):
        code.write_text(
            "from torch import nn\n"
            "def make(classes, channels, size):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(size**2, classes))\n" + text
        )
        for function in (fingerprint.code_hash, fingerprint._read):
            function.cache_clear()
        own = architecture(factory="changing_network:make", **settings)
        return models.build("mine", classes=3, channels=1, size=SIDE, architecture=own)

    network, weights = built(), tmp_path / "w.safetensors"
    models.save_weights(network, weights)
    made = quantized(network)
    packing.save(tmp_path / "q.safetensors", made)
    models.load_checkpoint(built("# a comment changes nothing\n"), weights)
    packing.load(tmp_path / "q.safetensors", built())
    for changed in (lambda: built("SCALE = 2\n"), lambda: built(mean=[0.1])):
        with pytest.raises(ModelError, match=r"w\.safetensors was written for other code.*deps"):
            models.load_checkpoint(changed(), weights)
        with pytest.raises(ModelError, match=r"q\.safetensors was written for other code"):
            packing.load(tmp_path / "q.safetensors", changed())
    # weights of another origin know no code
    models.save_weights(nn.Sequential(*network), weights)
    models.load_checkpoint(built("SCALE = 2\n"), weights)


def test_an_accuracy_far_below_the_expected_is_refused():
    network = trained(plain_network(3, 1, SIDE))
    pixels = torch.randint(0, 256, (200, 1, SIDE, SIDE), dtype=torch.uint8)
    answers = models.logits(network, pixels).argmax(1)
    test = inputs.samples((pixels, answers), network, split="test")
    models.expect_accuracy(network, test, 1.0)
    shuffled = inputs.samples(
        (pixels, (answers + (torch.arange(200) % 2)) % 3), network, split="test"
    )
    models.expect_accuracy(network, shuffled, 0.55)
    with pytest.raises(ModelError, match=r"50\.0% of 200 test images .* is 65\.0%: mean and std"):
        models.expect_accuracy(network, shuffled, 0.65)


# a crash inside torch


CRASH = """
import torch
from torch import nn
from quantskew import models
from quantskew.training.loop import fit
from quantskew.training.training import Training

torch.set_num_threads(1)
network = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 1, stride=2, bias=False), nn.ReLU(),
    nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 2),
)
network = models.own(network)
images = torch.randint(0, 256, (16, 1, 64, 64), dtype=torch.uint8)
fit(network, images, torch.arange(16) % 2, settings=Training(epochs=1, batch_size=8),
    order=lambda epoch: torch.arange(16))
network.eval()
from quantskew.impact.curvature import measure
inputs = models.as_input(images, torch.device("cpu"))
measure(network, inputs, torch.arange(16) % 2, {"a": range(16)})
print("done")
"""


def test_a_layer_that_crashes_torch_with_channels_last_is_trained_and_measured():
    # its own process, which else takes the others with it
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_memory_is_contiguous_only_where_it_must_be():
    seen = []

    def note(_module, given, _output):
        seen.append(given[0].is_contiguous(memory_format=torch.channels_last))

    for channels in (8, 16):
        network = models.own(nn.Sequential(nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 4, 1, 2)))
        network[0].register_forward_hook(note)
        network(models.as_input(torch.rand(2, 3, 9, 9), models.CPU))
    assert seen == [False, True]


# pictures of a file


def pictures(path, *shapes):
    import io

    rng, rows = np.random.default_rng(0), []
    for number, shape in enumerate(shapes):
        content = io.BytesIO()
        PIL.Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(content, "PNG")
        rows.append({"image": {"bytes": content.getvalue()}, "label": number % 3})
    pd.DataFrame(rows).to_parquet(path)
    return str(path)


class Eyes(nn.Module):
    """Takes images of one size in a number of planes, and may say which."""

    def __init__(self, channels, size, named=None):
        super().__init__()
        self.head = nn.Linear(channels * size * size, 3)
        if named is not None:
            self.pretrained_cfg = {"input_size": (channels, named, named)}

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.mark.filterwarnings("error")
def test_pictures_keep_their_size_and_colours_where_the_network_takes_them(tmp_path):
    path = pictures(tmp_path / "t.parquet", *[(28, 28)] * 6)
    assert inputs.samples(path, Eyes(1, 28), split="test").images.shape == (6, 1, 28, 28)
    path = pictures(tmp_path / "t.parquet", *[(20, 20, 3)] * 6)
    network = Eyes(3, 20, named=224)
    assert inputs.samples(path, network, split="test").images.shape == (6, 3, 20, 20)


def test_what_is_changed_in_pictures_is_said(tmp_path):
    path = pictures(tmp_path / "t.parquet", *[(28, 20)] * 4, *[(24, 24)] * 2)
    told = r"t\.parquet: 4 images of 28×20 pixels, 2 images of 24×24 pixels are cut .* to 16×16"
    with pytest.warns(UserWarning, match=told):
        taken = inputs.samples(path, Eyes(1, 16, named=16), split="test").images
    assert taken.shape == (6, 1, 16, 16)
    path = pictures(tmp_path / "t.parquet", *[(16, 16)] * 6)
    with pytest.warns(UserWarning, match="images are turned into RGB, as the network takes them"):
        assert inputs.samples(path, Eyes(3, 16), split="test").images.shape == (6, 3, 16, 16)


def test_pictures_of_a_size_that_nobody_names_are_refused(tmp_path):
    path = pictures(tmp_path / "t.parquet", *[(28, 20)] * 3)
    taken = inputs.samples(
        path, nn.Sequential(nn.Flatten(), nn.Linear(28 * 20, 3)), split="test"
    ).images
    assert taken.shape == (3, 1, 28, 20)
    with pytest.raises(inputs.DataError, match=r"have 28×20 pixels, .*; give Source\(.*size=…"):
        inputs.samples(path, Eyes(1, 16), split="test")


# curvature


@pytest.mark.parametrize(
    ("activation", "operator"),
    [(nn.Hardsigmoid(), "hardsigmoid"), (nn.RReLU(), "rrelu_with_noise")],
)
def test_an_operator_without_a_derivative_is_named(activation, operator):
    network, images, labels = trained(body(activation)), images_of(6), torch.arange(6) % 3
    with pytest.raises(NoDerivativeError, match=f"of the operator '{operator}'") as raised:
        measure(network, images, labels, {"all": range(6)}, errors=True)
    assert isinstance(raised.value, UserError)


def test_the_curvature_along_a_vector_names_its_operator_too():
    loss = GroupLoss(trained(body(nn.Hardsigmoid())), images_of(6), torch.arange(6) % 3)
    with pytest.raises(NoDerivativeError, match="'hardsigmoid'"):
        loss.curvatures_along(loss.gradient)


# the whole of a method


@torch.no_grad()
def test_qat_of_a_parametrized_network_is_what_the_file_holds():
    network, images = wrapped(parametrized), torch.randint(0, 256, (60, 1, SIDE, SIDE)).byte()
    data = inputs.samples((images, torch.arange(60) % 3), network, split="train")
    with torch.enable_grad():
        made = quantskew.quantize(
            network, method={"training": "qat"}, bits=4, train=data, qat=Qat(epochs=1)
        )
    assert made.notes["baked"]
    for layer in quantizable(made.network).values():
        assert all(len(row.unique()) <= 16 for row in layer.weight)


def test_folding_by_name_bakes_first():
    network, images = wrapped(parametrized), images_of(4)
    folded, pairs = fold_batch_norm(network, images)
    again = wrapped(parametrized)
    fold(again, pairs)
    assert torch.equal(again(images), folded(images))
    assert left_out(folded, quantizable(folded)) == {}


def test_settings_of_an_architecture_are_refused_by_key(tmp_path):
    from quantskew.params import load

    text = (tmp_path / "params.yaml").parent / "params.yaml"
    text.write_text("architectures: {mine: {factory: 'timm:resnet18', checkpoint: w.safetensors}}")
    with pytest.raises(ParamsError, match=r"mine.*mean and std must be those"):
        load(text)
