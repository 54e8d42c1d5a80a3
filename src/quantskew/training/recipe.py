"""What a remedy changes in the training of a network (``recipe:``)."""

from typing import Literal

from pydantic import model_validator

from quantskew.data.groups import ByGroup
from quantskew.sections import Section
from quantskew.training.augmentation import Augmentation, Unchanged
from quantskew.training.losses import CrossEntropy, Loss
from quantskew.training.sampling import AsIs, Sampling


class Recipe(Section):
    """What a remedy changes in the training of a network; the defaults change nothing.

    With ``during: all`` the recipe retrains the fp32 network under the method, and its
    quantization-aware training follows it too; with ``during: qat`` the fp32 network stays that of
    the baseline.
    """

    sampling: Sampling = AsIs()
    augmentation: Augmentation = Unchanged()
    loss: Loss = CrossEntropy()
    during: Literal["all", "qat"] = "all"

    @property
    def groupings(self) -> tuple[str, ...]:
        """Groupings that the sampling and the loss divide the samples by."""
        return tuple(part.by for part in (self.sampling, self.loss) if isinstance(part, ByGroup))

    @model_validator(mode="after")
    def _groups_stay_apart(self) -> "Recipe":
        if isinstance(self.loss, ByGroup) and self.augmentation.mixes:
            raise ValueError(
                f"augmentation: {self.augmentation.kind} mixes images of two groups, which "
                f"loss: {self.loss.kind} keeps apart; choose an augmentation that does not mix"
            )
        return self
