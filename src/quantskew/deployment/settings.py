"""Settings of the stage ``deploy`` (``deploy:``)."""

from typing import Annotated, Literal

from pydantic import Field

from quantskew.names import BASELINE
from quantskew.quantization.calibration import BalancedChoice, Calibration
from quantskew.sections import Count, Section

Ranges = Literal["minmax", "percentile", "entropy"]
"""How the range of an activation is determined from its values."""


class Deploy(Section):
    """Which files are deployed, and how the int8 files are calibrated (``deploy:``).

    Each of ``calibrations`` produces an int8 file under its name. With ``reduce_range`` weights use
    only 7 of the 8 bits: on an x86 CPU without VNNI, the sum of two products of 8-bit numbers
    overflows 16 bits, so that the predictions of a file with the full range depend on the CPU.
    """

    # fp32; or mitigations: with a recipe, which retrain it, or of format float32, which correct it
    networks: tuple[str, ...] = ("fp32",)
    seeds: Count = 1  # number of seeds, the first ones of the study
    calibrations: Annotated[dict[str, Calibration], Field(min_length=1)] = {
        "random": Calibration(),
        "balanced": Calibration(choice=BalancedChoice()),
    }
    range: Ranges = "minmax"
    reduce_range: bool = True
    intended_use: str = ""  # for the model cards, in one or two sentences
    licence: str = "other"  # of the files, by its identifier on the Hugging Face hub

    @staticmethod
    def method_of(network: str, calibration: str) -> str:
        """Name of the method of an int8 file in tables."""
        return f"{'' if network == BASELINE else f'{network}_'}int8_{calibration}"
