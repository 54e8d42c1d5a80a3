"""Tables in canonical form: written whole, read with their schema checked.

A table is canonical: fixed columns in a fixed order, rows sorted by the key of the table, the same
bytes for the same content. The schemas are in :mod:`quantskew.schemas`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew.errors import UserError
from quantskew.files import replacing
from quantskew.schemas import TABLES


class TableError(UserError, ValueError):
    """A file is not the table it should be."""


def write(name: str, rows: pd.DataFrame | Iterable[pd.DataFrame], path: str | Path) -> None:
    """Write a table, named as in :data:`TABLES`, in canonical form; the file is replaced whole.

    The rows have just the columns of the schema, in any order; NaN is written as null. A table
    larger than memory comes in parts, in the order of its key; each is let go of once written.

    Raises
    ------
    TableError
        When a column lacks or is unknown, a value has another type or is null where none may be,
        a key stands twice, or parts are out of order.
    """
    schema = TABLES[name].schema.with_metadata({"table": name})
    key = list(TABLES[name].key)
    last: tuple[Any, ...] | None = None
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", version="2.6") as file,
    ):
        for part in [rows] if isinstance(rows, pd.DataFrame) else rows:
            table = _canonical(name, part, path)
            if len(table):
                first, end = table.select(key).take([0, len(table) - 1]).to_pylist()
                if last is not None and tuple(first.values()) <= last:
                    raise TableError(f"table {name!r} for {path}: {first} comes after {last}")
                last = tuple(end.values())
            file.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=1 << 16)


def _canonical(name: str, rows: pd.DataFrame, path: str | Path) -> pa.Table:
    spec = TABLES[name]
    missing = [column for column in spec.schema.names if column not in rows]
    unknown = [column for column in rows if column not in spec.schema.names]
    if missing or unknown:
        raise TableError(f"table {name!r} for {path}: lacks {missing}, does not know {unknown}")
    for field in spec.schema:
        empty = rows[field.name].isna()
        if not field.nullable and empty.any():
            row = rows[empty.to_numpy()].iloc[0]
            raise TableError(
                f"table {name!r} for {path}: {field.name} is missing where "
                + ", ".join(f"{column} = {row[column]}" for column in spec.key)
            )
    try:
        table = pa.Table.from_pandas(rows, schema=spec.schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TableError(f"table {name!r} for {path}: {'; '.join(map(str, error.args))}") from None
    twice = rows.duplicated(list(spec.key))
    if twice.any():
        keys = rows.loc[twice.to_numpy(), list(spec.key)].iloc[0].to_dict()
        raise TableError(f"table {name!r} for {path}: {keys} stands more than once")
    return table.sort_by([(column, "ascending") for column in spec.key])


def read(name: str, path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read a table, or some columns of it, and check that it is the one named in :data:`TABLES`.

    Raises
    ------
    TableError
        When there is no such file, it is not whole, or has another schema.
    """
    _check(name, path)
    return pq.read_table(path, columns=columns)


def batches(name: str, path: str | Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Read a table of any size as :func:`read` does, some ten thousand rows at a time, in order."""
    _check(name, path)
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(1 << 16, columns=columns):
            yield batch.to_pandas()


def _check(name: str, path: str | Path) -> None:
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
