"""Parquet files: those of the hub, pinned to a revision, and one's own."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew.data.sources.registry import Image, SourceError, Terms, as_pixels, missing
from quantskew.errors import close_names

_BATCH = 64
_NUMBERED = re.compile(r"(.*)-\d{5}-of-(\d{5})")
# where a row stands: no names that a table has
_FILE, _ROW = "\0file", "\0row"


def fetch(
    repository: str, revision: str | None, patterns: list[str], where: Path, terms: Terms
) -> list[Path]:
    """Find Parquet files on disk, or fetch from the hub what is missing of them.

    Parameters
    ----------
    repository
        Of data on the hub, ``owner/name``.
    revision
        A commit of it: what a branch points to may change, a commit does not.
    patterns
        Which files, relative to ``where`` and to the repository.
    where
        Folder they are in or come to; or one such file.

    Raises
    ------
    SourceError
        When files are missing and none can be fetched, or no revision is given.
    """
    if where.is_file():
        return [where]
    found = _matching(where, patterns)
    if found and _whole(found):
        return found
    page = f"https://huggingface.co/datasets/{repository}"
    wanted = f"{', '.join(patterns)} of {page}, or the original files,"
    if revision is None:
        because = f"give as revision the commit to read; they are listed at {page}/commits/main"
        raise missing(terms, wanted, where, because)
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision,
            allow_patterns=patterns,
            local_dir=where,
        )
    except Exception as error:  # of the network, of the hub, of the disk
        raise missing(terms, wanted, where, error) from None
    return _matching(where, patterns)


def _matching(where: Path, patterns: list[str]) -> list[Path]:
    for names in (patterns, [pattern.rpartition("/")[2] for pattern in patterns]):
        found = sorted({path for name in names for path in where.glob(name)})
        if found:
            return found
    return []


def _whole(files: list[Path]) -> bool:
    """Whether all parts are there of files that are numbered parts: of 2, 1 may be downloaded."""
    numbered = (_NUMBERED.fullmatch(path.stem) for path in files)
    counts = Counter(part.groups() for part in numbered if part)
    return all(count == int(total) for (_, total), count in counts.items())


def read_rows(files: list[Path], image: str) -> pd.DataFrame:
    """Read every column but the image of some Parquet files.

    Numbers that the hub declares to be classes are given by their names; :func:`placed` tells
    where a row stands.

    Raises
    ------
    SourceError
        When a file is not whole or has no such image column.
    """
    parts = []
    for path in files:
        try:
            schema = pq.read_schema(path)
            if image not in schema.names:
                raise SourceError(
                    f"{path} has no column {image!r}{close_names(image, schema.names)}; "
                    f"it has {', '.join(schema.names)}"
                )
            columns = [field.name for field in schema if field.name != image and _plain(field.type)]
            part = pq.read_table(path, columns=columns).to_pandas()
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(f"{path} is not a whole Parquet file: {error}; get it anew") from None
        declared = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for name, feature in declared.get("info", {}).get("features", {}).items():
            if name in part and isinstance(feature, dict) and "names" in feature:
                part[name] = part[name].map(dict(enumerate(feature["names"])))
        parts.append(part.assign(**{_FILE: path.stem, _ROW: np.arange(len(part))}))
    return pd.concat(parts, ignore_index=True)


def placed(table: pd.DataFrame, digits: int = 5) -> tuple["pd.Series[str]", "pd.Series[str]"]:
    """Take out of the rows of :func:`read_rows` where they stand: their files, and names of all."""
    file, row = table.pop(_FILE), table.pop(_ROW)
    return file, file + "/" + row.map(f"{{:0{digits}d}}".format)


def _plain(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_null(kind))


def read_images(files: list[Path], image: str) -> Iterator[Image]:
    """Give the images of some Parquet files, a few rows in memory at a time.

    A column of images holds encoded bytes, the hub's pair of bytes and path, or pixels as lists
    of rows.
    """
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=[image]):
            for value in batch.column(0).to_pylist():
                yield _image(value)


def _image(value: Any) -> Image:
    if isinstance(value, dict):
        value = value.get("bytes")
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    return as_pixels(np.array(value))
