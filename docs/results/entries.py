"""List entries of a benchmark, from tables of answers: ``python docs/results/entries.py FOLDER``.

FOLDER holds a table of answers for each network, ``METHOD-BITSbit-seedSEED.parquet`` (or .csv,
.jsonl), as ``quantskew compare`` takes it; ``--by`` names the grouping, and methods after
FOLDER are listed alone. An entry is a method at a width: its networks of all seeds. It is judged
over seeds against ``ptq`` of its width (``--against`` names another), or against ``fp32`` where
there is none, by the tests and with the words of a study. The outcomes of a method at its widths
are a family (Holm), so that an entry of yours changes no verdict of another.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from quantskew.analysis.effects import Networks, compare, joined
from quantskew.analysis.study import Statistics, Study
from quantskew.analysis.typeset import interval, markdown
from quantskew.answers.joining import join
from quantskew.data.groups import Groups
from quantskew.errors import UserError, close_names
from quantskew.fairness.parity import Answers
from quantskew.names import BASELINE, FULL_PRECISION, Point, width_name

NAME = re.compile(r"(?P<method>\w+)-(?P<bits>\d+)bit-seed(?P<seed>\d+)\.(parquet|csv|jsonl)")
REFERENCE = "ptq"
UNIFORM = {"": REFERENCE, "_tuned": "qat", "_fair": "qat_fair"}
"""Uniform widths that are trained as the methods whose names end so."""
OUTCOMES = {"overall": "accuracy", "worst_group": "worst group", "fvo": "FVO"}
STATISTICS = Statistics(margin=0.02, draws=1000, seed=0, parity=False)
"""What every entry is judged with; frozen."""


def entries(
    folder: Path, methods: Collection[str] = (), by: str = "label", against: str = REFERENCE
) -> pd.DataFrame:
    """Judge every entry of a folder of tables of answers to the same samples.

    Parameters
    ----------
    folder
        Of tables of answers.
    methods
        Those to judge; all unless given.
    by
        The grouping, a column of the tables or several joined by ``*``.
    against
        The method that others are compared with.

    Returns
    -------
    pandas.DataFrame
        Rows of the table ``levels``, one an entry and outcome, with ``seeds``, and where there is
        a reference the ``change``, ``low``, ``high`` and ``verdict`` of the table ``effects``.

    Raises
    ------
    UserError
        When the tables do not fit together, or those of fp32 or ``against`` are missing.
    """
    files: dict[Point, dict[int, str]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        if found := NAME.fullmatch(path.name):
            point = Point(folder.name, "", found["method"], int(found["bits"]))
            files[point][int(found["seed"])] = path.name
    known = dict.fromkeys(point.method for point in files)
    if lacking := {BASELINE, against}.difference(known):
        raise UserError(f"{folder}: no table of {' and '.join(sorted(lacking))} to compare with")
    for method in methods:
        if method not in known:
            raise UserError(f"{folder}: no entry {method!r}{close_names(method, known)}")
    wanted = {*(methods or known), BASELINE, against}
    files = {point: by_seed for point, by_seed in files.items() if point.method in wanted}
    names = [name for by_seed in files.values() for name in by_seed.values()]
    table, groups = join({name: folder / name for name in names}, by=[by]), Groups()
    (division,) = table.divisions([by], groups)
    study = Study(
        datasets=(folder.name,), models=("",), bits=(), seeds=(), methods={}, reference=against,
        statistics=STATISTICS, groups=groups.model_copy(update={"by": {folder.name: (by,)}}),
    )  # fmt: skip

    def networks(point: Point) -> Networks:
        predicted = np.stack([table.answers[name] for name in files[point].values()])
        of = (division.codes, division.counted, len(table.classes))
        return Networks([*files[point]], Answers(table.labels, predicted, *of))

    def judged(point: Point) -> Any:
        beside = point._replace(method=against)
        if beside not in files or point == beside:
            beside = point._replace(method=BASELINE, bits=FULL_PRECISION)
        others = {} if point == beside else {beside.method: networks(beside)}
        return compare(point, networks(point), others, division, STATISTICS, retrained=True)

    families = []
    for method in methods or known:
        parts = [judged(point) for point in files if point.method == method]
        parts = [part._replace(effects=_outcomes(part.effects)) for part in parts]
        levels = _outcomes(pd.concat([part.levels for part in parts]))
        levels = levels.drop(columns=["low", "high"])
        if any(len(part.effects) for part in parts):
            columns = [*KEY, "reference", "change", "low", "high", "verdict"]
            levels = levels.merge(joined(parts, study).effects[columns], how="left", on=KEY)
        families.append(levels)
    rows = pd.concat(families, ignore_index=True)
    seeds = {(point.method, point.bits): len(by_seed) for point, by_seed in files.items()}
    return rows.assign(seeds=[seeds[key] for key in zip(rows["method"], rows["bits"], strict=True)])


KEY = [*Point._fields, "metric"]


def _outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["metric"].isin(OUTCOMES)] if len(rows) else rows


def listed(rows: pd.DataFrame) -> pd.DataFrame:
    """Lay out entries in points, from wide to narrow and from the best worst group on."""
    lines: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows.itertuples():
        line = lines.setdefault(
            (row.bits, row.method),
            {"entry": row.method, "width": width_name(row.bits), "seeds": row.seeds},
        )
        title = OUTCOMES[row.metric]
        line[title] = 100 * row.value
        if row.metric == "fvo":
            line["by chance"] = 100 * row.chance_mean
        if isinstance(row.verdict, str):
            line["against"] = row.reference
            said = f"{interval(row.change, row.low, row.high)} {row.verdict}"
            line[f"change of {title}"] = said
    ranked = sorted(lines, key=lambda key: (-key[0], -lines[key]["worst group"]))
    table = pd.DataFrame([lines[key] for key in ranked])
    last = [name for name in table if name == "against" or name.startswith("change")]
    return table[[*table.columns.drop(last), *last]].fillna("")


def main() -> None:
    """Print the entries of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("method", nargs="*")
    parser.add_argument("--by", default="label")
    parser.add_argument("--against", default=REFERENCE)
    given = parser.parse_args()
    rows = entries(given.folder, given.method, given.by, given.against)
    print(markdown(listed(rows)), end="")


if __name__ == "__main__":
    main()
