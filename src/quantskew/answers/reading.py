"""Reading a table of answers: Parquet, CSV, JSON lines, or a frame of pandas.

One row is one sample. The columns:

=========================  =====================================================================
``id``                     names the sample; the same in all tables
``label``                  the true class
``prediction``             the class that was answered, by its name or its index
``logits``                 or ``probabilities``: a list, one number a class; the highest answers
``p_<class>``              instead of a list, a column a class, in the order of the classes
``score``                  one number, for two classes; the second answers from a threshold on
any other                  a group, or the unit (person, video) that a sample comes from
=========================  =====================================================================

A table says its answers once; only where ``prediction`` stands beside numbers, it is the answer.
All but numbers are texts as written: ``01`` in a CSV is not ``1``. Empty cells of a CSV are
unknown.

Files are read a piece at a time, and only the columns that are needed. Texts are numbered as they
are read, so that many rows fit into memory. Numbers are let go of once they have answered, unless
they are asked for; then lists are kept as float32.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from quantskew.data.sources.registry import as_text
from quantskew.errors import UserError, close_names

Source: TypeAlias = Path | pd.DataFrame
ANSWERS = ("prediction", "logits", "probabilities", "score")
PREFIX = "p_"
_ROWS = 1 << 16  # of a piece
_SUMS_TO_ONE = 1e-3
_TEXT = pa.dictionary(pa.int32(), pa.string())


class AnswersError(UserError, ValueError):
    """A table of answers that cannot be read, or tables that do not fit together."""


class Codes(NamedTuple):
    """Texts, numbered: ``codes`` (n,) are indices of ``names``, −1 where a text is missing."""

    codes: np.ndarray
    names: list[str]

    def rows(self, rows: np.ndarray) -> "Codes":
        """Texts of some rows."""
        return Codes(self.codes[rows], self.names)

    def categorical(self) -> pd.Categorical:
        """The texts as a column, without a Python object for each."""
        return pd.Categorical.from_codes(self.codes, pd.Index(self.names, dtype=object))


class Numbers(NamedTuple):
    """Numbers behind answers: ``values`` (n, K), or (n, 1) of a ``score``, of ``names`` (K,)."""

    kind: str  # logits, probabilities or score
    values: np.ndarray
    names: list[str]


class Table(NamedTuple):
    """What a table of answers holds.

    ``columns`` are texts. ``answers`` are numbered by class where the table says the classes by
    their place (``by_place``), else by name; None in a table that only has labels or groups.
    ``numbers`` are None where there are none, or they were not asked for. ``header`` names all
    columns.
    """

    name: str
    header: list[str]
    ids: pa.Array
    columns: dict[str, Codes]
    answers: Codes | None
    by_place: bool
    numbers: Numbers | None

    def row(self, row: int) -> str:
        """Name a row, counted from 1, by its id."""
        return f"row {row + 1:,} (id {self.ids[row].as_py()!r})"


def header(source: Source, name: str) -> list[str]:
    """Names of the columns of a table.

    Raises
    ------
    AnswersError
        When the file is missing, of no known kind, or not readable.
    """
    if isinstance(source, pd.DataFrame):
        names = [str(column) for column in source.columns]
    else:
        names = _kind(source).schema(source).names
    for column in names:
        if names.count(column) > 1:
            raise AnswersError(f"{name} has the column {column!r} twice")
    return names


def read(
    source: Source,
    name: str,
    columns: Iterable[str] = (),
    *,
    answers: bool = True,
    threshold: float | None = None,
    numbers: bool = False,
) -> Table:
    """Read a table of answers.

    Parameters
    ----------
    source
        A file, known by its suffix (``.parquet``, ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``,
        also ``.gz``), or a frame.
    name
        What errors call it.
    columns
        Texts to read besides ``id``: those of them that the table has.
    answers
        Whether it holds answers; a table of labels and groups need not.
    threshold
        From which ``score`` on the second class answers.
    numbers
        Whether to keep the numbers that stand in the table, also beside a ``prediction``.

    Raises
    ------
    AnswersError
        With the row and the id, what is there, and what would be right.
    """
    known = header(source, name)
    if "id" not in known:
        raise AnswersError(
            f"{name} has no column 'id'{close_names('id', known)}; it has {listed(known)}"
        )
    texts = [column for column in columns if column in known]
    others = [one for one in known if one not in texts]
    by_name = answers and "prediction" in others
    texts += ["prediction"] if by_name else []
    places = _places(others, name, by_name) if answers and (numbers or not by_name) else []
    if places == ["score"] and threshold is None and not by_name:
        raise AnswersError(
            f"{name} gives a score for each sample; say from which on it means the second class: "
            "--threshold 0.5 for probabilities, 0 for logits"
        )
    ids: list[pa.Array] = []
    parts: dict[str, list[pa.Array]] = {column: [] for column in texts}
    answered: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    width: set[int] = set()
    for batch in _pieces(source, name, ["id", *texts, *places], {*places}):
        ids.append(_ids(batch.column("id"), name, sum(map(len, ids))))
        for column in texts:
            parts[column].append(_encoded(batch.column(column), name, column))
        if places:
            values = _values(batch.select(places), places, ids, name)
            width.add(2 if places == ["score"] else values.shape[1])
            if places[0] not in ("logits", "score"):
                _refuse_improbable(values, ids, name)
            if not by_name:
                score = places == ["score"]
                answered.append(values[:, 0] >= threshold if score else values.argmax(1))
            if numbers:
                kept.append(values if places == ["score"] else values.astype(np.float32))
    if not ids:
        raise AnswersError(f"{name} has no rows")
    if len(width) > 1:
        raise AnswersError(f"{name}: {places[0]} has {listed(sorted(width))} numbers a sample")
    named = {column: _joined(arrays) for column, arrays in parts.items()}
    given = named.pop("prediction", None) if by_name else None
    found = None
    if places:
        names = [column.removeprefix(PREFIX) for column in places]
        names = names if len(names) > 1 else [*map(str, range(width.pop()))]
        given = given if by_name else Codes(np.concatenate(answered).astype(np.int64), names)
        kind = places[0] if places[0] in ("logits", "score") else "probabilities"
        found = Numbers(kind, np.concatenate(kept), names) if numbers else None
    kinds = {array.type for array in ids}
    if len(kinds) > 1:
        ids = [array.cast(pa.large_string()) for array in ids]
    whole = Table(name, known, pa.concat_arrays(ids), named, given, bool(answered), found)
    if given is not None and (given.codes < 0).any():
        row = int((given.codes < 0).argmax())
        raise AnswersError(f"{name}: prediction is missing in {whole.row(row)}")
    return whole


def listed(names: Iterable[Any], most: int = 12) -> str:
    """Write names one after the other, the first of many."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def describing(source: Source, name: str) -> list[str]:
    """Names of the columns that may describe samples: no ids, answers, images or lists."""
    if isinstance(source, pd.DataFrame):
        try:
            fields = pa.Schema.from_pandas(source.head(1000), preserve_index=False)
        except (pa.ArrowException, ValueError) as error:
            raise AnswersError(f"{name} cannot be read: {_first_line(error)}") from None
    else:
        fields = _kind(source).schema(source)
    refused = ("id", "label", *ANSWERS)
    return [
        one.name for one in fields
        if one.name not in refused and not one.name.startswith(PREFIX)
        and not (pa.types.is_nested(one.type) or pa.types.is_binary(one.type)
                 or pa.types.is_large_binary(one.type))
    ]  # fmt: skip


def _places(known: list[str], name: str, by_name: bool) -> list[str]:
    """Columns of numbers that state the answers; there may be none beside answers by name."""
    found = [column for column in ANSWERS[1:] if column in known]
    classes = [column for column in known if column.startswith(PREFIX) and column != PREFIX]
    found = found or (classes if len(classes) > 1 else [])
    if not (found or by_name) or (len(found) > 1 and found[0] in ANSWERS):
        problem = f"states them as {' and as '.join(found)}" if found else "has none of them"
        raise AnswersError(
            f"{name}: its answers stand in one of the columns {', '.join(ANSWERS)}, or in p_<class>"
            f" of each class; it {problem}, and has the columns {listed(known)}"
        )
    return found


class _Kind(NamedTuple):
    """How a kind of file is read: its schema, and its pieces."""

    schema: Callable[[Path], pa.Schema]
    pieces: Callable[[Path, list[str], set[str]], Iterator[pa.RecordBatch]]


def _pieces(
    source: Source, name: str, columns: list[str], numbers: set[str]
) -> Iterator[pa.RecordBatch]:
    """Rows of some columns, a piece at a time; those of ``numbers`` hold numbers."""
    if isinstance(source, pd.DataFrame):
        frame = source.set_axis([str(column) for column in source.columns], axis=1)[columns]
        try:
            table = pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowException, ValueError) as error:
            raise AnswersError(f"{name} cannot be read: {_first_line(error)}") from None
        yield from (piece for piece in table.to_batches(_ROWS) if len(piece))
        return
    with _readable(source):
        yield from (p for p in _kind(source).pieces(source, columns, numbers) if len(p))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name the file in what cannot be read of it."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
        raise AnswersError(f"{path} cannot be read: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0][:300]
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return shown or type(error).__name__


def _kind(path: Path) -> _Kind:
    if not path.is_file():  # a pipe would wait for ever
        raise AnswersError(f"{path}: {'is no regular file' if path.exists() else 'no such file'}")
    name = path.name.removesuffix(".gz")
    suffix = Path(name).suffix.lower()
    if suffix not in _KINDS or (suffix == ".parquet" and name != path.name):
        raise AnswersError(
            f"{path}: tables of answers are {', '.join(_KINDS)} (the texts also .gz), by the suffix"
            " of their file"
        )
    if not path.stat().st_size:
        raise AnswersError(f"{path} is empty")
    return _KINDS[suffix]


def _parquet_schema(path: Path) -> pa.Schema:
    with _readable(path):
        return pq.read_schema(path)


def _parquet(path: Path, columns: list[str], numbers: set[str]) -> Iterator[pa.RecordBatch]:
    schema = _parquet_schema(path)
    plain = [field.name for field in schema if not pa.types.is_nested(field.type)]
    texts = [name for name in plain if name in columns and name not in numbers and name != "id"]
    with pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False) as file:
        yield from file.iter_batches(_ROWS, columns=columns)


def _delimited(sign: str) -> _Kind:
    parse = pyarrow.csv.ParseOptions(delimiter=sign, newlines_in_values=True)

    def schema(path: Path) -> pa.Schema:
        convert = pyarrow.csv.ConvertOptions(column_types={})
        with _readable(path):
            return pyarrow.csv.open_csv(path, parse_options=parse, convert_options=convert).schema

    def pieces(path: Path, columns: list[str], numbers: set[str]) -> Iterator[pa.RecordBatch]:
        types = {
            column: pa.float64() if column in numbers else pa.string() if column == "id" else _TEXT
            for column in columns
        }
        for column in numbers & {"logits", "probabilities"}:
            raise AnswersError(
                f"{path}: a CSV holds no lists; write {column} as columns p_<class>, or as Parquet"
            )
        convert = pyarrow.csv.ConvertOptions(
            include_columns=columns, column_types=types, null_values=[""],
            strings_can_be_null=True, quoted_strings_can_be_null=True,
        )  # fmt: skip
        read = pyarrow.csv.ReadOptions(use_threads=False, block_size=1 << 23)
        yield from pyarrow.csv.open_csv(
            path, read_options=read, parse_options=parse, convert_options=convert
        )

    return _Kind(schema, pieces)


def _json_schema(path: Path) -> pa.Schema:
    """Fields of the first lines."""
    with _readable(path), pa.input_stream(str(path)) as stream:
        text = stream.read(1 << 20)
    lines = text.splitlines(keepends=True)
    if len(lines) > 1 and len(text) == 1 << 20:
        lines = lines[:-1]
    with _readable(path):
        try:
            first = json.loads(next(filter(bytes.strip, lines), b""))
        except ValueError as error:
            raise AnswersError(f"{path} is not JSON lines: {error}") from None
        if not isinstance(first, dict):
            raise AnswersError(f"{path} is not JSON lines: line 1 is no object such as {{…}}")
        schema = pyarrow.json.read_json(pa.BufferReader(b"".join(lines))).schema
    # what is not known yet, or looks like a time, is a text
    return pa.schema(
        pa.field(f.name, pa.string())
        if pa.types.is_null(f.type) or pa.types.is_temporal(f.type)
        else f
        for f in schema
    )


def _json_lines(path: Path, columns: list[str], numbers: set[str]) -> Iterator[pa.RecordBatch]:
    known = _json_schema(path)
    types = {"logits": pa.list_(pa.float64()), "probabilities": pa.list_(pa.float64())}
    fields = [
        pa.field(c, types.get(c, pa.float64()) if c in numbers else known.field(c).type)
        for c in columns
    ]
    parse = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"
    )
    read = pyarrow.json.ReadOptions(use_threads=False, block_size=1 << 23)
    yield from pyarrow.json.open_json(path, read_options=read, parse_options=parse)


_KINDS: Mapping[str, _Kind] = {
    ".parquet": _Kind(_parquet_schema, _parquet),
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _Kind(_json_schema, _json_lines),
    ".ndjson": _Kind(_json_schema, _json_lines),
}


def _ids(array: pa.Array, name: str, before: int) -> pa.Array:
    """Ids as whole numbers or texts, of a piece after so many rows."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        try:  # as pandas writes whole numbers where one is missing
            array = array.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise AnswersError(f"{name}: an id is no whole number: {_first_line(error)}") from None
    if array.null_count:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise AnswersError(f"{name}: row {before + row + 1:,} has no id")
    if pa.types.is_nested(array.type):
        raise AnswersError(f"{name}: ids are texts or whole numbers, and its are {array.type}")
    whole = pa.types.is_integer(array.type) and array.type != pa.uint64()
    try:
        return array.cast(pa.int64() if whole else pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise AnswersError(f"{name}: an id is no text: {_first_line(error)}") from None


def _encoded(array: pa.Array, name: str, column: str) -> pa.DictionaryArray:
    """Number the texts of a column."""
    if pa.types.is_nested(array.type):
        raise AnswersError(f"{name}: column {column!r} holds {array.type}, where texts are needed")
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    if array.dictionary.type != pa.string():
        values = array.dictionary.to_pylist()
        try:
            texts = [v.decode() if isinstance(v, bytes) else as_text(v) for v in values]
        except UnicodeDecodeError as error:
            raise AnswersError(f"{name}: column {column!r} is no text: {error}") from None
        array = pa.DictionaryArray.from_arrays(array.indices, pa.array(texts, pa.string()))
    return array.cast(_TEXT)


def _joined(arrays: list[pa.DictionaryArray]) -> Codes:
    whole = pa.chunked_array(arrays, _TEXT).unify_dictionaries()
    names = whole.chunk(0).dictionary.to_pylist()
    codes = [pc.fill_null(chunk.indices, -1).to_numpy() for chunk in whole.chunks]
    joined = np.concatenate(codes).astype(np.int64)
    # a text may be missing by itself, stand twice, or not occur
    kept: dict[str, int] = {}
    places = np.full(len(names) + 1, -1)
    for code in np.flatnonzero(np.bincount(joined + 1, minlength=len(names) + 1)[1:]):
        if names[code] is not None:
            places[code] = kept.setdefault(names[code], len(kept))
    return Codes(places[joined], [*kept])


def _values(
    batch: pa.RecordBatch, columns: list[str], ids: list[pa.Array], name: str
) -> np.ndarray:
    """Numbers of a piece, (n, K), all finite."""
    n = len(batch)
    first = batch.column(0)
    try:
        if pa.types.is_list(first.type) or pa.types.is_large_list(first.type) or (
            pa.types.is_fixed_size_list(first.type)
        ):  # fmt: skip
            lengths = np.unique(pc.list_value_length(first).to_numpy(zero_copy_only=False))
            if len(lengths) > 1 or first.null_count:
                sizes = pc.list_value_length(first).to_pylist()
                row = next(i for i, size in enumerate(sizes) if size != sizes[0] or size is None)
                raise AnswersError(
                    f"{name}: {columns[0]} has {sizes[0]} numbers in {_place(ids, 0)} and "
                    f"{sizes[row] if sizes[row] is not None else 'none'} in {_place(ids, row)}"
                )
            flat = first.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
            values = flat.reshape(n, -1)
        else:
            parts = [batch.column(i).cast(pa.float64()) for i in range(batch.num_columns)]
            values = np.stack([part.to_numpy(zero_copy_only=False) for part in parts], axis=1)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise AnswersError(f"{name}: {listed(columns)}: {_first_line(error)}") from None
    if values.shape[1] < 1 + (columns != ["score"]):
        raise AnswersError(f"{name}: {columns[0]} has {values.shape[1]} numbers a sample")
    finite = np.isfinite(values).all(1)
    if not finite.all():
        row = int((~finite).argmax())
        raise AnswersError(
            f"{name}: {listed(columns, 4)} {'is' if len(columns) == 1 else 'are'} missing or not "
            f"finite in {_place(ids, row)}"
        )
    return np.asarray(values)


def _refuse_improbable(values: np.ndarray, ids: list[pa.Array], name: str) -> None:
    """Refuse rows that are no probabilities."""
    wrong = (values.min(1) < 0) | (np.abs(values.sum(1) - 1) > _SUMS_TO_ONE)
    if wrong.any():
        row = int(wrong.argmax())
        raise AnswersError(
            f"{name}: the probabilities of {_place(ids, row)} are "
            f"{listed(values[row].round(4), 6)}, with the sum {values[row].sum():.4g}; they "
            "must be 0 or more and sum to 1. Numbers of any size are logits"
        )


def _place(ids: list[pa.Array], row: int) -> str:
    """Name a row of the last piece."""
    before = sum(map(len, ids[:-1]))
    return f"row {before + row + 1:,} (id {ids[-1][row].as_py()!r})"
