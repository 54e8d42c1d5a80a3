"""Factories of a user's own networks, for the tests."""

import torch
from torch import Tensor, nn


def plain_network(classes: int, channels: int, size: int, outputs: int | None = None) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, outputs or classes))


def lazy_network(classes: int, channels: int, size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


class Normalized(nn.Module):
    """Normalizes by itself, and takes images in [0, 1]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body((images - 0.4) / 0.2)


def normalizing_network(classes: int, channels: int, size: int) -> nn.Module:
    return Normalized(plain_network(classes, channels, size))


def images_of(count: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(3))
