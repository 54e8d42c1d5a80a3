"""Which files ship (``deploy:``)."""

from typing import Annotated, Literal

from pydantic import Field

from quantskew.quantization.calibration import BalancedChoice, Calibration
from quantskew.sections import Count, Section


class Deploy(Section):
    """Which files ship, and how the int8 ones are calibrated (``deploy:``).

    Each of ``calibrations`` makes an int8 file under its name; transformers are quantized
    dynamically, which looks at no image. With ``reduce_range`` weights take 7 of the 8 bits: on an
    x86 CPU without VNNI two products of 8 bits overflow the 16-bit sum that holds them, and the
    answers of a file of full range then depend on the CPU.
    """

    networks: tuple[str, ...] = ("fp32",)  # fp32, or methods whose recipe retrains it
    seeds: Count = 1  # how many of the study's, from the first
    calibrations: Annotated[dict[str, Calibration], Field(min_length=1)] = {
        "random": Calibration(),
        "balanced": Calibration(choice=BalancedChoice()),
    }
    range: Literal["minmax", "percentile", "entropy"] = "minmax"
    reduce_range: bool = True
    intended_use: str = ""  # of the model cards, in a sentence or two
    licence: str = "other"  # of the files, as the hub names licences
