"""Faces with who they belong to: UTKFace, CelebA, FairFace."""

import re
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from quantskew.data.groups import Groups
from quantskew.data.source import Source
from quantskew.data.sources.hub import fetch, placed, read_images, read_rows
from quantskew.data.sources.own import need, read_csv
from quantskew.data.sources.registry import Raw, SourceError, Terms, choice, missing, source
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
        files = fetch("nu-delta/utkface", source.revision, ["data/*.parquet"], where, UTKFACE_TERMS)
        rows, images, rejects = _utkface_hub(files)
    label = choice(source.label, ("race", "gender", "age"), "label")
    edges = Groups().bins["age"]
    ages = [f"{a:g}-{b - 1:g}" for a, b in pairwise(edges)] + [f"{edges[-1]}+"]
    classes = {"race": RACES, "gender": GENDERS, "age": tuple(ages)}[label]
    if label == "age":
        rows["label"] = pd.cut(rows["age"], [*edges, 1000], right=False, labels=ages).astype(str)
    else:
        rows["label"] = rows[label]
    return Raw(
        rows=rows,
        images=images,
        terms=UTKFACE_TERMS,
        label=label,
        classes=classes,
        size=SIZE,
        native=(200, 200),
        rejects=tuple(rejects),
    )


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


def _utkface_hub(files: list[Path]) -> tuple[pd.DataFrame, Any, list[tuple[str, str]]]:
    table = read_rows(files, "image")
    need(table, str(files[0]), "age", "gender", "ethnicity")
    _, names = placed(table)
    race = table["ethnicity"].replace({"Other": "Others"})
    rows = pd.DataFrame({"id": names, "age": table["age"], "gender": table["gender"], "race": race})
    return rows, read_images(files, "image"), []


@source("celeba", keys=("revision",))
def celeba(source: Source, where: Path) -> Raw:
    """162,770, 19,867 and 19,962 faces with 40 attributes, any of which may be the label.

    Read from the published files (``list_attr_celeba.txt``, ``list_eval_partition.txt``, and
    ``img_align_celeba`` as a folder or ``.zip``), or from the Parquet files of the hub.
    """
    folder = next((f for f in (where, where / "celeba") if (f / _ATTRIBUTES).is_file()), None)
    if folder is not None:
        table, images = _celeba_files(folder)
    else:
        repository, revision = CELEBA_HUB
        files = fetch(
            repository,
            source.revision or revision,
            ["img_align+identity+attr/*.parquet"],
            where,
            CELEBA_TERMS,
        )
        table, images = read_rows(files, "image"), read_images(files, "image")
        files_of, table["id"] = placed(table)
        table["split"] = files_of.str.partition("-")[0]
    names = [str(name) for name in table if name not in ("id", "split", "celeb_id")]
    label = choice(source.label, ("Smiling", *sorted({*names} - {"Smiling"})), "label")
    rows = table[["id", "split"]].copy()
    for name in names:
        # not "0" and "1": an intersection then reads as what it is, "not Male*Young"
        said = table[name].astype(int).map({1: name, 0: f"not {name}", -1: f"not {name}"})
        rows[name] = pd.Categorical(said, [f"not {name}", name])
    return Raw(
        rows=rows.assign(label=rows[label].astype(object)),
        images=images,
        terms=CELEBA_TERMS,
        label=label,
        classes=(f"not {label}", label),
        size=SIZE,
        native=(218, 178),
    )


_ATTRIBUTES = "list_attr_celeba.txt"
_PARTITION = "list_eval_partition.txt"


def _celeba_files(folder: Path) -> tuple[pd.DataFrame, Any]:
    import quantskew._torchvision  # noqa: F401, I001
    from torchvision.datasets import CelebA

    published = {name: md5 for _, md5, name in CelebA.file_list}
    images = folder / "img_align_celeba"
    if not images.is_dir():
        images = images.with_suffix(".zip")
    for path in (images, folder / _PARTITION):
        if not path.exists():
            raise missing(CELEBA_TERMS, path.name, folder)
    for name in (_ATTRIBUTES, _PARTITION):
        check_md5(folder / name, published[name])
    table = pd.read_csv(folder / _ATTRIBUTES, sep=r"\s+", skiprows=1)
    split = pd.read_csv(folder / _PARTITION, sep=r"\s+", header=None, index_col=0)[1]
    table["split"] = split.map({0: "train", 1: "validation", 2: "test"})
    store = Store(images)
    names = [store.by_stem.get(name.partition(".")[0]) for name in table.index]
    return table.rename_axis("id").reset_index(), store.read(names)


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
        repository, revision = FAIRFACE_HUB
        patterns = [f"{config}/train-*.parquet", f"{config}/validation-*.parquet"]
        files = fetch(repository, source.revision or revision, patterns, where, FAIRFACE_TERMS)
        if len(patterns) > len({path.name.partition("-")[0] for path in files}):
            raise missing(FAIRFACE_TERMS, ", ".join(patterns), where)
        table, images = read_rows(files, "image"), read_images(files, "image")
        need(table, str(files[0]), *FAIRFACE)
        files_of, table["id"] = placed(table)
        table["split"] = files_of.str.partition("-")[0]
    rows = pd.DataFrame(
        {"id": table["id"], "split": table["split"].replace({"validation": "test", "val": "test"})}
    )
    for name, values in FAIRFACE.items():
        wrong = table[~table[name].isin(values)]
        if len(wrong):
            raise SourceError(
                f"{where}: {name} {wrong[name].iloc[0]!r} of {wrong['id'].iloc[0]} is none of "
                f"{', '.join(values)}; a spreadsheet that saved the file turns 3-9 into a date, so "
                "get it anew"
            )
        rows[name] = pd.Categorical(table[name], values)
    return Raw(
        rows=rows.assign(label=rows[label].astype(object)),
        images=images,
        terms=FAIRFACE_TERMS,
        label=label,
        classes=FAIRFACE[label],
        size=SIZE,
    )


def _fairface_files(where: Path) -> tuple[pd.DataFrame, Any]:
    tables = []
    for split in ("train", "val"):
        path = where / f"fairface_label_{split}.csv"
        tables.append(read_csv(path, "file", *FAIRFACE).assign(split=split))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(id=table["file"]), Store(where).read(table["file"])
