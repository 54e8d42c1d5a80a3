"""Data as it lies about: layouts of the hub, class folders, shards, and damage to any of them."""

import io
import json
import os
import tarfile
import zipfile
from contextlib import contextmanager

import data_layouts as layouts
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantskew import inputs
from quantskew.data.groups import group_codes
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.data.sources import SourceError
from quantskew.data.sources.layout import lacking_parts, splits_of

COUNT = 24
LABELS = ["ill", "well"] * (COUNT // 2)


def _picture(seed):
    return layouts.picture(seed, 20, 20, "PNG")


def _prepared(tmp_path, reader, path, **options):
    return prepare("mine", Source(reader=reader, path=str(path), **options), tmp_path / "downloads")


def _sides(prepared):
    return prepared.rows["split"].value_counts().to_dict()


@contextmanager
def _refused(*words):
    with pytest.raises(SourceError) as raised:
        yield
    for word in words:
        assert word in str(raised.value)


def _parquet(path, start=0, count=COUNT, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": _picture(seed), "path": None} for seed in range(start, start + count)]
    table = {"image": images, "label": (LABELS * 2)[:count], **columns}
    pq.write_table(pa.table(table), path)


def _tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _files(folder, members):
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _csv(folder, **columns):
    names = [f"{seed}.png" for seed in range(COUNT)]
    _files(folder, {name: _picture(seed) for seed, name in enumerate(names)})
    pd.DataFrame({"image": names, "label": LABELS, **columns}).to_csv(
        folder / "table.csv", index=False
    )
    return folder


def test_codes_with_leading_zeros_are_classes_of_their_own(tmp_path):
    labels = ["01", "1", "1.0", "2"] * 6
    prepared = _prepared(tmp_path, "folder", _csv(tmp_path / "images", label=labels))
    classes = json.loads(prepared.metadata["classes"])
    assert classes == ["01", "1", "1.0", "2"]
    by_id = prepared.rows.set_index("id")["label"]
    assert [classes[by_id[f"{seed}.png"]] for seed in range(COUNT)] == labels


def test_words_that_pandas_takes_for_missing_are_values_and_an_empty_field_is_unknown(tmp_path):
    words = ["None", "NA", "nan", "null", "-", ""] * 4
    prepared = _prepared(tmp_path, "folder", _csv(tmp_path / "images", glasses=words))
    codes, names = group_codes(prepared.rows, "glasses")
    assert names == ["-", "NA", "None", "nan", "null", "unknown"]
    assert np.bincount(codes).tolist() == [4] * 6


def test_numbers_written_as_texts_have_bins_and_one_that_is_none_is_named(tmp_path):
    ages = [str(3 * seed) for seed in range(COUNT)]
    folder = _csv(tmp_path / "images", age=ages, code=[f"{seed:02d}" for seed in range(COUNT)])
    rows = _prepared(tmp_path, "folder", folder).rows
    assert group_codes(rows, "age")[1] == ["0-18", "19-39", "40-59", "60+"]
    assert group_codes(rows, "code")[1][:2] == ["00", "01"]  # a code is not a number
    with pytest.raises(ValueError, match="'height' is a number of 24 different values; give"):
        group_codes(rows.rename(columns={"age": "height"}), "height")
    rows = _prepared(tmp_path, "folder", _csv(folder, age=["?", *ages[1:]])).rows
    with pytest.raises(ValueError, match=r"'age' has bins, and '\?' of sample '0.png' .* 0 more"):
        group_codes(rows, "age")
    rows = _prepared(tmp_path, "folder", _csv(folder, age=["0-9", "10-19"] * 12)).rows
    assert group_codes(rows, "age")[1] == ["0-9", "10-19"]


def test_groups_of_texts_are_in_the_order_of_their_numbers():
    table = pd.DataFrame({"type": ["10", "2", "1", None], "label": [0] * 4})
    codes, names = group_codes(table, "type")
    assert names == ["1", "2", "10", "unknown"]
    assert codes.tolist() == [2, 1, 0, 3]


def test_a_line_longer_than_its_header_is_refused_instead_of_moving_every_column(tmp_path):
    folder = _csv(tmp_path / "images")
    lines = (folder / "table.csv").read_text().splitlines()
    (folder / "table.csv").write_text("\n".join([lines[0], *(f"{line},x" for line in lines[1:])]))
    with _refused("table.csv is not a CSV"):
        _prepared(tmp_path, "folder", folder)
    (folder / "table.csv").write_text(
        "\n".join([f"{lines[0]},label", *(f"{line},x" for line in lines[1:])])
    )
    with _refused("table.csv has the column 'label' twice"):
        _prepared(tmp_path, "folder", folder)


def test_whole_numbers_beside_an_unknown_one_stay_whole(tmp_path):
    large = 2**60
    numbers = [large, large + 1, None, *range(COUNT - 3)]
    _parquet(tmp_path / "mine.parquet", id=pa.array([*numbers], pa.int64()))
    prepared = _prepared(tmp_path, "parquet", tmp_path / "mine.parquet", max_rejects=0.1)
    assert {str(large), str(large + 1)} <= {*prepared.rows["id"]}
    assert prepared.rejects[["id", "reason"]].to_numpy().tolist() == [["row 3", "no id"]]


def test_members_of_a_tar_of_the_current_folder_and_absolute_names_are_found(tmp_path):
    folder = _csv(tmp_path / "images")
    with tarfile.open(tmp_path / "dot.tar", "w") as archive:
        archive.add(folder, ".")
    assert len(
        _prepared(tmp_path, "folder", tmp_path / "dot.tar", table="images/table.csv").rows
    ) == COUNT  # fmt: skip
    table = pd.read_csv(folder / "table.csv")
    names = [f"{folder}/{name}" for name in table["image"]]
    table.assign(image=names).to_csv(folder / "table.csv", index=False)
    assert set(_prepared(tmp_path, "folder", folder).rows["id"]) == {*names}


def test_a_name_is_not_looked_for_outside_the_archive(tmp_path, monkeypatch):
    monkeypatch.chdir(_csv(tmp_path / "images"))
    _tar(tmp_path / "few.tar", {f"{seed}.png": _picture(seed) for seed in range(COUNT - 1)})
    prepared = _prepared(
        tmp_path, "folder", tmp_path / "few.tar", table="images/table.csv", max_rejects=0.1
    )
    assert prepared.rejects["id"].tolist() == [f"{COUNT - 1}.png"]


def test_a_member_of_an_archive_that_unpacks_to_more_than_any_image_is_a_reject(tmp_path):
    folder = _csv(tmp_path / "images")
    with zipfile.ZipFile(
        tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as packed:
        with packed.open("0.png", "w") as member:
            for _ in range(257):
                member.write(bytes(1 << 20))
        for path in folder.iterdir():
            if path.name != "0.png":
                packed.write(path, path.name)
    assert (tmp_path / "bomb.zip").stat().st_size < 1 << 23
    given = {"table": str(folder / "table.csv"), "max_rejects": 0.2}
    prepared = _prepared(tmp_path, "folder", tmp_path / "bomb.zip", **given)
    assert "269484032 bytes, more than the 268435456 that are read" in prepared.rejects["reason"][0]


def test_what_is_no_regular_file_or_has_no_legal_name_is_a_reject(tmp_path):
    folder = _csv(tmp_path / "images")
    (folder / "0.png").unlink()
    os.mkfifo(folder / "0.png")
    (folder / "1.png").write_bytes(b"")
    os.truncate(folder / "1.png", (1 << 28) + 1)
    text = (folder / "table.csv").read_text()
    (folder / "table.csv").write_text(text.replace("2.png", '"2\0.png"', 1))
    reasons = _prepared(tmp_path, "folder", folder, max_rejects=0.2).rejects["reason"].tolist()
    assert reasons[0] == "cannot be opened: it is not a regular file"
    assert "268435457 bytes, more than the 268435456 that are read" in reasons[1]
    assert "null byte" in reasons[2]


def test_an_enormous_member_of_an_archive_is_a_reject_that_is_not_read(tmp_path, monkeypatch):
    folder = _csv(tmp_path / "images")
    with zipfile.ZipFile(tmp_path / "zeros.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for seed in range(COUNT - 1):
            archive.write(folder / f"{seed}.png", f"{seed}.png")
        with archive.open(f"{COUNT - 1}.png", "w") as member:
            for _ in range(257):
                member.write(bytes(1 << 20))
    read = zipfile.ZipFile.read
    sizes = []

    def watched(self, name, *rest):
        content = read(self, name, *rest)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(zipfile.ZipFile, "read", watched)
    options = {"table": "images/table.csv", "max_rejects": 0.1}
    rejects = _prepared(tmp_path, "folder", tmp_path / "zeros.zip", **options).rejects
    assert rejects["id"].tolist() == [f"{COUNT - 1}.png"]
    assert rejects["reason"].str.contains("bytes, more than").all()
    assert max(sizes) < 10_000


@pytest.mark.parametrize("damage", ["header", "zeroed header", "cut at a member"])
def test_a_tar_with_one_damaged_header_is_not_read_as_a_shorter_one(tmp_path, damage):
    _csv(tmp_path / "images")
    path = tmp_path / "images.tar"
    _tar(path, {f"{seed}.png": _picture(seed) for seed in range(COUNT)})
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[COUNT // 2].offset
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[offset + 3] ^= 1
    elif damage == "zeroed header":
        content[offset : offset + 512] = bytes(512)
    else:
        del content[offset:]
    path.write_bytes(content)
    with _refused(f"{path} cannot be read as a whole folder, zip or tar", f"{offset}"):
        _prepared(tmp_path, "folder", path, table="images/table.csv", max_rejects=1)


def test_links_in_a_tar_are_followed_inside_it_alone_and_the_others_counted(tmp_path):
    path = tmp_path / "pets.tar"
    _tar(path, {f"{'ab'[seed % 2]}/{seed}.png": _picture(seed) for seed in range(COUNT)})
    with tarfile.open(path, "a") as archive:
        for name, kind, target in (("a/hard.png", tarfile.LNKTYPE, "b/1.png"),
                                   ("b/soft.png", tarfile.SYMTYPE, "/etc/passwd")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    prepared = _prepared(tmp_path, "folder", path, duplicates="keep", max_rejects=0.1)
    assert "a/hard.png" in set(prepared.rows["id"])
    left_out = prepared.rejects[~prepared.rejects["kept"].astype(bool)]
    assert left_out[["id", "reason"]].to_numpy().tolist() == [
        ["b/soft.png", "cannot be opened: it is not a regular file"]
    ]


@pytest.mark.parametrize(("place", "word"), [(6, "encrypted"), (8, "compression")])
def test_a_zip_with_a_password_or_an_unknown_compression_is_named(tmp_path, place, word):
    _csv(tmp_path / "images")
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for seed in range(COUNT):
            archive.writestr(f"{seed}.png", _picture(seed))
    content = bytearray(path.read_bytes())
    local, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
    content[local + place] = content[central + place + 2] = 1 if word == "encrypted" else 99
    path.write_bytes(content)
    with _refused(str(path), word):
        _prepared(tmp_path, "folder", path, table="images/table.csv")


def test_a_folder_of_the_hub_has_the_split_of_its_file_names(tmp_path):
    _parquet(tmp_path / "hub/data/train-00000-of-00001.parquet")
    _parquet(tmp_path / "hub/data/test-00000-of-00001.parquet", COUNT, 8)
    _parquet(tmp_path / "hub/.cache/test-00000-of-00001.parquet", 90, 8)
    prepared = _prepared(tmp_path, "parquet", tmp_path / "hub")
    assert _sides(prepared) == {"train": COUNT, "test": 8}
    assert json.loads(prepared.metadata["split"]) == {"by": "published"}
    assert prepared.rows["id"].str.startswith("data/test").tolist()[:8] == [True] * 8


def test_hive_folders_are_columns_and_their_split_is_the_published_one(tmp_path):
    for site, split, start in (("01", "train", 0), ("a b", "train", 30), ("01", "test", 60)):
        folder = f"site={site.replace(' ', '%20')}/split={split}"
        _parquet(tmp_path / "hive" / folder / "part-0.parquet", start, 10)
    rows = _prepared(tmp_path, "parquet", tmp_path / "hive").rows
    assert rows.groupby(["split", "site"]).size().to_dict() == {
        ("test", "01"): 10, ("train", "01"): 10, ("train", "a b"): 10
    }  # fmt: skip


def test_a_column_of_the_split_is_believed_before_the_names(tmp_path):
    parts = ["train", "train", "test"] * 8
    _parquet(tmp_path / "hub/train-0.parquet", split=parts)
    assert _sides(_prepared(tmp_path, "parquet", tmp_path / "hub")) == {"train": 16, "test": 8}


def test_one_part_of_a_split_is_not_the_whole_unless_a_split_is_asked_for(tmp_path):
    _parquet(tmp_path / "hub/train.parquet")
    with _refused("its published split has no test sample", "validation: test", "test_fraction"):
        _prepared(tmp_path, "parquet", tmp_path / "hub")
    drawn = _prepared(tmp_path, "parquet", tmp_path / "hub", test_fraction=0.25)
    assert _sides(drawn) == {"train": 18, "test": 6}
    _parquet(tmp_path / "hub/val.parquet", COUNT, 8)
    tested = _prepared(tmp_path, "parquet", tmp_path / "hub", validation="test")
    assert _sides(tested) == {"train": COUNT, "test": 8}
    # a file that is given by its own name is what it is
    assert len(_prepared(tmp_path, "parquet", tmp_path / "hub/train.parquet").rows) == COUNT


def test_an_audit_takes_the_test_part_of_a_published_split(tmp_path):
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 2))
    _parquet(tmp_path / "hub/train-0.parquet")
    source = Source(reader="parquet", path=str(tmp_path / "hub"), classes=("ill", "well"), size=64)
    with pytest.raises(inputs.DataError, match="has no test samples"):
        inputs.samples(source, network, split="test")
    _parquet(tmp_path / "hub/test-0.parquet", COUNT, 8)
    assert len(inputs.samples(source, network, split="test")) == 8
    assert len(inputs.samples(source, network, split="train")) == COUNT


def test_splits_are_whole_words_and_never_two():
    assert splits_of(["a/contest.parquet", "restrain-1.parquet"]) == {}
    assert splits_of(["x_dev_01.parquet", "EVAL/0.parquet"]) == {
        "x_dev_01.parquet": "validation", "EVAL/0.parquet": "test"
    }  # fmt: skip
    with pytest.raises(SourceError, match=r"train-test.parquet names two splits, test and train"):
        splits_of(["train-test.parquet"])


@pytest.mark.parametrize(
    ("names", "there"),
    [
        (["train-00000-of-00002-e715178553977907"], "00000 of 00002"),
        (["train-00000-of-00002", "train-00000-of-00002-e715178553977907"], "00000 of 00002, 00"),
        (["train-00000-of-00001", "train-00001-of-00002"], "00000 of 00001, 00001 of 00002"),
    ],
)
def test_a_part_of_numbered_files_never_passes_as_the_whole(tmp_path, names, there):
    for start, name in enumerate(names):
        _parquet(tmp_path / f"half/{name}.parquet", start * COUNT)
    with _refused("half/train is not whole", there):
        _prepared(tmp_path, "parquet", tmp_path / "half")
    with _refused("train is not whole"):
        _prepared(tmp_path, "parquet", tmp_path / f"half/{names[-1]}.parquet")


def test_both_halves_of_numbered_files_are_the_whole(tmp_path):
    names = ["a-00001-of-00002-0123456789abcdef", "a-00000-of-00002-fedcba9876543210", "b"]
    assert lacking_parts([tmp_path / f"{name}.parquet" for name in names]) == ""


def test_an_image_may_be_a_path_below_the_folder_of_its_file(tmp_path):
    folder = tmp_path / "mine"
    _files(folder, {f"photos/{seed}.png": _picture(seed) for seed in range(COUNT)})
    images = [{"bytes": None, "path": f"photos/{seed}.png"} for seed in range(COUNT)]
    images[3] = {"bytes": None, "path": "../outside.png"}
    _files(tmp_path, {"outside.png": _picture(99)})
    pq.write_table(pa.table({"image": images, "label": LABELS}), folder / "mine.parquet")
    prepared = _prepared(tmp_path, "parquet", folder / "mine.parquet", max_rejects=0.1)
    assert len(prepared.rows) == COUNT - 1
    assert "not below" in prepared.rejects["reason"].iloc[0]


def test_ragged_pixels_and_a_row_without_id_are_rejects(tmp_path):
    images = layouts.pixels(COUNT, 16, 16).tolist()
    images[2][5] = images[2][5][:7]
    ids = [None, *(f"s{seed}" for seed in range(1, COUNT))]
    table = pa.table({"image": images, "label": LABELS, "id": ids})
    pq.write_table(table, tmp_path / "mine.parquet")
    prepared = _prepared(tmp_path, "parquet", tmp_path / "mine.parquet", max_rejects=0.1)
    assert dict(prepared.rejects[["id", "reason"]].to_numpy()) == {
        "row 1": "no id", "s2": "pixels are lists of unequal length"
    }  # fmt: skip


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_damaged_page_is_named_with_its_file(tmp_path, column):
    path = tmp_path / "mine.parquet"
    _parquet(path)
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none", write_page_checksum=True, use_dictionary=False)
    content = bytearray(path.read_bytes())
    # the first pictures stand in the statistics of the page, which has no checksum
    where = content.index(b"IHDR" if column == "image" else b"\4\0\0\0well", 1000)
    content[where + 5] ^= 1
    path.write_bytes(content)
    with _refused(f"{path} is not a whole Parquet file"):
        _prepared(tmp_path, "parquet", path, max_rejects=0.5)


def test_a_file_without_rows_and_classes_that_are_no_list_are_named(tmp_path):
    path = tmp_path / "mine.parquet"
    _parquet(path)
    whole = pq.read_table(path)
    pq.write_table(whole.slice(0, 0), path)
    with _refused("no samples"):
        _prepared(tmp_path, "parquet", path)
    pq.write_table(whole, path)
    for broken in (b"{", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": 3}}}'):
        table = pq.read_table(path).replace_schema_metadata({"huggingface": broken})
        pq.write_table(table, path)
        with _refused(f"{path}: its metadata 'huggingface'", "write the file without it"):
            _prepared(tmp_path, "parquet", path)


def test_an_image_folder_of_the_hub(tmp_path):
    for split, start in (("train", 0), ("test", 50)):
        lines = [
            {
                "file_name": f"{start + k}.png",
                "label": LABELS[k],
                "site": "ab"[k % 3 == 0],
                "box": [],
            }
            for k in range(12)
        ]
        metadata = "\n".join(map(json.dumps, lines)).encode()
        members = {f"{start + k}.png": _picture(start + k) for k in range(12)}
        _files(tmp_path / "hub" / split, {**members, "metadata.jsonl": metadata})
    rows = _prepared(tmp_path, "folder", tmp_path / "hub").rows
    assert list(rows) == ["id", "label", "split", "site"]
    assert rows["id"].str.partition("/")[0].tolist() == rows["split"].tolist()
    with zipfile.ZipFile(tmp_path / "hub.zip", "w") as archive:
        for path in sorted((tmp_path / "hub").rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path / "hub"))
    packed = _prepared(tmp_path, "folder", tmp_path / "hub.zip").rows
    assert packed.equals(rows)
    for folder in ("train", "test"):
        path = tmp_path / "hub" / folder / "metadata.jsonl"
        table = pd.read_json(path, lines=True).drop(columns="box")
        table.to_csv(path.with_suffix(".csv"), index=False)
        path.unlink()
    assert _prepared(tmp_path, "folder", tmp_path / "hub").rows.equals(rows)


@pytest.mark.parametrize("root", ["", "photos/"])
def test_class_folders_with_and_without_a_split(tmp_path, root):
    members = {
        f"{root}{split}/{kind}/{seed}.png": _picture(100 * len(split) + 10 * len(kind) + seed)
        for split in ("train", "test") for kind in ("cat", "horse") for seed in range(6)
    }  # fmt: skip
    _files(tmp_path / "pets", members)
    _tar(tmp_path / "pets.tar", members)
    for path in (tmp_path / "pets", tmp_path / "pets.tar"):
        prepared = _prepared(tmp_path, "folder", path)
        assert json.loads(prepared.metadata["classes"]) == ["cat", "horse"]
        counts = prepared.rows.groupby(["split", "label"]).size()
        assert counts.tolist() == [6] * 4
    one = _prepared(tmp_path, "folder", tmp_path / "pets" / root / "train")
    assert json.loads(one.metadata["split"])["by"] == "stratified"
    assert len(one.rows) == 12
    with _refused("has no table, nor images in folders named by their class"):
        (tmp_path / "empty").mkdir()
        _prepared(tmp_path, "folder", tmp_path / "empty")


def test_a_part_of_the_images_a_table_names_is_read_when_that_is_said(tmp_path):
    folder = _csv(tmp_path / "images")
    for seed in range(10, COUNT):
        (folder / f"{seed}.png").unlink()
    with _refused("14 of 24 samples are unusable"):
        _prepared(tmp_path, "folder", folder)
    prepared = _prepared(tmp_path, "folder", folder, part=True)
    assert len(prepared.rows) == 10
    assert json.loads(prepared.metadata["absent"]) == 14


@pytest.mark.parametrize("partition", [False, True])
def test_ten_images_of_celeba_have_a_split_drawn(tmp_path, monkeypatch, partition):
    from torchvision.datasets import CelebA

    layouts.celeba(tmp_path, packed=False)
    folder = tmp_path / "celeba"
    names = sorted((folder / "img_align_celeba").iterdir())
    for path in names[10:]:
        path.unlink()
    files = [
        (key, layouts.md5(folder / name) if (folder / name).is_file() else checksum, name)
        for key, checksum, name in CelebA.file_list
    ]
    monkeypatch.setattr(CelebA, "file_list", files)
    if partition:
        lines = "".join(f"{seed:06d}.jpg 0\n" for seed in range(1, 25))
        (folder / "list_eval_partition.txt").write_text(lines)
        monkeypatch.setattr("quantskew.data.sources.faces.check_md5", lambda path, md5: None)
    else:
        (folder / "list_eval_partition.txt").unlink()
        with _refused("list_eval_partition.txt", "part: true draws a split"):
            prepare("celeba", Source(path=str(tmp_path)), tmp_path / "downloads")
    fraction = 0.3 if partition else None
    source = Source(path=str(tmp_path), part=True, label="Male", test_fraction=fraction)
    prepared = prepare("celeba", source, tmp_path / "downloads")
    assert {*prepared.rows["id"]} == {path.name for path in names[:10]}
    assert json.loads(prepared.metadata["split"])["by"] == "stratified"
    assert json.loads(prepared.metadata["absent"]) == 14


def _shard(start, count, **options):
    members = {}
    for seed in range(start, start + count):
        members[f"./{seed:04d}.png"] = _picture(seed)
        members[f"./{seed:04d}.cls"] = f"{seed % 2}\n".encode()
        members[f"./{seed:04d}.json"] = json.dumps(
            {"site": "ab"[seed % 3 == 0], "tags": []}
        ).encode()
    return members


def test_shards_of_webdataset(tmp_path):
    _tar(tmp_path / "shards/train-000000.tar", _shard(0, 12))
    _tar(tmp_path / "shards/train-000001.tar", _shard(12, 12))
    _tar(tmp_path / "shards/val-000000.tar", _shard(24, 10))
    prepared = _prepared(tmp_path, "webdataset", tmp_path / "shards", validation="test")
    rows = prepared.rows.set_index("id")
    assert _sides(prepared) == {"train": 24, "test": 10}
    assert list(rows) == ["label", "split", "cls", "site"]
    assert rows.loc["train-000001/0013", ["label", "split", "site"]].tolist() == [1, "train", "a"]
    image = prepared.pixels[prepared.where[rows.index.get_loc("val-000000/0025")]]
    expected = layouts.pixels(1, 2, 2, 3, seed=25)[0].transpose(2, 0, 1)
    assert (image[:, [5, 5, 60, 60], [5, 60, 5, 60]].reshape(3, 2, 2) == expected).all()
    one = _prepared(tmp_path, "webdataset", tmp_path / "shards/val-000000.tar")
    assert json.loads(one.metadata["split"])["by"] == "stratified"
    broken = {**_shard(0, 12), "./0003.json": b"{"}
    _tar(tmp_path / "shards/train-000000.tar", broken)
    with _refused("train-000000.tar/0003.json is no json"):
        _prepared(tmp_path, "webdataset", tmp_path / "shards")
