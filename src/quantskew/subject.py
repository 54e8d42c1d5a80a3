"""A network of the study: how it is built."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from quantskew.engine.fingerprint import Code
from quantskew.sections import PositiveFloat, Section


class Architecture(Section):
    """A network of the user's own (``architectures:``), beside those known by name."""

    factory: str
    options: dict[str, Any] = {}
    checkpoint: str | None = None
    mean: Annotated[tuple[float, ...], Field(min_length=1)] = (0.5,)
    std: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5,)

    def identity(self) -> dict[str, Any]:
        """Return the settings, the weights of the checkpoint and the code of the factory."""
        weights = None if self.checkpoint is None else Path(self.checkpoint)
        code = Code(self.factory.partition(":")[0])
        return {**super().identity(), "checkpoint": weights, "code": code}
