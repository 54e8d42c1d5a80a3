"""Quantization: the grid, ranges, rounding, quantization-aware training, and packed files."""

from types import ModuleType

from quantskew import submodule


def __getattr__(name: str) -> ModuleType:
    return submodule(__name__, name)
