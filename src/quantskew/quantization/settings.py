"""How networks are quantized: the sections of a method, and ``qat:``."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from quantskew.sections import Count, Fraction, NonNegative, PositiveFloat, Section, Width
from quantskew.training.settings import refuse_idle


class Qat(Section):
    """How networks are trained with their quantizers in place (``qat:``).

    ``freezing`` is the threshold of the frequency of oscillation at the start and the end of the
    training; ``start`` is where learned scales start, at the least squared error or as in LSQ's
    paper; ``bn_batches`` counts the batches from which the statistics of the batch norms are taken
    anew afterwards, 0 keeping them.
    """

    epochs: Count = 3
    lr: PositiveFloat | dict[Width, PositiveFloat] = 1e-3
    scale_lr: PositiveFloat = 1e-4
    start: Literal["mse", "lsq"] = "mse"
    dampening: NonNegative = 0.1
    freezing: tuple[Fraction, Fraction] = (0.1, 0.01)
    bn_batches: Annotated[int, Field(ge=0)] = 0

    def lr_at(self, bits: int) -> float:
        """Learning rate at a width; a table is read at the nearest width it names."""
        if isinstance(self.lr, dict):
            return self.lr[min(self.lr, key=lambda width: (abs(width - bits), width))]
        return self.lr


class Weights(Section):
    """How the weights of a method are quantized (see ``quantskew.quantization``).

    ``first_last`` is the width of the layers that run first and last; ``rgb_first`` that of a first
    convolution of exactly three input channels, the one layer that Banner et al. leave at 8 bits;
    ``classifier`` that of the last layer alone, 32 leaving it in floating point. Biases, and the
    scales and shifts of norms that were not folded, are quantized per tensor, at the width of the
    layer and of the method; in deployment they stay wide, for they are few and matter much.
    """

    format: Literal["integer", "float16", "bfloat16"] = "integer"
    granularity: Literal["tensor", "channel"] = "tensor"
    scheme: Literal["asymmetric", "symmetric", "symmetric_narrow"] = "asymmetric"
    range: Literal["minmax", "mse", "percentile", "aciq_gauss", "aciq_laplace"] = "minmax"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.9
    rounding: Literal["nearest", "adaround", "gptq"] = "nearest"
    adaround_steps: Count = 1000
    bias_correction: Literal["none", "weights", "outputs"] = "none"
    equalize: bool = False
    fold_bn: bool = True
    quantize_biases: bool = False
    quantize_norms: bool = False
    first_last: Width | None = None
    rgb_first: Width | None = 8
    classifier: Width | Literal[32] | None = None

    def needs_calibration(self) -> bool:
        """Whether the network is run on calibration images; if not, they cannot matter."""
        return self.rounding != "nearest" or self.bias_correction == "outputs"

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Weights":
        if self.bias_correction == "weights" and self.rounding != "nearest":
            raise ValueError(
                "bias_correction: weights moves weights off what "
                f"rounding: {self.rounding} chose; use nearest, or bias_correction: outputs"
            )
        if self.equalize and not self.fold_bn:
            raise ValueError("equalize scales weights across layers; it needs fold_bn: true")
        integer = ("format: integer", self.format == "integer")
        refuse_idle(
            self,
            {
                **dict.fromkeys(list(type(self).model_fields)[1:], integer),
                "percentile": ("range: percentile", self.range == "percentile"),
                "adaround_steps": ("rounding: adaround", self.rounding == "adaround"),
            },
        )
        return self


class Activations(Section):
    """How the inputs of the quantized layers are quantized, per tensor (``activations:``).

    ``static`` ranges are measured on the calibration images; ``dynamic`` ones on each image itself.
    ``worst_group`` takes the range that is best for the group it is worst for (``mse`` only).
    """

    mode: Literal["none", "static", "dynamic"] = "none"
    bits: Width = 8
    scheme: Literal["asymmetric", "symmetric", "symmetric_narrow"] = "asymmetric"
    range: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    objective: Literal["mean", "worst_group"] = "mean"

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Activations":
        if self.objective == "worst_group" and self.range != "mse":
            raise ValueError("objective: worst_group compares squared errors; give range: mse too")
        if self.mode == "dynamic" and self.range != "minmax":
            raise ValueError("dynamic activations use the range of the image: range: minmax")
        on = ("mode: static or dynamic", self.mode != "none")
        percentile = ("range: percentile", self.range == "percentile")
        parts = dict.fromkeys(("bits", "scheme", "range", "objective"), on)
        refuse_idle(self, {**parts, "percentile": percentile})
        return self


class Calibration(Section):
    """Training images that post-training methods may look at (``calibration:``).

    Who has no value of ``by`` is a group here, whatever ``groups.unknown`` says of the comparison.
    """

    samples: Count = 256
    choice: Literal["random", "balanced"] = "random"
    by: str = "label"  # the groups, for a balanced choice and for what looks at the worst group


class Policy(Section):
    """How the bits are shared among the layers, at the size of the uniform policy (``policy:``).

    ``hawq`` and ``measured`` sensitivities are minimised in the mean or for the worst group;
    ``importance`` is cut at quantiles, of layers or of output channels; ``learned`` trains a width
    a layer. With ``keep`` that share of the channels is kept at ``kept_bits`` (32: as they were),
    and the others pay for it. ``shuffle`` deals the widths of each layer to its channels at random:
    a control of the same size.
    """

    by: Literal["uniform", "hawq", "measured", "importance", "learned"] = "uniform"
    objective: Literal["mean", "worst_group"] = "mean"
    choices: Annotated[tuple[Width, ...], Field(min_length=2)] = (2, 4, 8)
    importance: Literal["gradient", "taylor"] = "taylor"
    reduce: Literal["max", "mean", "cvar", "balanced"] = "mean"
    unit: Literal["layer", "channel"] = "layer"
    keep: Annotated[float, Field(gt=0, lt=1)] | None = None
    kept_bits: Width | Literal[32] = 8
    shuffle: bool = False

    @model_validator(mode="after")
    def _objective_needs_costs(self) -> "Policy":
        if self.objective == "worst_group" and self.by not in ("hawq", "measured"):
            raise ValueError(f"objective: worst_group compares costs; by: {self.by} has none")
        return self

    @model_validator(mode="after")
    def _channels_have_importance(self) -> "Policy":
        if self.unit == "channel" and self.by != "importance":
            raise ValueError(f"unit: channel goes with by: importance, not by: {self.by}")
        if self.unit == "layer" and (self.keep is not None or self.shuffle):
            raise ValueError("keep and shuffle are of channels; give unit: channel too")
        return self

    @model_validator(mode="after")
    def _parts_act(self) -> "Policy":
        important = ("by: importance", self.by == "importance")
        chosen = self.by != "uniform" and self.keep is None
        refuse_idle(
            self,
            {
                "choices": ("a policy that is not uniform and has no keep", chosen),
                "importance": important,
                "reduce": important,
                "kept_bits": ("keep", self.keep is not None),
            },
        )
        return self
