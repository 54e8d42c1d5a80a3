import json

import data_layouts as layouts
import numpy as np
import pytest

from quantskew.data.groups import Groups, group_codes
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.data.sources import SourceError, vision

datasets = vision._datasets()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)


def _made(name, path, tmp_path, **options):
    options = {"max_rejects": 0.2, "duplicates": "keep", **options}
    return prepare(name, Source(path=str(path), **options), tmp_path / "downloads")


def _colours(prepared):
    """Mean colour of the middle of each quarter of each sample: what the blocks were."""
    images = prepared.pixels[prepared.where]
    cells = [images[:, :, i : i + 1, j : j + 1] for i in (15, 47) for j in (15, 47)]
    return np.concatenate([cell.reshape(len(images), -1) for cell in cells], 1).astype(int)


def _expected(seeds):
    blocks = np.stack([layouts.pixels(1, 2, 2, 3, seed=seed)[0] for seed in seeds])
    return blocks.reshape(len(seeds), -1).astype(int)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    made = layouts.mnist(tmp_path)
    resources = [
        (name, layouts.md5(tmp_path / "MNIST" / "raw" / name))
        for name, _ in datasets.MNIST.resources
    ]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    return made


def test_mnist_comes_through_pixel_by_pixel(tmp_path, mnist):
    prepared = _made("mnist", tmp_path, tmp_path)
    rows = prepared.rows
    assert rows["split"].value_counts().to_dict() == {"train": 64, "test": 20}
    train = rows[rows["split"] == "train"]
    where = train["id"].str.rpartition("-")[2].astype(int)
    images = prepared.pixels[prepared.where[train.index]]
    assert (images[:, 0] == mnist["train"][where]).all()
    assert (train["label"].to_numpy() == where % 10).all()
    assert {"digit", "slant", "stroke"} <= set(rows)
    assert not (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").exists()


def test_imbalanced_mnist_is_thinned_in_training_only(tmp_path, mnist):
    counts = _made("imbalanced-mnist", tmp_path, tmp_path).rows.groupby(["split", "label"]).size()
    assert counts["train"].reindex(range(10), fill_value=0).tolist() == [7, 7, 3, 3, 1, 1] + [0] * 4
    assert counts["test"].tolist() == [2] * 10


def test_a_corrupted_mnist_is_refused_by_checksum(tmp_path, mnist):
    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(SourceError, match=r"t10k-labels-idx1-ubyte.gz is not as published"):
        _made("mnist", tmp_path, tmp_path)


def test_mnist_packed_anew_is_known_by_what_it_holds(tmp_path, mnist, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    for path in sorted(raw.glob("*.gz")):
        content = layouts.gzip.decompress(path.read_bytes())
        checksum = layouts.hashlib.md5(content).hexdigest()
        monkeypatch.setitem(vision.MNIST_UNPACKED, path.stem, checksum)
        path.write_bytes(layouts.gzip.compress(content, 1))
    assert len(_made("mnist", tmp_path, tmp_path).rows) == 84


def test_qmnist_knows_who_wrote(tmp_path, monkeypatch):
    made = layouts.qmnist(tmp_path)
    raw = tmp_path / "QMNIST" / "raw"
    resources = {
        split: [(url, layouts.md5(raw / url.rpartition("/")[2])) for url, _ in files]
        for split, files in datasets.QMNIST.resources.items()
        if split != "nist"
    }
    monkeypatch.setattr(datasets.QMNIST, "resources", resources)
    rows = _made("qmnist", tmp_path, tmp_path).rows.set_index("id")
    for split, labels in made.items():
        for number, label in enumerate(labels):
            row = rows.loc[f"{split}-{number:05d}"]
            assert row["label"] == label[0]
            assert row["writer"] == label[2]
            assert row["writers"] == ("high-school student" if label[1] == 4 else "census employee")
    (raw / "qmnist-test-labels-idx2-int.gz").write_bytes(b"")
    with pytest.raises(SourceError, match=r"idx2-int.gz is not as published"):
        _made("qmnist", tmp_path, tmp_path)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    made = layouts.cifar(tmp_path)
    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "tgz_md5", layouts.md5(tmp_path / kind.filename))
    for name in ("train_list", "test_list"):
        files = [[batch, made[f"md5 {batch}"]] for batch, _ in getattr(kind, name)]
        monkeypatch.setattr(kind, name, files)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": made["md5 batches.meta"]})
    return made


def test_cifar_is_read_from_its_archive(tmp_path, cifar):
    prepared = _made("cifar10", tmp_path, tmp_path)
    rows = prepared.rows.reset_index().set_index("id")
    assert rows["split"].value_counts().to_dict() == {"train": 100, "test": 20}
    row = rows.loc["train-00023"]
    assert (row["label"], row["object"]) == (3, "cat")
    image = prepared.pixels[prepared.where[row["index"]]]
    assert (image.ravel() == cifar["data_batch_2"][3]).all()
    thinned = _made("imbalanced-cifar10", tmp_path, tmp_path).rows.query("split == 'train'")
    assert thinned["label"].value_counts(sort=False).to_dict() == {
        0: 10, 1: 10, 2: 5, 3: 5, 4: 2, 5: 2, 6: 1, 7: 1
    }  # fmt: skip


def test_a_pickle_that_is_not_the_published_one_is_not_opened(tmp_path, cifar, monkeypatch):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not the archive")
    monkeypatch.setattr("pickle.load", lambda *a, **k: pytest.fail("a pickle was opened"))
    with pytest.raises(SourceError, match=r"cifar-10-python.tar.gz is not as published"):
        _made("cifar10", tmp_path, tmp_path)


@pytest.mark.parametrize("icml", [False, True])
def test_fer2013_as_a_table(tmp_path, monkeypatch, icml):
    name, key = ("icml_face_data.csv", "icml") if icml else ("fer2013.csv", "fer")
    path = tmp_path / "fer2013" / name
    table = layouts.fer_table(path, icml)
    published = datasets.FER2013._RESOURCES
    monkeypatch.setitem(published, key, (name, layouts.md5(path)))
    prepared = _made("fer2013", tmp_path, tmp_path)
    rows = prepared.rows
    assert rows["split"].value_counts().to_dict() == {"train": 14, "test": 14}
    assert rows.query("usage == 'PublicTest'")["split"].unique().tolist() == ["test"]
    where = rows["id"].str[4:].astype(int)
    assert (rows["label"].to_numpy() == where % 7).all()
    assert rows["expression"][where[where == 3].index[0]] == "happy"
    expected = np.array([np.array(text.split(), int) for text in table["pixels"]])[where]
    assert (prepared.pixels[prepared.where].reshape(28, -1) == expected).all()

    path.write_text(path.read_text()[:-50])
    with pytest.raises(SourceError, match=f"{name} is not as published"):
        _made("fer2013", tmp_path, tmp_path)


def test_a_row_of_fer2013_with_pixels_lost_is_a_reject(tmp_path, monkeypatch):
    path = tmp_path / "fer2013.csv"
    layouts.fer_table(path)
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace(" ", "", 1)
    path.write_text("\n".join(lines))
    monkeypatch.setitem(datasets.FER2013._RESOURCES, "fer", (path.name, layouts.md5(path)))
    rejects = _made("fer2013", tmp_path, tmp_path).rejects
    assert rejects["id"].tolist() == ["row-00002"]
    assert "shape (2303,)" in rejects["reason"].iloc[0]


def test_fer2013_as_folders(tmp_path):
    layouts.fer_folders(tmp_path)
    (tmp_path / "train" / "happy" / "extra.png").write_bytes(b"")
    prepared = _made("fer2013", tmp_path, tmp_path)
    rows = prepared.rows.set_index("id")
    assert rows.loc["train/neutral/im4.png", ["split", "label"]].tolist() == ["train", 6]
    assert rows.loc["test/sad/im12.png", ["split", "label"]].tolist() == ["test", 4]
    assert prepared.rejects.to_numpy().tolist() == [["train/happy/extra.png", "empty file", False]]
    (tmp_path / "train" / "happy").rename(tmp_path / "train" / "joy")
    with pytest.raises(SourceError, match="label 'joy' is none of angry"):
        _made("fer2013", tmp_path, tmp_path, max_rejects=0.01)


@pytest.mark.parametrize("packed", [False, True])
def test_utkface_is_read_from_its_names(tmp_path, packed):
    prepared = _made("utkface", layouts.utkface(tmp_path, packed), tmp_path)
    rows = prepared.rows.set_index("id")
    assert len(rows) == 42
    rejects = {"39_1_20170116174525125.jpg.chip.jpg": "the name is not age(0-116)_gender(0-1)_race"}
    if packed:  # a symbolic link out of the archive
        rejects["1_0_0_20170109170000000.jpg.chip.jpg"] = "cannot be opened: it is not a regular f"
    reasons = prepared.rejects.set_index("id")["reason"].str[:39]
    assert reasons.to_dict() == {name: reason[:39] for name, reason in rejects.items()}
    one = rows.loc["26_1_2_2017010917000000017.jpg.chip.jpg"]
    assert one[["label", "age", "gender", "race"]].tolist() == [2, 26, "Female", "Asian"]
    # the twentieth picture that was made, resized: its four blocks of colour in their places
    seeds = [[*layouts.UTKFACE, *layouts.UTKFACE_ODD].index(name) for name in rows.index]
    assert abs(_colours(prepared) - _expected(seeds)).max() < 16
    assert json.loads(prepared.metadata["licence"]).startswith("non-commercial")
    names = group_codes(prepared.rows, "age")[1]
    assert names == ["0-18", "19-39", "40-59", "60+"]
    ages = _made("utkface", tmp_path / "UTKFace.tar.gz" if packed else tmp_path, tmp_path,
                 label="age").rows  # fmt: skip
    assert (ages["label"] == ages["age"].map({1: 0, 24: 1, 26: 1, 45: 2, 55: 2, 90: 3})).all()
    with pytest.raises(SourceError, match="label 'rase' does not exist; did you mean 'race'"):
        _made("utkface", tmp_path, tmp_path, label="rase")


def test_a_truncated_archive_is_named(tmp_path):
    path = layouts.utkface(tmp_path, packed=True)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SourceError, match=r"UTKFace.tar.gz cannot be read as a whole folder, zip"):
        _made("utkface", path, tmp_path)


def test_a_member_of_an_archive_that_is_not_whole_is_named(tmp_path):
    layouts.isic2019(tmp_path, packed=True)
    path = tmp_path / "ISIC_2019_Training_Input.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(
        SourceError, match=r"ISIC_2019_Training_Input.zip cannot be read as a whole"
    ):
        _made("isic2019", tmp_path, tmp_path)


def test_utkface_of_the_hub(tmp_path):
    people = {
        "age": [1, 30, 50, 80] * 5,
        "gender": ["Male", "Female"] * 10,
        "ethnicity": ["White", "Black", "Asian", "Indian", "Others"] * 4,
    }
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    layouts.hub(path, {"image": layouts.hub_images(20, 200, 200), **people})
    prepared = _made("utkface", tmp_path, tmp_path)
    rows = prepared.rows.set_index("id")
    assert rows.loc["train-00000-of-00001/00007", ["age", "gender", "race"]].tolist() == [
        80, "Female", "Asian",
    ]  # fmt: skip
    seeds = rows.index.str[-5:].astype(int)
    assert abs(_colours(prepared) - _expected(seeds)).max() < 16
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SourceError, match="is not a whole Parquet file"):
        _made("utkface", tmp_path, tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_celeba_as_published(tmp_path, monkeypatch, packed):
    values = layouts.celeba(tmp_path, packed)
    folder = tmp_path / "celeba"
    files = [
        (key, layouts.md5(folder / name) if (folder / name).is_file() else checksum, name)
        for key, checksum, name in datasets.CelebA.file_list
    ]
    monkeypatch.setattr(datasets.CelebA, "file_list", files)
    prepared = _made("celeba", tmp_path, tmp_path)
    rows = prepared.rows
    assert rows["split"].value_counts().to_dict() == {"train": 8, "test": 8}
    assert json.loads(prepared.metadata["validation_left_out"]) == 8
    number = rows["id"].str[:6].astype(int) - 1
    assert (number[rows["split"] == "test"] % 3 == 2).all()
    assert (rows["label"] == (values[number, 2] > 0)).all()
    assert ((rows["Young"] == "Young") == (values[number, 3] > 0)).all()
    names = group_codes(rows, "Male*Young")[1]
    assert names == ["not Male*not Young", "not Male*Young", "Male*not Young", "Male*Young"]
    assert len(_made("celeba", tmp_path, tmp_path, label="Male", validation="train").rows) == 24
    (folder / "list_attr_celeba.txt").write_text("24\n")
    with pytest.raises(SourceError, match=r"list_attr_celeba.txt is not as published"):
        _made("celeba", folder, tmp_path)


def test_celeba_of_the_hub(tmp_path):
    for start, split in enumerate(("train", "valid", "test")):
        path = tmp_path / "img_align+identity+attr" / f"{split}-00000-of-00001.parquet"
        columns = {
            "image": layouts.hub_images(8, 218, 178, start=start * 10),
            "celeb_id": list(range(8)),
            "Smiling": [True, False] * 4,
            "Male": [True, True, False, False] * 2,
        }
        layouts.hub(path, columns)
    rows = _made("celeba", tmp_path, tmp_path).rows
    assert rows["split"].value_counts().to_dict() == {"train": 8, "test": 8}
    assert rows.groupby(["label", "Male"], observed=True).size().tolist() == [4] * 4
    with pytest.raises(SourceError, match="label 'Smilling' does not exist; did you mean"):
        _made("celeba", tmp_path, tmp_path, label="Smilling")
    (tmp_path / "img_align+identity+attr" / "valid-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match=r"valid-00000-of-00001.parquet is not a whole"):
        _made("celeba", tmp_path, tmp_path)


def test_fairface_of_the_authors_and_a_mangled_table(tmp_path):
    table = layouts.fairface(tmp_path).set_index("file")
    rows = _made("fairface", tmp_path, tmp_path, label="age").rows
    assert rows["split"].value_counts().to_dict() == {"train": 12, "test": 6}
    assert (rows["race"] == table.loc[rows["id"], "race"].to_numpy()).all()
    assert (rows["age"] == table.loc[rows["id"], "age"].to_numpy()).all()
    names = group_codes(rows, "age")[1]
    assert names == ["3-9", "10-19", "more than 70"]
    path = tmp_path / "fairface_label_val.csv"
    path.write_text(path.read_text().replace("3-9", "9-Mar"))
    with pytest.raises(SourceError, match=r"age '9-Mar' of val/1.jpg.*spreadsheet"):
        _made("fairface", tmp_path, tmp_path)


def test_fairface_of_the_hub_gives_classes_by_their_names(tmp_path):
    from quantskew.data.sources.faces import FAIRFACE

    for split, count in (("train", 14), ("validation", 7)):
        columns = {
            "image": layouts.hub_images(count, 224, 224, start=count),
            "age": [n % 9 for n in range(count)],
            "gender": [n % 2 for n in range(count)],
            "race": [n % 7 for n in range(count)],
            "service_test": [False] * count,
        }
        declared = {name: list(words) for name, words in FAIRFACE.items()}
        layouts.hub(tmp_path / "0.25" / f"{split}-00000-of-00001.parquet", columns, declared)
    rows = _made("fairface", tmp_path, tmp_path).rows
    assert rows["split"].value_counts().to_dict() == {"train": 14, "test": 7}
    row = rows.set_index("id").loc["validation-00000-of-00001/00005"]
    assert row[["race", "gender", "age"]].tolist() == ["Latino_Hispanic", "Female", "40-49"]
    with pytest.raises(SourceError, match=r"config '0.5' does not exist"):
        _made("fairface", tmp_path, tmp_path, config="0.5")
    (tmp_path / "0.25" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(SourceError, match="validation-"):
        _made("fairface", tmp_path, tmp_path)


def test_fitzpatrick17k_and_its_unknown_types(tmp_path):
    layouts.fitzpatrick17k(tmp_path)
    prepared = _made("fitzpatrick17k", tmp_path, tmp_path)
    codes, names = group_codes(prepared.rows, "fitzpatrick")
    assert names == ["1", "2", "3", "4", "5", "6", "unknown"]
    assert np.bincount(codes).tolist() == [4, 4, 2, 2, 2, 2, 2]
    halves = Groups(bins={"fitzpatrick": (1, 4)}, unknown="leave_out")
    codes, names = group_codes(prepared.rows, "fitzpatrick", halves)
    assert names == ["1-3", "4+"]
    assert (codes < 0).sum() == 2
    assert json.loads(prepared.metadata["classes"]) == ["malignant", "non-neoplastic"]
    nine = _made("fitzpatrick17k", tmp_path, tmp_path, label="nine_partition_label")
    assert json.loads(nine.metadata["classes"]) == ["inflammatory", "malignant melanoma"]

    lost = next((tmp_path / "data" / "finalfitz17k").glob("*.jpg"))
    twice = tmp_path / "thumbs" / lost.name
    twice.parent.mkdir()
    twice.write_bytes(layouts.picture(0, 20, 20))
    with pytest.raises(SourceError, match=f"{lost.name} and thumbs/{lost.name}; keep one of them"):
        _made("fitzpatrick17k", tmp_path, tmp_path)
    twice.unlink()
    lost.unlink()
    rejects = _made("fitzpatrick17k", tmp_path, tmp_path).rejects
    assert rejects.to_numpy().tolist() == [
        [lost.stem, "cannot be opened: No such file or directory", False]
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_isic2019_keeps_a_lesion_on_one_side(tmp_path, packed):
    people = layouts.isic2019(tmp_path, packed).set_index("image")
    prepared = _made("isic2019", tmp_path, tmp_path, test_fraction=0.5)
    rows = prepared.rows.set_index("id")
    assert json.loads(prepared.metadata["classes"]) == ["MEL", "NV", "BCC"]
    assert len(rows) == 24
    lesions = people["lesion_id"].reindex(rows.index)
    sides = rows[lesions.notna()].groupby(lesions.dropna())["split"]
    assert all(len(set(side)) == 1 for _, side in sides)
    assert group_codes(prepared.rows, "sex")[1] == ["female", "male", "unknown"]
    assert group_codes(prepared.rows, "age")[1] == ["19-39", "40-59", "60+", "unknown"]
    seeds = [int(name[5:12]) for name in rows.index]
    found = prepared.pixels[prepared.where][:, :, [31, 31, 95, 95], [31, 95, 31, 95]]
    expected = _expected(seeds).reshape(-1, 4, 3).transpose(0, 2, 1)
    assert abs(found.astype(int) - expected).max() < 16


def test_isic2019_with_two_diagnoses_for_one_image(tmp_path):
    layouts.isic2019(tmp_path, packed=False)
    path = tmp_path / "ISIC_2019_Training_GroundTruth.csv"
    table = layouts.pd.read_csv(path)
    table.loc[5, ["MEL", "NV", "BCC"]] = 1.0
    table.to_csv(path, index=False)
    rejects = _made("isic2019", tmp_path, tmp_path).rejects
    assert rejects.to_numpy().tolist() == [
        ["ISIC_0000005", "label '3 diagnoses' is none of MEL, NV, BCC", False]
    ]
    table.drop(columns="NV").to_csv(path, index=False)
    with pytest.raises(SourceError, match="has no column 'NV'"):
        _made("isic2019", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("mnist", "yann.lecun.com"),
        ("qmnist", "facebookresearch/qmnist"),
        ("cifar10", "cs.toronto.edu"),
        ("fer2013", "kaggle.com"),
        ("utkface", "nu-delta/utkface"),
        ("celeba", "mmlab.ie.cuhk.edu.hk"),
        ("fairface", "HuggingFaceM4/FairFace"),
        ("fitzpatrick17k", "mattgroh/fitzpatrick17k"),
        ("isic2019", "isic-archive.com"),
    ],
)
def test_without_files_and_network_the_error_says_what_to_get(tmp_path, name, page):
    with pytest.raises(SourceError) as raised:
        prepare(name, Source(), tmp_path / "downloads")
    said = str(raised.value)
    assert f"sources.{name}: the files are not in {tmp_path / 'downloads' / name}" in said
    assert page in said
    assert "terms: " in said


def test_an_imbalanced_set_shares_the_files_of_the_whole(tmp_path):
    with pytest.raises(SourceError, match=f"not in {tmp_path}/cifar10 "):
        prepare("imbalanced-cifar10", Source(), tmp_path)


def test_half_a_download_is_not_the_whole_set(tmp_path):
    data = {
        "image": layouts.hub_images(20, 200, 200),
        "age": [1, 30, 50, 80] * 5,
        "gender": ["Male", "Female"] * 10,
        "ethnicity": ["White", "Black"] * 10,
    }
    layouts.hub(tmp_path / "data" / "train-00000-of-00002.parquet", data)
    with pytest.raises(SourceError, match="give as revision the commit to read"):
        _made("utkface", tmp_path, tmp_path)
    layouts.hub(tmp_path / "data" / "train-00001-of-00002.parquet", data)
    assert len(_made("utkface", tmp_path, tmp_path, duplicates="keep").rows) == 40


def test_half_of_fairface_under_its_names_on_the_hub_is_not_the_whole(tmp_path):
    from quantskew.data.sources.faces import FAIRFACE

    columns = {name: [0, 1, 1] for name in FAIRFACE}
    declared = {name: list(words) for name, words in FAIRFACE.items()}
    names = [
        "1.25/train-00000-of-00002-e715178553977907",
        "1.25/validation-00000-of-00001-09e3e67bb00ab4ec",
        "1.25/train-00001-of-00002-f38b58e3987f3fbf",
    ]
    for start, name in enumerate(names):
        images = layouts.hub_images(3, 224, 224, start=10 * start)
        layouts.hub(tmp_path / f"{name}.parquet", {"image": images, **columns}, declared)
        if name != names[2]:
            half = "train is not whole: there are 00000 of 00002; get each of the 2 parts once; "
            with pytest.raises(SourceError, match=half * (name == names[1]) + "no network"):
                _made("fairface", tmp_path, tmp_path, config="1.25")
    rows = _made("fairface", tmp_path, tmp_path, config="1.25").rows
    assert rows["split"].value_counts().to_dict() == {"train": 6, "test": 3}


def test_celeba_of_the_hub_without_one_of_its_splits_is_not_the_whole(tmp_path):
    for start, split in enumerate(("train", "test", "valid")):
        columns = {"image": layouts.hub_images(4, 218, 178, start=start * 10),
                   "Smiling": [True, False] * 2}  # fmt: skip
        with pytest.raises(SourceError, match="no network"):
            _made("celeba", tmp_path, tmp_path)
        layouts.hub(
            tmp_path / "img_align+identity+attr" / f"{split}-00000-of-00001.parquet", columns
        )
    assert len(_made("celeba", tmp_path, tmp_path).rows) == 8


def test_the_hub_is_read_at_a_commit_only(tmp_path):
    with pytest.raises(SourceError, match="give as revision the commit to read"):
        prepare("utkface", Source(), tmp_path)
    with pytest.raises(SourceError, match="no network"):
        prepare("utkface", Source(revision="a" * 40), tmp_path)


def test_files_below_the_home_are_found_by_all_who_look_for_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "faces").mkdir()
    source = Source(path="~/faces", table="faces.csv")
    assert source.files("faces", "") == [tmp_path / "faces", tmp_path / "faces/faces.csv"]
