"""One's own images without code: Parquet files, or a folder with a CSV."""

from pathlib import Path
from typing import Any

import pandas as pd

from quantskew.data.source import Source
from quantskew.data.sources.hub import placed, read_images, read_rows
from quantskew.data.sources.registry import RESERVED, Raw, SourceError, Terms, source
from quantskew.data.sources.store import Store
from quantskew.errors import close_names

SIZE = 64
_OWN = Terms(page="", licence="as agreed with whoever made the data")


@source("parquet", keys=("image", "classes", "split", "together"))
def parquet(source: Source, where: Path) -> Raw:
    """A Parquet file, or a folder of them, with a column of images."""
    files = [where] if where.is_file() else sorted(where.rglob("*.parquet"))
    if not files:
        raise SourceError(f"there is no Parquet file in {where}; give one, or a folder, as path")
    table = read_rows(files, source.image)
    _, names = placed(table, digits=7)
    if "id" not in table:
        table["id"] = names
    return _raw(source, table, read_images(files, source.image), str(where))


@source("folder", keys=("table", "image", "classes", "split", "together"))
def folder(source: Source, where: Path) -> Raw:
    """A folder, zip or tar of images, and a CSV that names them relative to it."""
    tables = [where.parent / source.table] if source.table else []
    if where.is_dir():
        tables = [where / source.table] if source.table else sorted(where.glob("*.csv"))
    if len(tables) != 1 or not tables[0].is_file():
        listed = ", ".join(path.name for path in tables) or "none"
        raise SourceError(f"the CSV beside the images is to be given as table; found: {listed}")
    table = read_csv(tables[0], source.image)
    store = Store(where)
    names = table[source.image]
    if "id" not in table:
        lines = pd.Series([f"row {row + 1}" for row in range(len(table))], dtype=names.dtype)
        table["id"] = names.where(names != "", lines)
    return _raw(source, table.drop(columns=source.image), store.read(names), str(tables[0]))


def read_csv(path: Path, image: str, *needed: str) -> pd.DataFrame:
    """Read a CSV that must have some columns; that of the images is text, be it digits or empty.

    Raises
    ------
    SourceError
        When it is no CSV or lacks one of the columns.
    """
    try:
        table = pd.read_csv(path, dtype={image: str})
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise SourceError(f"{path} is not a CSV: {error}") from None
    need(table, str(path), image, *needed)
    return table.assign(**{image: table[image].fillna("")})


def need(table: pd.DataFrame, where: str, *columns: str) -> None:
    """Refuse a table that lacks a column, naming those it has."""
    known = [str(name) for name in table]
    for column in columns:
        if column not in known:
            raise SourceError(
                f"{where} has no column {column!r}{close_names(column, known)}; "
                f"it has {', '.join(known)}"
            )


def _raw(source: Source, table: pd.DataFrame, images: Any, where: str) -> Raw:
    label = source.label or "label"
    split = source.split or ("split" if "split" in table else None)
    further = [name for name in (split, source.together) if name]
    need(table, where, label, *further)
    rows = pd.DataFrame({"id": table["id"].astype(str), "label": table[label]})
    if split:
        rows["split"] = table[split]
    for name in table:
        if name in RESERVED and name not in ("id", label, split):
            if source.attributes is None or name in source.attributes:
                raise SourceError(
                    f"{where}: the column {name!r} is not what the table of samples calls so; "
                    "rename it, or leave it out by naming the attributes to keep"
                )
        elif name not in ("id", "label", split):
            rows[name] = table[name]
    return Raw(
        rows=rows,
        images=images,
        terms=_OWN,
        label=label,
        classes=source.classes,
        size=SIZE,
        together=source.together,
    )
