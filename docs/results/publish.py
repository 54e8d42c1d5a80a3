"""Publish what the networks of a study answer: ``python docs/results/publish.py NAME``.

Run at the root of the project after ``dvc repro``. Writes, for each data set and model,
``docs/results/NAME/answers/DATA SET/MODEL``: for each network a Parquet table
``METHOD-BITSbit-seedSEED.parquet`` with ``id``, ``label``, the attributes that define groups and
the ``prediction``, which ``quantskew compare`` and ``entries.py`` read; and ``samples.parquet``,
which says for each ``id`` under which name the data set knows the sample. No images.

Samples are numbered in the order of their labels and groups, in which answers take 2 to 6 kB a
network.
"""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew import params
from quantskew.analysis.effects import read_answers
from quantskew.analysis.run import answered
from quantskew.analysis.study import Study
from quantskew.data.groups import attribute
from quantskew.data.people import People, read_people
from quantskew.engine.command import run
from quantskew.errors import UserError
from quantskew.files import replacing
from quantskew.layout import samples_path

MOST_BYTES = 300_000


def main(name: str) -> None:
    """Write the tables of all networks of the study that was run last."""
    study = params.load().judged()
    for dataset in study.datasets:
        points, people = answered(study, dataset), read_people(samples_path(dataset)).test
        names, samples = np.array(people.classes, object), numbered(study, dataset, people)
        for model in study.models:
            folder = Path("docs/results", name, "answers", dataset, model)
            own = [paths.values() for point, paths in points.items() if point.model == model]
            written = publish(samples, names, chain.from_iterable(own), folder)
            sizes = [path.stat().st_size for path in written]
            print(f"{folder}: {len(sizes)} tables, {sum(sizes):,} bytes, at most {max(sizes):,}")


def numbered(study: Study, dataset: str, people: People[np.ndarray]) -> pd.DataFrame:
    """Number the samples of a data set: ``id``, ``label``, groups, and the name ``sample``."""
    columns = {"label": np.array(people.classes, object)[people.labels]}
    for part in dict.fromkeys("*".join(study.groups_of(dataset)).split("*")):
        codes, names = attribute(people.attributes, part.strip(), study.groups)
        columns.setdefault(part.strip(), np.array([*names, None], object)[codes])
    rows = pd.DataFrame(columns).assign(sample=people.ids)
    rows = rows.sort_values([*rows], ignore_index=True)
    rows.insert(0, "id", np.arange(len(rows), dtype=np.int32))
    return rows


def publish(
    samples: pd.DataFrame, names: np.ndarray, answers: Iterable[Path], folder: Path
) -> list[Path]:
    """Write the table of each network, and that of the samples' names.

    ``names`` are those of the classes, and ``answers`` the tables ``predictions`` of the networks.
    """
    written = [_write(folder / "samples.parquet", samples[["id", "sample"]])]
    place, predicted = read_answers(answers)
    order = pd.Series(np.arange(len(place)), place["id"]).loc[samples["sample"]].to_numpy()
    for variant, classes in predicted.items():
        rows = samples.drop(columns="sample").assign(prediction=names[classes[order]])
        written.append(_write(folder / f"{variant.stem}.parquet", rows))
    return written


def _write(path: Path, rows: pd.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata()
    with replacing(path) as temporary:
        pq.write_table(
            table, temporary, compression="zstd", compression_level=19, store_schema=False,
            use_dictionary=[c for c in rows if c not in ("id", "sample")],
            column_encoding={c: "DELTA_BINARY_PACKED" for c in rows if c == "id"}
            | {c: "DELTA_BYTE_ARRAY" for c in rows if c == "sample"},
        )  # fmt: skip
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} has over {MOST_BYTES:,} bytes, too many to commit")
    return path


if __name__ == "__main__":
    run(main)
