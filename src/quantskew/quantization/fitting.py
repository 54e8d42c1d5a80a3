"""How a method gets its codes: after training, or by training with the quantizers in place."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from pydantic import Field
from typing_extensions import override

from quantskew.errors import UserError
from quantskew.quantization.starts import LeastError, ScaleStart
from quantskew.sections import Choice, Count, Fraction, NonNegative, PositiveFloat, Section, Width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from quantskew.data.loading import Samples
    from quantskew.quantization.calibration import CalibrationSet
    from quantskew.quantization.codes import Widths
    from quantskew.quantization.method import Method
    from quantskew.quantization.packing import Quantized
    from quantskew.quantization.qat import Prepared
    from quantskew.training.losses import Floats
    from quantskew.training.training import Training

_DAMPENING_FROM = 0.25


class MethodError(UserError, ValueError):
    """A method that cannot be applied, and what it lacks."""


class Qat(Section):
    """How networks are trained with their quantizers in place (``qat:``).

    ``scale_lr`` is the learning rate of the learned scales, ``start`` where they start.
    ``bn_batches`` counts the batches from which the statistics of the batch norms are taken anew
    afterwards, 0 keeping them.
    """

    epochs: Count = 3
    lr: PositiveFloat | Annotated[dict[Width, PositiveFloat], Field(min_length=1)] = 1e-3
    scale_lr: PositiveFloat = 1e-4
    start: ScaleStart = LeastError()
    bn_batches: Annotated[int, Field(ge=0)] = 0

    def lr_at(self, bits: int) -> float:
        """Learning rate at a width; a table is read at the nearest width it names."""
        if isinstance(self.lr, dict):
            return self.lr[min(self.lr, key=lambda width: (abs(width - bits), width))]
        return self.lr


class Oscillations(Choice):
    """What QAT does about weights that flip between two codes (``oscillations:``)."""

    @abstractmethod
    def __call__(self, prepared: Prepared) -> dict[str, Any]:
        """Return the options that :func:`quantskew.training.loop.fit` gets for it."""


class AsIs(Oscillations, kind="as_is"):
    """Nothing."""

    @override
    def __call__(self, prepared: Prepared) -> dict[str, Any]:
        return {}


class Dampen(Oscillations, kind="dampen"):
    """Pull weights to the middle of their bins (Nagel et al. 2022, section 4.2).

    The weight of this loss is 0 for the first quarter of the training, and then rises to
    ``strength`` along a half cosine, which is the schedule of the authors' code.
    """

    strength: NonNegative = 0.1

    @override
    def __call__(self, prepared: Prepared) -> dict[str, Any]:
        from quantskew.quantization import qat

        return {"penalty": lambda share: self.strength_at(share) * qat.damp(prepared)}

    def strength_at(self, share: float) -> float:
        """Return the weight of the loss after a share of the training."""
        if share < _DAMPENING_FROM:
            return 0.0
        return self.strength * (1 - _half_cosine((share - _DAMPENING_FROM) / (1 - _DAMPENING_FROM)))


class Freeze(Oscillations, kind="freeze"):
    """Freeze weights that oscillate (Nagel et al. 2022, section 4.3).

    ``threshold`` is the frequency of oscillation above which a weight is frozen, at the start and
    at the end of the training; it moves from one to the other along a half cosine.
    """

    threshold: tuple[Fraction, Fraction] = (0.1, 0.01)

    @override
    def __call__(self, prepared: Prepared) -> dict[str, Any]:
        from quantskew.quantization.freezing import Freezer

        freezer = Freezer(prepared)
        return {"after_step": lambda share: freezer.step(self.threshold_at(share)), "kept": freezer}

    def threshold_at(self, share: float) -> float:
        """Return the threshold after a share of the training."""
        first, last = self.threshold
        return last + (first - last) * _half_cosine(share)


def _half_cosine(share: float) -> float:
    """Fall from 1 to 0 along half a cosine as the share goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


class Material(NamedTuple):
    """What a method is given beside the network; see :func:`quantskew.methods.apply`.

    ``seen`` are the calibration images and ``widths`` the bit allocation, where the method has any;
    ``fitting`` are further options of :func:`quantskew.training.loop.fit`.
    """

    example: Tensor
    seen: CalibrationSet | None
    widths: Mapping[str, Widths] | None
    train: Samples | None
    training: Training
    qat: Qat
    accuracy: Floats | None
    seed: int
    fitting: Mapping[str, Any]


class Fitting(Choice):
    """Whether the network is trained with its quantizers in place (``training`` of a method)."""

    trains: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, network: nn.Module, method: Method, bits: int, material: Material
    ) -> Quantized:
        """Return the quantized network; the one that is given is not changed."""


class PostTraining(Fitting, kind="none"):
    """The trained network is quantized as it is."""

    @override
    def __call__(
        self, network: nn.Module, method: Method, bits: int, material: Material
    ) -> Quantized:
        from quantskew.quantization.ptq import quantize_network

        seen = material.seen
        return quantize_network(
            network, material.example,
            bits=bits, weights=method.weights, activations=method.activations,
            calibration=seen and seen.images, groups=seen and seen.groups, widths=material.widths,
            seed=material.seed,
        )  # fmt: skip


class QuantizationAware(Fitting, kind="qat"):
    """Quantization-aware training with learned step sizes: :mod:`quantskew.quantization.qat`."""

    trains: ClassVar[bool] = True

    @override
    def __call__(
        self, network: nn.Module, method: Method, bits: int, material: Material
    ) -> Quantized:
        from quantskew import models
        from quantskew.quantization import qat
        from quantskew.quantization.selfcheck import same_logits
        from quantskew.training.loop import fit, parameter_groups

        seen, train, settings, seed = material.seen, material.train, material.qat, material.seed
        if train is None:
            raise MethodError("training: qat trains the network, and no training samples are given")
        recipe = method.recipe
        goal = recipe.loss.objective(train, material.accuracy, reference=network)
        prepared = qat.prepare(
            network, material.example,
            bits=bits, weights=method.integer_weights(), widths=material.widths,
            activations=method.activations, calibration=seen and seen.images,
            groups=seen and seen.groups, start=settings.start,
        ).to(models.device())  # fmt: skip
        rates = {"epochs": settings.epochs, "lr": settings.lr_at(bits), "warmup": 0.0}
        order = recipe.sampling.order(train.attributes, seed)
        fit(
            prepared,
            train.images,
            train.labels,
            settings=material.training.model_copy(update=rates),
            order=order,
            seed=seed,
            groups=qat.apart(parameter_groups(prepared), prepared, lr=settings.scale_lr),
            objective=goal,
            augment=recipe.augmentation.augmenter(classes=len(train.classes), seed=seed),
            **method.oscillations(prepared),
            **material.fitting,
        )
        if settings.bn_batches:
            batch_size = material.training.batch_size
            chosen = order(settings.epochs)[: settings.bn_batches * batch_size]
            inputs = models.as_input(train.images[chosen], models.device())
            qat.reestimate_batch_norm(prepared, inputs, batch_size=batch_size)
        quantized = qat.convert(prepared.cpu().eval())
        same_logits(prepared, quantized.network, material.example, step="conversion after QAT")
        return quantized
