"""A reader by name: one decorator puts it in reach, an unknown name is answered with close ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field, SkipValidation
from pydantic.dataclasses import dataclass

from quantskew.data.source import Source
from quantskew.errors import UserError, close_names, named

RESERVED = ("id", "split", "label", "image")
"""Columns of the table of samples that are no attributes."""

MOST_BYTES = 1 << 28
"""Size of the largest file that is read as an image."""


class UnusableError(ValueError):
    """An image that cannot be a sample; the message is the reason in the table of rejects."""


Image = Path | bytes | np.ndarray | UnusableError
"""An image before decoding: a file, the bytes of one, uint8 pixels (H×W or H×W×3), or why none."""


class SourceError(UserError, ValueError):
    """A data set cannot be read; the message says what was looked for and what would be right."""


@dataclass(frozen=True)
class Terms:
    """Where a data set is published, and what its users agree to."""

    page: str
    licence: str
    citation: str = ""


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True, extra="forbid"))
class Raw:
    """A data set as published, before anything is decoded or judged.

    ``rows`` holds a sample each, with the columns ``id`` and ``label``, ``split`` where one is
    published (``train``, ``test``, ``validation``), and the attributes. ``images`` are in the same
    order and gone through once, so they may be read on the way; ``()`` stands for samples without
    images, which are all of test unless a split is published.

    ``label`` is what the label says, such as ``"race"``, and ``classes`` are its legal values in
    the order of their indices; ``None`` takes those found, sorted. Images are prepared to ``size``
    pixels a side and 1 (grey) or 3 ``channels``; ``native`` is the height and width that each must
    have before. ``together`` names the column of what must stay on one side of the split, such as a
    person, and ``measure`` takes attributes off the prepared pixels (N, C, H, W): name to values.

    ``rejects`` is what is not in ``rows``, and why. ``absent`` counts the samples that a table
    names and that, as the source says, need not be there.
    """

    rows: pd.DataFrame
    images: SkipValidation[Iterable[Image]]  # which validation would go through
    terms: Terms
    label: Annotated[str, Field(min_length=1)]
    size: Annotated[int, Field(ge=1)]
    channels: int = 3
    classes: tuple[str, ...] | None = None
    native: tuple[int, int] | None = None
    together: str | None = None
    measure: Callable[[np.ndarray], Mapping[str, Any]] | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    imbalance: Literal["paper"] | None = None
    rejects: tuple[tuple[str, str], ...] = ()
    absent: Annotated[int, Field(ge=0)] = 0

    @property
    def imageless(self) -> bool:
        """Whether there are labels and groups alone."""
        return isinstance(self.images, tuple) and not self.images


Reader = Callable[[Source, Path], Raw]
"""Reads a data set; the path is where its files are looked for when the source names none."""

READERS: dict[str, Reader] = {}
"""All readers by name."""
KEYS: dict[str, tuple[str, ...]] = {}
"""Keys of a source that some readers alone read, by reader."""


def source(*names: str, keys: tuple[str, ...] = ()) -> Callable[[Reader], Reader]:
    """Put a reader in reach under one or more names of its own, with the :data:`KEYS` it reads."""

    def register(reader: Reader) -> Reader:
        for name in names:
            if name in READERS:
                raise ValueError(f"there is a reader {name!r} already")
            READERS[name], KEYS[name] = reader, keys
        return reader

    return register


def read(name: str, source: Source, root: str | Path) -> Raw:
    """Read a data set by the ``name`` of its entry in ``sources:``, which ``source`` holds.

    The name is also that of its reader unless ``source.reader`` says otherwise. Files of a reader
    are looked for in ``root/<reader>``, those of an imbalanced set beside those of the whole. A
    :class:`SourceError` is raised when there is no such reader, it does not read a key that is
    given, or its files are missing or not as published.
    """
    given = source.reader or name
    if given not in READERS:
        raise SourceError(
            f"sources.{name}: no reader is named {given!r}{close_names(given, READERS)}; "
            f"there are {', '.join(sorted(READERS))}. Your own images are read by reader: parquet, "
            "folder or webdataset; labels and groups without images by labels"
        )
    for key in sorted(set().union(*KEYS.values())):
        idle = key not in KEYS.get(given, ())
        if idle and getattr(source, key) != Source.model_fields[key].default:
            raise SourceError(f"sources.{name}.{key}: the reader {given!r} has no use for it")
    whole = given.removeprefix("imbalanced-")  # thinned or not, the files are the same
    where = source.files(name, str(root))[0]
    if source.path and not where.exists():
        raise SourceError(f"sources.{name}.path: {source.path} does not exist")
    try:
        with named(f"the reader {given!r}", SourceError):
            raw = READERS[given](source, where)
    except SourceError as error:
        raise SourceError(f"sources.{name}: {error}") from error.__cause__
    if not isinstance(raw, Raw):
        raise SourceError(
            f"sources.{name}: the reader {given!r} gave a {type(raw).__name__}, no Raw"
        )
    need(raw.rows, f"sources.{name}: the table of the reader {given!r}", "id", "label",
         *([raw.together] if raw.together else []))  # fmt: skip
    for what, ones in (("column", raw.rows.columns), ("class", pd.Index(raw.classes or ()))):
        if not ones.is_unique:
            raise SourceError(f"sources.{name}: the reader {given!r} gives a {what} twice")
    if raw.channels not in (1, 3):
        raise SourceError(f"sources.{name}: {raw.channels} channels; 1 or 3 can be read")
    imbalance = raw.imbalance if given == whole else "paper"
    images = raw.images if raw.imageless else _each(raw, f"sources.{name}: the images of {given!r}")
    return replace(raw, imbalance=imbalance, images=images)


def _each(raw: Raw, what: str) -> Iterator[Image]:
    """Go through the images, one a row."""
    count, rows = 0, len(raw.rows)
    with named(what, SourceError):
        for image in raw.images:
            count += 1
            if count > rows:
                break
            yield image
    if count != rows:
        number = f"over {rows}" if count > rows else count
        raise SourceError(f"{what} are {number}, and its rows {rows}")


def missing(terms: Terms, files: str, where: Path, because: object = "") -> SourceError:
    """Say what to get, from which page, under which terms, and where to put it."""
    reason = str(because).partition("\n")[0]
    cause = f" and none can be fetched ({reason})" if reason else ""
    return SourceError(
        f"the files are not in {where}{cause}. Get {files} from {terms.page} "
        f"(terms: {terms.licence}) and put them there, or give the folder they are in as path"
    )


def need(known: Iterable[Any], where: str, *columns: str) -> None:
    """Refuse a table that lacks a column, naming those it has."""
    names = [str(name) for name in known]
    for column in columns:
        if column not in names:
            raise SourceError(
                f"{where} has no column {column!r}{close_names(column, names)}; "
                f"it has {', '.join(names)}"
            )


def as_text(value: Any) -> str | None:
    """Write a value as a label or an id: whole numbers without a point, what is missing as None."""
    if pd.isna(value):
        return None
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value) if whole else value)


def as_pixels(values: np.ndarray) -> np.ndarray:
    """Make integers of 0 to 255 uint8; leave others, which decoding then refuses, as they are."""
    fits = values.dtype.kind in "iu" and values.size and 0 <= values.min() <= values.max() <= 255
    return values.astype(np.uint8) if fits else values


def choice(given: str | None, legal: Mapping[str, Any] | tuple[str, ...], what: str) -> str:
    """Return the name that is given if it is legal, else raise; the first one if none is given."""
    if given is None:
        return next(iter(legal))
    if given not in legal:
        raise SourceError(
            f"{what} {given!r} does not exist{close_names(given, tuple(legal))}; "
            f"there are {', '.join(legal)}"
        )
    return given
