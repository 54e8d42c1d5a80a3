"""Who is left behind, how sure that is, and what helps: tables, figures and a report."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from quantskew import params, tables
from quantskew.analysis import answer, figures, report, views
from quantskew.analysis.effects import Frames, analyze, read_predictions
from quantskew.cells import file_hash
from quantskew.command import run
from quantskew.data.loading import load
from quantskew.description import groupings
from quantskew.files import write_json, write_text
from quantskew.params import Params
from quantskew.variants import samples_path

ANALYSIS = Path("data/analysis")
PLOTS = Path("plots")


def main() -> None:
    """Compare all variants of the study; write what was found."""
    study = params.load()
    found = pd.DataFrame([compare(study, d, m) for d in study.datasets for m in study.models])
    shutil.rmtree(ANALYSIS, ignore_errors=True)
    frames = {name: pd.concat(list(found[name]), ignore_index=True) for name in Frames._fields}
    for name, rows in frames.items():
        tables.write(name, rows, ANALYSIS / f"{name}.parquet")
    groups = pd.concat(
        tables.read("groups", evaluations(d, m) / "groups.parquet").to_pandas()
        for d in study.datasets
        for m in study.models
    )
    shown = {
        "accuracy_by_group": views.accuracy_by_group(frames["levels"], study),
        "fvo_by_width": views.fvo_by_width(frames["levels"], study),
        "trade_off": views.trade_off(frames["levels"], study),
        "loss_by_group": views.loss_by_group(groups, study),
    }
    drawn = []
    for name, rows in shown.items():
        write_json(PLOTS / f"{name}.json", rows.to_dict("records"))
        drawing = report.FIGURES[name]
        svg = figures.svg(drawing.draw, rows)
        write_text(PLOTS / f"{name}.svg", svg)
        drawn.append(report.Figure(drawing.title, svg, drawing.alternative, drawing.note))
    head = answer.headline(frames["effects"], study)
    write_json("metrics/summary.json", answer.metrics(head))
    page = report.render(
        answer=answer.sentences(head, study),
        drawn=drawn,
        tables=report.listed(head, frames),
        limits=report.limits(frames, study),
        study=study,
        hashes={str(samples_path(d)): file_hash(samples_path(d)) for d in study.datasets},
    )
    write_text(PLOTS / "report.html", page)


def evaluations(dataset: str, model: str) -> Path:
    """Folder of the tables of a data set and a model."""
    return Path("data/evaluations", dataset, model)


def compare(study: Params, dataset: str, model: str) -> Frames:
    """Levels and effects of all variants of a data set and a model."""
    predictions, ids = read_predictions(evaluations(dataset, model))
    test = load(samples_path(dataset)).test
    order = pd.Series(np.arange(len(test)), test.ids).loc[ids].to_numpy()
    divisions = [
        division._replace(codes=division.codes[order])
        for division in groupings(test, study.groups_of(dataset), study.groups)
    ]
    return analyze(predictions, divisions, study)


if __name__ == "__main__":
    run(main)
