"""What a table of samples says besides its images: labels, names, attributes.

It is read without decoding an image and without torch, so those who judge answers can read it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from quantskew import tables


@dataclass(frozen=True)
class People:
    """N samples without their images.

    Attributes
    ----------
    labels
        int64, N indices of ``classes``.
    ids
        N names.
    split
        N times ``"train"`` or ``"test"``; those of test come first.
    attributes
        One column an attribute, and ``label`` with the names of the classes.
    classes
        Names of the classes.
    metadata
        What :func:`quantskew.data.prepare.prepare` noted: licence, counts, duplicates, ….
    """

    labels: np.ndarray
    ids: np.ndarray
    split: np.ndarray
    attributes: pd.DataFrame
    classes: tuple[str, ...]
    metadata: dict[str, Any]

    def part(self, split: str) -> Self:
        """The samples of one side of the split."""
        rows = self.split == split
        return type(self)(
            self.labels[rows],
            self.ids[rows],
            self.split[rows],
            self.attributes[rows].reset_index(drop=True),
            self.classes,
            self.metadata,
        )


def read_people(path: str | Path) -> People:
    """Read all of a table of samples but its images.

    Raises
    ------
    TableError
        When there is no such table.
    """
    tables.read("samples", path, columns=["id"])  # refuses what is not this table
    schema = pq.read_schema(path)
    columns = [name for name in schema.names if name != "image"]
    rows = pq.read_table(path, columns=columns).to_pandas()
    notes = {key.decode(): value for key, value in schema.metadata.items()}
    metadata = {key: json.loads(value) for key, value in notes.items() if key != "table"}
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
