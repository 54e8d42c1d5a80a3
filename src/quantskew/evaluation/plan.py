"""What is evaluated, and around which networks the loss is surveyed (``curvature:``)."""

from typing import Annotated

from pydantic import Field

from quantskew.sections import Count, Names, Section, Width


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
