"""Run every variant of a data set and a model on the test set, and describe each group."""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy

from quantskew import params, tables
from quantskew.data.loading import load
from quantskew.description import bounded, describe, groupings, history_by_group, predictions
from quantskew.engine import cells
from quantskew.engine.command import run
from quantskew.names import Variant
from quantskew.params import Params
from quantskew.schemas import TABLES
from quantskew.variants import samples_path, stored_variants

ROWS = 1 << 16
"""Of predictions held at once, and in a row group."""

Variants = Mapping[Variant, tuple[Path, Variant]]


def main(dataset: str, model: str) -> None:
    """Write predictions, groups, fairness, layers, history and the surveys of the loss."""
    study = params.load()
    data = load(samples_path(dataset))
    divisions = groupings(data.test, study.groups_of(dataset), study.groups)
    variants = stored_variants(dataset, model)
    folds = study.methods[study.reference].weights.fold_bn
    work = [
        cells.Cell(
            variant.stem,
            "quantskew.evaluation.run:evaluate",
            samples=samples_path(dataset),
            file=file,
            base=variants[base][0],
            model=model,
            architecture=study.architectures.get(model),
            bits=variant.bits,
            folds=folds,
        )
        for variant, (file, base) in variants.items()
    ]
    made_from = surveyed(study, variants)
    layered = layer_cells(study, variants, made_from)
    # the longest first
    work = [*survey_cells(study, dataset, model, variants, made_from), *layered.values(), *work]
    done = cells.run(work, title=f"evaluate {dataset} {model}", compute=study.compute)

    def logits(variant: Variant) -> np.ndarray:
        path = done[variant.stem] / "logits.safetensors"
        return safetensors.numpy.load_file(path)["logits"]

    parts = defaultdict(list)
    for variant, (file, base) in variants.items():
        rows = describe(logits(variant), logits(base), data.test, divisions)
        for name in ("layers", "weight_histograms"):
            rows[name] = pd.read_parquet(done[variant.stem] / f"{name}.parquet")
        history = file.with_suffix(".history.safetensors")
        if history.exists():
            rows["history"] = history_by_group(**safetensors.numpy.load_file(history), data=data)
        for name, frame in rows.items():
            parts[name].append(frame.assign(**variant._asdict()))
    surfaces = {v: pd.read_parquet(done[surface(v)] / "curvature.parquet") for v in made_from}
    parts["curvature"] = [
        variant.name(bounded(surfaces[variant], surfaces[base]))
        for variant, base in made_from.items()
    ]
    damage = {v: pd.read_parquet(done[c.name] / "layer_damage.parquet") for v, c in layered.items()}
    parts["layer_damage"] = [variant.name(rows) for variant, rows in damage.items()] or [
        TABLES["layer_damage"].schema.empty_table().to_pandas()
    ]
    target = Path("data/evaluations", dataset, model)
    shutil.rmtree(target, ignore_errors=True)
    for name, frames in parts.items():
        tables.write(name, pd.concat(frames), target / f"{name}.parquet")
    answered = (
        variant.name(predictions(logits(variant), data.test)) for variant in sorted(variants)
    )
    tables.write("predictions", joined(answered, ROWS), target / "predictions.parquet")


def joined(frames: Iterable[pd.DataFrame], rows: int) -> Iterator[pd.DataFrame]:
    """Put small frames together to some of ``rows`` rows or a little less."""
    held: list[pd.DataFrame] = []
    for frame in frames:
        if held and sum(map(len, held)) + len(frame) > rows:
            yield pd.concat(held)
            held = []
        held.append(frame)
    yield pd.concat(held)


def surveyed(study: Params, variants: Variants) -> dict[Variant, Variant]:
    """Variants around which the loss is surveyed, each with the fp32 network it was made from."""
    settings = study.curvature
    seeds = study.seeds[: settings.seeds]
    # an experiment with none of these widths is surveyed at its own
    kept = {*study.bits} & {*(settings.bits or ())} or {*study.bits}
    left_out = {*study.bits} - kept
    made_from = {
        variant: base
        for variant, (_, base) in variants.items()
        if variant.method in settings.methods
        and variant.seed in seeds
        and variant.bits not in left_out
    }
    return made_from | {base: base for base in made_from.values()}


def surface(variant: Variant) -> str:
    """Name of the cell that surveys the loss around a variant."""
    return f"loss around {variant.stem}"


def survey_cells(
    study: Params,
    dataset: str,
    model: str,
    variants: Variants,
    made_from: Mapping[Variant, Variant],
) -> list[cells.Cell]:
    """Cells that survey the loss around variants."""
    return [
        cells.Cell(
            surface(variant),
            "quantskew.evaluation.loss_surface:survey",
            samples=samples_path(dataset),
            file=variants[variant][0],
            base=None if variant == base else variants[base][0],
            model=model,
            architecture=study.architectures.get(model),
            bits=variant.bits,
            attribute=study.groups_of(dataset)[0],
            groups=study.groups,
            size=study.curvature.samples,
            probes=study.curvature.probes,
            errors=study.curvature.errors,
        )
        for variant, base in made_from.items()
    ]


def layer_cells(
    study: Params, variants: Variants, made_from: Mapping[Variant, Variant]
) -> dict[Variant, cells.Cell]:
    """Cells that quantize each layer alone, as the narrowest surveyed variant of a method does."""
    methods = study.all_methods()
    narrowest: dict[tuple[int, str], Variant] = {}
    for variant, base in made_from.items():
        rounds = variant != base and methods[variant.method].training == "none"
        if study.curvature.layers and rounds and variant.bits <= 8:
            key = variant.seed, variant.method
            narrowest[key] = min(variant, narrowest.get(key, variant))
    return {
        variant: cells.Cell(
            f"each layer of {variant.stem} alone",
            "quantskew.evaluation.layer_damage:survey",
            samples=samples_path(variant.dataset),
            file=variants[made_from[variant]][0],
            model=variant.model,
            architecture=study.architectures.get(variant.model),
            bits=variant.bits,
            weights=methods[variant.method].weights,
            attribute=study.groups_of(variant.dataset)[0],
            groups=study.groups,
            size=study.curvature.samples,
        )
        for variant in narrowest.values()
    }


if __name__ == "__main__":
    run(main)
