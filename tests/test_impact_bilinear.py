"""Products with the Hessian through layers of every kind, with and without factors."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from quantskew.impact.bilinear import Factors
from quantskew.impact.gradients import flatten
from quantskew.impact.hessian import GroupLoss
from quantskew.impact.spectrum import largest_eigenvalue, trace


class Mixed(nn.Module):
    """Convolutions of all sorts, shared and tied weights, work in place, norms, attention."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4)
        self.grouped = nn.Conv2d(4, 4, 2, groups=2)
        self.shared = nn.Conv2d(4, 4, 1)
        self.same = nn.Conv2d(4, 4, 3, padding="same", bias=False)
        self.tokens = nn.Linear(4, 5)
        self.scale = nn.LayerNorm(5)
        self.tied = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = F.relu_(self.norm(self.stem(x)))
        short = x
        x = F.silu(self.depthwise(x))
        x += short
        x = F.softplus(self.shared(self.shared(self.grouped(x))))
        x = torch.tanh(self.same(x))
        x = self.scale(self.tokens(x.flatten(2).mT))
        x = torch.tanh(self.tied(x)) + F.linear(x, self.tied.weight)
        x = x + F.scaled_dot_product_attention(*[x[:, None]] * 3)[:, 0]
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def truth():
    """The network in double precision, 5 samples, and the dense Hessian of the loss of each."""
    torch.manual_seed(0)
    network = Mixed().double()
    network(torch.randn(20, 1, 8, 8, dtype=torch.float64))  # running statistics
    network.eval()
    images, labels = torch.randn(5, 1, 8, 8, dtype=torch.float64), torch.randint(0, 3, (5,))
    point = {name: p.detach() for name, p in network.named_parameters()}

    def loss(flat, i):
        parts = flat.split([p.numel() for p in point.values()])
        shaped = {k: v.view_as(p) for (k, p), v in zip(point.items(), parts, strict=True)}
        return F.cross_entropy(
            functional_call(network, shaped, (images[i : i + 1],)), labels[i, None]
        )

    flat = flatten(point.values())
    with sdpa_kernel(SDPBackend.MATH):
        dense = [hessian(lambda flat, i=i: loss(flat, i), flat) for i in range(len(labels))]
    return network, images, labels, torch.stack(dense)


@pytest.fixture(params=["as they pay", "everywhere", "nowhere"])
def mixed(request, monkeypatch, truth):
    """The loss with factors here or there, and the rest of the truth."""
    pays = {
        "as they pay": Factors.pay,
        "everywhere": lambda call: getattr(call.layer, "groups", 1) == 1,
        "nowhere": lambda call: False,
    }
    monkeypatch.setattr(Factors, "pay", staticmethod(pays[request.param]))
    network, images, labels, dense = truth
    return GroupLoss(network, images, labels), dense, network, images


def test_products_are_those_of_the_dense_hessian(mixed):
    loss, dense, *_ = mixed
    whole = dense.mean(0)
    vector = torch.randn(len(whole), dtype=torch.float64)
    torch.testing.assert_close(loss.product(vector), whole @ vector)
    along = torch.einsum("i,nij,j->n", vector, dense, vector)
    torch.testing.assert_close(loss.curvatures_along(vector).double(), along, rtol=1e-5, atol=1e-5)


def test_an_inner_product_is_that_of_factors_and_image(mixed):
    loss, dense, *_ = mixed
    factors = torch.randn_like(loss.factors)
    vector, image = loss.vector(factors), loss.image(factors)
    torch.testing.assert_close(factors @ image, vector @ vector)
    torch.testing.assert_close(loss.image_of(vector), image)
    torch.testing.assert_close(loss.vector(loss.curve(image)), dense.mean(0) @ vector)
    torch.testing.assert_close(loss.vector(loss.factors), loss.gradient)


def test_eigenvalue_and_trace_can_be_had_from_factors(mixed):
    loss, dense, *_ = mixed
    whole = dense.mean(0)
    top = largest_eigenvalue(loss.curve, loss.factors, image=loss.image, tolerance=1e-8)
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(whole)[-1]))
    vector = loss.vector(top.vector)
    assert float((whole @ vector - top.value * vector).norm()) < 1e-6 * top.value
    short = largest_eigenvalue(loss.curve, loss.factors, image=loss.image, tolerance=0.3)
    drawn = [
        trace(loss.curve, short, size=len(whole), image_of=loss.image_of, probes=1, seed=seed)[0]
        for seed in range(150)
    ]
    error = np.std(drawn) / np.sqrt(150)
    assert abs(np.mean(drawn) - float(whole.trace())) < 4 * error


def test_the_network_is_left_as_it_was(mixed):
    _, _, network, images = mixed
    assert not any("forward" in vars(module) for module in network.modules())
    network(images).sum().backward()
    assert network.stem.weight.grad is not None
