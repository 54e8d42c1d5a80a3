"""Faces with who they belong to: UTKFace, CelebA, FairFace."""

import re
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from quantskew.data.groups import Groups
from quantskew.data.source import Source
from quantskew.data.sources.hub import read_hub
from quantskew.data.sources.own import read_csv
from quantskew.data.sources.registry import Raw, SourceError, Terms, choice, missing, need, source
from quantskew.data.sources.store import Store, first_of
from quantskew.data.sources.vision import check_md5

SIZE = 64

UTKFACE_TERMS = Terms(
    page="https://susanqq.github.io/UTKFace/",
    licence="non-commercial research only; the copyright stays with the owners of the images",
    citation="Zhang, Song, Qi: Age progression/regression by conditional adversarial autoencoder. "
    "CVPR 2017",
)
RACES = ("White", "Black", "Asian", "Indian", "Others")
GENDERS = ("Male", "Female")
_UTKFACE_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d{8}.*\.jpe?g")

CELEBA_TERMS = Terms(
    page="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    licence="non-commercial research only; no redistribution",
    citation="Liu, Luo, Wang, Tang: Deep learning face attributes in the wild. ICCV 2015",
)
CELEBA_HUB = "flwrlabs/celeba", "2d738f56e0e7f925ea36ae7c808ea925264aacec"

FAIRFACE_TERMS = Terms(
    page="https://github.com/joojs/fairface",
    licence="CC BY 4.0",
    citation="Karkkainen, Joo: FairFace: face attribute dataset for balanced race, gender, and age "
    "for bias measurement and mitigation. WACV 2021",
)
FAIRFACE_HUB = "HuggingFaceM4/FairFace", "54d573cdb8b5af490ba8da9da2799628f6e5c496"
FAIRFACE = {
    "gender": GENDERS,
    "age": ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"),
    "race": (
        "East Asian",
        "Indian",
        "Black",
        "White",
        "Middle Eastern",
        "Latino_Hispanic",
        "Southeast Asian",
    ),
}


@source("utkface", keys=("revision",))
def utkface(source: Source, where: Path) -> Raw:
    """23,705 faces of 200×200 pixels with age, gender and race.

    Read from ``UTKFace.tar``, ``.tar.gz`` or ``.zip``, from a folder of the original files
    ``[age]_[gender]_[race]_[stamp].jpg.chip.jpg``, or from the Parquet files of the hub.
    """
    archive = first_of(where, "UTKFace.tar*", "UTKFace.zip")
    if archive is None and where.is_dir() and any(where.rglob("*.jpg")):
        archive = where
    if archive is not None and archive.suffix != ".parquet":
        rows, images, rejects = _utkface_files(Store(archive))
    else:
        hub = "nu-delta/utkface", source.revision, ["data/*.parquet"], UTKFACE_TERMS
        table, images = read_hub(where, *hub)
        need(table, str(where), "age", "gender", "ethnicity")
        rows = table[["id", "age", "gender"]].assign(
            race=table["ethnicity"].replace({"Other": "Others"})
        )
        rejects = []
    label = choice(source.label, ("race", "gender", "age"), "label")
    edges = Groups().bins["age"]
    ages = [f"{a:g}-{b - 1:g}" for a, b in pairwise(edges)] + [f"{edges[-1]}+"]
    classes = {"race": RACES, "gender": GENDERS, "age": tuple(ages)}[label]
    if label == "age":
        rows["label"] = pd.cut(rows["age"], [*edges, 1000], right=False, labels=ages).astype(str)
    else:
        rows["label"] = rows[label]
    size = SIZE, 3, classes, (200, 200)
    return Raw(rows, images, UTKFACE_TERMS, label, *size, rejects=tuple(rejects))


def _utkface_files(store: Store) -> tuple[pd.DataFrame, Any, list[tuple[str, str]]]:
    fields, names, rejects = [], [], []
    for name in store.names:
        base = PurePosixPath(name).name
        match = _UTKFACE_NAME.fullmatch(base)
        if match and int(match[1]) <= 116:
            fields.append((base, int(match[1]), GENDERS[int(match[2])], RACES[int(match[3])]))
            names.append(name)
        else:
            rejects.append((base, "the name is not age(0-116)_gender(0-1)_race(0-4)_stamp.jpg"))
    rows = pd.DataFrame(fields, columns=["id", "age", "gender", "race"])
    return rows, store.read(names), rejects


@source("celeba", keys=("revision", "part"))
def celeba(source: Source, where: Path) -> Raw:
    """162,770, 19,867 and 19,962 faces with 40 attributes, any of which may be the label.

    Read from the published files (``list_attr_celeba.txt``, ``list_eval_partition.txt``, and
    ``img_align_celeba`` as a folder or ``.zip``), or from the Parquet files of the hub. With
    ``part: true`` a part of the images may be there: a split is drawn if the partition file is not,
    or if all of them are of one part of it and ``test_fraction`` is given.
    """
    absent = 0
    folder = next((f for f in (where, where / "celeba") if (f / _ATTRIBUTES).is_file()), None)
    if folder is not None:
        table, images, absent = _celeba_files(folder, source.part)
    else:
        files = [f"img_align+identity+attr/{part}-*.parquet" for part in ("train", "val*", "test")]
        hub, commit = CELEBA_HUB
        table, images = read_hub(where, hub, source.revision or commit, files, CELEBA_TERMS)
    names = [str(name) for name in table if name not in ("id", "split", "celeb_id")]
    label = choice(source.label, ("Smiling", *sorted({*names} - {"Smiling"})), "label")
    rows = table[[name for name in ("id", "split") if name in table]].copy()
    for name in names:
        # not "0" and "1": an intersection then reads as what it is, "not Male*Young"
        said = table[name].astype(int).map({1: name, 0: f"not {name}", -1: f"not {name}"})
        rows[name] = pd.Categorical(said, [f"not {name}", name])
    rows["label"] = rows[label].astype(object)
    size = SIZE, 3, (f"not {label}", label), (218, 178)
    return Raw(rows, images, CELEBA_TERMS, label, *size, absent=absent)


_ATTRIBUTES = "list_attr_celeba.txt"
_PARTITION = "list_eval_partition.txt"


def _celeba_files(folder: Path, part: bool) -> tuple[pd.DataFrame, Any, int]:
    import quantskew._torchvision  # noqa: F401, I001
    from torchvision.datasets import CelebA

    published = {name: md5 for _, md5, name in CelebA.file_list}
    images = folder / "img_align_celeba"
    if not images.is_dir():
        images = images.with_suffix(".zip")
    if not images.exists():
        raise missing(CELEBA_TERMS, images.name, folder)
    check_md5(folder / _ATTRIBUTES, published[_ATTRIBUTES])
    table = pd.read_csv(folder / _ATTRIBUTES, sep=r"\s+", skiprows=1)
    if (folder / _PARTITION).exists():
        check_md5(folder / _PARTITION, published[_PARTITION])
        split = pd.read_csv(folder / _PARTITION, sep=r"\s+", header=None, index_col=0)[1]
        table["split"] = split.map({0: "train", 1: "validation", 2: "test"})
    elif not part:
        because = "part: true draws a split of the images that are there"
        raise missing(CELEBA_TERMS, _PARTITION, folder, because)
    store = Store(images)
    names = table.index.str.partition(".").get_level_values(0).map(store.by_stem.get)
    there = names.notna() if part else np.ones(len(names), bool)
    rows = table[there].rename_axis("id").reset_index()
    return rows, store.read(names[there]), int((~there).sum())


@source("fairface", keys=("revision", "config"))
def fairface(source: Source, where: Path) -> Raw:
    """86,744 and 10,954 faces with race, gender and age; the published validation part tests.

    Read from the Parquet files of the hub (``config`` 0.25 or 1.25: the margin around the face), or
    from the authors' files: ``fairface_label_train.csv``, ``fairface_label_val.csv`` and the
    folders ``train`` and ``val``.
    """
    label = choice(source.label, tuple(FAIRFACE), "label")
    if (where / "fairface_label_train.csv").is_file():
        table, images = _fairface_files(where)
    else:
        config = choice(source.config, ("0.25", "1.25"), "config")
        files = [f"{config}/train-*.parquet", f"{config}/validation-*.parquet"]
        hub, commit = FAIRFACE_HUB
        table, images = read_hub(where, hub, source.revision or commit, files, FAIRFACE_TERMS)
        need(table, str(where), *FAIRFACE)
    rows = table[["id", "split"]].replace({"split": {"validation": "test", "val": "test"}})
    for name, values in FAIRFACE.items():
        wrong = table[~table[name].isin(values)]
        if len(wrong):
            raise SourceError(
                f"{where}: {name} {wrong[name].iloc[0]!r} of {wrong['id'].iloc[0]} is none of "
                f"{', '.join(values)}; a spreadsheet that saved the file turns 3-9 into a date, so "
                "get it anew"
            )
        rows[name] = pd.Categorical(table[name], values)
    rows["label"] = rows[label].astype(object)
    return Raw(rows, images, FAIRFACE_TERMS, label, SIZE, classes=FAIRFACE[label])


def _fairface_files(where: Path) -> tuple[pd.DataFrame, Any]:
    tables = []
    for split in ("train", "val"):
        path = where / f"fairface_label_{split}.csv"
        tables.append(read_csv(path, "file", *FAIRFACE).assign(split=split))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(id=table["file"]), Store(where).read(table["file"])
