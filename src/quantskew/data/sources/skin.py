"""Skin with its tone or its bearer: Fitzpatrick17k, ISIC 2019."""

from pathlib import Path

import numpy as np
import pandas as pd

from quantskew.data.source import Source
from quantskew.data.sources.own import numbers, read_csv
from quantskew.data.sources.registry import Raw, Terms, choice, missing, need, source
from quantskew.data.sources.store import Store, first_of

SIZE = 128

FITZPATRICK_TERMS = Terms(
    page="https://github.com/mattgroh/fitzpatrick17k",
    licence="CC BY-NC-SA 3.0 for the annotations; the images belong to the two atlases they link",
    citation="Groh et al.: Evaluating deep neural networks trained on clinical images in "
    "dermatology with the Fitzpatrick 17k dataset. CVPR workshops 2021",
)
PARTITIONS = ("three_partition_label", "nine_partition_label", "label")

ISIC_TERMS = Terms(
    page="https://challenge.isic-archive.com/data/#2019",
    licence="CC BY-NC 4.0",
    citation="Tschandl et al. 2018 (HAM10000); Codella et al. 2018; Combalia et al. 2019",
)
DIAGNOSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


@source("fitzpatrick17k", keys=("classes",))
def fitzpatrick17k(source: Source, where: Path) -> Raw:
    """16,577 clinical images with the Fitzpatrick type of the skin, 1 to 6.

    ``fitzpatrick17k.csv`` and, anywhere below the folder, ``<md5hash>.jpg``. A type of −1 is
    unknown. Groups 1-3 and 4-6 are ``groups.bins.fitzpatrick: [1, 4]``.
    """
    table_path = where / "fitzpatrick17k.csv"
    if not table_path.is_file():
        raise missing(FITZPATRICK_TERMS, "fitzpatrick17k.csv and the images it links", where)
    label = choice(source.label, PARTITIONS, "label")
    table = read_csv(table_path, "md5hash", label)
    scale = "fitzpatrick_scale" if "fitzpatrick_scale" in table else "fitzpatrick"
    need(table, str(table_path), scale)
    store = Store(where)
    kind = numbers(table, table_path, scale)[scale].astype("Int64")
    rows = pd.DataFrame(
        {
            "id": table["md5hash"],
            "label": table[label],
            "fitzpatrick": kind.where(kind.between(1, 6)),
        }
    )
    for name in PARTITIONS:
        if name in table:
            rows["diagnosis" if name == "label" else name] = table[name]
    images = store.read([store.by_stem.get(name) for name in table["md5hash"]])
    return Raw(rows, images, FITZPATRICK_TERMS, label, SIZE, classes=source.classes)


@source("isic2019")
def isic2019(source: Source, where: Path) -> Raw:
    """25,331 dermatoscopic images with age, sex and site; images of one lesion stay together.

    ``ISIC_2019_Training_GroundTruth.csv`` (one column a diagnosis),
    ``ISIC_2019_Training_Metadata.csv``, and ``ISIC_2019_Training_Input`` as a folder or ``.zip``.
    """
    prefix = "ISIC_2019_Training"
    paths = [where / f"{prefix}_{part}.csv" for part in ("GroundTruth", "Metadata")]
    images = first_of(where, f"{prefix}_Input", f"{prefix}_Input.zip")
    if images is None or not all(path.is_file() for path in paths):
        files = f"{', '.join(path.name for path in paths)} and {prefix}_Input.zip"
        raise missing(ISIC_TERMS, files, where)
    truth = read_csv(paths[0], "image", *DIAGNOSES[:-1])
    truth = numbers(truth, paths[0], *(name for name in DIAGNOSES if name in truth))
    people = read_csv(paths[1], "image", "age_approx", "sex", "anatom_site_general")
    people = numbers(people, paths[1], "age_approx")
    table = truth.merge(people, on="image", how="left", validate="one_to_one")
    known = [name for name in DIAGNOSES if name in truth and (truth[name] > 0).any()]
    hot = table[known].to_numpy() == 1
    several = np.array([f"{n} diagnoses" for n in hot.sum(axis=1)], object)
    store = Store(images)
    rows = pd.DataFrame(
        {
            "id": table["image"],
            "label": np.where(hot.sum(axis=1) == 1, np.array(known)[hot.argmax(axis=1)], several),
            "age": table["age_approx"],
            "sex": table["sex"],
            "site": table["anatom_site_general"],
        }
    )
    if "lesion_id" in table:
        rows["lesion"] = table["lesion_id"]
    rows["diagnosis"] = rows["label"]
    pictures = store.read([store.by_stem.get(name) for name in table["image"]])
    unit = "lesion" if "lesion_id" in table else None
    return Raw(rows, pictures, ISIC_TERMS, "diagnosis", SIZE, classes=tuple(known), together=unit)
