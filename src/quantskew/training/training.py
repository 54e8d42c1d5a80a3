"""How the fp32 baselines are trained (``training:``)."""

from typing import Annotated

from pydantic import Field

from quantskew.sections import Count, Fraction, NonNegative, PositiveFloat, Section
from quantskew.training.optimizers import AdamW, Cosine, Optimizer, Schedule


class Training(Section):
    """How the fp32 baselines are trained (``training:``).

    ``lr`` is the peak of the learning rate, which rises over the share ``warmup`` of the training
    and then follows the ``schedule``. ``held_out`` is the share of the training samples of each
    class that no network is trained on, for corrections after quantization (``post``) to look at.
    """

    epochs: Count = 12
    batch_size: Annotated[int, Field(ge=2)] = 64  # batch norm needs the variance of a batch
    optimizer: Optimizer = AdamW()
    lr: PositiveFloat = 3e-3
    weight_decay: NonNegative = 0.05
    schedule: Schedule = Cosine()
    warmup: Fraction = 0.1
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
