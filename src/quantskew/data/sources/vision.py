"""Data sets that torchvision fetches, with its checksums: MNIST, QMNIST, CIFAR-10, FER2013."""

import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from quantskew.data.source import Source
from quantskew.data.sources.bundled import MNIST_TERMS, digit_rows, mnist_like
from quantskew.data.sources.layout import splits_of
from quantskew.data.sources.own import FILE, class_folders
from quantskew.data.sources.registry import Raw, SourceError, Terms, as_pixels, missing, source
from quantskew.data.sources.store import Store

MNIST_UNPACKED = {  # many copies were packed anew, which changes the checksum of the gzip
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
QMNIST_TERMS = Terms(
    page="https://github.com/facebookresearch/qmnist",
    licence="BSD-3-Clause",
    citation="Yadav, Bottou: Cold case: the lost MNIST digits. NeurIPS 2019",
)
CIFAR_TERMS = Terms(
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none is stated; the authors ask to be cited",
    citation="Krizhevsky: Learning multiple layers of features from tiny images. 2009",
)
FER_TERMS = Terms(
    page="https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-"
    "recognition-challenge",
    licence="the rules of the competition: research and teaching",
    citation="Goodfellow et al.: Challenges in representation learning. ICONIP 2013",
)
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
# of the series of NIST's special database 19 that QMNIST drew from
WRITERS = dict.fromkeys(range(4), "census employee") | {4: "high-school student"}


def check_md5(path: Path, published: str) -> None:
    """Refuse a file that is not the published one, with both checksums."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "md5").hexdigest()
    if found != published:
        raise SourceError(
            f"{path} is not as published: its md5 is {found}, not {published}; get it anew"
        )


def _unpack(path: Path, published: str, target: Path) -> None:
    """Unpack one gzip whose own checksum, or that of what it holds, is the published one."""
    try:
        target.write_bytes(gzip.decompress(path.read_bytes()))
        check_md5(target, MNIST_UNPACKED.get(target.name, ""))
    except (OSError, EOFError, zlib.error, SourceError):  # packed anew, or not the same
        check_md5(path, published)


def _datasets() -> Any:
    # torchvision takes a second to import, which the bundled sets need not wait for
    import quantskew._torchvision  # noqa: F401, I001
    from torchvision import datasets

    return datasets


def _build(kind: Any, where: Path, archives: dict[str, str], terms: Terms, **options: Any) -> Any:
    """Build a data set of torchvision from unpacked files, from its archives, or from the network.

    Archives are unpacked in a temporary folder after their checksums were found right, so that a
    folder that is only lent need not be writable.
    """
    try:
        return kind(where, download=False, **options)
    except Exception as error:  # also the errors of its parsers
        why = error
    found = {where / name: md5 for name, md5 in archives.items() if (where / name).exists()}
    if len(found) == len(archives):
        with tempfile.TemporaryDirectory() as folder:
            for path, md5 in found.items():
                target = Path(folder) / path.relative_to(where)
                target.parent.mkdir(parents=True, exist_ok=True)
                if ".tar" in path.suffixes:
                    check_md5(path, md5)
                    target.symlink_to(path.resolve())
                else:
                    _unpack(path, md5, target.with_suffix(""))
            return kind(folder, download=True, **options)
    try:
        where.mkdir(parents=True, exist_ok=True)
        return kind(where, download=True, **options)
    except Exception as error:  # every mirror fails in its own way
        why = error
    raise missing(terms, ", ".join(archives), where, why)


def _digits(parts: dict[str, tuple[Any, Any]], terms: Terms, **columns: Any) -> Raw:
    rows = [
        digit_rows(labels, f"{split}-").assign(split=split) for split, (_, labels) in parts.items()
    ]
    images = (image for images, _ in parts.values() for image in images.numpy())
    return mnist_like(pd.concat(rows, ignore_index=True).assign(**columns), images, terms)


@source("mnist", "imbalanced-mnist")
def mnist(source: Source, where: Path) -> Raw:
    """60,000 and 10,000 digits; imbalanced: 23,782 for training, by the paper's profile."""
    kind = _datasets().MNIST
    archives = {f"MNIST/raw/{name}": md5 for name, md5 in kind.resources}
    parts = {}
    for split in ("train", "test"):
        part = _build(kind, where, archives, MNIST_TERMS, train=split == "train")
        parts[split] = (part.data, part.targets.numpy())
    return _digits(parts, MNIST_TERMS)


@source("qmnist")
def qmnist(source: Source, where: Path) -> Raw:
    """60,000 and 60,000 digits with who wrote them: census employees or high-school students."""
    kind = _datasets().QMNIST
    parts, series, writers = {}, [], []
    for split in ("train", "test"):
        archives = {f"QMNIST/raw/{Path(url).name}": md5 for url, md5 in kind.resources[split]}
        part = _build(kind, where, archives, QMNIST_TERMS, what=split, compat=False)
        labels = part.targets.numpy()
        if labels.shape[1:] != (8,):
            raise SourceError(
                f"{where}: the {split} labels have {labels.shape[1]} columns; the extended labels, "
                "idx2-int, have 8"
            )
        parts[split] = (part.data, labels[:, 0])
        series.append(labels[:, 1])
        writers.append(labels[:, 2])
    population = pd.Series(np.concatenate(series)).map(WRITERS)
    return _digits(parts, QMNIST_TERMS, writers=population, writer=np.concatenate(writers))


@source("cifar10", "imbalanced-cifar10")
def cifar10(source: Source, where: Path) -> Raw:
    """50,000 and 10,000 images of ten classes; imbalanced: thinned by the paper's profile."""
    kind = _datasets().CIFAR10
    archives = {kind.filename: kind.tgz_md5}
    rows, images = [], []
    for split in ("train", "test"):
        # its batches are pickles: torchvision opens them only with the published checksums
        part = _build(kind, where, archives, CIFAR_TERMS, train=split == "train")
        names = [f"{split}-{index:05d}" for index in range(len(part.targets))]
        labels = [part.classes[code] for code in part.targets]
        rows.append(pd.DataFrame({"id": names, "label": labels, "object": labels, "split": split}))
        images.extend(part.data)
        classes = tuple(part.classes)
    table = pd.concat(rows, ignore_index=True)
    return Raw(table, images, CIFAR_TERMS, "object", 32, 3, classes, (32, 32))


@source("fer2013")
def fer2013(source: Source, where: Path) -> Raw:
    """28,709 training, 3,589 public and 3,589 private test faces of seven expressions.

    Either ``fer2013.csv`` or ``icml_face_data.csv`` (by checksum), or folders
    ``train/<expression>`` and ``test/<expression>`` of pictures.
    """
    known = dict(_datasets().FER2013._RESOURCES[kind] for kind in ("fer", "icml"))
    for name, md5 in known.items():
        for path in (where, where / name, where / "fer2013" / name):
            if path.name == name and path.is_file():
                check_md5(path, md5)
                return _fer(*_fer_table(path))
    if where.is_dir() and {"train", "test"} <= {path.name for path in where.iterdir()}:
        return _fer(*_fer_folders(where))
    raise missing(FER_TERMS, "fer2013.csv, or the folders train and test,", where)


def _fer(rows: pd.DataFrame, images: Any) -> Raw:
    rows["expression"] = rows["label"]
    return Raw(rows, images, FER_TERMS, "expression", 48, 1, EXPRESSIONS, (48, 48))


def _fer_table(path: Path) -> tuple[pd.DataFrame, Iterator[np.ndarray]]:
    options: dict[str, Any] = {"skipinitialspace": True}
    table = pd.read_csv(path, usecols=["emotion", "Usage"], **options)
    labels = table["emotion"].map(dict(enumerate(EXPRESSIONS)))
    rows = pd.DataFrame(
        {
            "id": [f"row-{row:05d}" for row in range(len(table))],
            "label": labels.where(labels.notna(), table["emotion"].astype(str)),
            "split": np.where(table["Usage"] == "Training", "train", "test"),
            "usage": table["Usage"],
        }
    )

    def pixels() -> Iterator[np.ndarray]:
        for chunk in pd.read_csv(path, usecols=["pixels"], chunksize=1024, **options):
            for text in chunk["pixels"]:
                words = str(text).split()
                whole = len(words) == 48 * 48 and all(map(str.isdecimal, words))
                # what is not whole is refused when it is decoded
                yield as_pixels(np.array(words, int).reshape(48, 48)) if whole else np.array(words)

    return rows, pixels()


def _fer_folders(where: Path) -> tuple[pd.DataFrame, Iterator[Any]]:
    store = Store(where)
    rows = class_folders(store)
    files = rows[FILE]
    rows = rows.assign(split=files.map(splits_of(files)), label=rows["label"].str.lower())
    return rows.rename(columns={FILE: "id"}), store.read(files)
