"""How the weights of a method are stored: as integers, with all that this takes, or as floats."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator
from typing_extensions import override

from quantskew.quantization.affine import Scheme
from quantskew.quantization.ranges import MinMax, WeightRange
from quantskew.quantization.rounding import Nearest, Rounding
from quantskew.sections import Choice, Width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from quantskew.quantization.codes import QuantizedWeight, Widths
    from quantskew.quantization.layers import Layer
    from quantskew.quantization.packing import Quantized


class BiasCorrection(Choice):
    """What is done about the mean error of each output channel (``weights.bias_correction``)."""

    needs_images: ClassVar[bool] = False
    moves_weights: ClassVar[bool] = False

    def correct_weight(self, weight: Tensor, quantized: QuantizedWeight) -> QuantizedWeight:
        """Return the quantized weight with its mean corrected; called for each tensor of codes."""
        return quantized

    def correct_layer(self, layer: Layer, inputs: Tensor, targets: Tensor) -> None:
        """Correct the bias of a layer, in place, from what it gets and what it should give."""


class NoCorrection(BiasCorrection, kind="none"):
    """The error stays."""


class WeightCorrection(BiasCorrection, kind="weights"):
    """Each output channel of the weight keeps its mean (Banner et al. 2019).

    What rounding took from the mean is kept as an offset beside the codes.
    """

    moves_weights: ClassVar[bool] = True

    @override
    def correct_weight(self, weight: Tensor, quantized: QuantizedWeight) -> QuantizedWeight:
        lost = weight - quantized.dequantize()
        return replace(quantized, offset=lost.mean(tuple(range(1, weight.ndim)), keepdim=True))


class OutputCorrection(BiasCorrection, kind="outputs"):
    """Each output channel of the layer keeps its mean (Nagel et al. 2019, empirical)."""

    needs_images: ClassVar[bool] = True

    @override
    def correct_layer(self, layer: Layer, inputs: Tensor, targets: Tensor) -> None:
        import torch

        axis = 1 if isinstance(layer, torch.nn.Conv2d) else -1
        others = [dim for dim in range(targets.ndim) if dim != axis % targets.ndim]
        with torch.no_grad():
            outputs = torch.cat([layer(batch) for batch in inputs.split(64)])
            moved = (targets - outputs).mean(others)
            layer.bias = torch.nn.Parameter(moved if layer.bias is None else layer.bias + moved)


class Weights(Choice):
    """How the weights of a method are quantized (``weights:``); ``format`` is its kind."""

    tag: ClassVar[str] = "format"
    usual: ClassVar[str] = "integer"
    own_bits: ClassVar[int | None] = None  # the width of a format that has a single one

    def needs_calibration(self) -> bool:
        """Whether the network is run on calibration images; if not, they cannot matter."""
        return False

    @abstractmethod
    def quantize(
        self,
        network: nn.Module,
        example: Tensor,
        *,
        bits: int,
        images: Tensor | None,
        groups: Tensor | None = None,
        widths: Mapping[str, Widths] | None,
        seed: int,
    ) -> Quantized:
        """Quantize a network, in place; see :func:`quantskew.quantization.ptq.quantize_network`."""

    def without_codes(self, network: nn.Module) -> Quantized:
        """Return a network none of whose weights has codes."""
        from quantskew.quantization.packing import Quantized

        notes: dict[str, Any] = {"format": self.kind, "folded": [], "equalized": [], "left_out": {}}
        return Quantized(network, {}, notes, {})


class IntegerWeights(Weights, kind="integer"):
    """Integer codes on an affine grid.

    ``first_last`` is the width of the layers that run first and last; ``rgb_first`` that of a first
    convolution of exactly three input channels, the one layer that Banner et al. leave at 8 bits;
    ``classifier`` that of the last layer alone, 32 leaving it in floating point. Biases, and the
    scales and shifts of norms that were not folded, are quantized per tensor, at the width of the
    layer and of the method; in deployment they stay wide, for they are few and matter much.
    """

    granularity: Literal["tensor", "channel"] = "tensor"
    scheme: Scheme = "asymmetric"
    range: WeightRange = MinMax()
    rounding: Rounding = Nearest()
    bias_correction: BiasCorrection = NoCorrection()
    equalize: bool = False
    fold_bn: bool = True
    quantize_biases: bool = False
    quantize_norms: bool = False
    first_last: Width | None = None
    rgb_first: Width | None = 8
    classifier: Width | Literal[32] | None = None

    @property
    def per_channel(self) -> bool:
        """Whether each output channel has a grid of its own."""
        return self.granularity == "channel"

    @override
    def needs_calibration(self) -> bool:
        return self.rounding.needs_images or self.bias_correction.needs_images

    @override
    def quantize(self, network: nn.Module, example: Tensor, **given: Any) -> Quantized:
        from quantskew.quantization.ptq import quantize_integers

        return quantize_integers(network, example, weights=self, **given)

    def of_vectors(self) -> IntegerWeights:
        """Return how one number a channel is quantized: over a range that all of them share."""
        return self.model_copy(update={"granularity": "tensor", "bias_correction": NoCorrection()})

    @model_validator(mode="after")
    def _parts_fit_together(self) -> IntegerWeights:
        if self.bias_correction.moves_weights and not isinstance(self.rounding, Nearest):
            raise ValueError(
                f"bias_correction: {self.bias_correction.kind} moves weights off what "
                f"rounding: {self.rounding.kind} chose; use nearest, or bias_correction: outputs"
            )
        if self.equalize and not self.fold_bn:
            raise ValueError("equalize scales weights across layers; it needs fold_bn: true")
        return self


class _HalfWeights(Weights):
    """Computation in half precision; logits stay in float32."""

    own_bits: ClassVar[int | None] = 16

    @override
    def quantize(self, network: nn.Module, example: Tensor, **given: Any) -> Quantized:
        from quantskew.quantization.packing import in_half

        return self.without_codes(in_half(network, self.kind))


class Float32(Weights, kind="float32"):
    """The trained network as it is, for corrections that need no quantization (``post``)."""

    own_bits: ClassVar[int | None] = 32

    @override
    def quantize(self, network: nn.Module, example: Tensor, **given: Any) -> Quantized:
        return self.without_codes(network)


class Float16(_HalfWeights, kind="float16"):
    """IEEE half precision: 5 bits of exponent, 10 of fraction."""


class BFloat16(_HalfWeights, kind="bfloat16"):
    """The range of float32 with 7 bits of fraction."""
