import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from quantskew import tables
from quantskew.data.groups import group_codes
from quantskew.data.loading import Samples, load, load_test
from quantskew.schemas import TABLES


def test_numbers_become_the_groups_of_their_edges(tmp_path):
    attributes = pd.DataFrame({"age": [3, 71, 20], "sex": ["f", "m", "f"]})
    zeros = torch.zeros(3, dtype=torch.int64)
    data = Samples(
        images=zeros, labels=zeros, ids=np.arange(3), split=np.full(3, "train"),
        attributes=attributes, classes=("a",), metadata={},
    )  # fmt: skip
    divided = data.divided({"age": (10.0, 50.0), "height": (1.0,)})
    assert divided.attributes["age"].tolist() == ["below 10", "50+", "10-49"]
    codes, names = group_codes(divided.attributes, "age*sex")
    assert names == ["below 10*f", "10-49*f", "50+*m"]
    assert codes.tolist() == [0, 2, 1]
    assert data.attributes["age"].tolist() == [3, 71, 20]


def _write(images, path):
    count = len(images)
    table = pa.table(
        {
            "id": [f"s{number}" for number in range(count)],
            "split": ["test"] * (count // 2) + ["train"] * (count - count // 2),
            "label": [number % 2 for number in range(count)],
            "image": images,
            "sex": ["f", "m"] * (count // 2),
        }
    )
    spec = TABLES["samples"].schema
    fields = [spec.field(n) if n in spec.names else table.field(n) for n in table.column_names]
    pq.write_table(table.cast(pa.schema(fields)).replace_schema_metadata(META), path)


ABOUT = {"shape": [1, 2, 3], "classes": ["no", "yes"], "orders": {"sex": ["m", "f"]}}
META = {key: json.dumps(value) for key, value in ABOUT.items()}


def test_a_table_of_samples_written_elsewhere_loads(tmp_path):
    pixels = np.arange(60, dtype=np.uint8).reshape(10, 6)
    _write([row.tobytes() for row in pixels], tmp_path / "s")
    samples = load(tmp_path / "s")
    assert (samples.images.numpy().reshape(10, 6) == pixels).all()
    assert samples.attributes["sex"].cat.categories.tolist() == ["m", "f"]
    assert samples.train.attributes["label"].tolist() == ["yes", "no", "yes", "no", "yes"]
    assert samples.test.ids.tolist() == ["s0", "s1", "s2", "s3", "s4"]


@pytest.mark.parametrize("rows", [1, 3, 5, 10])
def test_the_test_part_can_be_read_alone(tmp_path, rows):
    pixels = np.arange(60, dtype=np.uint8).reshape(10, 6)
    _write([row.tobytes() for row in pixels], tmp_path / "all")
    pq.write_table(pq.read_table(tmp_path / "all"), tmp_path / "s", row_group_size=rows)
    alone, test = load_test(tmp_path / "s"), load(tmp_path / "s").test
    assert torch.equal(alone.images, test.images)
    assert torch.equal(alone.labels, test.labels)
    assert alone.ids.tolist() == test.ids.tolist()
    assert alone.attributes.equals(test.attributes)


def test_the_last_table_is_kept_until_its_file_changes(tmp_path):
    _write([bytes(6)] * 10, tmp_path / "s")
    kept = load(tmp_path / "s")
    assert load(str(tmp_path / "s")) is kept
    _write([bytes([7] * 6)] * 10, tmp_path / "s")
    assert (load(tmp_path / "s").images == 7).all()


def test_an_image_of_another_size_is_named(tmp_path):
    images = [bytes(6)] * 10
    images[3] = bytes(5)
    _write(images, tmp_path / "s")
    with pytest.raises(tables.TableError, match=r"the image of 's3' is not \(1, 2, 3\) bytes"):
        load(tmp_path / "s")


def test_what_is_no_table_of_samples_is_refused(tmp_path):
    with pytest.raises(tables.TableError, match="no such file"):
        load(tmp_path / "none")
    (tmp_path / "torn").write_bytes(b"PAR1")
    with pytest.raises(tables.TableError, match="not a whole Parquet file"):
        load(tmp_path / "torn")
