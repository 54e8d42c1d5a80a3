"""The schema of every Parquet table, in one place; canonical writing, checked reading.

A table is canonical: fixed columns in a fixed order, rows sorted by the key of the table, the same
bytes for the same content. Every column says what it holds in its field metadata, which
``TABLES[name].describe()`` prints and which travels inside the file.

The *variant* of a network is named by five columns that most tables share, :data:`VARIANT`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew.command import UserError
from quantskew.files import replacing

VARIANT = ("dataset", "model", "seed", "method", "bits")


class TableError(UserError, ValueError):
    """A file is not the table it should be."""


def _column(name: str, kind: pa.DataType, what: str, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": what})


_VARIANT = [
    _column("dataset", pa.string(), "name of the data set"),
    _column("model", pa.string(), "name of the architecture"),
    _column("seed", pa.int32(), "training seed"),
    _column("method", pa.string(), "name of the method; 'fp32' is the baseline"),
    _column("bits", pa.int32(), "width of the weights; 32 and 16 are floating point"),
]
_GROUP = [
    _column("attribute", pa.string(), "grouping, e.g. 'race' or 'race*gender'"),
    _column("group", pa.string(), "value of the grouping, e.g. 'Asian' or 'Asian*female'"),
]


@dataclass(frozen=True)
class Table:
    """A schema and the columns whose values name a row and order the rows."""

    schema: pa.Schema
    key: tuple[str, ...]
    open: bool = False  # further columns may follow: the attributes of a data set

    def describe(self) -> pd.DataFrame:
        """One row a column: name, type, what it holds."""
        return pd.DataFrame(
            {
                "column": self.schema.names,
                "type": [str(field.type) for field in self.schema],
                "description": [f.metadata[b"description"].decode() for f in self.schema],
            }
        )


TABLES: Mapping[str, Table] = {
    "samples": Table(
        pa.schema(
            [
                _column("id", pa.string(), "name of the sample, unique in the data set"),
                _column("split", pa.string(), "'train' or 'test'"),
                _column("label", pa.int32(), "index of the class"),
                _column("image", pa.binary(), "uint8 pixels, channels × height × width"),
            ]
        ),
        ("split", "id"),  # so that either side of the split is one slice
        open=True,
    ),
    "rejects": Table(
        pa.schema(
            [
                _column("id", pa.string(), "file or row with a defect"),
                _column("reason", pa.string(), "what is wrong with it"),
                _column("kept", pa.bool_(), "whether it is in the data set all the same"),
            ]
        ),
        ("id", "reason"),
    ),
    "history": Table(
        pa.schema(
            [
                *_VARIANT,
                _column("epoch", pa.int32(), "1 is the first"),
                _column("split", pa.string(), "'train' or 'test'"),
                *_GROUP,
                _column("n", pa.int64(), "watched samples of the group"),
                _column("accuracy", pa.float64(), "share of them that is right"),
                _column("loss", pa.float64(), "mean cross-entropy, nats"),
            ]
        ),
        (*VARIANT, "epoch", "split", "attribute", "group"),
    ),
    "variants": Table(
        pa.schema(
            [
                *_VARIANT,
                _column("base", pa.string(), "method of the fp32 network it was made from"),
                _column("file", pa.string(), "its weights, beside this table"),
                _column("bytes", pa.int64(), "size of that file"),
            ]
        ),
        VARIANT,
    ),
    "predictions": Table(
        pa.schema(
            [
                *_VARIANT,
                _column("id", pa.string(), "name of the test sample"),
                _column("label", pa.int32(), "index of its class"),
                _column("prediction", pa.int32(), "index of the class with the highest logit"),
                _column("logits", pa.list_(pa.float32()), "one a class"),
            ]
        ),
        (*VARIANT, "id"),
    ),
    "groups": Table(
        pa.schema(
            [
                *_VARIANT,
                *_GROUP,
                _column("n", pa.int64(), "test samples of the group"),
                _column("counted", pa.bool_(), "large enough to enter FVO and the worst group"),
                _column("accuracy", pa.float64(), "share that is right"),
                _column("loss", pa.float64(), "mean cross-entropy, nats"),
                _column("calibration_error", pa.float64(), "expected calibration error, 15 bins"),
                _column("null_logits", pa.int64(), "samples whose logits are all zero"),
                _column("cosine_distance", pa.float64(), "mean, to the fp32 logits (eq. 8)"),
                _column("l1_distance", pa.float64(), "mean, to the fp32 logits"),
                _column("l2_distance", pa.float64(), "mean, to the fp32 logits"),
                _column("logit_variance", pa.float64(), "mean over samples (eq. 9)"),
                _column("softmax_variance", pa.float64(), "mean over samples"),
                _column("top_probability", pa.float64(), "mean highest softmax (eq. 11)"),
                _column("true_probability", pa.float64(), "mean softmax of the true class"),
            ]
        ),
        (*VARIANT, "attribute", "group"),
    ),
    "fairness": Table(
        pa.schema(
            [
                *_VARIANT,
                _column("attribute", pa.string(), "grouping; 'all' for the whole test set"),
                _column("metric", pa.string(), "e.g. 'fvo', 'demographic_parity_worst'"),
                _column("value", pa.float64(), "NaN where it has no meaning", null=True),
                _column("note", pa.string(), "why it is NaN, whose it is, or what was left out"),
            ]
        ),
        (*VARIANT, "attribute", "metric"),
    ),
    "layers": Table(
        pa.schema(
            [
                *_VARIANT,
                _column("layer", pa.string(), "name in the network; 'all' is their sum"),
                _column("weights", pa.int64(), "how many"),
                _column("layer_bits", pa.int32(), "width of its codes"),
                _column("absolute_change", pa.float64(), "sum of |change| to fp32 (eq. 5)"),
                _column("relative_error", pa.float64(), "norm of the change over that of fp32"),
                _column("original_sparsity", pa.float64(), "share of zeros in fp32"),
                _column("sparsity", pa.float64(), "share of zeros (eq. 6)"),
            ]
        ),
        (*VARIANT, "layer"),
    ),
}


def write(
    name: str,
    rows: pd.DataFrame | pa.Table,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a table in canonical form.

    Parameters
    ----------
    name
        Key of :data:`TABLES`.
    rows
        With at least the columns of the schema, in any order. Columns beyond it are an error,
        except in an open table, where they follow in alphabetical order.
    path
        A Parquet file; replaced whole or not at all.
    metadata
        Stored with the schema, e.g. the licence of a data set.

    Raises
    ------
    TableError
        When a column lacks, is unknown, cannot be cast, or a key stands twice.
    """
    spec = TABLES[name]
    table = (
        rows
        if isinstance(rows, pa.Table)
        else pa.Table.from_pandas(rows, preserve_index=False, schema=_wanted(name, list(rows)))
    )
    wanted = _wanted(name, table.column_names)
    table = _cast(table.select(wanted.names if not spec.open else _order(spec, table)), name)
    table = table.sort_by([(column, "ascending") for column in spec.key])
    counts = table.group_by(list(spec.key)).aggregate([([], "count_all")])
    if counts.num_rows < table.num_rows:
        twice = counts.filter(pa.compute.greater(counts["count_all"], 1)).slice(0, 1).to_pylist()[0]
        twice.pop("count_all")
        raise TableError(f"table {name!r} for {path}: the key {twice} stands more than once")
    notes = {"table": name, **(metadata or {})}
    table = table.replace_schema_metadata({key: notes[key] for key in sorted(notes)})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", version="2.6", row_group_size=1 << 16)


def _order(spec: Table, table: pa.Table) -> list[str]:
    further = sorted(set(table.column_names) - set(spec.schema.names))
    return [*spec.schema.names, *further]


def _wanted(name: str, given: list[str]) -> pa.Schema | None:
    spec = TABLES[name]
    missing = [column for column in spec.schema.names if column not in given]
    unknown = [column for column in given if column not in spec.schema.names]
    if missing:
        raise TableError(f"table {name!r} lacks {', '.join(missing)}; it has {', '.join(given)}")
    if unknown and not spec.open:
        raise TableError(f"table {name!r} knows no column {', '.join(unknown)}")
    return spec.schema


def _cast(table: pa.Table, name: str) -> pa.Table:
    fields = []
    for field in table.schema:
        index = TABLES[name].schema.get_field_index(field.name)
        fields.append(TABLES[name].schema.field(index) if index >= 0 else field)
    try:
        return table.cast(pa.schema(fields))
    except (pa.ArrowInvalid, ValueError) as error:
        raise TableError(f"table {name!r}: {error}") from None


def read(
    name: str,
    path: str | Path,
    columns: list[str] | None = None,
    filters: Any = None,
) -> pa.Table:
    """Read a table and check that it is the one named.

    Parameters
    ----------
    name
        Key of :data:`TABLES`.
    path
        A Parquet file written by :func:`write`.
    columns, filters
        As in ``pyarrow.parquet.read_table``: what to read of it.

    Raises
    ------
    TableError
        When there is no such file, it is not whole, or has another schema.
    """
    spec = TABLES[name]
    try:
        schema = pq.read_schema(path)
    except FileNotFoundError:
        raise TableError(f"{path}: no such file; the stage that writes it has not run") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path} is not a whole Parquet file: {error}") from None
    for field in spec.schema:
        index = schema.get_field_index(field.name)
        if index < 0:
            raise TableError(f"{path}: table {name!r} must have a column {field.name!r}")
        if schema.field(index).type != field.type:
            raise TableError(
                f"{path}: column {field.name!r} is {schema.field(index).type}, not {field.type}"
            )
    return pq.read_table(path, columns=columns, filters=filters)
