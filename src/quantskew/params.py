"""The typed shape of ``params.yaml``: a wrong value is refused before any work is done.

Every section is a frozen pydantic model. :func:`load` reads the file and returns one
:class:`Params`; what does not fit is reported all at once, each with its key, what was given and
what is legal. YAML reads ``1e-06`` as a string (it wants ``1.0e-06``), so numbers given as strings
are accepted where a number is meant.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from quantskew.command import UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=2, le=8, description="bits of an integer code")]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int | str) else value


def _as_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(min_length=1)]


class ParamsError(UserError, ValueError):
    """``params.yaml`` holds something that cannot be run; the message lists every problem."""


class Section(BaseModel):
    """A part of ``params.yaml``: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _refuse_idle(section: Section, acts: Mapping[str, tuple[str, bool]], within: str = "") -> None:
    """Refuse a field that is given without the choice that it acts with."""
    for name, (choice, chosen) in acts.items():
        if not chosen and getattr(section, name) != type(section).model_fields[name].default:
            key = f"{within}{name}"
            raise ValueError(f"{key} acts with {choice} alone; give that, or leave it out")


_Kind = TypeVar("_Kind", bound=Section)


class Source(Section):
    """Where the images of a data set come from and how they are made ready (``sources:``).

    The key of the section names the reader (``mnist5k``, ``utkface``, …) unless ``reader`` does.
    What is left empty is the reader's own: its size, its label, its split.
    """

    reader: str | None = None
    path: str | None = None  # files already on disk; without it they are looked for, then fetched
    revision: str | None = None  # commit of a data set on the hub
    config: str | None = None  # variant of a data set on the hub
    size: Annotated[int, Field(ge=8, le=1024)] | None = None
    channels: Literal[1, 3] | None = None
    table: str | None = None  # CSV beside a folder of images
    image: str = "image"
    label: str | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None  # labels, in their order
    split: str | None = None
    attributes: tuple[str, ...] | None = None
    together: str | None = None  # column whose equal values stay on one side of the split
    imbalance: Literal["paper"] | tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    split_seed: Annotated[int, Field(ge=0)] = 0
    validation: Literal["leave_out", "train", "test"] = "leave_out"
    duplicates: Literal["together", "drop", "keep"] = "together"
    max_rejects: Fraction = 0.02


class Architecture(Section):
    """A network of the user's own (``architectures:``), beside those known by name."""

    factory: str
    options: dict[str, Any] = {}
    checkpoint: str | None = None
    mean: Annotated[tuple[float, ...], Field(min_length=1)] = (0.5,)
    std: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5,)


class Training(Section):
    """How the fp32 baselines are trained (``training:``)."""

    epochs: Count = 12
    batch_size: Annotated[int, Field(ge=2)] = 64  # a batch of one has no variance to normalize by
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: PositiveFloat = 3e-3
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.05
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: Fraction = 0.1


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
        _refuse_idle(
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
        _refuse_idle(self, {**parts, "percentile": percentile})
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
        _refuse_idle(
            self,
            {
                "choices": ("a policy that is not uniform and has no keep", chosen),
                "importance": important,
                "reduce": important,
                "kept_bits": ("keep", self.keep is not None),
            },
        )
        return self


class Augmentation(Section):
    """How training images are changed anew in every epoch (``augmentation:``).

    ``geometric`` turns by up to ``degrees``, shifts by up to the share ``shift`` of the side,
    scales by up to the share ``scale``, and mirrors every second image with ``flip``. ``erasing``
    blanks a square whose side is drawn between two shares of the image's; the defaults are the 3 to
    20 pixels of 48. ``mixup`` and ``cutmix`` mix pairs by a share drawn from Beta(alpha, alpha).
    """

    kind: Literal["none", "geometric", "erasing", "mixup", "cutmix"] = "none"
    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    shift: Fraction = 0.1
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    flip: bool = False
    sides: tuple[Fraction, Fraction] = (3 / 48, 20 / 48)
    alpha: PositiveFloat = 1.0

    @property
    def mixes(self) -> bool:
        """Whether an image of the result is made of two, of two classes and two groups."""
        return self.kind in ("mixup", "cutmix")

    @model_validator(mode="after")
    def _parts_act(self) -> "Augmentation":
        geometric = ("kind: geometric", self.kind == "geometric")
        _refuse_idle(
            self,
            {
                **dict.fromkeys(("degrees", "shift", "scale", "flip"), geometric),
                "sides": ("kind: erasing", self.kind == "erasing"),
                "alpha": ("kind: mixup or cutmix", self.mixes),
            },
        )
        if self.sides[0] > self.sides[1]:
            raise ValueError(f"sides: the least share comes first, got {list(self.sides)}")
        return self


class Recipe(Section):
    """How the network under a method is trained: the part that a baseline leaves plain.

    ``balanced`` sampling draws every group of ``by`` to the mean size, ``grown`` to the largest.
    ``group_dro`` weighs the groups of ``by`` by how badly they fare; ``constrained`` bounds how
    much further than the whole a group may fall behind by ``tolerance``. Both move their weights
    by ``step_size``; ``adjustment`` counts in what small groups lose on new data. With
    ``during: qat`` the recipe leaves the fp32 network plain and acts in QAT alone.
    """

    sampling: Literal["as_is", "balanced", "grown"] = "as_is"
    augmentation: Annotated[Augmentation, BeforeValidator(_as_kind)] = Augmentation()
    loss: Literal["cross_entropy", "weighted", "group_dro", "constrained"] = "cross_entropy"
    class_weights: tuple[NonNegative, ...] | None = None
    by: str = "label"
    step_size: PositiveFloat = 0.01
    adjustment: NonNegative = 0.0
    tolerance: Fraction = 0.02
    during: Literal["all", "qat"] = "all"

    @property
    def knows_groups(self) -> bool:
        """Whether the loss is one of groups."""
        return self.loss in ("group_dro", "constrained")

    @model_validator(mode="after")
    def _parts_act(self) -> "Recipe":
        divides = self.knows_groups or self.sampling != "as_is"
        _refuse_idle(
            self,
            {
                "class_weights": ("loss: weighted", self.loss == "weighted"),
                "by": ("sampling: balanced or grown, loss: group_dro or constrained", divides),
                "step_size": ("loss: group_dro or constrained", self.knows_groups),
                "adjustment": ("loss: group_dro", self.loss == "group_dro"),
                "tolerance": ("loss: constrained", self.loss == "constrained"),
            },
        )
        if self.class_weights is not None and not any(self.class_weights):
            raise ValueError("class_weights: one at least must be above 0")
        if self.knows_groups and self.augmentation.mixes:
            raise ValueError(
                f"augmentation: {self.augmentation.kind} mixes images of two groups, which "
                f"loss: {self.loss} keeps apart; take geometric or erasing"
            )
        return self


IN_QAT = Recipe(during="qat")


class Method(Section):
    """A composition of orthogonal parts, named in ``methods:`` or ``mitigations:``.

    ``bits`` keeps a costly method to some of the study's widths. ``function`` is the user's own,
    ``module:name``; see :func:`quantskew.methods.own`.
    """

    bits: Annotated[tuple[Width, ...], BeforeValidator(_as_list), Field(min_length=1)] | None = None
    recipe: Recipe = Recipe()
    function: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")] | None = None
    training: Literal["none", "qat"] = "none"
    oscillations: Literal["as_is", "dampen", "freeze"] = "as_is"
    weights: Weights = Weights()
    activations: Activations = Activations()
    calibration: Calibration = Calibration()
    policy: Policy = Policy()

    def bits_of(self, study: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the study's widths that it is kept to; all where it names none of them."""
        return tuple(width for width in study if width in (self.bits or study)) or study

    def base_recipe(self) -> Recipe:
        """How the fp32 network under it is trained."""
        return Recipe() if self.recipe.during == "qat" else self.recipe

    def needs_calibration(self) -> bool:
        """Whether training images are looked at after training; if not, they cannot matter."""
        post_training = self.training == "none" and self.weights.needs_calibration()
        return post_training or self.activations.mode == "static" or self.policy.by != "uniform"

    @model_validator(mode="after")
    def _parts_act(self) -> "Method":
        if self.recipe.during == "qat" and (self.training != "qat" or self.recipe == IN_QAT):
            raise ValueError("recipe.during: qat needs training: qat, and a recipe that acts in it")
        if self.oscillations != "as_is" and self.training != "qat":
            raise ValueError(f"oscillations: {self.oscillations} acts in QAT; give training: qat")
        if self.calibration != Calibration() and not self.needs_calibration():
            raise ValueError(
                "calibration changes nothing here: weights alone are quantized, from themselves; "
                "give activations: {mode: static}, another rounding or a policy, or leave it out"
            )
        if self.training == "qat":
            self._fits_qat()
        others = self.training != "none" or self.activations.mode != "none"
        others = others or self.needs_calibration()
        if self.weights.format != "integer" and others:
            raise ValueError(f"format: {self.weights.format} goes with no other part but a recipe")
        return self

    def _fits_qat(self) -> None:
        if self.activations.mode == "dynamic" or self.activations.scheme != "asymmetric":
            raise ValueError("QAT learns activations of mode: static, scheme: asymmetric")
        # weights are not folded and their grids learned, but for the costs of a policy
        costs = self.policy.by in ("hawq", "measured", "learned")
        rounded = ("training: none, or a policy of costs", costs)
        after = ("training: none", False)
        names = ("rounding", "equalize", "quantize_biases", "quantize_norms", "bias_correction")
        idle = {
            **dict.fromkeys(names, after),
            **dict.fromkeys(("scheme", "range", "percentile"), rounded),
            "fold_bn": ("training: none, or a policy", self.policy.by != "uniform"),
        }
        if self.weights.bias_correction == "weights":
            idle["bias_correction"] = rounded
        _refuse_idle(self.weights, idle, "weights.")
        _refuse_idle(self.policy, {"unit": after}, "policy.")


class Groups(Section):
    """Who is compared (``groups:``)."""

    minimum: Count = 30
    unknown: Literal["group", "leave_out"] = "group"
    by: dict[str, tuple[str, ...]] = {}
    bins: dict[str, tuple[float, ...]] = {}

    @field_validator("bins")
    @classmethod
    def _edges_rise(cls, bins: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for attribute, edges in bins.items():
            if not edges or list(edges) != sorted(set(edges)):
                raise ValueError(f"the bin edges of {attribute!r} must be rising numbers")
        return {"age": (0, 19, 40, 60), **bins}


class Curvature(Section):
    """Which networks' loss surfaces are measured, and how closely (``curvature:``).

    Per-sample gradients, curvature and the predicted damage are taken over ``samples`` test samples
    of each group; ``probes`` is the number of random vectors behind each trace, 0 for no trace.
    ``layers`` also quantizes every layer alone, as post-training methods among ``methods`` do, at
    the narrowest of ``bits``.
    """

    methods: Names = ("fp32",)
    bits: tuple[Width, ...] | None = None  # those of the study's widths; all unless given
    seeds: Count = 1  # how many of the study's, from the first
    samples: Annotated[int, Field(ge=2)] = 25
    probes: Annotated[int, Field(ge=0)] = 0
    errors: bool = False
    layers: bool = False


class Statistics(Section):
    """How sure we are (``statistics:``)."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    draws: Annotated[int, Field(ge=100)] = 2000
    seed: int = 0


class Deploy(Section):
    """Which files ship, and how the int8 ones are calibrated (``deploy:``).

    Each of ``calibrations`` makes an int8 file under its name; transformers are quantized
    dynamically, which looks at no image. With ``reduce_range`` weights take 7 of the 8 bits: on an
    x86 CPU without VNNI two products of 8 bits overflow the 16-bit sum that holds them, and the
    answers of a file of full range then depend on the CPU.
    """

    networks: Names = ("fp32",)  # methods whose fp32 network ships: fp32, or one with a recipe
    seeds: Count = 1  # how many of the study's, from the first
    calibrations: Annotated[dict[str, Calibration], Field(min_length=1)] = {
        "random": Calibration(),
        "balanced": Calibration(choice="balanced"),
    }
    range: Literal["minmax", "percentile", "entropy"] = "minmax"
    reduce_range: bool = True
    intended_use: str = ""  # of the model cards, in a sentence or two
    licence: str = "other"  # of the files, as the hub names licences


class Targets(Section):
    """What a variant must meet to be recommended (``targets:``); null asks nothing.

    ``worst_group_loss`` is the accuracy that any group may lose against fp32, as certified;
    ``fvo`` bounds the upper limit of the interval of FVO; ``bytes`` the file.
    """

    bytes: Count | None = None
    worst_group_loss: Fraction = 0.02
    fvo: Fraction | None = None


Bits = Annotated[tuple[Width, ...], BeforeValidator(_as_list), Field(min_length=1)]
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_as_list), Field(min_length=1)
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Compute(Section):
    """Where cells run (``compute:``). No stage depends on it: changing it recomputes nothing."""

    where: Literal["here", "processes", "ray"] = "processes"
    workers: Count | None = None  # processes at once on this machine; None: as many as fit
    cpus: Count | None = None  # threads of a cell; None: see quantskew.workers
    gpus: NonNegative | None = None  # share of a GPU that a cell takes, if there are any
    address: str | None = None  # of a running Ray cluster


class Params(Section):
    """All of ``params.yaml``."""

    datasets: Names
    models: Names
    bits: Bits
    seeds: Seeds
    downloads: str = "data/downloads"
    sources: dict[str, Source | None] = {}
    architectures: dict[str, Architecture] = {}
    training: Training = Training()
    qat: Qat = Qat()
    methods: dict[str, Method]
    mitigations: dict[str, Method] = {}
    groups: Groups = Groups()
    curvature: Curvature = Curvature()
    statistics: Statistics = Statistics()
    targets: Targets = Targets()
    deploy: Deploy = Deploy()
    compute: Compute = Compute()

    @field_validator("datasets", "models", "bits", "seeds")
    @classmethod
    def _no_repeats(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        repeated = sorted({str(v) for v in values if values.count(v) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated)} is given more than once")
        return values

    @model_validator(mode="after")
    def _names_fit_together(self) -> "Params":
        for kind in ("datasets", "models", "methods", "mitigations", "deploy.calibrations"):
            for name in attrgetter(kind)(self):
                if not _NAME.fullmatch(name):
                    raise ValueError(
                        f"{kind}: {name!r} becomes a file name; use letters, digits, '_' and '-'"
                    )
        both = sorted(set(self.methods) & set(self.mitigations))
        if both:
            raise ValueError(f"{', '.join(both)} stands in methods and in mitigations; rename one")
        known = ("fp32", *self.all_methods())
        if "fp32" in known[1:]:
            raise ValueError("fp32 is the name of the networks before any method; rename yours")
        owners = recipe_owners(self.mitigations)
        for key, given, legal, what in (
            ("curvature.methods", self.curvature.methods, known, "method"),
            ("deploy.networks", self.deploy.networks, (*owners.values(),), "fp32 network"),
        ):
            for name in given:
                if name not in legal:
                    raise ValueError(
                        f"{key}: {name!r} is no {what}; there are {', '.join(legal)}"
                        f"{close_names(name, legal)}"
                    )
        for name, method in self.all_methods().items():
            bits, choices = min(method.bits_of(self.bits)), method.policy.choices
            if min(choices) > bits:
                raise ValueError(
                    f"{name}: policy.choices: none of {', '.join(map(str, choices))} is as narrow "
                    f"as {bits} bits, at which the method runs; add one, or give it other bits"
                )
        missing = [name for name in self.datasets if name not in self.sources]
        if missing:
            raise ValueError(
                f"datasets: {', '.join(missing)} has no entry in sources; "
                f"there are {', '.join(self.sources) or 'none'}"
                f"{close_names(missing[0], self.sources)}"
            )
        return self

    @model_validator(mode="after")
    def _checkpoints_are_not_retrained(self) -> "Params":
        for model in self.models:
            if model not in self.architectures or self.architectures[model].checkpoint is None:
                continue
            where = f"architectures.{model}.checkpoint"
            for name, method in self.all_methods().items():
                recipe = method.recipe
                if method.base_recipe() != Recipe():
                    raise ValueError(
                        f"{where}: nothing is trained there, but {name} has a recipe for the fp32 "
                        "network; leave out the method or the checkpoint, or give the method "
                        "training: qat and recipe.during: qat"
                    )
                if recipe.loss == "weighted" and recipe.class_weights is None:
                    raise ValueError(
                        f"{where}: no training tells how hard each class is, which the weights of "
                        f"loss: weighted follow; give {name} recipe.class_weights"
                    )
        return self

    def all_methods(self) -> dict[str, Method]:
        """Methods of both stages by name."""
        return {**self.methods, **self.mitigations}

    def groups_of(self, dataset: str) -> tuple[str, ...]:
        """Groupings of a data set, the first being the one that summaries show; else the label."""
        return self.groups.by.get(dataset) or ("label",)

    def source(self, dataset: str) -> Source:
        """How a data set is made; an entry left empty in the file means the defaults."""
        if dataset not in self.sources:
            raise ParamsError(
                f"sources: no data set {dataset!r}; there are {', '.join(self.sources)}"
                f"{close_names(dataset, self.sources)}"
            )
        return self.sources[dataset] or Source()


def recipe_owners(methods: Mapping[str, Method]) -> dict[Recipe, str]:
    """Recipes of fp32 networks with the name each network bears: of the first method with it."""
    owners = {Recipe(): "fp32"}
    for name, method in methods.items():
        owners.setdefault(method.base_recipe(), name)
    return owners


def close_names(given: str, known: Mapping[str, Any] | list[str] | tuple[str, ...]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known names close to a given one, or nothing.

    Examples
    --------
    >>> close_names("minst", ["mnist", "utkface"])
    "; did you mean 'mnist'?"
    """
    close = difflib.get_close_matches(str(given), [str(name) for name in known], n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a parameter file.

    Parameters
    ----------
    path
        A YAML file with the sections of :class:`Params`.

    Raises
    ------
    ParamsError
        With one line a problem: the key, what was given, what is legal.
    """
    return read(Params, path, "run from the root of the project")


def parse(given: Mapping[str, Any], name: str = "params") -> Params:
    """Check parameters that are already a mapping; see :func:`load`."""
    return _checked(Params, given, name)


def read(kind: type[_Kind], path: str | Path, hint: str) -> _Kind:
    """Read and check a YAML file of any kind of section; see :func:`load`.

    ``hint`` is what to do where there is no such file.
    """
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; {hint}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"{path} is not YAML: {error}") from None
    if not isinstance(given, dict):
        raise ParamsError(f"{path} holds no sections; it must map keys to values")
    return _checked(kind, given, str(path))


def _checked(kind: type[_Kind], given: Mapping[str, Any], name: str) -> _Kind:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in _explain(error, kind))
        raise ParamsError(f"{name} cannot be run:\n{lines}") from None


def _explain(error: ValidationError, kind: type[Section]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "the file"
        value, context = problem["input"], problem.get("ctx", {})
        match problem["type"]:
            case "extra_forbidden":
                legal = _keys_at(kind, problem["loc"][:-1])
                yield (
                    f"{key}: unknown key; legal here: {', '.join(legal)}"
                    f"{close_names(str(problem['loc'][-1]), legal)}"
                )
            case "missing":
                yield f"{key}: is required and not given"
            case "literal_error":
                legal = re.findall(r"'([^']*)'", context["expected"])
                yield f"{key}: got {value!r}; legal: {', '.join(legal)}{close_names(value, legal)}"
            case "value_error":
                yield f"{key}: {context['error']}" if problem["loc"] else str(context["error"])
            case _:
                yield f"{key}: got {value!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _keys_at(kind: type[Section], location: tuple[int | str, ...]) -> list[str]:
    """Return the legal keys of the section at a location of the parameter tree."""
    at: Any = kind
    for part in location:
        if isinstance(at, type) and issubclass(at, Section):
            at = at.model_fields[str(part)].annotation if str(part) in at.model_fields else None
        else:  # dict[str, Section]: the name of an entry; Section | None: its optional form
            at = next(iter(_sections(at)), None)
    section = next(iter(_sections(at)), None)
    return list(section.model_fields) if section else []


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
