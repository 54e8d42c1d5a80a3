"""The figures of a study, one file each; see :mod:`quantskew.analysis.figures.registry`."""

from importlib import import_module
from pkgutil import iter_modules

from quantskew.analysis.figures.registry import FIGURES, Figure, figure

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["FIGURES", "Figure", "figure"]
