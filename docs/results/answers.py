"""Publish what the networks of a study answer: ``python docs/results/answers.py NAME``.

Run at the root of the project after ``dvc repro``. Writes ``docs/results/NAME/answers/DATA SET/``:
for each network a Parquet table ``METHOD-BITSbit-seedSEED.parquet`` with ``id``, ``label``, the
attributes that define groups and the ``prediction``, which ``quantskew compare`` and
``entries.py`` read; and ``samples.parquet``, which says for each ``id`` under which name the
data set knows the sample. No images.

Samples are numbered in the order of their labels and groups, in which answers take 2 to 6 kB a
network.
"""

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
from quantskew.data.people import read_people
from quantskew.engine.command import run
from quantskew.errors import UserError
from quantskew.files import replacing
from quantskew.layout import samples_path

MOST_BYTES = 300_000


def main(name: str) -> None:
    """Write the tables of all data sets of the study that was run last."""
    study = params.load().judged()
    for dataset in study.datasets:
        written = publish(study, dataset, Path("docs/results", name, "answers", dataset))
        largest = max(path.stat().st_size for path in written)
        whole = sum(path.stat().st_size for path in written)
        print(f"{dataset}: {len(written)} tables, {whole / 1e6:.1f} MB, at most {largest:,} bytes")


def publish(study: Study, dataset: str, folder: Path) -> list[Path]:
    """Write the table of each network of a data set, and that of the names of the samples."""
    if len(study.models) > 1:
        raise UserError("models: a folder holds the answers of one architecture; give one")
    people = read_people(samples_path(dataset)).part("test")
    names = np.array(people.classes, object)
    columns = {
        part.strip(): attribute(people.attributes, part.strip(), study.groups)
        for spec in study.groups_of(dataset)
        for part in spec.split("*")
        if part.strip() != "label"
    }
    texts = {c: np.array([*found, None], object)[codes] for c, (codes, found) in columns.items()}
    samples = pd.DataFrame({"label": names[people.labels], **texts}).assign(sample=people.ids)
    samples = samples.sort_values([*samples], ignore_index=True)
    samples.insert(0, "id", np.arange(len(samples), dtype=np.int32))
    written = [_write(folder / "samples.parquet", samples[["id", "sample"]])]
    for paths in answered(study, dataset).values():
        place, answers = read_answers(paths.values())
        order = pd.Series(np.arange(len(place)), place["id"]).loc[samples["sample"]].to_numpy()
        for variant, predicted in answers.items():
            rows = samples.drop(columns="sample").assign(prediction=names[predicted[order]])
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
