"""Who is left behind, how sure that is, and what helps: tables, figures and a report."""

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from quantskew import params, tables
from quantskew.analysis import answer, attribution, report
from quantskew.analysis.effects import Frames, Predictions, analyze, read_predictions
from quantskew.analysis.exemplars import exemplar_rows
from quantskew.analysis.figures import FIGURES
from quantskew.analysis.frontier import frontier, recommendations
from quantskew.analysis.hypotheses import assess
from quantskew.analysis.published import published
from quantskew.analysis.remedies import cheapest, remedies
from quantskew.analysis.sampled import sample
from quantskew.analysis.study import Study
from quantskew.analysis.typeset import escape_markdown, latex, markdown
from quantskew.data.groups import Grouping, groupings
from quantskew.data.loading import load
from quantskew.engine.command import run
from quantskew.engine.fingerprint import LIBRARIES, file_hash
from quantskew.files import write_json, write_text
from quantskew.layout import NETWORKS, folder_of, gathered, samples_path
from quantskew.names import Point
from quantskew.schemas import POINT

ANALYSIS = Path("data/analysis")
PLOTS = Path("plots")
MEASURED = (
    "groups", "layers", "weight_histograms", "boundaries", "curvature", "layer_damage", "history",
)  # fmt: skip
SHIPPED = ("deployed", "deployed_groups")


def main() -> None:
    """Compare all variants of the study; write what was found."""
    given = params.load()
    study = given.judged()
    found = [compared(study, dataset) for dataset in study.datasets]
    shutil.rmtree(ANALYSIS, ignore_errors=True)
    frames = {name: pd.concat([one[name] for one in found], ignore_index=True) for name in found[0]}
    where = study.datasets, study.models
    measured = {name: gathered(["evaluate"], name, *where) for name in MEASURED}
    shipped = {name: gathered(["deploy"], name, *where) for name in SHIPPED}
    frames |= attribution.attribution(attribution.changes(measured, study))
    for name, rows in frames.items():
        tables.write(name, rows, ANALYSIS / f"{name}.parquet")
    known = frames | measured | shipped
    for folder in ("rows", "figures", "tables"):
        shutil.rmtree(PLOTS / folder, ignore_errors=True)
    drawn = {}
    for name, figure in FIGURES.items():
        rows = figure.rows(known, study)
        write_json(PLOTS / "rows" / f"{name}.json", rows.to_dict("records"))
        if len(rows):  # no damage is predicted, say, where no quantized network was surveyed
            drawn[name] = figure.drawing.svg(rows)
            write_text(PLOTS / "figures" / f"{name}.svg", drawn[name])
    for name, rows in published(known, study).items():
        write_text(PLOTS / "tables" / f"{name}.tex", latex(rows, name))
        write_text(PLOTS / "tables" / f"{name}.md", markdown(rows))
    head = answer.headline(frames["effects"], study)
    write_json("metrics/summary.json", answer.metrics(head, frames["remedies"]))
    said = [
        *answer.sentences(head, study),
        *recommendations(frames["frontier"], study),
        *cheapest(frames["remedies"], study),
        answer.of_chance(study),
    ]
    write_text(
        PLOTS / "tables" / "answer.md", "".join(f"- {escape_markdown(text)}\n" for text in said)
    )
    page = report.render(
        answer=said,
        drawn=drawn,
        flow=report.flow_tables(frames),
        tables=report.tables(head, known, study),
        limits=report.limits(frames, study),
        study=study,
        parameters=given.model_dump(mode="json", exclude={"compute"}),
        hashes={str(samples_path(d)): file_hash(samples_path(d)) for d in study.datasets},
        versions={name: version(name) for name in ("quantskew", *LIBRARIES)},
    )
    write_text(PLOTS / "report.html", page)


def answers(
    study: Study, dataset: str, model: str
) -> tuple[Predictions, list[Grouping], np.ndarray]:
    """What all variants of a data set and a model answered, on which samples of which groups."""
    predictions, ids = read_predictions(folder_of("evaluate", dataset, model))
    test = load(samples_path(dataset)).test
    order = pd.Series(np.arange(len(test)), test.ids).loc[ids].to_numpy()
    divisions = [
        division._replace(codes=division.codes[order])
        for division in groupings(test.attributes, study.groups_of(dataset), study.groups)
    ]
    return predictions, divisions, ids


def compared(study: Study, dataset: str) -> dict[str, pd.DataFrame]:
    """Compare the variants of a data set, whose predictions are let go of before the next one's."""
    loaded = {model: answers(study, dataset, model) for model in study.models}
    found = pd.DataFrame([analyze(given, ways, study) for given, ways, _ in loaded.values()])
    frames = {name: pd.concat(list(found[name]), ignore_index=True) for name in Frames._fields}
    frames |= decide(study, dataset, loaded, frames)
    frames["exemplars"] = pd.concat(exemplar_rows(given, ids) for given, _, ids in loaded.values())
    return frames


def decide(
    study: Study,
    dataset: str,
    loaded: Mapping[str, tuple[Predictions, list[Grouping], np.ndarray]],
    frames: Mapping[str, pd.DataFrame],
) -> dict[str, pd.DataFrame]:
    """Test the claims and place the variants of a data set, all its models on the same draws."""
    measured = [gathered(["evaluate"], n, [dataset], study.models) for n in ("groups", "curvature")]
    correct = {
        point: predicted == given.labels
        for given, _, _ in loaded.values()
        for point, predicted in given.predicted.items()
    }
    first = loaded[study.models[0]][1][0]
    (trained,) = groupings(
        load(samples_path(dataset)).train.attributes, [first.attribute], study.groups
    )
    numbers = dict(zip(trained.names, np.bincount(trained.codes[trained.codes >= 0]), strict=True))
    train_sizes = np.array([numbers.get(name, 0) for name in first.names])
    sampled = sample(correct, first, train_sizes, study.statistics)
    sizes, images = costs(dataset, study.models)
    placed = frontier(sampled, sizes, frames["levels"], frames["certificates"], study)
    return {
        "claims": assess(study, sampled, sizes, *measured),
        "frontier": placed,
        "remedies": remedies(placed, images, frames["levels"], frames["effects"], study),
    }


def costs(dataset: str, models: tuple[str, ...]) -> list[dict[Point, float]]:
    """Size of the file and images trained on by point, mean over seeds."""
    rows = gathered(NETWORKS, "variants", [dataset], models)
    means = rows.groupby(list(POINT), as_index=False)[["bytes", "images_trained"]].mean()
    points = [Point(*key) for key in means[list(POINT)].itertuples(index=False)]
    return [dict(zip(points, means[name], strict=True)) for name in ("bytes", "images_trained")]


if __name__ == "__main__":
    run(main)
