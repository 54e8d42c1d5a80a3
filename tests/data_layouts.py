"""Small data sets in exactly the published layouts, made for the tests of the readers."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def picture(seed: int, height: int, width: int, kind: str = "JPEG", colour: bool = True) -> bytes:
    """Encode four blocks of colour, which a JPEG keeps nearly as they are."""
    blocks = pixels(1, 2, 2, 3 if colour else 1, seed=seed)[0]
    blocks = blocks.repeat(-(-height // 2), 0).repeat(-(-width // 2), 1)[:height, :width].squeeze()
    stream = io.BytesIO()
    PIL.Image.fromarray(blocks).save(stream, kind, quality=95)
    return stream.getvalue()


def idx(path: Path, array: np.ndarray) -> Path:
    """Write an array as the IDX files of MNIST are: magic number, shape, big-endian values."""
    code = {"u1": 8, "i4": 12}[array.dtype.str[1:]]
    head = struct.pack(f">{1 + array.ndim}I", code << 8 | array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(head + array.astype(array.dtype.newbyteorder(">")).tobytes()))
    return path


def mnist(root: Path) -> dict[str, np.ndarray]:
    made = {}
    for split, count in (("train", 64), ("t10k", 20)):
        made[split] = pixels(count, 28, 28, seed=count)
        raw = root / "MNIST" / "raw"
        idx(raw / f"{split}-images-idx3-ubyte.gz", made[split])
        idx(raw / f"{split}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return made


def qmnist(root: Path) -> dict[str, np.ndarray]:
    made = {}
    for split, count in (("train", 30), ("test", 20)):
        labels = np.zeros((count, 8), np.int32)
        labels[:, 0] = np.arange(count) % 10
        labels[:, 1] = np.array([0, 1, 4])[np.arange(count) % 3]
        labels[:, 2] = np.arange(count) + 100
        raw = root / "QMNIST" / "raw"
        idx(raw / f"qmnist-{split}-images-idx3-ubyte.gz", pixels(count, 28, 28, seed=count))
        idx(raw / f"qmnist-{split}-labels-idx2-int.gz", labels)
        made[split] = labels
    return made


def cifar(root: Path) -> dict[str, np.ndarray]:
    """Write the archive of CIFAR-10: pickled batches of rows of 3,072 bytes, red, green, blue."""
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    made = {}
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        for seed, name in enumerate([*names, "batches.meta"]):
            if name == "batches.meta":
                words = "airplane automobile bird cat deer dog frog horse ship truck"
                content = {"label_names": words.split()}
            else:
                made[name] = pixels(20, 3072, seed=seed)
                content = {"data": made[name], "labels": [n % 10 for n in range(20)]}
            packed = pickle.dumps(content)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(packed)
            archive.addfile(info, io.BytesIO(packed))
            made[f"md5 {name}"] = hashlib.md5(packed).hexdigest()
    return made


def fer_table(path: Path, icml: bool = False) -> pd.DataFrame:
    usage = ["Training"] * 14 + ["PublicTest"] * 7 + ["PrivateTest"] * 7
    table = pd.DataFrame(
        {
            "emotion": [row % 7 for row in range(28)],
            "pixels": [" ".join(map(str, one.ravel())) for one in pixels(28, 48, 48)],
            "Usage": usage,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    if icml:
        spaced = table[["emotion", "Usage", "pixels"]]
        spaced.rename(columns={"Usage": " Usage", "pixels": " pixels"}).to_csv(path, index=False)
    else:
        table.to_csv(path, index=False)
    return table


def fer_folders(root: Path) -> None:
    words = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    for seed, (split, word) in enumerate((s, w) for s in ("train", "test") for w in words):
        path = root / split / word / f"im{seed}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(seed, 48, 48, "PNG", colour=False))


UTKFACE = [
    f"{age}_{gender}_{race}_2017010917{stamp:09d}.jpg.chip.jpg"
    for stamp, (age, gender, race) in enumerate(
        (age, gender, race) for age in (1, 26, 45, 90) for gender in (0, 1) for race in range(5)
    )
]
UTKFACE_ODD = [
    "24_0_1_20170116220224657 .jpg.chip.jpg",
    "55_0_0_20170116232725357jpg.chip.jpg",
    "39_1_20170116174525125.jpg.chip.jpg",
]


def utkface(root: Path, packed: bool) -> Path:
    names = [*UTKFACE, *UTKFACE_ODD]
    contents = {name: picture(seed, 200, 200) for seed, name in enumerate(names)}
    if not packed:
        folder = root / "UTKFace"
        folder.mkdir(parents=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        return folder
    with tarfile.open(root / "UTKFace.tar.gz", "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"UTKFace/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("UTKFace/1_0_0_20170109170000000.jpg.chip.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return root / "UTKFace.tar.gz"


def hub(path: Path, columns: dict[str, object], names: dict[str, list[str]] | None = None) -> None:
    """Write a Parquet file as the hub's library does: images as pairs, classes declared."""
    table = pa.table(columns)
    features = {
        name: {"names": words, "_type": "ClassLabel"} for name, words in (names or {}).items()
    }
    info = json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": info}), path, row_group_size=5)


def hub_images(count: int, height: int, width: int, start: int = 0) -> list[dict[str, object]]:
    return [{"bytes": picture(start + seed, height, width), "path": None} for seed in range(count)]


CELEBA = ("5_o_Clock_Shadow", "Male", "Smiling", "Young")


def celeba(root: Path, packed: bool) -> np.ndarray:
    folder = root / "celeba"
    folder.mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, 25)]
    values = np.random.default_rng(0).choice([-1, 1], (24, 4))
    lines = [
        f"{name} {' '.join(f'{v:2d}' for v in row)}"
        for name, row in zip(names, values, strict=True)
    ]
    text = "\n".join(["24", " ".join(CELEBA) + " ", *lines, ""])
    (folder / "list_attr_celeba.txt").write_text(text)
    parts = "".join(f"{name} {number % 3}\n" for number, name in enumerate(names))
    (folder / "list_eval_partition.txt").write_text(parts)
    contents = {name: picture(seed, 218, 178) for seed, name in enumerate(names)}
    if packed:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
            for name, content in contents.items():
                archive.writestr(f"img_align_celeba/{name}", content)
    else:
        (folder / "img_align_celeba").mkdir()
        for name, content in contents.items():
            (folder / "img_align_celeba" / name).write_bytes(content)
    return values


def fairface(root: Path) -> pd.DataFrame:
    tables = []
    for split, count in (("train", 12), ("val", 6)):
        (root / split).mkdir(parents=True)
        files = [f"{split}/{number}.jpg" for number in range(1, count + 1)]
        for seed, name in enumerate(files):
            (root / name).write_bytes(picture(seed + 100 * (split == "val"), 224, 224))
        ages = ["3-9", "10-19", "more than 70"]
        table = pd.DataFrame(
            {
                "file": files,
                "age": [ages[n % 3] for n in range(count)],
                "gender": [("Male", "Female")[n % 2] for n in range(count)],
                "race": [("East Asian", "Latino_Hispanic", "Black")[n % 3] for n in range(count)],
                "service_test": [n % 2 == 0 for n in range(count)],
            }
        )
        table.to_csv(root / f"fairface_label_{split}.csv", index=False)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def fitzpatrick17k(root: Path) -> pd.DataFrame:
    hashes = [hashlib.md5(bytes([number])).hexdigest() for number in range(18)]
    table = pd.DataFrame(
        {
            "md5hash": hashes,
            "fitzpatrick_scale": [-1, 1, 2, 3, 4, 5, 6, 1, 2] * 2,
            "fitzpatrick_centaur": [-1, 1, 2, 3, 4, 5, 6, 1, 2] * 2,
            "label": ["psoriasis", "melanoma", "acne"] * 6,
            "nine_partition_label": ["inflammatory", "malignant melanoma", "inflammatory"] * 6,
            "three_partition_label": ["non-neoplastic", "malignant", "non-neoplastic"] * 6,
            "qc": [np.nan] * 18,
            "url": ["http://atlas.example/1.jpg"] * 18,
            "url_alphanum": ["httpatlasexample1jpg"] * 18,
        }
    )
    folder = root / "data" / "finalfitz17k"
    folder.mkdir(parents=True)
    table.to_csv(root / "fitzpatrick17k.csv", index=False)
    for seed, name in enumerate(hashes):
        (folder / f"{name}.jpg").write_bytes(picture(seed, 150, 170))
    return table


def isic2019(root: Path, packed: bool) -> pd.DataFrame:
    names = [f"ISIC_{n:07d}" + ("_downsampled" if n % 4 == 0 else "") for n in range(24)]
    kinds = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    truth = pd.DataFrame(0.0, index=range(24), columns=list(kinds))
    for row in range(24):
        truth.loc[row, ("MEL", "NV", "BCC")[row // 2 % 3]] = 1.0
    truth.insert(0, "image", names)
    people = pd.DataFrame(
        {
            "image": names,
            "age_approx": [np.nan, 30.0, 55.0, 85.0] * 6,
            "anatom_site_general": ["anterior torso", None, "head/neck", "upper extremity"] * 6,
            "lesion_id": [None if n < 6 else f"BCN_{n // 2}" for n in range(24)],
            "sex": ["male", "female", None, "female"] * 6,
        }
    )
    root.mkdir(parents=True, exist_ok=True)
    truth.to_csv(root / "ISIC_2019_Training_GroundTruth.csv", index=False)
    people.to_csv(root / "ISIC_2019_Training_Metadata.csv", index=False)
    folder = root / "ISIC_2019_Training_Input"
    if packed:
        with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
            archive.writestr("ISIC_2019_Training_Input/LICENSE.txt", "CC BY-NC")
            for seed, name in enumerate(names):
                content = picture(seed, 150, 200)
                archive.writestr(f"ISIC_2019_Training_Input/{name}.jpg", content)
    else:
        folder.mkdir()
        for seed, name in enumerate(names):
            (folder / f"{name}.jpg").write_bytes(picture(seed, 150, 200))
    return people
