"""The figures of a study, one file each; see :mod:`quantskew.analysis.figures.registry`."""

import json
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pandas as pd

from quantskew.analysis.figures.registry import FIGURES, Figure, figure
from quantskew.files import write_text

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["FIGURES", "Figure", "draw", "figure"]


def draw(folder: Path, *, figure: str, rows: Path) -> None:
    """Draw a figure from its rows, as a cell of its own: writes ``figure.svg``."""
    frame = pd.DataFrame(json.loads(rows.read_text(encoding="utf-8")))
    empty = frame.columns[frame.isna().all()]  # JSON does not say that these hold numbers
    frame = frame.astype(dict.fromkeys(empty, float))
    write_text(folder / "figure.svg", FIGURES[figure].drawing.svg(frame))
