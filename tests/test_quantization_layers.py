"""Finding layers and folding batch norms on all architectures."""

import pytest
import torch
from quantization_networks import SMALL, network
from torch import nn

from quantskew.quantization.layers import ends, fold, fold_batch_norm, left_out, quantizable

FOLDED = {"resnet18": 21, "vgg": 0, "vgg_bn": 3, "mobilenetv2_035": 52, "efficientnet_b0": 49,
          "vit_tiny_patch16_224": 0, "squeezenet1_1": 0}  # fmt: skip
ENDS = {
    "resnet18": ("conv1", "fc"),
    "vgg": ("0", "12"),
    "vgg_bn": ("0", "15"),
    "mobilenetv2_035": ("conv_stem", "classifier"),
    "efficientnet_b0": ("conv_stem", "classifier"),
    "vit_tiny_patch16_224": ("patch_embed.proj", "head"),
    "squeezenet1_1": ("features.0", "classifier.1"),
}


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_folding_keeps_the_logits_and_all_batch_norms_go(name):
    original, images = network(name)
    before = {key: value.clone() for key, value in original.state_dict().items()}
    folded, pairs = fold_batch_norm(original, images)
    assert len(pairs) == FOLDED[name]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), original(images), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in original.state_dict().items())
    again, _ = network(name)
    fold(again, pairs)
    assert torch.equal(again(images), folded(images))


@pytest.mark.parametrize("name", SMALL)
def test_first_and_last_layer(name):
    made, images = network(name)
    assert ends(made, images) == ENDS[name]
    assert set(ENDS[name]) < set(quantizable(made))


class Forked(nn.Module):
    """A convolution whose output is used beside the batch norm, and one that runs twice."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.fork, self.fork_norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.twice, self.twice_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.plain, self.plain_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.fork(x)
        y = torch.cat([self.fork_norm(y), y], 1)[:, :4]
        y = self.twice_norm(self.twice(self.twice(y)))
        assert y.shape[1] == 4
        return self.last(self.plain_norm(self.plain(y)).mean((2, 3)))


def test_only_a_lone_pair_is_folded():
    made, images = Forked(), torch.randn(2, 3, 4, 4)
    folded, pairs = fold_batch_norm(made, images)
    assert pairs == [["plain", "plain_norm"]]
    assert made.training
    assert ends(made, images) == ("fork", "last")
    assert set(left_out(folded, quantizable(folded))) == {"fork_norm", "twice_norm"}


def test_a_shared_weight_is_listed_once():
    made = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    made[1].weight = made[0].weight
    assert list(quantizable(made)) == ["0"]


def test_what_stays_in_floating_point_has_a_reason():
    made, _ = network("vit_tiny_patch16_224")
    reasons = left_out(made, quantizable(made))
    assert reasons["pos_embed"] == "a parameter outside of any layer"
    assert reasons["blocks.0.norm1"] == "LayerNorm is no convolution and no linear layer"
    assert not set(reasons) & set(quantizable(made))


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match="Flatten runs no convolution"):
        ends(nn.Flatten(), torch.randn(1, 3, 4, 4))
