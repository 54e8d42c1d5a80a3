"""Readers of data sets, one file a family; see :mod:`quantskew.data.sources.registry`."""

from importlib import import_module
from pkgutil import iter_modules

from quantskew.data.sources.registry import READERS, Image, Raw, SourceError, Terms, read, source

for _module in iter_modules(__path__):  # each reader registers itself
    import_module(f"{__name__}.{_module.name}")

__all__ = ["READERS", "Image", "Raw", "SourceError", "Terms", "read", "source"]
