import io
import tarfile
import zipfile

import data_layouts as layouts
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantskew import params
from quantskew.data.loading import load
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.data.sources import SourceError

COUNT = 24


def _people():
    return pd.DataFrame(
        {
            "diagnosis": ["ill", "well", "well"] * 8,
            "part": ["train", "train", "test", "validation"] * 6,
            "sex": ["f", "m", None, "f"] * 6,
            "age": range(20, 20 + COUNT),
            "patient": [number // 2 for number in range(COUNT)],
            "where": ["here"] * COUNT,
        }
    )


def _parquet(path, images, kind=None):
    table = pa.Table.from_pandas(_people(), preserve_index=False)
    pq.write_table(table.append_column("photo", pa.array(images, kind)), path)


def _made(source, tmp_path):
    return prepare("mine", source, tmp_path / "downloads")


def test_three_lines_of_yaml_read_a_parquet_file(tmp_path):
    path = tmp_path / "mine.parquet"
    _parquet(path, [layouts.picture(seed, 40, 60) for seed in range(COUNT)])
    source = params.Source.model_validate(
        {"reader": "parquet", "path": str(path), "image": "photo", "label": "diagnosis"}
    )
    prepared = _made(source, tmp_path)
    prepared.write(tmp_path / "samples.parquet")
    samples = load(tmp_path / "samples.parquet")
    assert samples.classes == ("ill", "well")
    assert samples.images.shape == (COUNT, 3, 64, 64)
    assert set(samples.attributes) == {
        "label",
        "diagnosis",
        "part",
        "sex",
        "age",
        "patient",
        "where",
    }
    row = int(samples.ids[0].rpartition("/")[2])
    assert samples.attributes["age"][0] == 20 + row
    assert samples.classes[samples.labels[0]] == _people()["diagnosis"][row]
    assert len(samples.test) == 5  # a fifth of 8 and of 16, rounded


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_and_cropping_are_those_of_torchvision(tmp_path, interpolation):
    from torchvision.transforms import InterpolationMode, v2

    pictures = [layouts.picture(seed, 37 + 5 * (seed % 3), 53) for seed in range(COUNT)]
    _parquet(tmp_path / "mine.parquet", pictures)
    source = Source(
        reader="parquet", path=str(tmp_path / "mine.parquet"), image="photo", label="diagnosis",
        size=24, resize=32, interpolation=interpolation, test_fraction=0.5,
    )  # fmt: skip
    _made(source, tmp_path).write(tmp_path / "samples.parquet")
    samples = load(tmp_path / "samples.parquet")
    theirs = v2.Compose([v2.Resize(32, InterpolationMode(interpolation)), v2.CenterCrop(24)])
    for image, name in zip(samples.images, samples.ids, strict=True):
        number = int(name.rpartition("/")[2])
        picture = PIL.Image.open(io.BytesIO(pictures[number])).convert("RGB")
        assert (v2.functional.pil_to_tensor(theirs(picture)) == image).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 64, "resize": 48}, "resize: 48 is smaller than size"),
        ({"size": [20, 64], "resize": 48}, "resize: 48 is smaller than size"),
        ({"size": 64, "interpolation": "bicubic"}, "interpolation acts with resize alone"),
    ],
)
def test_a_crop_that_cannot_be_is_refused_before_any_image_is_read(settings, words):
    with pytest.raises(ValueError, match=words):
        Source.model_validate(settings)


def test_columns_of_ones_own_are_kept_or_refused_by_name(tmp_path):
    path = tmp_path / "mine.parquet"
    images = pa.array([layouts.picture(seed, 20, 20) for seed in range(COUNT)])
    people = _people().rename(columns={"where": "file", "patient": "row", "sex": "label"})
    pq.write_table(pa.Table.from_pandas(people).append_column("image", images), path)
    source = Source(reader="parquet", path=str(path), label="diagnosis", attributes=("file", "row"))
    rows = _made(source, tmp_path).rows
    assert set(rows["file"]) == {"here"}
    assert sorted(rows["row"]) == sorted(people["row"])
    with pytest.raises(SourceError, match="the column 'label' is not what"):
        _made(source.model_copy(update={"attributes": None}), tmp_path)


@pytest.mark.parametrize("column", ["lists", "pair"])
def test_pixels_as_lists_and_the_pairs_of_the_hub(tmp_path, column):
    path = tmp_path / "mine.parquet"
    if column == "lists":
        _parquet(path, layouts.pixels(COUNT, 32, 32).tolist())
    else:
        _parquet(path, layouts.hub_images(COUNT, 32, 32))
    source = Source(
        reader="parquet", path=str(path), image="photo", label="diagnosis", split="part",
        attributes=("sex",), size=32, channels=1 if column == "lists" else None,
    )  # fmt: skip
    prepared = _made(source, tmp_path)
    assert list(prepared.rows) == ["id", "label", "split", "diagnosis", "sex"]
    assert prepared.rows["split"].value_counts().to_dict() == {"train": 12, "test": 6}
    if column == "lists":
        rows = prepared.rows["id"].str.rpartition("/")[2].astype(int)
        expected = layouts.pixels(COUNT, 32, 32)[rows]
        assert (prepared.pixels[prepared.where][:, 0] == expected).all()


def test_a_parquet_file_with_defects(tmp_path):
    path = tmp_path / "mine.parquet"
    images = layouts.pixels(COUNT, 32, 32).tolist()
    images[3], images[4][0][0], images[5] = None, 256, images[5][:16]
    _parquet(path, images)
    source = Source(reader="parquet", path=str(path), image="photo", label="diagnosis", size=32)
    rejects = _made(source.model_copy(update={"max_rejects": 0.5}), tmp_path).rejects
    assert rejects["reason"].tolist() == [
        "empty file",
        "pixels are int64 of shape (32, 32), not uint8 of H×W or H×W×3",
    ]
    with pytest.raises(SourceError, match="no column 'foto'; did you mean 'photo'"):
        _made(source.model_copy(update={"image": "foto"}), tmp_path)
    with pytest.raises(SourceError, match="no column 'diagnose'; did you mean 'diagnosis'"):
        _made(source.model_copy(update={"label": "diagnose"}), tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"mine.parquet is not a whole Parquet file"):
        _made(source, tmp_path)
    path.unlink()
    with pytest.raises(SourceError, match=r"there is no \*.parquet in"):
        _made(source.model_copy(update={"path": str(tmp_path)}), tmp_path)


def _folder(root, names):
    folder = root / "photos"
    (folder / "sub").mkdir(parents=True)
    for seed in range(COUNT):
        (folder / "sub" / f"{seed}.png").write_bytes(layouts.picture(seed, 20, 20, "PNG"))
    people = _people().assign(file=names)
    people.to_csv(folder / "people.csv", index=False)
    return folder


def test_a_folder_and_its_csv(tmp_path):
    names = [f"sub/{seed}.png" for seed in range(COUNT)]
    folder = _folder(tmp_path, names)
    source = Source(
        reader="folder", path=str(folder), image="file", label="diagnosis", together="patient"
    )
    rows = _made(source, tmp_path).rows
    assert len(rows) == COUNT
    assert "patient" in rows  # for units of statistics
    patients = rows["id"].str[4:-4].astype(int) // 2
    assert all(len(set(side)) == 1 for _, side in rows["split"].groupby(patients))
    with pytest.raises(SourceError, match=r"sources.mine has no column 'six'; did you mean 'sex'"):
        _made(source.model_copy(update={"attributes": ("six",)}), tmp_path)
    with pytest.raises(SourceError, match="no column 'image'"):
        _made(source.model_copy(update={"image": "image"}), tmp_path)
    (folder / "second.csv").write_text("a,b\n")
    with pytest.raises(SourceError, match=r"given as table; found: people.csv, second.csv"):
        _made(source, tmp_path)


def test_names_of_digits_keep_their_zeros(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [f"{seed:04d}" for seed in range(COUNT)]
    for seed, name in enumerate(names):
        (folder / name).write_bytes(layouts.picture(seed, 20, 20, "PNG"))
    _people().assign(image=names).to_csv(folder / "people.csv", index=False)
    prepared = _made(Source(reader="folder", path=str(folder), label="diagnosis"), tmp_path)
    assert sorted(prepared.rows["id"]) == names


def test_nothing_outside_the_folder_is_read(tmp_path):
    names = [f"sub/{seed}.png" for seed in range(COUNT)]
    outside = tmp_path / "secret.png"
    outside.write_bytes(layouts.picture(99, 20, 20, "PNG"))
    names[:5] = ["../secret.png", str(outside), "sub/lost.png", None, None]
    folder = _folder(tmp_path, names)
    source = Source(
        reader="folder", path=str(folder), image="file", label="diagnosis", max_rejects=0.5
    )
    prepared = _made(source, tmp_path)
    assert len(prepared.rows) == COUNT - 5
    assert set(prepared.rejects["id"]) == {*names[:3], "row 4", "row 5"}
    assert prepared.rejects["reason"].str.startswith("cannot be opened").all()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_with_members_that_would_escape(tmp_path, kind):
    names = [f"{seed}.png" for seed in range(COUNT)]
    _people().assign(image=names).to_csv(tmp_path / "people.csv", index=False)
    contents = {name: layouts.picture(seed, 20, 20, "PNG") for seed, name in enumerate(names)}
    contents["../../escaped.png"] = contents["0.png"]
    path = tmp_path / f"photos.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w") as archive:
            for name, content in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    before = sorted(tmp_path.rglob("*")), sorted(tmp_path.parent.glob("*"))
    source = Source(reader="folder", path=str(path), table="people.csv", label="diagnosis")
    assert len(prepare("mine", source, tmp_path).rows) == COUNT
    assert (sorted(tmp_path.rglob("*")), sorted(tmp_path.parent.glob("*"))) == before


def test_a_table_that_is_not_there_is_looked_for_beside_the_images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "labels.csv").write_text("image,label\na.png,x\n")
    source = Source(reader="folder", path=str(folder), table="photos/labels.csv")
    with pytest.raises(SourceError, match=r"no file .*photos/photos/labels.csv; .* looked for in"):
        prepare("mine", source, tmp_path / "downloads")
