"""What became of the scores of every group, from the logits that the study keeps.

A score (:mod:`quantskew.fairness.score_catalogue`) asks how well what a network says fits, and not
only whether its answer is right. The table ``scores`` compares every point with the fp32 networks
of the same seeds, for the first grouping of its data set. It speaks of these very networks.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from quantskew import tables
from quantskew.analysis.study import Statistics, Study
from quantskew.data.groups import Groups, groupings, unit_codes
from quantskew.data.people import read_people
from quantskew.engine.cells import Cell
from quantskew.engine.fingerprint import outside
from quantskew.fairness.score_catalogue import SCORES, probabilities
from quantskew.fairness.scores import compare, judged
from quantskew.files import replacing
from quantskew.layout import empty, samples_path
from quantskew.names import BASELINE, FULL_PRECISION, Point


def score_cells(
    study: Study, dataset: str, points: Mapping[Point, Mapping[int, Path]]
) -> dict[Point, Cell]:
    """Plan the cells that score each point of a data set against its fp32 networks.

    ``points`` are tables ``predictions`` by seed; all points have the same seeds.
    """
    grouping = study.groups_of(dataset)[0]

    def speaks(point: Point) -> bool:
        """Whether more than the answer is known; tables that were given may hold no numbers."""
        return point.model not in study.answers or not any(
            tables.read("predictions", path, ["logits"])["logits"].null_count
            for path in points[point].values()
        )

    def cell(point: Point, fp32: Point) -> Cell:
        return Cell(
            "/".join(map(str, point)),
            "quantskew.analysis.scored:score_point",
            modules=outside(score.value for score in SCORES.values()),
            answers=[*points[point].values()],
            reference=[*points[fp32].values()],
            samples=samples_path(dataset),
            grouping=grouping,
            groups=study.groups.needed_by(grouping),
            statistics=study.statistics,
            unit=study.unit_of(dataset),
        )

    bases = {
        point: point._replace(method=BASELINE, bits=FULL_PRECISION)
        for point in points
        if point.method != BASELINE
    }
    return {
        point: cell(point, fp32) for point, fp32 in bases.items() if speaks(point) and speaks(fp32)
    }


def score_point(
    folder: Path,
    *,
    answers: list[Path],
    reference: list[Path],
    samples: Path,
    grouping: str,
    groups: Groups,
    statistics: Statistics,
    unit: str | None,
) -> None:
    """Score a point against the fp32 networks; write ``scores.parquet``, one row a group and score.

    Parameters
    ----------
    answers, reference
        Tables ``predictions``, one a seed, of the same seeds.
    samples, grouping, groups, statistics, unit
        As in :func:`quantskew.analysis.effects.compare_point`.
    """
    people = read_people(samples).test
    before, after = read_logits(reference), read_logits(answers)
    if not np.array_equal(before.ids, after.ids):
        raise tables.TableError(f"{answers[0]} answers other samples than {reference[0]}")
    assert before.logits is not None  # see score_cells
    assert after.logits is not None
    attributes = people.attributes.set_axis(people.ids, axis=0).loc[after.ids]
    units = unit_codes(attributes, unit)
    divisions = groupings(attributes, [grouping], groups, units)
    rows = compare(
        probabilities(before.logits), probabilities(after.logits), after.labels, divisions, units,
        margin=statistics.margin, alpha=statistics.alpha,
    )  # fmt: skip
    with replacing(folder / "scores.parquet") as temporary:
        rows.to_parquet(temporary, index=False)


class Said(NamedTuple):
    """What networks say of the same n samples."""

    ids: np.ndarray  # (n,)
    labels: np.ndarray  # (n,)
    answers: np.ndarray  # (S, n)
    logits: np.ndarray | None  # (S, n, K); None where they are not known


def read_logits(paths: Iterable[Path]) -> Said:
    """Read the tables ``predictions`` of one network each, of the same samples.

    Raises
    ------
    TableError
        When a network answers other samples than the first one does.
    """
    columns = ["id", "label", "prediction", "logits"]
    read = [(path, tables.read("predictions", path, columns)) for path in paths]
    first, table = read[0]
    for path, other in read:
        if not other.select(["id", "label"]).equals(table.select(["id", "label"])):
            raise tables.TableError(f"{path} answers other samples than {first}")
    ids, labels = (table[name].to_numpy() for name in ("id", "label"))
    answers = np.stack([other["prediction"].to_numpy() for _, other in read])
    if any(other["logits"].null_count for _, other in read):
        return Said(ids, labels, answers, None)
    flat = [other["logits"].combine_chunks().flatten() for _, other in read]
    logits = [values.to_numpy(zero_copy_only=False) for values in flat]
    return Said(ids, labels, answers, np.stack(logits).reshape(len(read), len(ids), -1))


def read_scores(folders: Mapping[Point, Path], settings: Statistics) -> pd.DataFrame:
    """Put together what the cells of :func:`score_point` wrote, and judge it as one family."""
    parts = [
        pd.read_parquet(folder / "scores.parquet").assign(**point._asdict())
        for point, folder in folders.items()
    ]
    if not parts:
        return empty("scores")
    rows = judged(pd.concat(parts, ignore_index=True), settings.margin, settings.alpha)
    return rows.drop(columns="scale")
