"""The samples of a data set in memory, ready for training: uint8 pixels, labels, groups."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from quantskew import tables
from quantskew.data.groups import Groups, group_codes
from quantskew.data.people import People, read_people


@dataclass(frozen=True, kw_only=True)
class Samples(People[torch.Tensor]):
    """N samples with their images, uint8 of N×C×H×W, from which training reads its batches."""

    images: torch.Tensor
    by_row: ClassVar[tuple[str, ...]] = ("images", *People.by_row)

    def divided(self, bins: Mapping[str, tuple[float, ...]]) -> "Samples":
        """Make groups of numeric attributes by their lower edges."""
        made = {}
        for name in bins.keys() & set(self.attributes):
            known = Groups(bins=dict(bins), unknown="leave_out")
            codes, names = group_codes(self.attributes, name, known)
            made[name] = pd.Categorical.from_codes(codes, pd.Index(names))
        return replace(self, attributes=self.attributes.assign(**made))


def load(path: str | Path) -> Samples:
    """Read a table of samples that :meth:`quantskew.data.storing.Prepared.write` wrote.

    The pixels are decompressed a row group at a time into one tensor, so the peak is the tensor and
    little more. The table read last is kept, for the next cell of the same process. A
    ``TableError`` says that there is no such table, or that an image in it has not the shape its
    metadata says.
    """
    return _load(Path(path), _version(path), all_parts=True)


def load_test(path: str | Path) -> Samples:
    """Read the test part alone, which comes first in a table; otherwise like :func:`load`."""
    return _load(Path(path), _version(path), all_parts=False)


def _version(path: str | Path) -> tuple[int, ...] | None:
    status = Path(path).stat() if Path(path).exists() else None
    return status and (status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _load(path: Path, version: tuple[int, ...] | None, *, all_parts: bool) -> Samples:
    people = read_people(path)
    people = people if all_parts else people.test
    file = pq.ParquetFile(path, pre_buffer=False)  # which would hold all of the file at once
    shape = tuple(people.metadata["shape"])
    images = np.empty((len(people.ids), *shape), np.uint8)
    start = 0
    for group in range(file.num_row_groups):
        if start == len(images):
            break
        for read in file.read_row_group(group, ["image"]).column(0).chunks:
            chunk = read[: len(images) - start]
            lengths = pc.binary_length(chunk).to_numpy()
            if (lengths != images[0].size).any():
                bad = people.ids[start + int(np.argmax(lengths != images[0].size))]
                raise tables.TableError(f"{path}: the image of {bad!r} is not {shape} bytes")
            _, offsets, flat = chunk.buffers()
            first = int(np.frombuffer(offsets, np.int32)[chunk.offset])
            part = np.frombuffer(flat, np.uint8, lengths.sum(), first)
            images[start : start + len(chunk)] = part.reshape(-1, *shape)
            start += len(chunk)
    loaded = {"labels": torch.from_numpy(people.labels), "images": torch.from_numpy(images)}
    return Samples(**{**vars(people), **loaded})
