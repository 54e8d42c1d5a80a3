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

    With ``four_bits`` a further file has weights of 4 bits where ONNX Runtime runs these: those of
    its matrix products (``MatMulNBits``), which compute in floating point. A network of which that
    is less than half, such as one of convolutions, gets no such file, and the reason is listed.
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
    four_bits: bool = False  # also a file whose matrix products have weights of 4 bits
    licence: str = "other"  # of the files, by its identifier on the Hugging Face hub

    def files_of(self, network: str) -> dict[str, tuple[int, Calibration | None]]:
        """Width and calibration of the files in integers, by their method in tables."""
        prefix = "" if network == BASELINE else f"{network}_"
        files: dict[str, tuple[int, Calibration | None]] = {
            f"{prefix}int8_{name}": (8, calibration)
            for name, calibration in self.calibrations.items()
        }
        return files | ({f"{prefix}int4_weights": (4, None)} if self.four_bits else {})
