"""How a network of the user's own is built (``architectures:``)."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from quantskew.sections import Code, PositiveFloat, Section


class Architecture(Section):
    """A network of the user's own (``architectures:``), beside those known by name.

    Images have values in [0, 1]; ``mean`` and ``std``, a number or one a channel, are subtracted
    and divided by. A checkpoint needs both, those that it was trained with: 0 and 1 for a network
    that takes [0, 1] or normalizes by itself. A network that falls short of
    ``expected_accuracy``, its accuracy on the test part, by more than chance is refused.
    """

    factory: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:.+$")]
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
        """Settings, weights of the checkpoint and code of the factory."""
        weights = None if self.checkpoint is None else Path(self.checkpoint)
        code = Code(self.factory.partition(":")[0])
        return {**super().identity(), "checkpoint": weights, "code": code}
