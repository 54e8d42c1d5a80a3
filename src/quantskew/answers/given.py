"""Which tables of answers stand beside the networks of a study (``answers:``)."""

import re
from collections import Counter
from pathlib import Path

from pydantic import model_validator

from quantskew.names import BASELINE, FULL_PRECISION, UNKNOWN_WIDTH
from quantskew.sections import Fraction, Names, Section

_TABLE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*?)(?:-([1-9]\d?)bit)?")


class Given(Section):
    """Tables of answers to the test samples of a data set, as ``quantskew compare`` reads them.

    The entry stands beside the models of the study, and its tables beside their variants. Label and
    groups are those of the data set. A table called ``ptq-4bit`` is of the method ``ptq`` at 4
    bits, and is compared as such; of any other name, the width is not known. Instead of one table
    there may be a list of them, one for each training seed, as many as of the reference.
    """

    dataset: str
    reference: Names  # answers before compression
    tables: dict[str, Names]  # answers after it, by a name of your choice
    threshold: float | None = None  # score from which on the second of two classes is answered
    missing: Fraction = 0.0  # share of the test samples that a table may lack

    @model_validator(mode="after")
    def _tables_fit_together(self) -> "Given":
        if not self.tables:
            raise ValueError("tables: none is given to compare with the reference")
        for name, files in self.tables.items():
            found = _TABLE.fullmatch(name)
            if not found or found[1] == BASELINE:
                raise ValueError(
                    f"tables: {name!r} names a method; use letters, digits, '_' and '-', and not "
                    f"{BASELINE}, which is the reference"
                )
            if len(files) != len(self.reference):
                raise ValueError(
                    f"tables: {name} has {len(files)} files, and reference {len(self.reference)}; "
                    "give one of each training seed"
                )
        times = Counter(str(path) for path in self.files().values())
        twice = [path for path, count in times.items() if count > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)} is given more than once")
        return self

    def files(self) -> dict[tuple[str, int, int], Path]:
        """File of each method, width and seed, those of the reference first."""
        found, reference = {}, f"{BASELINE}-{FULL_PRECISION}bit"
        for name, files in {reference: self.reference, **self.tables}.items():
            method, bits = _TABLE.fullmatch(name).groups()  # type: ignore[union-attr]
            for seed, file in enumerate(files):
                found[method, int(bits or UNKNOWN_WIDTH), seed] = Path(file)
        return found
