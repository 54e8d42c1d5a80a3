"""One's own images without code: Parquet files, a folder or archive of images, WebDataset tars."""

import io
import json
import posixpath
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from quantskew.data.source import Source
from quantskew.data.sources.hub import read_images, read_rows
from quantskew.data.sources.layout import SPLITS, lacking_parts, splits_of
from quantskew.data.sources.registry import RESERVED, Raw, SourceError, Terms, as_text, need, source
from quantskew.data.sources.store import PICTURES, Store

SIZE = 64
FILE = "\0file"  # where an image is: no name that a table has
_ANSWERS = ("prediction", "logits", "probabilities", "score")
_METADATA = ("metadata.csv", "metadata.jsonl")
_OWN = Terms(page="", licence="as agreed with whoever made the data")


@source("parquet", keys=("image", "classes", "split", "together"))
def parquet(source: Source, where: Path) -> Raw:
    """A Parquet file, or a folder of them, with a column of images.

    In a folder, names such as ``train-00000-of-00002.parquet``, ``test/0000.parquet`` or
    ``split=test/part-0.parquet`` are the published split, unless there is a column of it; other
    folders ``name=value/`` are columns.
    """
    files = _files(where, "*.parquet")
    root = where if where.is_dir() else None
    table, ids, names = read_rows(files, source.image, root, digits=7)
    if "id" not in table:
        table["id"] = ids
    return _raw(source, table, read_images(files, source.image), where, names if root else None)


@source("folder", keys=("table", "image", "classes", "split", "together", "part"))
def folder(source: Source, where: Path) -> Raw:
    """A folder, zip or tar of images, and what says their labels.

    That is the CSV or the JSON lines given as ``table``, the ``metadata.csv`` or ``metadata.jsonl``
    of an image folder of the hub, the one CSV in the folder, or else the names of the folders that
    the images are in (``train/cat/7.png``). Images are named relative to the table, or absolutely.
    Folders named after splits are the published split, unless there is a column of it.
    """
    store = Store(where)
    base = where if where.is_dir() else where.parent
    metadata = [name for name in store.names if PurePosixPath(name).name in _METADATA]
    tables: list[tuple[Path, Any, str]] = [(path, None, "") for path in sorted(where.glob("*.csv"))]
    if source.table:
        tables = [(base / source.table, None, "")]
        if not tables[0][0].is_file():
            raise SourceError(
                f"table: there is no file {tables[0][0]}; the table is looked for in {base}, where "
                "the images are, or is given by its whole path"
            )
    elif metadata:
        contents = zip(metadata, store.read(metadata), strict=True)
        tables = [(where / name, content, posixpath.dirname(name)) for name, content in contents]
    elif len(tables) > 1:
        listed = ", ".join(path.name for path, _, _ in tables)
        raise SourceError(f"the CSV beside the images is to be given as table; found: {listed}")
    parts = [] if tables else [class_folders(store)]
    for path, content, within in tables:
        part = read_csv(path, content=content)
        image = "file_name" if metadata and source.image not in part else source.image
        need(part, str(path), image)
        named = part.pop(image).map(partial(posixpath.join, within), na_action="ignore")
        parts.append(part.assign(**{FILE: named}))
    table = pd.concat(parts, ignore_index=True)
    # as in the store, and so that no folder that the whole lies in names a split
    names = table[FILE].fillna("").str.removeprefix(f"{where.absolute()}/").map(posixpath.normpath)
    there = names.isin(store.names) if source.part else np.ones(len(names), bool)
    table, names = table[there].reset_index(drop=True), names[there].reset_index(drop=True)
    files = table.pop(FILE)
    if "id" not in table:
        rows = enumerate(files, 1)
        table["id"] = [name if isinstance(name, str) else f"row {row}" for row, name in rows]
    paths = names.map(lambda name: f"{posixpath.dirname(name)}/-")
    return replace(_raw(source, table, store.read(files), where, paths), absent=int((~there).sum()))


def class_folders(store: Store) -> pd.DataFrame:
    """List the images of a store as :data:`FILE`; ``label`` is the first folder but a split."""
    names = [name for name in store.names if name.lower().endswith(PICTURES)]
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    while len(first := {parts[:1] for parts in folders}) == 1 and first != {()}:
        folders = [parts[1:] for parts in folders]  # the one folder that an archive holds
    labels = []
    for parts in folders:
        inner = [part for part in parts if part.lower() not in SPLITS]
        labels.append(inner[0] if inner else None)
    if not any(labels):
        raise SourceError(f"{store.where} has no table, nor images in folders named by their class")
    return pd.DataFrame({FILE: names, "label": labels})


@source("webdataset", keys=("classes", "split", "together"))
def webdataset(source: Source, where: Path) -> Raw:
    """A tar, or a folder of tars, whose members of one name and several suffixes are a sample.

    ``<key>.jpg`` (or another image) is the image, ``<key>.cls`` and ``<key>.txt`` are the columns
    ``cls`` and ``txt``, the fields of ``<key>.json`` are columns. Names such as
    ``train-000000.tar`` are the published split.
    """
    rows, reads, shards = [], [], []
    for path in _files(where, "*.tar", "*.tar.gz", "*.tgz"):
        store, pictures = Store(path), []
        samples: dict[str, dict[str, str]] = {}
        for name in store.names:
            key, _, kind = posixpath.basename(name).partition(".")
            key = posixpath.join(posixpath.dirname(name), key)
            samples.setdefault(key, {})[f".{kind.lower()}"] = name
        said = [name for kinds in samples.values() for kind, name in kinds.items()
                if kind in (".cls", ".txt", ".json")]  # fmt: skip
        content = dict(zip(said, store.read(said), strict=True))
        for key, kinds in samples.items():
            row: dict[str, Any] = {"id": f"{path.name.partition('.')[0]}/{key}"}
            for kind, name in kinds.items():
                if name in content:
                    row |= _fields(kind, content[name], f"{path}/{name}")
            rows.append(row)
            pictures.append(next((kinds[kind] for kind in kinds if kind in PICTURES), None))
        shards += [path.relative_to(where).as_posix() if where.is_dir() else ""] * len(samples)
        reads.append(store.read(pictures))
    table = _flat(rows)
    label = source.label or ("cls" if "cls" in table else "label")
    source = source.model_copy(update={"label": label})
    return _raw(source, table, chain.from_iterable(reads), where, pd.Series(shards))


@source("labels", keys=("classes", "split"))
def labels(source: Source, where: Path) -> Raw:
    """A Parquet file, CSV or JSON lines of labels and groups without images, for ``answers:``.

    It may be a table of answers itself; what a network answered describes no sample, and is left
    out.
    """
    table = read_rows([where], None)[0] if where.suffix == ".parquet" else read_csv(where)
    need(table, str(where), "id")
    said = [name for name in table if name in _ANSWERS or str(name).startswith("p_")]
    return _raw(source, table.drop(columns=said), (), where)


def _fields(kind: str, content: Any, name: str) -> dict[str, Any]:
    try:
        text = bytes(content).decode()
        return dict(json.loads(text)) if kind == ".json" else {kind[1:]: text.strip()}
    except (TypeError, ValueError) as error:
        raise SourceError(f"{name} is no {kind[1:]}: {error}") from None


def _files(where: Path, *patterns: str) -> list[Path]:
    files = [where] if where.is_file() else []
    if not files:
        found = {path for pattern in patterns for path in where.rglob(pattern)}
        hidden = [path for path in found if "/." in f"/{path.relative_to(where).as_posix()}"]
        files = sorted(found - {*hidden})
    if not files:
        raise SourceError(f"there is no {patterns[0]} in {where}; give one, or a folder, as path")
    if problem := lacking_parts(files):
        raise SourceError(problem)
    return files


def read_csv(path: Path, *needed: str, content: Any = None) -> pd.DataFrame:
    """Read a CSV, or JSON lines, that must have some columns; else a ``SourceError`` is raised.

    All values are texts as written, be they ``01``, ``NA`` or ``1.0``; an empty one is unknown.
    """
    try:
        content = content if isinstance(content, bytes) else path.read_bytes()
        if path.suffix == ".jsonl":
            table = _flat([json.loads(line) for line in content.splitlines() if line.strip()])
        else:
            options = {"header": None, "dtype": str, "keep_default_na": False}
            lines = pd.read_csv(io.BytesIO(content), **options)
            table = lines[1:].set_axis([*lines.iloc[0]], axis=1).reset_index(drop=True)
            table = table.mask(table == "")
    except (ValueError, OSError) as error:  # those of pandas' parser are ValueErrors
        raise SourceError(f"{path} is not a CSV or JSON lines: {error}") from None
    if not table.columns.is_unique:
        raise SourceError(
            f"{path} has the column {table.columns[table.columns.duplicated()][0]!r} twice"
        )
    need(table, str(path), *needed)
    return table


def _flat(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, dtype=object)
    nested = table.map(lambda value: isinstance(value, list | dict)).any()
    return table.loc[:, ~nested].map(as_text)


def numbers(table: pd.DataFrame, where: Path, *columns: str) -> pd.DataFrame:
    """Make numbers of columns of texts; a ``SourceError`` names the first value that is none."""
    try:
        return table.assign(**{column: pd.to_numeric(table[column]) for column in columns})
    except ValueError as error:
        raise SourceError(f"{where}: {', '.join(columns)}: {error}") from None


def _raw(
    source: Source,
    table: pd.DataFrame,
    images: Iterable[Any],
    where: Path,
    paths: "pd.Series[str] | None" = None,
) -> Raw:
    """Choose the columns; where none is of the split, ``paths`` may name it for each row."""
    label = source.label or "label"
    split = source.split or ("split" if "split" in table else None)
    need(table, str(where), label, *[name for name in (split, source.together) if name])
    rows = pd.DataFrame({"id": table["id"].map(as_text), "label": table[label].map(as_text)})
    if split:
        rows["split"] = table[split]
    elif paths is not None and (splits := splits_of(paths)):
        rows["split"] = paths.map(splits)
    for name in table:
        if name in RESERVED and name not in ("id", label, split):
            if source.attributes is None or name in source.attributes:
                raise SourceError(
                    f"{where}: the column {name!r} is not what the table of samples calls so; "
                    "rename it, or leave it out by naming the attributes to keep"
                )
        elif name not in ("id", "label", split):
            # what has no type of its own in a column, such as a date, is written as a text
            mixed = table[name].dtype == object
            rows[name] = table[name].map(as_text) if mixed else table[name]
    return Raw(rows, images, _OWN, label, SIZE, classes=source.classes, together=source.together)
