"""Where the files of a study lie, and which networks are among them.

=========================================  ====================================================
``data/inputs``                            what the study depends on outside of itself
``data/samples/<data set>.parquet``        images, labels and attributes
``data/<folder>/<data set>/<model>/``      what a stage made: networks, their answers, tables
``data/given/<data set>/<name>/``          the same of answers that the study was given
``data/analysis``, ``metrics``, ``plots``  what was found
=========================================  ====================================================
"""

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from quantskew import tables
from quantskew.names import FULL_PRECISION, Variant
from quantskew.schemas import TABLES

INPUTS = Path("data/inputs")
ANALYSIS = Path("data/analysis")
PLOTS = Path("plots")
FOLDERS = {
    "train": "baselines",
    "quantize": "quantized",
    "retrain": "retrained",
    "mitigate": "mitigated",
    "deploy": "deployed",
    "evaluate": "evaluations",
    "given": "given",
}
NETWORKS = ("train", "quantize", "retrain", "mitigate")
"""Folders of networks, by the stage; ``mitigate`` writes two.

The remedies in full precision lie apart (``retrain``): files that ship are made of these, whatever
the widths of the study.
"""


class Stored(NamedTuple):
    """A network on disk: its file, or its table of answers, and the network it was made from."""

    file: Path
    base: Variant


def samples_path(dataset: str) -> Path:
    """Table of the samples of a data set."""
    return Path(f"data/samples/{dataset}.parquet")


def folder_of(stage: str, dataset: str, model: str) -> Path:
    """Folder of what a stage made of a data set and a model."""
    return Path("data", FOLDERS[stage], dataset, model)


def predictions_path(folder: Path, variant: Variant) -> Path:
    """Table of what a variant answered, in the folder of the stage that wrote it."""
    return folder / "predictions" / f"{variant.stem}.parquet"


def origin(model: str, given: Container[str]) -> tuple[tuple[str, ...], str]:
    """Stages that list the variants of a model, and the one that holds their answers.

    ``given`` names the models of which the study has tables of answers and no networks.
    """
    return (("given",), "given") if model in given else (NETWORKS, "evaluate")


def stored_variants(
    dataset: str, model: str, stages: Iterable[str] = NETWORKS
) -> dict[Variant, Stored]:
    """Every network of a data set and a model that some stages made, or were given answers of."""
    stored = {}
    for stage in stages:
        folder = folder_of(stage, dataset, model)
        for row in tables.read("variants", folder / "variants.parquet").to_pylist():
            variant = Variant(*(row[column] for column in Variant._fields))
            base = variant._replace(method=row["base"], bits=FULL_PRECISION)
            file = Path(row["file"]) if stage == "given" else folder / row["file"]
            stored[variant] = Stored(file, base)
    return stored


def gathered(folders: Iterable[Path], table: str) -> pd.DataFrame:
    """Rows of a table in some folders together."""
    read = [tables.read(table, folder / f"{table}.parquet").to_pandas() for folder in folders]
    return pd.concat(read) if read else empty(table)


def empty(table: str) -> pd.DataFrame:
    """A table without rows."""
    return TABLES[table].schema.empty_table().to_pandas()


def name_rows(frames: Mapping[Variant, pd.DataFrame], table: str) -> pd.DataFrame:
    """Rows of a table for several variants, each with the columns that name it."""
    named = [variant.name(rows) for variant, rows in frames.items()]
    return pd.concat(named) if named else empty(table)
