"""Readers of data sets, one file a family; see :mod:`quantskew.data.sources.registry`."""

from quantskew.data.sources import bundled, faces, own, skin, vision  # noqa: F401
from quantskew.data.sources.registry import Image, Raw, SourceError, Terms, names, read, source

__all__ = ["Image", "Raw", "SourceError", "Terms", "names", "read", "source"]
