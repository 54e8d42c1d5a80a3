"""What a cell is about: a network, and the samples that it is run on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from quantskew.names import FULL_PRECISION
from quantskew.sections import Code, PositiveFloat, Section

if TYPE_CHECKING:
    from torch import nn

    from quantskew.data.loading import Samples


class Architecture(Section):
    """A network of the user's own (``architectures:``), beside those known by name.

    Images have values in [0, 1]; ``mean`` and ``std``, a number or one a channel, are subtracted
    and divided by. A checkpoint needs both, those that it was trained with: 0 and 1 for a network
    that takes [0, 1] or normalizes by itself. A network that falls short of
    ``expected_accuracy``, its accuracy on the test part, by more than chance is refused.
    """

    factory: str
    options: dict[str, Any] = {}
    checkpoint: str | None = None
    mean: Annotated[tuple[float, ...], Field(min_length=1)] = (0.5,)
    std: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5,)
    expected_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _normalization_is_stated(self) -> Self:
        if self.checkpoint is not None and not {"mean", "std"} <= self.model_fields_set:
            raise ValueError(
                "with a checkpoint, mean and std must be those that it was trained with; "
                "mean: [0] and std: [1] leave images in [0, 1] as they are, for a network that "
                "takes them so or normalizes by itself"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return the settings, the weights of the checkpoint and the code of the factory."""
        weights = None if self.checkpoint is None else Path(self.checkpoint)
        code = Code(self.factory.partition(":")[0])
        return {**super().identity(), "checkpoint": weights, "code": code}


class Subject(Section):
    """A network of the study, and the samples that it is run on: what every cell is about.

    Attributes
    ----------
    samples
        Table of samples.
    model, architecture
        Which network: a name of :data:`quantskew.models.MODELS`, or the user's own.
    weights
        Its file; ``None`` for a network that is not trained yet.
    bits
        Width of the weights in that file; 32 and 16 are floating point.
    """

    samples: Path
    model: str
    architecture: Architecture | None = None
    weights: Path | None = None
    bits: int = FULL_PRECISION

    def at(self, weights: Path, bits: int = FULL_PRECISION) -> "Subject":
        """Return the same network in another state."""
        return self.model_copy(update={"weights": weights, "bits": bits})

    def file(self) -> Path:
        """Return the file of the weights, of a network that has some."""
        if self.weights is None:
            raise ValueError(f"{self.model} has no weights yet")
        return self.weights

    @property
    def checkpoint(self) -> str | None:
        """File of the user's own weights, which are not trained."""
        return None if self.architecture is None else self.architecture.checkpoint

    def data(self) -> "Samples":
        """Read the samples; those of the last table stay in memory for the next cell."""
        from quantskew.data.loading import load

        return load(self.samples)

    def build(self, checkpoint: str | None = None) -> "nn.Module":
        """Build the fp32 network on the CPU, from the random state of torch or a checkpoint."""
        from quantskew import models

        return models.build_for(self.data(), self.model, self.architecture, checkpoint)

    def open(self) -> "nn.Module":
        """Build the network on the CPU, with its weights, in evaluation mode."""
        from quantskew.quantization import packing

        return packing.open_variant(self.file(), self.build(), self.bits)
