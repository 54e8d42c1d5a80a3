"""What a table of samples says besides its images: labels, names, attributes.

It is read without decoding an image and without torch, so those who judge answers can read it.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from quantskew import tables

Labels = TypeVar("Labels")


@dataclass(frozen=True, kw_only=True)
class People(Generic[Labels]):
    """N samples without their images; those of test come first.

    ``labels`` are the indices, int64 (N,), of ``classes``; ``ids`` are N names, and ``split`` is N
    times ``"train"`` or ``"test"``. ``attributes`` has one column an attribute, and ``label`` with
    the names of the classes. ``metadata`` is what :func:`quantskew.data.prepare.prepare` noted:
    licence, counts, duplicates, ….
    """

    labels: Labels
    ids: np.ndarray
    split: np.ndarray
    attributes: pd.DataFrame
    classes: tuple[str, ...]
    metadata: dict[str, Any]
    by_row: ClassVar[tuple[str, ...]] = ("labels", "ids", "split")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def train(self) -> Self:
        """Training part, sharing memory with the whole."""
        return self._part("train")

    @property
    def test(self) -> Self:
        """Test part, sharing memory with the whole."""
        return self._part("test")

    def _part(self, split: str) -> Self:
        return self.at(slice(*(np.searchsorted(self.split, split, s) for s in ("left", "right"))))

    def at(self, rows: slice | np.ndarray) -> Self:
        """The samples at some positions; those of a slice share memory with the whole."""
        taken = {name: getattr(self, name)[rows] for name in self.by_row}
        return replace(self, **taken, attributes=self.attributes.iloc[rows].reset_index(drop=True))


def read_notes(path: str | Path) -> dict[str, Any]:
    """Read the ``metadata`` of a table of samples, such as its ``classes`` and ``shape``."""
    notes = {key.decode(): value for key, value in pq.read_schema(path).metadata.items()}
    return {key: json.loads(value) for key, value in notes.items() if key != "table"}


def read_people(path: str | Path) -> People[np.ndarray]:
    """Read all of a table of samples but its images; another file raises ``TableError``."""
    tables.read("samples", path, columns=["id"])  # refuses what is not this table
    columns = [name for name in pq.read_schema(path).names if name != "image"]
    rows = pq.read_table(path, columns=columns).to_pandas()
    metadata = read_notes(path)
    classes = tuple(metadata["classes"])
    labels = rows["label"].to_numpy(np.int64)
    for name, order in metadata["orders"].items():
        rows[name] = pd.Categorical(rows[name], order)
    return People(
        labels=labels,
        ids=rows["id"].to_numpy(object),
        split=rows["split"].to_numpy(str),
        attributes=rows.drop(columns=["id", "split"]).assign(
            label=pd.Categorical.from_codes(labels, pd.Index(classes))
        ),
        classes=classes,
        metadata=metadata,
    )
