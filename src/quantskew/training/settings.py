"""How networks are trained (``training:``, ``recipe:``)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from quantskew.sections import Count, Fraction, NonNegative, PositiveFloat, Section


def refuse_idle(section: Section, acts: Mapping[str, tuple[str, bool]], within: str = "") -> None:
    """Refuse a field that is given without the choice that it acts with."""
    for name, (choice, chosen) in acts.items():
        if not chosen and getattr(section, name) != type(section).model_fields[name].default:
            key = f"{within}{name}"
            raise ValueError(f"{key} acts with {choice} alone; give that, or leave it out")


def _as_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


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
        refuse_idle(
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
        refuse_idle(
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
