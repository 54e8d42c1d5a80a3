"""Publish what the networks of a study answer: ``python docs/results/publish.py NAME``.

Run at the root of the project after ``dvc repro evaluate``. Writes ``docs/results/NAME``:

- ``answers/DATA SET/MODEL``: for each network a Parquet table ``METHOD-BITSbit-seedSEED.parquet``
  with ``id``, ``label``, the attributes that define groups and the ``prediction``, which
  ``quantskew compare`` and ``entries.py`` read; and ``samples.parquet``, which says for each ``id``
  under which name the data set knows the sample. No images.
- ``answers/entries.parquet``, the entries judged from the tables of answers alone, by each
  grouping; on the first one against uniform widths that are tuned alike, too.
- ``claims.parquet``, the declared claims tested on these answers, ``params.yaml`` and
  ``provenance.json``.

Samples are numbered in the order of their labels and groups, in which answers take 1 to 6 kB a
network.
"""

import runpy
import shutil
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew import params, tables
from quantskew.analysis.effects import read_answers
from quantskew.analysis.hypotheses import assess
from quantskew.analysis.run import Paths, answered, costs, folders
from quantskew.analysis.sampled import sample
from quantskew.analysis.study import Study
from quantskew.data.groups import attribute, groupings, unit_codes
from quantskew.data.people import People, read_people
from quantskew.engine.command import run
from quantskew.errors import UserError
from quantskew.files import replacing, write_json
from quantskew.layout import gathered, samples_path
from quantskew.names import Point

HERE = Path("docs/results")
MOST_BYTES = 300_000


def main(name: str) -> None:
    """Write all that is published of the study that was run last."""
    study, target = params.load().judged(), HERE / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copyfile("params.yaml", target / "params.yaml")
    claims, judged = [], []
    for dataset in study.datasets:
        points, people = answered(study, dataset), read_people(samples_path(dataset))
        claims.append(tested(study, dataset, points, people))
        test = people.test
        names, samples = np.array(test.classes, object), numbered(study, dataset, test)
        for model in study.models:
            folder = target / "answers" / dataset / model
            own = {p: paths for p, paths in points.items() if p.model == model}
            written = publish(
                samples, names, [p for paths in own.values() for p in paths.values()], folder
            )
            sizes = [path.stat().st_size for path in written]
            judged += [*judged_entries(study, dataset, folder)]
            print(f"{folder}: {len(sizes)} tables, {sum(sizes):,} bytes, at most {max(sizes):,}")
    tables.write("claims", pd.concat(claims), target / "claims.parquet")
    pd.concat(judged).to_parquet(target / "answers/entries.parquet", index=False)
    provenance = runpy.run_path(str(HERE / "export.py"))["provenance"]
    write_json(target / "provenance.json", provenance(study))


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


def tested(study: Study, dataset: str, points: Paths, people: People[np.ndarray]) -> pd.DataFrame:
    """Test the declared claims on a data set, as the stage analyze does."""
    test, train = people.test, people.train
    place, predicted = read(points)
    order = pd.Series(np.arange(len(test.ids)), test.ids).loc[place["id"]].to_numpy()
    attributes, first = test.attributes.iloc[order], study.groups_of(dataset)[:1]
    units = unit_codes(attributes, study.unit_of(dataset))
    (division,) = groupings(attributes, first, study.groups, units)
    (trained,) = groupings(train.attributes, first, study.groups)
    numbers = dict(zip(trained.names, trained.sizes, strict=True))
    labels = place["label"].to_numpy()
    correct = {
        point: np.stack([predicted[point, seed] == labels for seed in by_seed])
        for point, by_seed in points.items()
    }
    sizes = np.array([numbers.get(name, 0) for name in division.names])
    sampled = sample(correct, division, sizes, study.statistics, units)
    here = study.model_copy(update={"datasets": (dataset,)})
    measured = [gathered(folders(here, "evaluate"), name) for name in ("groups", "curvature")]
    return assess(study, sampled, costs(here)[0], *measured)


Answers = dict[tuple[Point, int], np.ndarray]


def read(points: Paths) -> tuple[pd.DataFrame, Answers]:
    """Read the samples, and what the network of each point and seed answers."""
    place, answers = read_answers(path for paths in points.values() for path in paths.values())
    kept = {(Point(v.dataset, v.model, v.method, v.bits), v.seed): p for v, p in answers.items()}
    return place, kept


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


def judged_entries(study: Study, dataset: str, folder: Path) -> Iterator[pd.DataFrame]:
    """Judge the published answers of a folder as ``entries.py`` does."""
    entries = runpy.run_path(str(HERE / "entries.py"))
    first, *others = study.groups_of(dataset)
    columns = [name for name in entries["UNIFORM"].values() if name in study.all_methods()]
    for by, against in [*product([first], columns), *product(others, [study.reference])]:
        ending = next(e for e, name in entries["UNIFORM"].items() if name == against)
        tuned = [name for name in study.all_methods() if name.endswith(ending)]
        alike = [against, *(name for name in tuned if name != against)] if ending else []
        yield entries["entries"](folder, alike, by, against).assign(by=by, against=against)


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
