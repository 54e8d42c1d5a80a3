"""What a cell is about: a network, and the samples that it is run on."""

from pathlib import Path
from typing import TYPE_CHECKING

from quantskew.architecture import Architecture
from quantskew.names import FULL_PRECISION
from quantskew.sections import Section

if TYPE_CHECKING:
    from torch import nn

    from quantskew.data.loading import Samples


class Subject(Section):
    """A network of the study, and the samples that it is run on: what every cell is about.

    ``samples`` is the file of the samples. The network is a ``model`` of
    :data:`quantskew.models.MODELS` or the user's own ``architecture``; its file ``weights`` is
    ``None`` where it is not trained yet, and ``bits`` the width in that file, 32 and 16 being
    floating point.
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

    def test(self) -> "Samples":
        """Read the test part alone; like :meth:`data`, it stays in memory."""
        from quantskew.data.loading import load_test

        return load_test(self.samples)

    def build(self, checkpoint: str | None = None) -> "nn.Module":
        """Build the fp32 network on the CPU, from the random state of torch or a checkpoint."""
        from quantskew import models

        return models.build_for(self.data(), self.model, self.architecture, checkpoint)

    def blank(self) -> "nn.Module":
        """Build the fp32 network on the CPU, for weights to be loaded into."""
        from quantskew import models
        from quantskew.data.people import read_notes

        notes = read_notes(self.samples)
        shape = len(notes["classes"]), *notes["shape"][:2]
        return models.blank_for(shape, self.model, self.architecture)
