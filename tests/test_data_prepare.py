import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from quantskew import tables
from quantskew.data.loading import load
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.data.sources import READERS, Raw, SourceError, Terms, read


@pytest.fixture
def made(monkeypatch):
    """Register a data set made in the test under the name 'made'."""

    def register(labels, images, **options):
        rows = pd.DataFrame({"id": [f"s{i:02d}" for i in range(len(labels))], "label": labels})
        for column in ("split", "sex", "person"):
            if column in options:
                rows[column] = options.pop(column)
        options = {"label": "kind", "size": 8, "channels": 1, **options}
        raw = Raw(rows=rows, images=images, terms=Terms("page", "licence"), **options)
        monkeypatch.setitem(READERS, "made", lambda source, where: raw)

    return register


def _images(count, seed=0):
    generator = np.random.default_rng(seed)
    return list(generator.integers(0, 256, (count, 8, 8), dtype=np.uint8))


def test_mnist5k_is_split_and_thinned_as_the_paper_says(tmp_path):
    prepared = prepare("mnist5k", Source(imbalance="paper"), tmp_path)
    counts = prepared.rows.groupby(["split", "label"]).size()
    assert counts["test"].tolist() == [200] * 10
    assert counts["train"].tolist() == [300, 300, 150, 150, 75, 75, 37, 37, 18, 18]
    assert set(prepared.rows["digit"]) == set("0123456789")
    assert prepared.rows["slant"].value_counts().min() > 900
    assert prepared.rows["stroke"].value_counts().min() > 900
    # the 0 that is first in the package: its pixels came through as they are
    assert prepared.pixels[prepared.where].max() == 255


def test_digits_round_trip(tmp_path):
    prepared = prepare("digits", Source(), tmp_path)
    path = tmp_path / "digits.parquet"
    prepared.write(path)
    samples = load(path)
    bunch = load_digits()
    where = np.array([int(name) for name in samples.ids])
    expected = np.rint(bunch.images[where] * 255 / 16)
    assert (samples.images[:, 0].numpy() == expected).all()
    assert (samples.labels.numpy() == bunch.target[where]).all()
    assert (samples.split == sorted(samples.split)).all()
    assert len(samples.train) + len(samples.test) == len(samples) == 1797
    assert set(samples.train.split) == {"train"}
    assert samples.train.images.data_ptr() == samples.images[len(samples.test) :].data_ptr()
    assert samples.attributes["label"].astype(str).tolist() == samples.attributes["digit"].tolist()
    assert samples.attributes["slant"].cat.categories.tolist() == ["left", "upright", "right"]


def test_written_in_parts_is_the_same_table_and_the_same_bytes_again(tmp_path, monkeypatch):
    monkeypatch.setattr("quantskew.data.storing._PART", 256 * 100)
    prepared = prepare("digits", Source(), tmp_path)
    prepared.write(tmp_path / "parts.parquet")
    assert pq.ParquetFile(tmp_path / "parts.parquet").num_row_groups == 18
    prepare("digits", Source(), tmp_path).write(tmp_path / "again.parquet")
    assert (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "again.parquet").read_bytes()
    monkeypatch.undo()
    prepared.write(tmp_path / "whole.parquet")
    assert pq.ParquetFile(tmp_path / "whole.parquet").num_row_groups == 1
    assert tables.read("samples", tmp_path / "whole.parquet").equals(
        tables.read("samples", tmp_path / "parts.parquet")
    )
    assert (
        load(tmp_path / "parts.parquet").images == load(tmp_path / "whole.parquet").images
    ).all()


def test_the_split_depends_on_its_seed_alone(tmp_path):
    one, two = (prepare("digits", Source(split_seed=seed), tmp_path).rows for seed in (0, 1))
    assert one["id"].sort_values().tolist() == two["id"].sort_values().tolist()
    assert one["id"].tolist() != two["id"].tolist()


def test_unusable_samples_are_listed_with_their_reason(tmp_path, made):
    images = [*_images(18), np.full((8, 8), 7, np.uint8), b"", b"nothing"]
    labels = ["a", "b"] * 9 + ["a", "a", "b"]
    labels[4] = "c"
    made(labels, images, classes=("a", "b"), rejects=(("lost.jpg", "no label"),))
    prepared = prepare("made", Source(max_rejects=0.5), tmp_path)
    assert dict(prepared.rejects[["id", "reason"]].to_numpy()) == {
        "lost.jpg": "no label",
        "s04": "label 'c' is none of a, b",
        "s18": "constant: every pixel is 7",
        "s19": "empty file",
        "s20": "not an image",
    }
    assert len(prepared.rows) == 17
    assert json.loads(prepared.metadata["rejects"]) == 5
    tables.write("rejects", prepared.rejects, tmp_path / "rejects.parquet")
    with pytest.raises(SourceError, match=r"5 of 22 samples are unusable.*max_rejects = 0.02"):
        prepare("made", Source(), tmp_path)


def test_missing_and_unlike_labels(tmp_path, made):
    made([1.0, 2.0, 10.0, np.nan] * 5, _images(20))
    prepared = prepare("made", Source(max_rejects=0.3), tmp_path)
    assert json.loads(prepared.metadata["classes"]) == ["1", "2", "10"]
    assert prepared.rejects["reason"].unique().tolist() == ["no label"]
    made(["a"] * 20, _images(20))
    with pytest.raises(SourceError, match="the label 'kind' is 'a' for all"):
        prepare("made", Source(), tmp_path)
    made(["a"] * 19 + ["b"], _images(20))
    with pytest.raises(SourceError, match="class 'b' has one sample"):
        prepare("made", Source(), tmp_path)


def _twins():
    images = _images(20)
    images[1] = images[0]  # a and b: they disagree on the label
    images[4] = images[2]  # both a, of different sex
    return images


def test_twins_stay_on_one_side_of_a_drawn_split(tmp_path, made):
    for seed in range(8):
        made(["a", "b"] * 10, _twins(), sex=["f", "m", "f", "m", "m"] * 4)
        prepared = prepare("made", Source(split_seed=seed, test_fraction=0.5), tmp_path)
        split = prepared.rows.set_index("id")["split"]
        assert len(split) == 20
        assert split["s00"] == split["s01"]
        assert split["s02"] == split["s04"]
    assert json.loads(prepared.metadata["duplicates"]) == {
        "policy": "together",
        "groups": 2,
        "rows": 4,
        "conflicting": 2,
        "conflicts": {"kind": 1, "sex": 2},
    }
    reasons = prepared.rejects.set_index("id")
    assert reasons["kept"].all()
    assert reasons["reason"]["s01"] == "same pixels as s00; these disagree in kind, sex"
    assert reasons["reason"]["s02"] == "same pixels as s04; these disagree in sex"


def test_dropped_twins_leave_one_and_none_where_the_label_is_in_doubt(tmp_path, made):
    made(["a", "b"] * 10, _twins())
    prepared = prepare("made", Source(duplicates="drop"), tmp_path)
    left = {f"s{i:02d}" for i in range(20)} - set(prepared.rows["id"])
    assert left == {"s00", "s01", "s04"}
    assert set(prepared.rejects["id"]) == left
    assert not prepared.rejects["kept"].any()


def test_a_published_split_keeps_its_test_samples_and_loses_their_training_twins(tmp_path, made):
    split = ["train", "Testing"] * 2 + ["train"] * 8 + ["validation"] * 4 + ["test"] * 4
    made(["a", "b"] * 10, _twins(), split=split)
    prepared = prepare("made", Source(), tmp_path)
    assert prepared.rejects.query("not kept")["id"].tolist() == ["s00"]
    assert json.loads(prepared.metadata["validation_left_out"]) == 4
    made(["a", "b"] * 10, _twins(), split=split)
    whole = prepare("made", Source(duplicates="keep", validation="train"), tmp_path)
    assert whole.rows["split"].value_counts().to_dict() == {"train": 14, "test": 6}
    made(["a", "b"] * 10, _twins(), split=["train"] * 20)
    with pytest.raises(SourceError, match="published split has no test sample"):
        prepare("made", Source(), tmp_path)
    made(["a", "b"] * 10, _images(20), split=["train", "", "test", None] * 5)
    rejects = prepare("made", Source(max_rejects=0.5), tmp_path).rejects
    assert rejects["id"].tolist() == [f"s{i:02d}" for i in range(1, 20, 2)]
    assert rejects["reason"].str.startswith("split ").all()


def test_a_published_split_is_checked_against_what_belongs_together_and_against_idle_keys(
    tmp_path, made
):
    person = ["p", "q"] * 2 + ["q", "r"] * 8
    parts = ["train"] * 12 + ["test"] * 8
    made(["a", "b"] * 10, _images(20), person=person, split=parts, together="person")
    with pytest.raises(SourceError, match="person 'q' is in training and in test, and so"):
        prepare("made", Source(), tmp_path)
    made(["a", "b"] * 10, _images(20), split=parts)
    with pytest.raises(SourceError, match=r"sources.made.test_fraction: a split is published"):
        prepare("made", Source(test_fraction=0.3), tmp_path)


@pytest.mark.parametrize("key", ["together", "table", "split", "config", "revision", "image"])
def test_a_key_that_a_reader_does_not_read_is_refused(tmp_path, key):
    with pytest.raises(SourceError, match=f"sources.digits.{key}: the reader 'digits' has no use"):
        read("digits", Source(**{key: "x"}), tmp_path)


@pytest.mark.parametrize(("count", "told"), [(19, "19"), (21, "over 20")])
def test_images_are_as_many_as_rows(tmp_path, made, count, told):
    made(["a", "b"] * 10, _images(count))
    with pytest.raises(SourceError, match=f"the images of 'made' are {told}, and its rows 20"):
        prepare("made", Source(), tmp_path)


def test_a_column_of_lists_is_named(tmp_path, made):
    made(["a", "b"] * 10, _images(20), person=[["p"]] * 20)
    with pytest.raises(SourceError, match="made: telling the values of 'person' apart fails: Type"):
        prepare("made", Source(), tmp_path)


def test_a_class_that_is_first_in_one_unit_alone_is_named(tmp_path, made):
    person = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    labels = list("ab" * 2 + "bb" + "aaaa")
    made(labels, _images(10), person=person, together="person")
    rows = prepare("made", Source(), tmp_path).rows
    assert len(rows.groupby(["split", "label"])) == 4
    made(
        list("ab" * 2 + "aaaaaa"), _images(10), person=[0, 0, 0, 0, *range(1, 7)], together="person"
    )
    with pytest.raises(SourceError, match="class 'b' has samples of too few person and cannot"):
        prepare("made", Source(), tmp_path)


def test_people_whose_images_are_of_every_class_are_divided_among_both_parts(tmp_path, made):
    person = [f"p{i // 4}" for i in range(60)]
    for seed in range(5):
        made(["a", "b"] * 30, _images(60), person=person, together="person")
        prepared = prepare("made", Source(split_seed=seed), tmp_path)
        rows = prepared.rows.assign(person=prepared.rows["id"].str[1:].astype(int) // 4)
        assert rows.groupby("person")["split"].nunique().eq(1).all()
        assert rows.groupby(["split", "label"]).size().tolist() == [6, 6, 24, 24]
    assert json.loads(prepared.metadata["split"])["together"] == {
        "by": "person", "units": 15, "largest": 4
    }  # fmt: skip


def test_repeated_ids_are_counted_and_answered(tmp_path, made, monkeypatch):
    made(["a", "b"] * 10, _images(20))
    raw = READERS["made"](None, None)
    raw.rows["id"] = [f"p{i // 4}" for i in range(18)] + ["x", "y"]
    with pytest.raises(SourceError, match=r"5 ids stand more than once, 'p0' 4 times.*together"):
        prepare("made", Source(), tmp_path)


def test_what_is_left_out_is_counted_by_group_and_reason(tmp_path, made):
    images = _images(200)
    for place in range(3):
        images[place] = np.zeros((4, 4), np.uint16)  # every image of one site
    images[10] = images[11] = np.full((8, 8), 9, np.uint8)
    images[21] = images[20]
    made(["x", "y"] * 100, images, sex=["c"] * 3 + ["a", "b"] * 98 + ["a"])
    prepared = prepare("made", Source(max_rejects=0.05, duplicates="drop"), tmp_path)
    constant, deep = "constant", "pixels are uint16 of shape (4, 4), not uint8 of H×W or H×W×3"
    assert json.loads(prepared.metadata["left_out"]) == {
        "kind": {
            "x": {"of": 100, constant: 1, deep: 2, "same pixels": 1},
            "y": {"of": 100, constant: 1, deep: 1, "same pixels": 1},
        },
        "sex": {
            "a": {"of": 99, constant: 1, "same pixels": 1},
            "b": {"of": 98, constant: 1, "same pixels": 1},
            "c": {"of": 3, deep: 3},
        },
    }


def test_a_set_of_which_nothing_is_left_says_why(tmp_path, made):
    made(["a", "b"] * 10, [_images(1)[0]] * 20)
    with pytest.raises(SourceError, match=r"no sample is left: 0 are .* drop leaves out 20"):
        prepare("made", Source(duplicates="drop"), tmp_path)
    made(["a", "b"] * 10, _images(20), split=["val"] * 20)
    with pytest.raises(SourceError, match="no sample is left: 0 are unusable, 20 are for valid"):
        prepare("made", Source(), tmp_path)
    made(["a", "b"] * 10, _images(20), classes=("x", "y"))
    with pytest.raises(SourceError, match="20 of 20 samples are unusable"):
        prepare("made", Source(max_rejects=1), tmp_path)


def test_what_belongs_together_stays_together(tmp_path, made):
    person = [i // 4 for i in range(40)]
    made(["a"] * 20 + ["b"] * 20, _images(40), person=person, together="person")
    rows = prepare("made", Source(test_fraction=0.4), tmp_path).rows
    assert "person" in rows  # for units of statistics
    rows["person"] = rows["id"].str[1:].astype(int) // 4
    assert len(rows.groupby(["person", "split"])) == 10
    assert rows["split"].value_counts()["test"] == 16


def test_the_imbalance_must_fit_the_classes(tmp_path, made):
    made(["a", "b"] * 10, _images(20))
    with pytest.raises(SourceError, match=r"sources.made.imbalance: 10 fractions for 2 classes"):
        prepare("made", Source(imbalance="paper"), tmp_path)


def test_a_set_with_one_label_refuses_another(tmp_path):
    with pytest.raises(SourceError, match=r"sources.digits.label: 'slant'; the label is 'digit'"):
        prepare("digits", Source(label="slant"), tmp_path)


def test_an_unknown_reader_is_answered_with_close_names(tmp_path):
    with pytest.raises(SourceError, match="no reader is named 'mnist5'; did you mean 'mnist5k'"):
        read("mnist5", Source(), tmp_path)
    with pytest.raises(SourceError, match=r"sources.mine.path: nowhere does not exist"):
        read("mine", Source(reader="digits", path="nowhere"), tmp_path)
    assert {"mnist5k", "digits"} <= set(READERS)
