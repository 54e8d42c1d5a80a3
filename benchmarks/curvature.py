"""λmax of every group's Hessian at equal residual: quantskew beside other packages.

A ResNet-18 on 48×48 images in three channels, five groups, one thread, freed memory kept as in a
cell; the peers are
``pip install pyhessian hessian-eigenthings curvlinops-for-pytorch``, and whichever is missing is
left out. Each is run as a user would run it, to a relative residual of 1e-3. Where a package stops
by another rule (PyHessian: change of the eigenvalue; hessian-eigenthings: a number of steps) or
runs past the residual with what is set by default (eigsh: 20 vectors), it is given the loosest
setting that reaches the residual, and only that run is timed.
"""

import argparse
import importlib
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F  # noqa: N812

import quantskew._torchvision  # noqa: F401
from quantskew import workers
from quantskew.impact import gradients
from quantskew.impact.hessian import GroupLoss
from quantskew.impact.spectrum import largest_eigenvalue

TOLERANCE = 1e-3
Sampled = tuple[torch.nn.Module, torch.Tensor, torch.Tensor]
Found = tuple[Callable[[], torch.Tensor], int]
"""Gives the eigenvector, outside of the time, and how many Hessian–vector products it took."""


class Counting:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Count, and pass on."""
        self.calls += 1
        return self.function(*args, **options)


def trained(steps: int = 40) -> Sampled:
    import timm

    torch.manual_seed(0)
    digits = load_digits(n_class=5)
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    images = F.interpolate(images, 48, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    labels = torch.tensor(digits.target)
    network = timm.create_model("resnet18", num_classes=5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(steps):
        batch = torch.randint(0, len(labels), (32,))
        optimizer.zero_grad()
        F.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()
    return network.eval(), images, labels


def quantized(network: torch.nn.Module, bits: int) -> None:
    """Round every weight tensor to a min–max grid of ``bits``, in place."""
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim > 1:
                step = (p.max() - p.min()) / (2**bits - 1)
                p.copy_(((p - p.min()) / step).round() * step + p.min())


def factored(*sample: torch.Tensor) -> Found:
    loss = GroupLoss(*sample)
    top = largest_eigenvalue(loss.curve, loss.factors, image=loss.image, tolerance=TOLERANCE)
    return partial(loss.vector, top.vector), top.products


def unfactored(*sample: torch.Tensor) -> Found:
    loss = GroupLoss(*sample)
    top = largest_eigenvalue(loss.product, loss.gradient, tolerance=TOLERANCE)
    return lambda: top.vector, top.products


def pyhessian(tolerance: float, *sample: torch.Tensor) -> Found:
    import pyhessian as package

    module = importlib.import_module("pyhessian.hessian")  # hidden by the class of that name
    network, images, labels = sample
    products = Counting(module.hessian_vector_product)
    with mock.patch.object(module, "hessian_vector_product", products):
        peer = package.hessian(network, F.cross_entropy, data=(images, labels), cuda=False)
        _, vectors = peer.eigenvalues(maxIter=200, tol=tolerance)
    network.zero_grad()
    return lambda: gradients.flatten(vectors[0]), products.calls


def eigenthings(steps: int, *sample: torch.Tensor) -> Found:
    from hessian_eigenthings import HessianOperator, lanczos

    network, images, labels = sample
    operator = HessianOperator(
        network, [(images, labels)], lambda net, batch: F.cross_entropy(net(batch[0]), batch[1])
    )
    top = lanczos(operator, k=1, max_iter=steps, which="LA", seed=0)
    return lambda: top.eigenvectors[0], steps


def curvlinops(basis: int, network: torch.nn.Module, *batch: torch.Tensor) -> Found:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    operator = HessianLinearOperator(
        network,
        torch.nn.CrossEntropyLoss(),
        list(network.parameters()),
        [batch],
        check_deterministic=False,
    ).to_scipy()
    products = Counting(operator.matvec)
    counted = LinearOperator(operator.shape, matvec=products, dtype=operator.dtype)
    _, vectors = eigsh(counted, k=1, which="LA", ncv=basis, tol=TOLERANCE)
    return lambda: torch.tensor(vectors[:, 0], dtype=torch.float32), products.calls


def residual(sample: Sampled, vector: torch.Tensor) -> float:
    vector = vector.double() / vector.double().norm()
    product = GroupLoss(*sample).product(vector.float()).double()
    value = vector @ product
    return float((product - value * vector).norm() / value.abs())


def settings() -> dict[str, list[Callable[..., Found]]]:
    """For each package, its settings from the loosest on."""
    return {
        "quantskew": [factored],
        "quantskew without factors": [unfactored],
        "PyHessian": [partial(pyhessian, 10.0**-k) for k in range(4, 8)],
        "hessian-eigenthings": [partial(eigenthings, steps) for steps in range(4, 30, 2)],
        "curvlinops + eigsh": [partial(curvlinops, basis) for basis in (4, 6, 8, 20)],
    }


def measured(sample: Sampled, ways: list[Callable[..., Found]]) -> tuple[float, float]:
    """Seconds and products of the first setting that reaches the residual."""
    for way in ways:
        began = time.process_time()
        vector, products = way(*sample)
        took = time.process_time() - began
        if residual(sample, vector()) <= 1.05 * TOLERANCE:
            return took, products
    return float("nan"), float("nan")


def groups(images: torch.Tensor, labels: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    for label in range(5):
        yield torch.nonzero(labels == label)[:size, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=8, help="of each group")
    parser.add_argument("--bits", type=int, default=8, help="width of the weights; 32 leaves them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    workers.keep_freed_memory()
    warnings.filterwarnings("ignore")
    network, images, labels = trained()
    if options.bits < 32:
        quantized(network, options.bits)
    samples = [
        (network, images[rows], labels[rows]) for rows in groups(images, labels, options.samples)
    ]
    first = None
    for name, ways in settings().items():
        try:
            total, products = np.sum([measured(sample, ways) for sample in samples], axis=0)
        except ImportError:
            print(f"{name:25} is not installed")
            continue
        first = first or total
        print(
            f"{name:25} {total:7.1f} s   {total / first:5.1f} × quantskew   "
            f"{products:4.0f} products", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
