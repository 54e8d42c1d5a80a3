"""Clipping ranges: the interval of a tensor that the codes are spread over.

The range of a weight is taken from the weight itself (:class:`WeightRange`), that of the input of a
layer from the histogram of what the layer got on calibration images (:class:`ActivationRange`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from typing_extensions import override

from quantskew.errors import UserError, named
from quantskew.quantization.affine import Scheme, code_range, fake_quantize, scale_and_zero_point
from quantskew.quantization.objectives import Mean, Objective
from quantskew.sections import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from quantskew.quantization.activations import Histogram

    Dims = tuple[int, ...]
    Ends = tuple[Tensor, Tensor]

Percent = Annotated[float, Field(gt=50, le=100)]
CANDIDATES = 100  # shrunken copies of the min–max range that a search compares
_BLOCK = 1 << 18  # weights


class WeightRange(Choice):
    """How the clipping range of a weight tensor is chosen (``weights.range``)."""

    def ends(
        self, weight: Tensor, *, bits: int, scheme: Scheme, per_channel: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the ends of the range that a weight, output channels first, is quantized over.

        Their shape is ``(channels, 1, …)`` per channel, else ``(1, 1, …)``, and they are never
        wider than min–max.

        Examples
        --------
        >>> import torch
        >>> low, high = MinMax().ends(torch.tensor([[-1.0, 2.0], [0.0, 5.0]]), bits=4,
        ...                           scheme="asymmetric", per_channel=True)
        >>> low.tolist(), high.tolist()
        ([[-1.0], [0.0]], [[2.0], [5.0]])
        """
        weight = weight.detach().float()
        dims = tuple(range(1 if per_channel else 0, weight.ndim))
        form = (len(weight) if per_channel else 1, *[1] * (weight.ndim - 1))
        with named(f"range: {self.kind}"):
            low, high = (end.reshape(form) for end in self.clip(weight.clone(), dims, bits, scheme))
        legal = ((low <= high) & (high - low).isfinite()).all()
        if not (legal.is_meta or legal):  # tensors without content, which tests use, have no ends
            raise UserError(f"range: {self.kind} gives ends that are no numbers or not in order")
        return low, high

    @abstractmethod
    def clip(self, weight: Tensor, dims: Dims, bits: int, scheme: Scheme) -> Ends:
        """Return the ends of the ranges; the weights along ``dims``, which stay, share one."""


def _extremes(weight: Tensor, dims: Dims) -> Ends:
    return weight.amin(dims, keepdim=True), weight.amax(dims, keepdim=True)


class MinMax(WeightRange, kind="minmax"):
    """From the smallest to the largest weight: nothing is clipped."""

    @override
    def clip(self, weight: Tensor, dims: Dims, bits: int, scheme: Scheme) -> Ends:
        return _extremes(weight, dims)


class Mse(WeightRange, kind="mse"):
    """The shrunken copy of the min–max range whose grid leaves the least squared error.

    A hundred copies are compared (factors 1, 0.99, …, 0.01); the best is never worse than min–max.
    """

    @override
    def clip(self, weight: Tensor, dims: Dims, bits: int, scheme: Scheme) -> Ends:
        import torch

        minimum, maximum = _extremes(weight, dims)
        rows = weight.reshape(len(weight), -1)
        shape = (len(minimum), 1)  # a range for each row, or one for all
        factors = torch.arange(CANDIDATES, 0, -1) / CANDIDATES
        errors = rows.new_empty(CANDIDATES, len(rows))
        limits = code_range(bits, scheme)
        # blocks that stay in the cache while all candidates are tried
        height = max(1, _BLOCK // max(1, rows.shape[1]))
        for start in range(0, len(rows), height):
            block = slice(start, start + height)
            some = block if len(minimum) > 1 else slice(None)
            low, high = (end.reshape(shape)[some] for end in (minimum, maximum))
            for index, factor in enumerate(factors):
                grid = scale_and_zero_point(low * factor, high * factor, bits, scheme)
                rounded = fake_quantize(rows[block], *grid, *limits)
                errors[index, block] = rounded.sub_(rows[block]).square_().sum(1)
        if len(minimum) == 1:
            errors = errors.double().sum(1, keepdim=True)
        best = factors.to(weight)[errors.argmin(0)].reshape(minimum.shape)
        return minimum * best, maximum * best


class Percentile(WeightRange, kind="percentile"):
    """The range that holds this percentage of the weights; half of the rest is cut at each end."""

    percentile: Percent = 99.9

    @override
    def clip(self, weight: Tensor, dims: Dims, bits: int, scheme: Scheme) -> Ends:
        shape = weight.amin(dims, keepdim=True).shape
        ordered = weight.reshape(shape.numel(), -1).sort(1).values
        last = ordered.shape[1] - 1
        cut = round(last * (100 - self.percentile) / 200)
        return ordered[:, cut].view(shape), ordered[:, last - cut].view(shape)


class _Aciq(WeightRange):
    """Mean ± α, with the α that leaves the least squared error for a distribution.

    ``clips`` holds the best α for 1, 2, …, 8 bits in units of the spread (Banner et al. 2019).
    """

    clips: ClassVar[tuple[float, ...]]

    @abstractmethod
    def spread(self, deviation: Tensor, dims: Dims) -> Tensor:
        """Return the width of the distribution from the deviations from its mean."""

    @override
    def clip(self, weight: Tensor, dims: Dims, bits: int, scheme: Scheme) -> Ends:
        minimum, maximum = _extremes(weight, dims)
        center = weight.mean(dims, keepdim=True)
        alpha = self.spread(weight - center, dims) * self.clips[bits - 1]
        return minimum.maximum(center - alpha), maximum.minimum(center + alpha)


class AciqGauss(_Aciq, kind="aciq_gauss"):
    """ACIQ for Gaussian weights; the spread is their standard deviation."""

    clips: ClassVar[tuple[float, ...]] = (1.24, 1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92)

    @override
    def spread(self, deviation: Tensor, dims: Dims) -> Tensor:
        return deviation.square().mean(dims, keepdim=True).sqrt()


class AciqLaplace(_Aciq, kind="aciq_laplace"):
    """ACIQ for Laplacian weights; the spread is their mean absolute deviation."""

    clips: ClassVar[tuple[float, ...]] = (1.86, 2.83, 3.89, 5.03, 6.2, 7.41, 8.64, 9.89)

    @override
    def spread(self, deviation: Tensor, dims: Dims) -> Tensor:
        return deviation.abs().mean(dims, keepdim=True)


class ActivationRange(Choice):
    """How the clipping range of a layer's input is chosen (``activations.range``)."""

    def ends(self, histogram: Histogram, *, bits: int, scheme: Scheme) -> tuple[Tensor, Tensor]:
        """Return the ends of the range, scalars in the resolution of the bins; it holds zero.

        A layer that got nothing but zeros, or whose images belong to no group, has the min–max
        range.
        """
        if not histogram.counts.any():
            return histogram.minimum, histogram.maximum
        return self.clip(histogram, bits, scheme)

    @abstractmethod
    def clip(self, histogram: Histogram, bits: int, scheme: Scheme) -> Ends:
        """Return the ends of the range of an input that was seen to vary."""


class InputMinMax(ActivationRange, kind="minmax"):
    """All values that were seen."""

    @override
    def clip(self, histogram: Histogram, bits: int, scheme: Scheme) -> Ends:
        return histogram.minimum, histogram.maximum


class InputPercentile(ActivationRange, kind="percentile"):
    """The range that holds this percentage of the values; half of the rest is cut at each end."""

    percentile: Percent = 99.99

    @override
    def clip(self, histogram: Histogram, bits: int, scheme: Scheme) -> Ends:
        counts = histogram.counts.double()
        share = counts.sum(0).cumsum(0) / counts.sum()
        below = share.roll(1)
        below[0] = 0
        cut = (100 - self.percentile) / 200
        inside = histogram.centers()[(share >= cut) & (below < 1 - cut)]
        return inside.min().clamp_max(0), inside.max().clamp_min(0)


class _InputSearch(ActivationRange):
    """The shrunken copy of the min–max range that costs least, of a hundred."""

    @abstractmethod
    def cost(self, counts: Tensor, centers: Tensor, rounded: Tensor, inside: Tensor) -> Tensor:
        """Return the cost of a candidate, a scalar.

        ``counts`` are the values of each group in each bin, float64 (groups, bins); of each bin
        there is the center, what the candidate's grid makes of it, and whether it lies inside.
        """

    @override
    def clip(self, histogram: Histogram, bits: int, scheme: Scheme) -> Ends:
        minimum, maximum = histogram.minimum, histogram.maximum
        centers, counts = histogram.centers(), histogram.counts.double()
        costs = []
        for step in range(CANDIDATES, 0, -1):
            low, high = minimum * (step / CANDIDATES), maximum * (step / CANDIDATES)
            grid = scale_and_zero_point(low, high, bits, scheme)
            rounded = fake_quantize(centers, *grid, *code_range(bits, scheme))
            inside = (centers >= low) & (centers <= high)
            costs.append(self.cost(counts, centers, rounded, inside).item())
        factor = (CANDIDATES - costs.index(min(costs))) / CANDIDATES
        return minimum * factor, maximum * factor


class InputMse(_InputSearch, kind="mse"):
    """The least squared error, over all values or for the group whose mean error is largest."""

    objective: Objective = Mean()

    @override
    def cost(self, counts: Tensor, centers: Tensor, rounded: Tensor, inside: Tensor) -> Tensor:
        return self.objective.error(counts @ (rounded - centers).double().square(), counts.sum(1))


class InputEntropy(_InputSearch, kind="entropy"):
    """The quantized distribution closest to the clipped one (Migacz 2017).

    The distance is the Kullback–Leibler divergence of the clipped distribution from one that is
    flat within each code.
    """

    @override
    def cost(self, counts: Tensor, centers: Tensor, rounded: Tensor, inside: Tensor) -> Tensor:
        counts = counts.sum(0)
        first, last = inside.nonzero().flatten()[[0, -1]]
        within = counts[first : last + 1]
        clipped = within.clone()
        clipped[0] += counts[:first].sum()
        clipped[-1] += counts[last + 1 :].sum()
        _, code = rounded[first : last + 1].unique(return_inverse=True)
        filled = (within > 0).double()
        mass = counts.new_zeros(int(code.max()) + 1).index_add_(0, code, within)
        bins = mass.new_zeros(mass.shape).index_add_(0, code, filled)
        flat = (mass / bins.clamp_min(1))[code] * filled
        if not flat.any():  # all values lie beyond the range
            return flat.new_tensor(float("inf"))
        p, q = clipped / clipped.sum(), flat / flat.sum()
        # where the clipped mass meets an empty bin a small q stands for "never"
        return (p * (p / q.clamp_min(1e-12)).log()).where(p > 0, 0).sum()
