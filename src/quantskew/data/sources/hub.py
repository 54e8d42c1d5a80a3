"""Parquet files: those of the hub, pinned to a revision, and one's own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew.data.sources import registry
from quantskew.data.sources.layout import lacking_parts, splits_of
from quantskew.data.sources.registry import Image, SourceError, Terms, UnusableError
from quantskew.data.sources.store import below

_BATCH = 64
# so that a column of whole numbers with one unknown does not become one of floats
_INTEGERS = {
    getattr(pa, name.lower())(): pd.api.types.pandas_dtype(name)
    for name in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
}


def read_hub(
    where: Path, repository: str, revision: str | None, patterns: list[str], terms: Terms
) -> tuple[pd.DataFrame, Iterator[Image]]:
    """Read Parquet files that are on disk, or fetch from the hub what is missing of them.

    They are in the folder ``where``, or come to it; it may also be one such file. The
    ``repository`` is ``owner/name``, and the ``revision`` a commit, which does not change as a
    branch does. There is a file of each of the ``patterns``, relative to ``where`` and to the
    repository. Returns the columns but ``image`` with ``id`` and the ``split`` that the names of
    files tell, and the images, one a row. A ``SourceError`` is raised when files or numbered parts
    are missing and none can be fetched, or no revision is given.
    """
    page = f"https://huggingface.co/datasets/{repository}"
    files = [where] if where.is_file() else _matching(where, patterns)
    lacking = lacking_parts(files)
    if lacking or not files:
        if revision is None or where.is_file():
            why = f"give as revision the commit to read, of {page}/commits/main"
        else:
            why = _fetched(where, repository, revision, patterns)
            files = _matching(where, patterns)
            lacking = lacking_parts(files)
        if why or lacking or not files:
            wanted = f"{', '.join(patterns)} of {page}, or the original files,"
            because = "; ".join(filter(None, (lacking, why)))
            raise registry.missing(terms, wanted, where, because)
    table, table["id"], names = read_rows(files, "image")
    table["split"] = names.map(splits_of(names))
    return table, read_images(files, "image")


def _fetched(where: Path, repository: str, revision: str, patterns: list[str]) -> str:
    from huggingface_hub import snapshot_download

    fetch = partial(snapshot_download, repo_type="dataset", allow_patterns=patterns)
    try:
        fetch(repository, revision=revision, local_dir=where)
    except Exception as error:  # of the network, of the hub, of the disk
        return str(error) or repr(error)
    return ""


def _matching(where: Path, patterns: list[str]) -> list[Path]:
    for names in (patterns, [pattern.rpartition("/")[2] for pattern in patterns]):
        found = [sorted(where.glob(name)) for name in names]
        if all(found):
            return [path for paths in found for path in paths]
    return []


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} is not a whole Parquet file: {error}; get it anew") from None


def read_rows(
    files: list[Path], image: str | None, root: Path | None = None, digits: int = 5
) -> tuple[pd.DataFrame, "pd.Series[str]", "pd.Series[str]"]:
    """Read every column but the image of some Parquet files.

    Numbers that the hub declares to be classes are given by their names, and folders below ``root``
    such as ``site=a`` are columns of texts. Returns the rows, a name of each
    (``train-00000-of-00001/00007``), and the names of their files. A ``SourceError`` says which
    file is not whole or lacks the column of images.
    """
    parts = []
    for path in files:
        with _whole(path):
            file = pq.ParquetFile(path, page_checksum_verification=True)
            schema = file.schema_arrow
            registry.need(schema.names, str(path), *([image] if image else []))
            columns = [field.name for field in schema if field.name != image and _plain(field)]
            part = file.read(columns).to_pandas(types_mapper=_INTEGERS.get, ignore_metadata=True)
        for name, words in _declared(path, schema.metadata or {}).items():
            if name in part:
                part[name] = part[name].map(dict(enumerate(words)))
        relative = path.relative_to(root or path.parent)
        for name, _, value in (folder.partition("=") for folder in relative.parts[:-1]):
            if value and name not in part:
                part[name] = unquote(value)
        rows = pd.Series(np.arange(len(part))).astype(str).str.zfill(digits)
        names = pd.Series(relative.with_suffix("").as_posix(), rows.index, str)
        parts.append((part, names + "/" + rows, names))
    table, ids, names = (pd.concat(each, ignore_index=True) for each in zip(*parts, strict=True))
    return table, ids, names


def _plain(field: pa.Field) -> bool:
    """Whether a column is one of single values, and no index that pandas kept."""
    nested = pa.types.is_nested(field.type) or pa.types.is_binary(field.type)
    return not (nested or pa.types.is_null(field.type) or field.name.startswith("__index_level_"))


def _declared(path: Path, notes: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Names of the classes of the columns that the hub's library declares to be classes."""
    try:
        features = json.loads(notes.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {name: [*of["names"]] for name, of in features.items() if "names" in of}
    except (ValueError, AttributeError, TypeError) as error:
        raise SourceError(
            f"{path}: its metadata 'huggingface' names no classes as the hub does ({error}); "
            "write the file without it"
        ) from None


def read_images(files: list[Path], image: str) -> Iterator[Image]:
    """Give the images of some Parquet files, a few rows in memory at a time.

    A column of images holds encoded bytes, pixels as lists of rows, names of files below the folder
    of the Parquet file, or the hub's pair of bytes and such a name.
    """
    for path in files:
        with _whole(path):
            file = pq.ParquetFile(path, page_checksum_verification=True)
            for batch in file.iter_batches(_BATCH, columns=[image]):
                for value in batch.column(0).to_pylist():
                    yield _image(value, path.parent)


def _image(value: Any, folder: Path) -> Image:
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return below(folder, value)
    try:
        return registry.as_pixels(np.array(value))
    except ValueError:
        return UnusableError("pixels are lists of unequal length")
