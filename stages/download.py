"""Make the table of samples of a data set, and the list of what was left out and why."""

import json

from quantskew import params, tables
from quantskew.data.groups import GroupError, group_codes
from quantskew.data.prepare import prepare
from quantskew.engine.command import run
from quantskew.layout import samples_path


def main(dataset: str) -> None:
    """Read, judge, split and thin a data set; show its terms and its counts."""
    study = params.load()
    prepared = prepare(dataset, study.source(dataset), study.downloads)
    for spec in study.groups_of(dataset):
        try:
            group_codes(prepared.rows, spec, study.groups)
        except GroupError as error:  # here, and not after hours of training
            raise GroupError(f"groups.by.{dataset}: {error}") from None
    path = samples_path(dataset)
    prepared.write(path)
    tables.write("rejects", prepared.rejects, path.with_suffix(".rejects.parquet"))
    for note in ("licence", "page", "counts", "duplicates", "rejects", "left_out"):
        print(f"{dataset}: {note}: {json.loads(prepared.metadata[note])}")


if __name__ == "__main__":
    run(main)
