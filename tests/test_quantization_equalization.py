"""Cross-layer equalization: the function stays, the ranges agree."""

import copy

import pytest
import torch
from quantization_networks import network
from torch import nn

from quantskew.quantization.equalization import equalize
from quantskew.quantization.layers import fold_batch_norm

PAIRS = {"resnet18": 8, "vgg_bn": 3, "mobilenetv2_035": 2, "squeezenet1_1": 1}


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_the_logits_stay(name):
    made, images = network(name)
    images = images.double()  # in fp32 rounding alone moves small logits, by how much a CPU decides
    made, _ = fold_batch_norm(made.double(), images)
    before = made(images)
    assert len(equalize(made, images)) == PAIRS[name]
    torch.testing.assert_close(made(images), before)


@torch.no_grad()
def test_ranges_agree_in_a_chain_with_a_depthwise_layer():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 1, bias=False),
    )  # fmt: skip
    net[0].weight.mul_(torch.logspace(-2, 2, 6).view(-1, 1, 1, 1))
    images = torch.randn(2, 3, 5, 5)
    plain = copy.deepcopy(net)
    assert equalize(net, images) == [["0", "2"], ["2", "4"]]
    torch.testing.assert_close(net(images), plain(images), rtol=1e-4, atol=1e-5)
    ranges = [
        net[0].weight.abs().flatten(1).amax(1),
        net[2].weight.abs().flatten(1).amax(1),
        net[4].weight.abs().transpose(0, 1).flatten(1).amax(1),
    ]
    torch.testing.assert_close(ranges[0], ranges[1], rtol=1e-2, atol=0)
    torch.testing.assert_close(ranges[1], ranges[2], rtol=1e-2, atol=0)


def test_a_tensor_read_twice_and_a_dead_channel_are_left_alone():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act = nn.Linear(3, 3), nn.ReLU()
            self.second, self.third = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            x = self.act(self.first(x))
            return self.third(self.act(self.second(x) + x))

    assert equalize(Skip(), torch.randn(2, 3)) == []
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].weight.data[1] = 0
    assert equalize(net, torch.randn(2, 3)) == [["0", "2"]]
    assert all(parameter.isfinite().all() for parameter in net.parameters())


@torch.no_grad()
def test_a_grouped_layer_of_fewer_outputs_is_left_alone():
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=4)).eval()
    assert equalize(network, torch.rand(2, 1, 8, 8)) == []
