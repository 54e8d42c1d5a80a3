"""Which networks a study has, and the making of them, stage by stage.

The files of a stage lie in one folder for a data set and a model, with the table ``variants``
beside them, and the table ``failures`` of what could not be made, with the reason.
"""

import json
import shutil
from collections.abc import Container, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from quantskew import tables
from quantskew.engine.cells import Cell, attempt
from quantskew.files import write_json
from quantskew.layout import empty, folder_of, samples_path, stored_variants
from quantskew.names import BASELINE, FULL_PRECISION, Variant
from quantskew.quantization.fitting import Qat
from quantskew.quantization.method import Method, recipe_owners
from quantskew.subject import Subject
from quantskew.training.recipe import Recipe
from quantskew.training.training import Training

if TYPE_CHECKING:
    from quantskew.params import Params

COST = "cost.json"
PLAIN = Recipe()
Failures = dict[Variant, str]


def widths(method: Method, bits: tuple[int, ...]) -> tuple[int, ...]:
    """Widths that a method is run at: its own of a floating-point format, else those of the study.

    A method that names widths is kept to them; an experiment with none of these has all its own.
    """
    own = method.weights.own_bits
    return method.bits_of(bits) if own is None else (own,)


def make_baselines(study: "Params", dataset: str, model: str) -> None:
    """Train the fp32 network of every seed."""
    bases = {Variant(dataset, model, s, BASELINE, FULL_PRECISION): PLAIN for s in study.seeds}
    folders, failures = _run(study, _training_cells(study, bases), f"train {dataset} {model}")
    made_from = dict.fromkeys(folders, BASELINE)
    collect("train", dataset, model, folders, made_from, failures)


def make_variants(study: "Params", stage: str, dataset: str, model: str) -> None:
    """Make every variant of a section: first the fp32 networks it retrains, then the quantized.

    The ``stage`` is ``quantize``, which makes ``methods``, or ``mitigate`` for ``mitigations``.
    """
    section = {"quantize": study.methods, "mitigate": study.mitigations}[stage]
    owners = recipe_owners(section)
    bases = {
        Variant(dataset, model, seed, name, FULL_PRECISION): recipe
        for recipe, name in owners.items()
        if recipe != PLAIN
        for seed in study.seeds
    }
    title = f"{stage} {dataset} {model}"
    retrained, failures = _run(study, _training_cells(study, bases), f"{title}: fp32")
    networks = {variant: folder / "network.safetensors" for variant, folder in retrained.items()}
    networks |= {v: one.file for v, one in stored_variants(dataset, model, ["train"]).items()}
    made_from = {variant: variant.method for variant in retrained}
    work = {}
    for name, method in section.items():
        owner = owners[method.base_recipe()]
        for bits, seed in product(widths(method, study.bits), study.seeds):
            variant = Variant(dataset, model, seed, name, bits)
            base = variant._replace(method=owner, bits=FULL_PRECISION)
            if base in networks:
                made_from[variant] = owner
                work[variant] = _quantizing_cell(study, variant, method, networks[base])
            else:
                failures[variant] = f"the fp32 network {base.stem} could not be trained"
    quantized, further = _run(study, work, title)
    collect(stage, dataset, model, retrained | quantized, made_from, failures | further)


def subject_of(study: "Params", variant: Variant, weights: Path | None = None) -> Subject:
    """Return what a cell about a network is about; without weights it is not trained yet."""
    return Subject(
        samples=samples_path(variant.dataset),
        model=variant.model,
        architecture=study.architectures.get(variant.model),
        weights=weights,
        bits=variant.bits,
    )


def _run(
    study: "Params", work: Mapping[Variant, Cell], title: str
) -> tuple[dict[Variant, Path], Failures]:
    done = attempt([*work.values()], title=title, compute=study.compute)
    by_name = {cell.name: variant for variant, cell in work.items()}
    folders = {by_name[name]: folder for name, folder in done.folders.items()}
    return folders, {by_name[name]: why for name, why in done.failures.items()}


def _training_cells(study: "Params", bases: Mapping[Variant, Recipe]) -> dict[Variant, Cell]:
    return {
        variant: Cell(
            variant.stem,
            "quantskew.baselines:train",
            subject=subject_of(study, variant),
            seed=variant.seed,
            training=study.training,
            recipe=recipe,
            bins=study.groups.edges(*recipe.groupings),
            baseline_history=_baseline_history(variant, recipe),
        )
        for variant, recipe in bases.items()
    }


def _quantizing_cell(study: "Params", variant: Variant, method: Method, base: Path) -> Cell:
    # what a method does not look at may change, and it is not done anew
    learns = method.training.trains
    held_out = study.training.held_out if method.post or method.needs_calibration() else 0.0
    return Cell(
        variant.stem,
        "quantskew.methods:quantize",
        subject=subject_of(study, variant._replace(bits=FULL_PRECISION), base),
        baseline_history=_baseline_history(variant, method.recipe),
        seed=variant.seed,
        method=method.model_copy(update={"bits": None}),
        bits=variant.bits,
        training=study.training if learns else Training(held_out=held_out),
        qat_settings=study.qat if learns else Qat(),
        bins=study.groups.edges(*method.recipe.groupings, method.calibration.by),
    )


def _baseline_history(variant: Variant, recipe: Recipe) -> Path | None:
    if not recipe.loss.needs_history:
        return None
    base = variant._replace(method=BASELINE, bits=FULL_PRECISION)
    folder = folder_of("train", variant.dataset, variant.model)
    return folder / f"{base.stem}.history.safetensors"


def collect(
    stage: str,
    dataset: str,
    model: str,
    folders: Mapping[Variant, Path],
    made_from: Mapping[Variant, str],
    failures: Failures,
) -> None:
    """Copy the files of finished cells to where the stage promises them, and list them.

    Of ``mitigate`` the networks in full precision lie apart; see :data:`.NETWORKS`.
    """

    def place_of(variant: Variant) -> str:
        apart = stage == "mitigate" and variant.bits == FULL_PRECISION
        return "retrain" if apart else stage

    for place in ("retrain", "mitigate") if stage == "mitigate" else (stage,):
        here = {variant for variant in (*folders, *failures) if place_of(variant) == place}
        _collect(place, dataset, model, here, folders, made_from)
        told = {(variant, stage): why for variant, why in failures.items() if variant in here}
        write_failures(folder_of(place, dataset, model), told)


def _collect(
    place: str,
    dataset: str,
    model: str,
    here: Container[Variant],
    folders: Mapping[Variant, Path],
    made_from: Mapping[Variant, str],
) -> None:
    target = folder_of(place, dataset, model)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    rows = []
    for variant in filter(here.__contains__, folders):
        folder = folders[variant]
        for source in folder.iterdir():
            if source.name != COST and not source.name.startswith("."):
                name = source.name.removeprefix("network.")
                shutil.copyfile(source, target / f"{variant.stem}.{name}")
        file = target / f"{variant.stem}.safetensors"
        cost = _cost(folders, variant, made_from[variant])
        rows.append((*variant, made_from[variant], file.name, file.stat().st_size, *cost))
    columns = [*Variant._fields, "base", "file", "bytes", "images_trained", "seconds"]
    listed = pd.DataFrame(rows, columns=columns)
    variants = listed.drop(columns="seconds") if rows else empty("variants")
    tables.write("variants", variants, target / "variants.parquet")
    write_json(seconds_path(place, dataset, model), _seconds(listed, dataset, model), digits=2)


def write_failures(target: Path, failures: Mapping[tuple[Variant, str], str]) -> None:
    """List what a stage could not do: the reason, by the network and the step."""
    rows = [(*variant, step, reason) for (variant, step), reason in failures.items()]
    frame = pd.DataFrame(rows, columns=[*Variant._fields, "step", "reason"])
    tables.write("failures", frame if rows else empty("failures"), target / "failures.parquet")


def _cost(folders: Mapping[Variant, Path], variant: Variant, base: str) -> tuple[int, float]:
    """Images and seconds of training behind a variant, without the plain baseline's."""
    behind = {variant, variant._replace(method=base, bits=FULL_PRECISION)} & folders.keys()
    costs = [json.loads((folders[one] / COST).read_text("utf-8")) for one in behind]
    return sum(cost["images"] for cost in costs), sum(cost["seconds"] for cost in costs)


def seconds_path(place: str, dataset: str, model: str) -> Path:
    """Measured times of a stage: no output that DVC knows, for its outputs are reproducible."""
    return Path("metrics/seconds", dataset, model, f"{place}.json")


def _seconds(listed: pd.DataFrame, dataset: str, model: str) -> dict[str, dict[str, Any]]:
    """Seconds of training by method and width, mean over seeds, and as ratio to the baseline's."""
    means = listed.groupby(["method", "bits"])["seconds"].mean()
    whole = means.get((BASELINE, FULL_PRECISION), 0.0)
    path = seconds_path("train", dataset, model)
    if not whole and path.exists():
        trained = json.loads(path.read_text("utf-8")).get(BASELINE)
        whole = trained[f"{FULL_PRECISION} bits"]["seconds"] if trained else 0.0
    result: dict[str, dict[str, Any]] = {}
    for (method, bits), seconds in means.items():
        ratio = seconds / whole if whole else None  # the user's own weights took no training here
        result.setdefault(method, {})[f"{bits} bits"] = {"seconds": seconds, "ratio": ratio}
    return result
