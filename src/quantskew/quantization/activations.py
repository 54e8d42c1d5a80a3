"""Quantized activations: the input of every quantized layer on a grid of its own, per tensor.

Static ranges come from histograms of what each layer gets on the calibration images, kept apart by
group: a range can then be best for all images alike or for the group it is worst for. A dynamic
range is that of the image itself, so that logits do not depend on what else is in the batch.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from quantskew.quantization.affine import Scheme, scale_and_zero_point
from quantskew.quantization.ranges import ActivationRange, InputMinMax
from quantskew.sections import Choice, Width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    Given = Tensor | None  # calibration images, or the group of each as a code from 0 on, (N,)
    Notes = dict[str, Any]
    Grids = Mapping[str, list[float] | None]

BINS = 2048
_TOGETHER = 16  # images; what a layer gets of them is copied to be counted
_COUNTED = 2**24  # values that torch counts exactly, for it counts in float32


@dataclass(frozen=True)
class Histogram:
    """What a layer got: counts (groups, 2048) in equal bins from ``minimum`` to ``maximum``."""

    minimum: Tensor
    maximum: Tensor
    counts: Tensor

    def centers(self) -> Tensor:
        """Return the middle of each bin."""
        import torch

        width = (self.maximum - self.minimum) / BINS
        return self.minimum + width * (torch.arange(BINS) + 0.5)


class Activations(Choice):
    """How the inputs of the quantized layers are quantized, per tensor (``activations:``)."""

    needs_images: ClassVar[bool] = False

    @abstractmethod
    def quantize(
        self, network: nn.Module, images: Given = None, groups: Given = None
    ) -> Notes | None:
        """Quantize the inputs of all quantizable layers of a network in evaluation mode, in place.

        A kind with ``needs_images`` takes calibration images and the group of each as a code from
        0 on, (N,). Returns plain values for
        :func:`quantskew.quantization.input_quantizers.restore`: mode, bits, scheme, and ``[scale,
        zero point]`` a layer (``None``: that of each image); ``None`` where nothing is quantized.
        """

    def check_learnable(self) -> None:
        """Raise ``ValueError`` where QAT cannot learn these activations."""
        raise ValueError(f"QAT learns static, asymmetric activations, not those of {self.kind}")

    def learn(self, network: nn.Module, images: Given, groups: Given) -> None:
        """Give the layers of a network input grids that QAT trains, in place."""
        self.check_learnable()


class FloatActivations(Activations, kind="none"):
    """Activations stay in floating point."""

    @override
    def quantize(self, network: nn.Module, images: Given = None, groups: Given = None) -> None:
        return None

    @override
    def check_learnable(self) -> None:
        pass


class _Quantized(Activations):
    """Integer codes on a grid a layer."""

    bits: Width = 8
    scheme: Scheme = "asymmetric"

    @abstractmethod
    def grids(self, network: nn.Module, images: Given, groups: Given) -> Grids:
        """Return scale and zero point a layer, or ``None`` for those of each image."""

    @override
    def quantize(self, network: nn.Module, images: Given = None, groups: Given = None) -> Notes:
        from quantskew.quantization.input_quantizers import restore

        layers = self.grids(network, images, groups)
        notes = {"mode": self.kind, "bits": self.bits, "scheme": self.scheme, "layers": layers}
        restore(network, notes)
        return notes


class StaticActivations(_Quantized, kind="static"):
    """The range of each input is measured on the calibration images."""

    needs_images: ClassVar[bool] = True

    range: ActivationRange = InputMinMax()

    @override
    def grids(self, network: nn.Module, images: Given, groups: Given) -> Grids:
        grids = {}
        for name, ends in self._ends(network, images, groups).items():
            scale, zero_point = scale_and_zero_point(*ends, self.bits, self.scheme)
            grids[name] = [scale.item(), zero_point.item()]
        return grids

    @override
    def check_learnable(self) -> None:
        if self.scheme != "asymmetric":
            raise ValueError(f"QAT learns asymmetric activations, not scheme: {self.scheme}")

    @override
    def learn(self, network: nn.Module, images: Given, groups: Given) -> None:
        from quantskew.quantization.learned_activations import learn_grid

        self.check_learnable()
        for name, ends in self._ends(network, images, groups).items():
            learn_grid(network.get_submodule(name), *ends, self.bits)

    def _ends(
        self, network: nn.Module, images: Given, groups: Given
    ) -> dict[str, tuple[Tensor, Tensor]]:
        if images is None:
            raise ValueError("static activations need calibration images")
        return {
            name: self.range.ends(histogram, bits=self.bits, scheme=self.scheme)
            for name, histogram in observe(network, images, groups).items()
        }


class DynamicActivations(_Quantized, kind="dynamic"):
    """The range of each input is that of the image itself: min–max."""

    @override
    def grids(self, network: nn.Module, images: Given, groups: Given) -> Grids:
        from quantskew.quantization.layers import quantizable

        return dict.fromkeys(quantizable(network))


def observe(
    network: nn.Module, images: Tensor, groups: Tensor | None = None
) -> dict[str, Histogram]:
    """Take the histogram of the inputs of each quantizable layer that runs, by group.

    Two passes over the images: one for the ends, one for the counts.
    """
    import torch

    from quantskew.quantization.layers import LayerError, dry_run, quantizable, watching

    layers = quantizable(network)
    groups = torch.zeros(len(images), dtype=torch.long) if groups is None else groups
    ends: dict[str, tuple[Tensor, Tensor]] = {}
    counts: dict[str, Tensor] = {}

    def widen(name: str, _m: nn.Module, given: tuple[Tensor, ...], _o: Tensor) -> None:
        low, high = given[0].amin().cpu().clamp_max(0), given[0].amax().cpu().clamp_min(0)
        before = ends.get(name, (low, high))
        ends[name] = torch.minimum(low, before[0]), torch.maximum(high, before[1])

    with watching(layers, widen):
        for batch in images.split(_TOGETHER):
            dry_run(network, batch)

    def count(name: str, _m: nn.Module, given: tuple[Tensor, ...], _o: Tensor) -> None:
        low, high = (end.item() for end in ends[name])
        table = counts.setdefault(name, torch.zeros(int(groups.max()) + 1, BINS).double())
        rows, odd = divmod(len(given[0]), len(codes))
        if odd or not rows:
            raise LayerError(
                f"layer {name!r} gets {len(given[0])} rows of {len(codes)} images, so no row is of "
                "one image; give activations: dynamic, or none"
            )
        each = codes.repeat_interleave(rows)  # of windows, those of an image lie together
        for code in codes.unique().tolist():
            if code >= 0 and high > low:
                values = given[0][each == code].flatten().float().cpu()
                for some in values.split(_COUNTED):
                    table[code] += torch.histc(some, BINS, low, high)

    with watching(layers, count):
        for batch, codes in zip(images.split(_TOGETHER), groups.split(_TOGETHER), strict=True):  # noqa: B007
            dry_run(network, batch)
    return {name: Histogram(*ends[name], counts[name]) for name in ends}
