"""A network compared with itself: a step that must not change its answers is undone or refused.

Folding, equalization, baking, packing and export rewrite a network without changing what it
computes. Where one does change it, all that follows would be blamed on quantization.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from quantskew.errors import UserError
from quantskew.models import logits_of

Pair = list[str]
TOLERANCE = 1e-3
"""Largest legal change of float32 logits, as a share of their spread over the classes.

A rewritten network adds the same numbers in another order, which moves float32 logits by 1e-7 to
1e-5 of their spread in networks of up to 100 layers. Rounding weights to 8 bits moves them by 1e-2.
"""


class SelfCheckError(UserError, ValueError):
    """A step that must not change the answers of a network changed them."""


def tolerance(network: nn.Module) -> float:
    """Largest legal change of the logits of a network: four steps of its number format, or more.

    Examples
    --------
    >>> tolerance(nn.Linear(2, 2)), round(tolerance(nn.Linear(2, 2).half()), 4)
    (0.001, 0.0039)
    """
    formats = {one.dtype for one in network.parameters() if one.is_floating_point()}
    return max([TOLERANCE, *(4 * torch.finfo(one).eps for one in formats)])


@torch.no_grad()
def difference(before: nn.Module, after: nn.Module, example: Tensor) -> float:
    """Return how far the logits of two networks lie apart, as a share of their spread.

    It is ``‖after − before‖ / ‖before − mean over classes‖``, NaN where a logit is. The networks,
    in evaluation mode, run on the example, an input batch, and on noise of its shape: an example of
    zeros alone would hide what is done to a first weight.
    """
    noise = torch.rand(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
    images = torch.cat([example, noise])
    first, second = (logits_of(one(images), one).double() for one in (before, after))
    spread = torch.linalg.vector_norm(first - first.mean(1, keepdim=True))
    change = torch.linalg.vector_norm(second - first)
    return float(change / spread.clamp_min(torch.finfo(spread.dtype).tiny)) if change else 0.0


def same_logits(before: nn.Module, after: nn.Module, example: Tensor, *, step: str) -> None:
    """Refuse a step after which a network gives other logits than before; see :func:`difference`.

    A :class:`SelfCheckError` names the ``step`` where the logits differ by more than
    :func:`tolerance`, or are not finite.
    """
    change, legal = difference(before, after, example), tolerance(before)
    if not change <= legal:
        raise SelfCheckError(
            f"{step} changes the logits of the network by {change:.2g} of their spread; at most "
            f"{legal:.2g} is legal, so what follows would be blamed on quantization"
        )


def rewrite(
    network: nn.Module,
    changes: Sequence[Pair],
    apply: Callable[[nn.Module, Sequence[Pair]], None],
    example: Tensor,
) -> tuple[nn.Module, list[Pair]]:
    """Apply changes that must keep the logits, and leave out those that do not.

    Returns a changed copy, and the changes that were applied to it, which together keep the logits.
    """

    def changed(applied: Sequence[Pair]) -> nn.Module:
        trial = copy.deepcopy(network)
        apply(trial, applied)
        return trial

    def keeps(trial: nn.Module) -> bool:
        return difference(network, trial, example) <= tolerance(network)

    if keeps(everything := changed(changes)):
        return everything, list(changes)
    harmless: list[Pair] = []
    for change in changes:
        if keeps(changed([*harmless, change])):
            harmless.append(change)
    return changed(harmless), harmless
