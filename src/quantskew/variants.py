"""Which variants a study has, and the making of them, stage by stage.

The files of a stage lie in one folder for a data set and a model, with the table ``variants``
beside them.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from quantskew import tables
from quantskew.engine.cells import Cell, run
from quantskew.files import write_json
from quantskew.names import BASELINE, FULL_PRECISION, Variant
from quantskew.params import Params, recipe_owners
from quantskew.quantization.method import Method
from quantskew.quantization.settings import Qat
from quantskew.training.settings import Recipe, Training

COST = "cost.json"
PLAIN = Recipe()
STAGES = {"train": "baselines", "quantize": "quantized", "mitigate": "mitigated"}


def samples_path(dataset: str) -> Path:
    """Table of the samples of a data set."""
    return Path(f"data/samples/{dataset}.parquet")


def folder_of(stage: str, dataset: str, model: str) -> Path:
    """Folder of the files of a stage."""
    return Path("data", STAGES[stage], dataset, model)


def widths(method: Method, bits: tuple[int, ...]) -> tuple[int, ...]:
    """Widths a method is run at: 16 for a floating-point format, else those of the study.

    A method that names widths is kept to them; an experiment with none of these has all its own.
    """
    if method.weights.format != "integer":
        return (16,)
    return method.bits_of(bits)


def make_baselines(study: Params, dataset: str, model: str) -> None:
    """Train the fp32 network of every seed."""
    bases = {Variant(dataset, model, s, BASELINE, FULL_PRECISION): PLAIN for s in study.seeds}
    done = run(
        _training_cells(study, bases), title=f"train {dataset} {model}", compute=study.compute
    )
    _collect(done, dict.fromkeys(bases, BASELINE), "train", dataset, model)


def make_variants(
    study: Params, section: Mapping[str, Method], dataset: str, model: str, *, stage: str
) -> None:
    """Make every variant of a section: first the fp32 networks it retrains, then the quantized.

    Parameters
    ----------
    study
        All parameters.
    section
        ``methods`` or ``mitigations``.
    dataset, model
        Which part of the study.
    stage
        ``quantize`` or ``mitigate``.
    """
    owners = recipe_owners(section)
    bases = {
        Variant(dataset, model, seed, name, FULL_PRECISION): recipe
        for recipe, name in owners.items()
        if recipe != PLAIN
        for seed in study.seeds
    }
    done = run(
        _training_cells(study, bases),
        title=f"{stage} {dataset} {model}: fp32",
        compute=study.compute,
    )
    made_from = {variant: variant.method for variant in bases}
    work = []
    baselines = folder_of("train", dataset, model)
    for name, method in section.items():
        owner = owners[method.base_recipe()]
        # what a method does not look at may change, and it is not done anew
        learns = method.training == "qat"
        for bits in widths(method, study.bits):
            for seed in study.seeds:
                variant = Variant(dataset, model, seed, name, bits)
                base = Variant(dataset, model, seed, owner, FULL_PRECISION).stem
                made_from[variant] = owner
                work.append(
                    Cell(
                        variant.stem,
                        "quantskew.methods:quantize",
                        samples=samples_path(dataset),
                        base=(
                            baselines / f"{base}.safetensors"
                            if owner == BASELINE
                            else done[base] / "network.safetensors"
                        ),
                        baseline_history=_baseline_history(variant, method.recipe),
                        model=model,
                        architecture=study.architectures.get(model),
                        seed=seed,
                        method=method.model_copy(update={"bits": None}),
                        bits=bits,
                        training=study.training if learns else Training(),
                        qat_settings=study.qat if learns else Qat(),
                        bins=bins_of(study, method.recipe.by, method.calibration.by),
                    )
                )
    done |= run(work, title=f"{stage} {dataset} {model}", compute=study.compute)
    _collect(done, made_from, stage, dataset, model)


def _training_cells(study: Params, bases: Mapping[Variant, Recipe]) -> list[Cell]:
    return [
        Cell(
            variant.stem,
            "quantskew.training.baseline:train",
            samples=samples_path(variant.dataset),
            model=variant.model,
            architecture=study.architectures.get(variant.model),
            seed=variant.seed,
            training=study.training,
            recipe=recipe,
            bins=bins_of(study, recipe.by),
            baseline_history=_baseline_history(variant, recipe),
        )
        for variant, recipe in bases.items()
    ]


def bins_of(study: Params, *groupings: str) -> dict[str, tuple[float, ...]]:
    """Edges that these groupings need; others may change, and nothing is trained anew."""
    named = {name.strip() for grouping in groupings for name in grouping.split("*")}
    return {name: edges for name, edges in study.groups.bins.items() if name in named}


def _baseline_history(variant: Variant, recipe: Recipe) -> Path | None:
    if recipe.loss != "weighted" or recipe.class_weights is not None:
        return None
    base = variant._replace(method=BASELINE, bits=FULL_PRECISION)
    folder = folder_of("train", variant.dataset, variant.model)
    return folder / f"{base.stem}.history.safetensors"


def _collect(
    done: Mapping[str, Path], made_from: Mapping[Variant, str], stage: str, dataset: str, model: str
) -> None:
    """Copy the files of finished cells to where the stage promises them, and list them."""
    target = folder_of(stage, dataset, model)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    rows = []
    for variant, base in made_from.items():
        for source in done[variant.stem].iterdir():
            if source.name != COST and not source.name.startswith("."):
                name = source.name.removeprefix("network.")
                shutil.copyfile(source, target / f"{variant.stem}.{name}")
        file = target / f"{variant.stem}.safetensors"
        cost = _cost(done, variant, base)
        rows.append((*variant, base, file.name, file.stat().st_size, *cost))
    columns = [*Variant._fields, "base", "file", "bytes", "images_trained", "seconds"]
    listed = pd.DataFrame(rows, columns=columns)
    tables.write("variants", listed.drop(columns="seconds"), target / "variants.parquet")
    write_json(seconds_path(stage, dataset, model), _seconds(listed, dataset, model), digits=2)


def _cost(done: Mapping[str, Path], variant: Variant, base: str) -> tuple[int, float]:
    """Images and seconds of training behind a variant, the plain baseline's left out."""
    stems = {variant.stem, variant._replace(method=base, bits=FULL_PRECISION).stem}
    # the plain baseline was done by another stage
    costs = [json.loads((done[stem] / COST).read_text()) for stem in stems & done.keys()]
    return sum(cost["images"] for cost in costs), sum(cost["seconds"] for cost in costs)


def seconds_path(stage: str, dataset: str, model: str) -> Path:
    """Measured times of a stage: in git but no out of DVC, whose outs are the same in each run."""
    return Path("metrics/seconds", dataset, model, f"{stage}.json")


def _seconds(listed: pd.DataFrame, dataset: str, model: str) -> dict[str, dict[str, Any]]:
    """Seconds of training by method and width, mean over seeds, and as ratio to the baseline's."""
    means = listed.groupby(["method", "bits"])["seconds"].mean()
    whole = means.get((BASELINE, FULL_PRECISION), 0.0)
    path = seconds_path("train", dataset, model)
    if not whole and path.exists():
        whole = json.loads(path.read_text())[BASELINE][f"{FULL_PRECISION} bits"]["seconds"]
    result: dict[str, dict[str, Any]] = {}
    for (method, bits), seconds in means.items():
        ratio = seconds / whole if whole else None  # the user's own weights took no training here
        result.setdefault(method, {})[f"{bits} bits"] = {"seconds": seconds, "ratio": ratio}
    return result


def stored_variants(
    dataset: str, model: str, stages: Iterable[str] = STAGES
) -> dict[Variant, tuple[Path, Variant]]:
    """Every variant of a data set and a model, with its file and the fp32 network behind it."""
    stored = {}
    for stage in stages:
        folder = folder_of(stage, dataset, model)
        for row in tables.read("variants", folder / "variants.parquet").to_pylist():
            variant = Variant(*(row[column] for column in Variant._fields))
            base = variant._replace(method=row["base"], bits=FULL_PRECISION)
            stored[variant] = folder / row["file"], base
    return stored
