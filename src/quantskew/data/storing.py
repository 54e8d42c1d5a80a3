"""A data set ready to be written as its table of samples, a part at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew.files import replacing
from quantskew.schemas import TABLES

_PART = 1 << 25  # bytes of pixels in a row group


@dataclass(frozen=True)
class Prepared:
    """A data set ready to be written.

    ``rows`` hold ``id``, ``split``, ``label`` and the attributes, in the order of the table, and
    ``where`` the position of each, (N,), in ``pixels``: all decoded images, uint8 (M, C, H, W),
    also of samples that were left out. ``rejects`` are rows of the table of that name, and
    ``metadata`` JSON texts by name, which a reader of the table has to know.
    """

    rows: pd.DataFrame
    pixels: np.ndarray
    where: np.ndarray
    rejects: pd.DataFrame
    metadata: dict[str, str]

    def write(self, path: str | Path) -> None:
        """Write the table ``samples``, a few thousand rows at a time, whole or not at all."""
        notes = {"table": "samples", **self.metadata}
        with replacing(path) as temporary:
            parts = self.parts()
            first = next(parts)
            schema = first.schema.with_metadata({key: notes[key] for key in sorted(notes)})
            with pq.ParquetWriter(temporary, schema, compression="zstd", version="2.6") as writer:
                writer.write_batch(first)
                for part in parts:
                    writer.write_batch(part)

    def parts(self) -> Iterator[pa.RecordBatch]:
        """The rows of the table, a few thousand at a time."""
        spec = TABLES["samples"].schema
        further = sorted(set(self.rows.columns.astype(str)) - set(spec.names))
        stride = int(np.prod(self.pixels.shape[1:]))
        step = max(_PART // max(stride, 256), 1)
        # the types of the whole column, so that a part of nothing but unknowns has them too
        rows = pa.Table.from_pandas(self.rows, preserve_index=False)
        fields = [field for field in spec if field.name != "image"]
        for name in further:
            kind = rows.field(name).type
            fields.append(pa.field(name, pa.string() if pa.types.is_dictionary(kind) else kind))
        rows = rows.select([field.name for field in fields]).cast(pa.schema(fields))
        for start in range(0, len(self.rows), step):
            here = self.where[start : start + step]
            offsets = np.arange(len(here) + 1, dtype=np.int32) * stride
            flat = np.ascontiguousarray(self.pixels[here])
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(flat)]
            image = pa.Array.from_buffers(pa.binary(), len(here), buffers)
            part = rows.slice(start, step).combine_chunks()
            part = part.add_column(3, spec.field("image"), [image])
            yield part.to_batches()[0]
