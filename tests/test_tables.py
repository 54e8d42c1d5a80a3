import pandas as pd
import pyarrow.parquet as pq
import pytest

from quantskew import tables
from quantskew.files import replacing, write_json
from quantskew.schemas import TABLES
from quantskew.tables import TableError


def variants(**changes):
    rows = pd.DataFrame(
        {
            "dataset": ["b", "a"],
            "model": "m",
            "seed": 0,
            "method": "ptq",
            "bits": 4,
            "base": "fp32",
            "file": "x.safetensors",
            "bytes": 10,
            "images_trained": 5,
        }
    )
    return rows.assign(**changes)


def test_rows_are_sorted_and_bytes_do_not_depend_on_the_order_given(tmp_path):
    tables.write("variants", variants(), tmp_path / "one.parquet")
    tables.write("variants", variants().iloc[::-1], tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert tables.read("variants", tmp_path / "one.parquet")["dataset"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (variants().drop(columns="bits"), "bits"),
        (variants(extra=1), "extra"),
        (variants(dataset="a"), "more than once"),
        (variants(file=["x", None]), "file is missing where dataset = a"),
        (variants(bits=["four", "four"]), "four"),
    ],
)
def test_a_table_that_does_not_fit_its_schema_is_not_written(tmp_path, rows, words):
    path = tmp_path / "t.parquet"
    with pytest.raises(TableError, match=words):
        tables.write("variants", rows, path)
    assert not list(tmp_path.iterdir())


def test_reading_checks_what_it_reads(tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(TableError, match="no such file"):
        tables.read("variants", path)
    tables.write("variants", variants(), path)
    with pytest.raises(TableError, match="must have a column 'epoch'"):
        tables.read("history", path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TableError, match="not a whole Parquet file"):
        tables.read("variants", path)


def test_every_column_says_what_it_holds(tmp_path):
    for name, table in TABLES.items():
        assert set(table.key) <= set(table.schema.names), name
        assert table.describe()["description"].str.len().min() > 1
    tables.write("variants", variants(), tmp_path / "t.parquet")
    field = pq.read_schema(tmp_path / "t.parquet").field("bytes")
    assert field.metadata[b"description"] == b"size of the weights"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_json_is_rounded_and_sorted(tmp_path):
    write_json(tmp_path / "m.json", {"b": 0.123456, "a": [float("nan"), -0.00001, 3]})
    text = (tmp_path / "m.json").read_text()
    assert "".join(text.split()) == '{"a":[null,0.0,3],"b":0.1235}'


def test_a_table_may_be_empty(tmp_path):
    tables.write("variants", variants().iloc[:0], tmp_path / "t.parquet")
    assert len(tables.read("variants", tmp_path / "t.parquet")) == 0
