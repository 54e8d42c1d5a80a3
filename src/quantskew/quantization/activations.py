"""Quantized activations: the input of every quantized layer on a grid of its own, per tensor.

Static ranges come from histograms of what each layer gets on the calibration images, kept apart by
group: a range can then be best for all images alike or for the group it is worst for. A dynamic
range is that of the image itself, so that logits do not depend on what else is in the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantskew.errors import UserError
from quantskew.quantization.affine import (
    Scheme,
    code_range,
    fake_quantize,
    scale_and_zero_point,
)
from quantskew.quantization.layers import dry_run, quantizable, watching
from quantskew.quantization.ranges import CANDIDATES
from quantskew.quantization.settings import Activations

BINS = 2048


class QuantizationError(UserError, ValueError):
    """A network that cannot be quantized in this way, and where."""


@dataclass(frozen=True)
class Histogram:
    """What a layer got: counts (groups, 2048) in equal bins from ``minimum`` to ``maximum``."""

    minimum: Tensor
    maximum: Tensor
    counts: Tensor

    def centers(self) -> Tensor:
        """Return the middle of each bin."""
        width = (self.maximum - self.minimum) / BINS
        return self.minimum + width * (torch.arange(BINS) + 0.5)


class ActivationQuantizer:
    """A forward pre-hook that fake-quantizes the first input of a layer.

    The gradient is passed straight through where a value moves by a step at most, and is 0 where it
    is clipped by more.

    Parameters
    ----------
    bits, scheme
        The codes.
    scale, zero_point
        The grid, or ``None``: each sample gets the grid of its own minimum and maximum.
    """

    def __init__(
        self, bits: int, scheme: Scheme, scale: float | None = None, zero_point: int = 0
    ) -> None:
        self.bits, self.scheme = bits, scheme
        self.scale, self.zero_point = scale, zero_point

    def __call__(self, _module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs with the first one quantized."""
        return (_StraightThrough.apply(given[0], *self._grid(given[0].detach())), *given[1:])

    def _grid(self, x: Tensor) -> tuple[Tensor, Tensor, int, int]:
        if self.scale is not None:
            scale = torch.tensor(self.scale, device=x.device)
            zero_point = torch.tensor(self.zero_point, device=x.device)
        else:
            dims = tuple(range(1, x.ndim))
            ends = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
            scale, zero_point = scale_and_zero_point(*_with_zero(*ends), self.bits, self.scheme)
        return scale, zero_point, *code_range(self.bits, self.scheme)


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True  # for the gradients of single samples

    @staticmethod
    def forward(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
        return fake_quantize(x, scale, zero_point, low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, *_ = inputs
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((output - x).abs() <= scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None, None


def quantize_activations(
    network: nn.Module,
    activations: Activations,
    *,
    images: Tensor | None = None,
    groups: Tensor | None = None,
) -> dict[str, Any]:
    """Quantize the inputs of all quantizable layers of a network, in place.

    Parameters
    ----------
    network
        In evaluation mode.
    activations
        How: see :class:`quantskew.quantization.settings.Activations`.
    images, groups
        Calibration images and the group of each as a code from 0 on (N,); static mode needs them.

    Returns
    -------
    dict
        Plain values for :func:`restore`: mode, bits, scheme, and ``[scale, zero point]`` a layer.
    """
    notes: dict[str, Any] = {
        "mode": activations.mode,
        "bits": activations.bits,
        "scheme": activations.scheme,
        "layers": dict.fromkeys(quantizable(network)),
    }
    if activations.mode == "static":
        if images is None:
            raise ValueError("static activations need calibration images")
        histograms = observe(network, images, groups)
        notes["layers"] = {
            name: _static_grid(histogram, activations) for name, histogram in histograms.items()
        }
    restore(network, notes)
    return notes


def restore(network: nn.Module, notes: Mapping[str, Any]) -> None:
    """Attach the quantizers that :func:`quantize_activations` described, in place."""
    for name, grid in notes["layers"].items():
        hook = ActivationQuantizer(notes["bits"], notes["scheme"], *(grid or ()))
        network.get_submodule(name).register_forward_pre_hook(hook)


def _static_grid(histogram: Histogram, activations: Activations) -> list[float]:
    ends = activation_range(histogram, activations)
    scale, zero_point = scale_and_zero_point(*ends, activations.bits, activations.scheme)
    return [scale.item(), zero_point.item()]


def observe(
    network: nn.Module, images: Tensor, groups: Tensor | None = None
) -> dict[str, Histogram]:
    """Take the histogram of the inputs of each quantizable layer that runs, by group.

    Two passes over the images: one for the ends, one for the counts.
    """
    layers = quantizable(network)
    groups = torch.zeros(len(images), dtype=torch.long) if groups is None else groups
    ends: dict[str, tuple[Tensor, Tensor]] = {}
    counts: dict[str, Tensor] = {}

    def widen(name: str, _m: nn.Module, given: tuple[Tensor, ...], _o: Tensor) -> None:
        low, high = _with_zero(given[0].amin().cpu(), given[0].amax().cpu())
        before = ends.get(name, (low, high))
        ends[name] = torch.minimum(low, before[0]), torch.maximum(high, before[1])

    with watching(layers, widen):
        for batch in images.split(64):
            dry_run(network, batch)

    def count(name: str, _m: nn.Module, given: tuple[Tensor, ...], _o: Tensor) -> None:
        low, high = (end.item() for end in ends[name])
        table = counts.setdefault(name, torch.zeros(int(groups.max()) + 1, BINS))
        rows, odd = divmod(len(given[0]), len(codes))
        if odd or not rows:
            raise QuantizationError(
                f"layer {name!r} gets {len(given[0])} rows of {len(codes)} images, so no row is of "
                "one image; give activations: {mode: dynamic}, or none"
            )
        each = codes.repeat_interleave(rows)  # of windows, those of an image lie together
        for code in codes.unique().tolist():
            if code >= 0 and high > low:
                table[code] += torch.histc(given[0][each == code].float().cpu(), BINS, low, high)

    with watching(layers, count):
        for batch, codes in zip(images.split(64), groups.split(64), strict=True):  # noqa: B007
            dry_run(network, batch)
    return {name: Histogram(*ends[name], counts[name]) for name in ends}


def activation_range(histogram: Histogram, activations: Activations) -> tuple[Tensor, Tensor]:
    """Return the clipping range of an input from its histogram; it always holds zero.

    ==========  ==============================================================================
    range       of all images, in the resolution of the bins
    ==========  ==============================================================================
    minmax      all that was seen
    percentile  that share of the values; half of the rest is cut at either end
    mse         the one of 100 shrunken ranges with the least squared error: of all values, or
                of the group whose mean squared error is the largest (``worst_group``)
    entropy     the one of 100 whose quantized distribution is closest to the clipped one in
                the Kullback–Leibler divergence (Migacz 2017)
    ==========  ==============================================================================
    """
    minimum, maximum = histogram.minimum, histogram.maximum
    if activations.range == "minmax" or not histogram.counts.any():
        return minimum, maximum
    centers, counts = histogram.centers(), histogram.counts.double()
    if activations.range == "percentile":
        share = counts.sum(0).cumsum(0) / counts.sum()
        cut = (100 - activations.percentile) / 200
        kept = centers[
            (share >= cut) & (share.roll(1).index_fill(0, torch.tensor([0]), 0) < 1 - cut)
        ]
        return _with_zero(kept.min(), kept.max())
    costs = []
    for step in range(CANDIDATES, 0, -1):
        factor = step / CANDIDATES
        grid = scale_and_zero_point(
            minimum * factor, maximum * factor, activations.bits, activations.scheme
        )
        rounded = fake_quantize(centers, *grid, *code_range(activations.bits, activations.scheme))
        if activations.range == "entropy":
            inside = (centers >= minimum * factor) & (centers <= maximum * factor)
            costs.append(_divergence(counts.sum(0), rounded, inside))
            continue
        errors = counts @ (rounded - centers).double().square()
        if activations.objective == "worst_group":
            costs.append((errors / counts.sum(1).clamp_min(1)).max())
        else:
            costs.append(errors.sum())
    factor = (CANDIDATES - int(torch.stack(costs).argmin())) / CANDIDATES
    return minimum * factor, maximum * factor


def _divergence(counts: Tensor, rounded: Tensor, inside: Tensor) -> Tensor:
    """KL divergence of the clipped distribution from one that is flat within each code."""
    first, last = inside.nonzero().flatten()[[0, -1]]
    clipped = counts[first : last + 1].clone()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last + 1 :].sum()
    kept = counts[first : last + 1]
    _, code = rounded[first : last + 1].unique(return_inverse=True)
    filled = (kept > 0).double()
    mass = torch.zeros(int(code.max()) + 1, dtype=torch.double).index_add_(0, code, kept)
    bins = torch.zeros_like(mass).index_add_(0, code, filled)
    flat = (mass / bins.clamp_min(1))[code] * filled
    if not flat.any():  # all values lie beyond the range
        return flat.new_tensor(torch.inf)
    p, q = clipped / clipped.sum(), flat / flat.sum()
    # where the clipped mass meets an empty bin a small q stands for "never"
    return torch.where(p > 0, p * (p / q.clamp_min(1e-12)).log(), 0).sum()


def _with_zero(minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
    return minimum.clamp_max(0), maximum.clamp_min(0)
