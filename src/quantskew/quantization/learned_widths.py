"""Learned widths: a real-valued width a layer, trained by its effect on the loss."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from quantskew.quantization.sensitivity import rounded

if TYPE_CHECKING:
    from quantskew.quantization.policies import Allocation


class _Rounded(torch.autograd.Function):
    """The weight at the nearest choice; the width gets the slope between its two neighbours."""

    @staticmethod
    def forward(ctx: Any, position: Tensor, versions: Tensor) -> Tensor:
        place = position.clamp(0, len(versions) - 1)
        below = int(place.floor().clamp_max(len(versions) - 2))
        ctx.save_for_backward(versions[below + 1] - versions[below])
        return versions[int(place.round())].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return (gradient * slope).sum(), None


class _LearnedWidth(nn.Module):
    versions: Tensor

    def __init__(self, versions: list[Tensor]) -> None:
        super().__init__()
        self.logit = nn.Parameter(versions[0].new_zeros(()))
        self.register_buffer("versions", torch.stack(versions))

    def position(self) -> Tensor:
        """Return the width as a place among the choices, from 0 to their number less one."""
        return torch.sigmoid(self.logit) * (len(self.versions) - 1)

    def forward(self, _weight: Tensor) -> Tensor:
        chosen: Tensor = _Rounded.apply(self.position(), self.versions)  # type: ignore[no-untyped-call]
        return chosen


def learn_widths(problem: "Allocation", *, choices: Sequence[int], steps: int = 100) -> Tensor:
    """Learn how wide each layer should be; weights stay as they are.

    Adam trains one logit a layer, on batches of 64, for cross-entropy plus 10 times the share by
    which the expected size exceeds the capacity. Returns the place of each layer among the sorted
    choices, (layers,), a real number; see :func:`~quantskew.quantization.widths.fit_to_size`.
    """
    network, images = copy.deepcopy(problem.network).requires_grad_(False), problem.images
    choices = sorted(choices)
    learned = []
    for name, layer in problem.layers.items():
        learned.append(_LearnedWidth([rounded(layer, b, problem.weights) for b in choices]))
        parametrize.register_parametrization(network.get_submodule(name), "weight", learned[-1])
    optimizer = torch.optim.Adam([width.logit for width in learned], 0.1)
    generator = torch.Generator().manual_seed(problem.seed)
    places = torch.arange(len(choices) - 1, device=images.device)
    steps_between = torch.tensor(choices, device=images.device).diff().float()
    shares = torch.tensor(problem.sizes, device=images.device) / problem.capacity
    for _ in range(steps):
        picked = torch.randint(len(images), (64,), generator=generator)
        positions = torch.stack([width.position() for width in learned])
        # width at a place between two choices
        filled = (positions[:, None] - places).clamp(0, 1)
        bits = choices[0] + (filled * steps_between).sum(1)
        excess = bits @ shares - 1
        loss = cross_entropy(network(images[picked]), problem.labels[picked]) + 10 * excess.relu()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.stack([width.position() for width in learned]).detach().cpu()
