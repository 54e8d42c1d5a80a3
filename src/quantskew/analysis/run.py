"""From the answers of all networks to tables, figures and the report: the stage ``analyze``.

Comparing two points of the study, and drawing a figure, are cells: they are done anew only where
the answers, or the rows of the figure, are others.
"""

import base64
import io
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from quantskew import tables
from quantskew.analysis import answer, attribution, report
from quantskew.analysis.effects import (
    Frames,
    Predictions,
    joined,
    point_of,
    read_frames,
    read_predictions,
    references,
)
from quantskew.analysis.exemplars import exemplar_rows
from quantskew.analysis.figures import FIGURES
from quantskew.analysis.frontier import files_first, frontier, recommendations, shipped
from quantskew.analysis.hypotheses import assess
from quantskew.analysis.published import published
from quantskew.analysis.remedies import against_free, cheapest, remedies
from quantskew.analysis.sampled import Sampled, sample
from quantskew.analysis.scored import read_scores, score_cells
from quantskew.analysis.study import Study
from quantskew.analysis.typeset import escape_markdown, latex, markdown
from quantskew.data.groups import groupings, unit_codes
from quantskew.data.people import People, read_people
from quantskew.engine.cells import Cell, run
from quantskew.engine.compute import Compute
from quantskew.engine.fingerprint import file_hash, libraries, outside
from quantskew.fairness.catalogue import CATALOGUE
from quantskew.files import write_json, write_text
from quantskew.layout import (
    ANALYSIS,
    NETWORKS,
    PLOTS,
    empty,
    folder_of,
    gathered,
    origin,
    predictions_path,
    samples_path,
    stored_variants,
)
from quantskew.names import BASELINE, FULL_PRECISION, Point, width_name
from quantskew.schemas import POINT

_FP32 = (BASELINE, FULL_PRECISION)
Paths = dict[Point, dict[int, Path]]
"""Tables ``predictions`` of the networks of each point, by seed."""
MEASURED = (
    "groups", "layers", "weight_histograms", "boundaries", "curvature", "layer_damage", "history",
)  # fmt: skip
SHIPPED = ("deployed", "deployed_groups")
MOST_PICTURES = 60
"""Pictures of a data set in a report that shows them."""


class Source(NamedTuple):
    """What stands behind the numbers of a page: for whoever wants to compute them again."""

    parameters: Mapping[str, Any]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> "Source":
        """Return these parameters, and the libraries that run now."""
        return cls(parameters, {"quantskew": version("quantskew"), **libraries()})


def analyze_all(study: Study, source: Source, compute: Compute) -> None:
    """Compare all networks of the study; write tables, metrics, plots and the report."""
    failures = gathered(folders(study, *NETWORKS, "deploy", "evaluate"), "failures")
    parts = divided(study)
    study = together(study, parts)
    by_part = [(part, d, answered(part, d)) for part in parts for d in part.datasets]
    answers: dict[str, Paths] = {dataset: {} for dataset in study.datasets}
    for _, dataset, points in by_part:
        answers[dataset] |= points
    compared = compare_all(study, answers, compute)
    decided = [_decided(*part, compared) for part in by_part]
    frames = {name: pd.concat([one[name] for one in decided]) for name in decided[0]}
    measured = {name: gathered(folders(study, "evaluate"), name) for name in MEASURED}
    frames |= compared._asdict() | attribution.attribution(attribution.changes(measured, study))
    frames["scores"] = score_all(study, answers, compute)
    frames["failures"] = failures
    shutil.rmtree(ANALYSIS, ignore_errors=True)
    for name, rows in frames.items():
        tables.write(name, rows, ANALYSIS / f"{name}.parquet")
    write_pages(study, stored(study), source, compute)


def stored(study: Study) -> dict[str, pd.DataFrame]:
    """All tables of a study that was compared: what pages are made of."""
    files = sorted(ANALYSIS.glob("*.parquet"))
    frames = {file.stem: tables.read(file.stem, file).to_pandas() for file in files}
    frames |= {name: gathered(folders(study, "evaluate"), name) for name in MEASURED}
    return frames | {name: gathered(folders(study, "deploy"), name) for name in SHIPPED}


def folders(study: Study, *stages: str) -> list[Path]:
    """Folders of what some stages made; those of given answers hold what one stage made."""
    return [
        folder_of(stage, dataset, model)
        for dataset in study.datasets
        for model in study.models
        if study.answers.get(model, dataset) == dataset
        for stage in (stages if model not in study.answers else ["given"])
    ]


def divided(study: Study) -> list[Study]:
    """Divide a study into its networks and each of its entries of answers, which has own seeds."""
    networks = tuple(model for model in study.models if model not in study.answers)
    parts = [with_baselines(study.model_copy(update={"models": networks}))] if networks else []
    for name, dataset in study.answers.items():
        seeds = evaluated(study, dataset, name)[Point(dataset, name, *_FP32)]
        own = {"datasets": (dataset,), "models": (name,), "seeds": tuple(sorted(seeds))}
        parts.append(study.model_copy(update=own))
    return parts


def together(study: Study, parts: list[Study]) -> Study:
    """Return the study with the models of its parts, and the seeds of the part that has most."""
    models = tuple(model for part in parts for model in part.models)
    seeds = max((part.seeds for part in parts), key=len)
    return study.model_copy(update={"models": models, "seeds": seeds})


def with_baselines(study: Study) -> Study:
    """Return the study with the models and seeds of which all fp32 networks were evaluated.

    What is left out, and why, stands in the table ``failures``.
    """

    def seeds_of(model: str) -> set[int]:
        every = ((d, Point(d, model, *_FP32)) for d in study.datasets)
        runs = (evaluated(study, d, model).get(point, {}) for d, point in every)
        return set(study.seeds).intersection(*runs)

    seeds = {model: seeds_of(model) for model in study.models}
    models = tuple(model for model in study.models if seeds[model])
    shared = set(study.seeds).intersection(*(seeds[model] for model in models))
    if not models or not shared:
        reasons = gathered(folders(study, *NETWORKS, "evaluate"), "failures")["reason"]
        first = "".join(f"; the first reason: {reason.splitlines()[0]}" for reason in reasons[:1])
        raise tables.TableError(
            "there is no seed of which the fp32 networks could be trained and evaluated"
            f"{first}; data/*/*/*/failures.parquet has them all"
        )
    return study.model_copy(update={"models": models, "seeds": tuple(sorted(shared))})


def evaluated(study: Study, dataset: str, model: str) -> Paths:
    """Return what the networks of a data set and a model answered."""
    found: Paths = {}
    stages, answering = origin(model, study.answers)
    folder = folder_of(answering, dataset, model)
    for variant in stored_variants(dataset, model, stages):
        path = predictions_path(folder, variant)
        if path.exists():
            found.setdefault(point_of(variant), {})[variant.seed] = path
    return found


def answered(study: Study, dataset: str) -> Paths:
    """Return the points of a data set that were evaluated for all seeds of the study.

    A point that lacks a seed is compared with nothing; the table ``failures`` says why.
    """
    found: Paths = {}
    for model in study.models:
        found |= evaluated(study, dataset, model)
    seeds = set(study.seeds)
    return {
        point: {seed: paths[seed] for seed in sorted(seeds)}
        for point, paths in sorted(found.items())
        if seeds <= paths.keys()
    }


def compare_all(study: Study, answers: Mapping[str, Paths], compute: Compute) -> Frames:
    """Compare every point with its references, for every grouping, each in a cell of its own."""
    cells = [
        Cell(
            "/".join(map(str, (*point, grouping))),
            "quantskew.analysis.effects:compare_point",
            modules=outside(metric.value for metric in CATALOGUE.values()),
            answers=[*paths.values()],
            references={
                name: [*points[point._replace(method=name, bits=bits)].values()]
                for name, bits in references(study, point, points, grouping)
            },
            samples=samples_path(dataset),
            grouping=grouping,
            groups=study.groups.needed_by(grouping),
            statistics=study.statistics,
            retrained=study.retrained(point.method),
            unit=study.unit_of(dataset),
        )
        for dataset, points in answers.items()
        for (point, paths), grouping in product(points.items(), study.groups_of(dataset))
    ]
    done = run(cells, title="compare", compute=compute)
    return joined(read_frames(done[cell.name] for cell in cells), study)


def score_all(study: Study, answers: Mapping[str, Paths], compute: Compute) -> pd.DataFrame:
    """Compare the scores of every point with those of its fp32 networks: the table ``scores``."""
    cells: dict[Point, Cell] = {}
    for dataset, points in answers.items():
        cells |= score_cells(study, dataset, points)
    done = run([*cells.values()], title="score", compute=compute)
    return read_scores({p: done[cell.name] for p, cell in cells.items()}, study.statistics)


def _decided(
    study: Study, dataset: str, points: Paths, compared: Frames
) -> dict[str, pd.DataFrame]:
    """Test the claims and place the points of a data set, all its models on the same draws.

    Claims and remedies are about how networks are made, which tables of answers do not tell.
    """
    people = read_people(samples_path(dataset))
    read = {}
    for model in study.models:
        own = {point: paths for point, paths in points.items() if point.model == model}
        read[model] = read_predictions(own, len(people.classes))
    sampled = _sampled(study, people, read)
    here = study.model_copy(update={"datasets": (dataset,)})
    sizes, images = costs(here)
    levels, effects, certificates = (rows[rows["dataset"] == dataset] for rows in compared)
    placed = frontier(sampled, sizes, levels, certificates, study)
    files = {name: gathered(folders(here, "deploy"), name) for name in SHIPPED}
    placed = files_first(placed, shipped(files, study))
    measured = [gathered(folders(here, "evaluate"), name) for name in ("groups", "curvature")]
    made = not {*study.models} & {*study.answers}
    return {
        "claims": assess(study, sampled, sizes, *measured) if made else empty("claims"),
        "frontier": placed,
        "remedies": remedies(placed, images, levels, effects, study) if made else empty("remedies"),
        "exemplars": pd.concat(exemplar_rows(answers, ids) for answers, ids in read.values()),
    }


def _sampled(
    study: Study, people: People[np.ndarray], read: Mapping[str, tuple[Predictions, np.ndarray]]
) -> Sampled:
    test, train = people.test, people.train
    ids = next(iter(read.values()))[1]
    dataset = next(iter(next(iter(read.values()))[0].predicted)).dataset
    first = study.groups_of(dataset)[:1]
    attributes = test.attributes.set_axis(test.ids, axis=0).loc[ids]
    units = unit_codes(attributes, study.unit_of(dataset))
    (division,) = groupings(attributes, first, study.groups, units)
    (trained,) = groupings(train.attributes, first, study.groups)
    numbers = dict(zip(trained.names, trained.sizes, strict=True))
    correct = {
        point: predicted == answers.labels
        for answers, _ in read.values()
        for point, predicted in answers.predicted.items()
    }
    train_sizes = np.array([numbers.get(name, 0) for name in division.names])
    return sample(correct, division, train_sizes, study.statistics, units)


def costs(study: Study) -> list[dict[Point, float]]:
    """Size of the file and images trained on by point, mean over seeds; NaN where not known."""
    rows = gathered(folders(study, *NETWORKS), "variants")
    means = rows.groupby(list(POINT), as_index=False)[["bytes", "images_trained"]].mean()
    points = [Point(*key) for key in means[list(POINT)].itertuples(index=False)]
    return [dict(zip(points, means[name], strict=True)) for name in ("bytes", "images_trained")]


def write_pages(
    study: Study, frames: Mapping[str, pd.DataFrame], source: Source, compute: Compute
) -> None:
    """Write what people read: rows and figures, tables of papers, metrics and the report."""
    for part in ("rows", "figures", "tables"):
        shutil.rmtree(PLOTS / part, ignore_errors=True)
    cells = []
    for name, figure in FIGURES.items():
        rows, path = figure.rows(frames, study), PLOTS / "rows" / f"{name}.json"
        write_json(path, figure.drawing.described(rows).to_dict("records"))
        if len(rows):  # no damage is predicted, say, where no quantized network was surveyed
            own, function = outside([figure.select]), "quantskew.analysis.figures:draw"
            cells.append(Cell(name, function, modules=own, figure=name, rows=path))
    drawn = {}
    for name, folder in run(cells, title="draw", compute=compute).items():
        drawn[name] = (folder / "figure.svg").read_text(encoding="utf-8")
        write_text(PLOTS / "figures" / f"{name}.svg", drawn[name])
    for name, rows in published(frames, study).items():
        write_text(PLOTS / "tables" / f"{name}.tex", latex(rows, name))
        write_text(PLOTS / "tables" / f"{name}.md", markdown(rows))
    head = answer.headline(frames["effects"], study)
    numbers: dict[str, Any] = answer.metrics(head, frames["remedies"])
    if len(numbers) == 1:  # one data set needs no name: columns of `dvc exp show` stay narrow
        (numbers,) = numbers.values()
    write_json("metrics/summary.json", numbers)
    sentences = [
        *answer.sentences(head, study),
        *recommendations(frames["frontier"], study, shipped(frames, study)),
        *cheapest(frames["remedies"], study),
        *against_free(frames["remedies"], study),
        answer.of_chance(study),
    ]
    lines = "".join(f"- {escape_markdown(text)}\n" for text in sentences)
    write_text(PLOTS / "tables" / "answer.md", lines)
    pages = dict(frames) | facts(study)
    report.write(
        PLOTS / "report.html", pages, study, drawn=drawn, **described(study, frames, source)
    )


def write_report(path: Path, study: Study, source: Source) -> None:
    """Write the report of a finished study anew, from the tables that stage ``analyze`` left."""
    if not ANALYSIS.is_dir():
        raise tables.TableError(
            f"{ANALYSIS} holds no tables: run `dvc repro` in the folder of the study first"
        )
    study = together(study, divided(study))
    frames = stored(study)
    report.write(path, frames | facts(study), study, **described(study, frames, source))


def facts(study: Study) -> dict[str, pd.DataFrame]:
    """What the report says of the samples: tables ``rejects`` and ``facts``."""
    found: dict[str, list[pd.DataFrame]] = {"rejects": [], "facts": []}
    for dataset in study.datasets:
        path = samples_path(dataset)
        people = read_people(path)
        rejects = tables.read("rejects", path.with_suffix(".rejects.parquet")).to_pandas()
        found["rejects"].append(report.rejects_by_group(rejects, people, study, dataset))
        found["facts"].append(report.facts_of(people, study, dataset))
    return {name: pd.concat(rows, ignore_index=True) for name, rows in found.items()}


def described(
    study: Study, frames: Mapping[str, pd.DataFrame], source: Source
) -> dict[str, Mapping[str, Any]]:
    """Where the numbers of the report come from, and the pictures that the study asks for."""
    wanted = source.parameters.get("report", {}).get("pictures", False)
    return {
        "parameters": source.parameters,
        "hashes": {
            str(path): file_hash(path)
            for path in [*map(samples_path, study.datasets), *_tables_given(study)]
        },
        "versions": source.versions,
        "pictures": flipped(study, frames["exemplars"]) if wanted else {},
    }


def _tables_given(study: Study) -> list[Path]:
    given = folders(study.model_copy(update={"models": (*study.answers,)}), "given")
    return [Path(file) for file in gathered(given, "variants")["file"]]


def flipped(study: Study, exemplars: pd.DataFrame) -> dict[str, str]:
    """Pictures of the samples that most seeds answer otherwise after quantization.

    Returns
    -------
    PNG as ``data:`` addresses, by what is written below: the sample, its class, and its answers.
    """
    pictures = {}
    rows = exemplars[exemplars["method"] == study.reference].sort_values("flips", kind="stable")
    rows = rows[::-1].drop_duplicates(["dataset", "id"])
    for dataset, part in rows.groupby("dataset"):
        people = read_people(samples_path(str(dataset)))
        shape, names = people.metadata["shape"], people.classes
        if 0 in shape:
            continue  # there are labels and groups alone
        kept = tables.read("samples", samples_path(str(dataset)), ["id", "image"]).to_pandas()
        images = kept.set_index("id")["image"]
        for row in part.head(MOST_PICTURES).itertuples():
            pixels = np.frombuffer(images[row.id], np.uint8).reshape(shape).transpose(1, 2, 0)
            file = io.BytesIO()
            Image.fromarray(pixels.squeeze()).save(file, "png")
            told = (
                f"{dataset} {row.id}: {names[row.label]}, answered {names[row.before]}, "
                f"at {width_name(row.bits)} {names[row.after]}"
            )
            pictures[told] = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return pictures
