"""Which part of a study's data loses most: slices of its images, attributes and logits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from quantskew import tables
from quantskew.analysis.scored import read_logits
from quantskew.analysis.study import Study
from quantskew.data.groups import unit_codes
from quantskew.data.people import read_people
from quantskew.errors import UserError, close_names, one_of
from quantskew.fairness.slices import clusters, find_slices, image_properties
from quantskew.layout import folder_of, origin, predictions_path, samples_path, stored_variants
from quantskew.names import BASELINE, FULL_PRECISION, Variant


def slices_of_study(
    study: Study,
    *,
    dataset: str | None = None,
    model: str | None = None,
    variant: str | None = None,
) -> tuple[str, pd.DataFrame]:
    """Find the parts of the test samples on which a network lost most against fp32.

    They are described by the attributes of the samples, the label, properties of the images, and
    clusters of the logits of both networks.

    Parameters
    ----------
    study
        What was run, in the present folder.
    dataset, model
        May be left out of a study that has only one.
    variant
        A network by its file's name without the suffix (``ptq-4bit-seed0``), or without the seed,
        for those of all seeds together (``ptq-4bit``). The reference of the study at its narrowest
        width unless given.

    Returns
    -------
    A title, and the rows of :func:`quantskew.fairness.slices.find_slices`.

    Raises
    ------
    UserError
        When there is no such data set, model or variant, with those there are.
    """
    model = one_of("model", model, study.models)
    dataset = one_of("dataset", dataset or study.answers.get(model), study.datasets)
    if study.answers.get(model, dataset) != dataset:
        raise UserError(f"{model} answers {study.answers[model]}, and not {dataset}")
    wanted = variant or f"{study.reference}-{min(study.bits)}bit"
    stages, answering = origin(model, study.answers)
    stored = stored_variants(dataset, model, stages)
    known: dict[str, list[Variant]] = {}
    for one in sorted(stored):
        if one.method != BASELINE or one.bits != FULL_PRECISION:
            known.setdefault(one.stem.rpartition("-seed")[0], []).append(one)
            known[one.stem] = [one]
    if wanted not in known:
        raise UserError(
            f"no variant {wanted!r} of {model} on {dataset}{close_names(wanted, known)}; there are "
            f"{', '.join(known)}"
        )
    folder = folder_of(answering, dataset, model)
    after = read_logits(predictions_path(folder, one) for one in known[wanted])
    before = read_logits(predictions_path(folder, stored[one].base) for one in known[wanted])
    if not np.array_equal(before.ids, after.ids):
        raise tables.TableError(f"{wanted} and fp32 answer other samples")
    features = study_features(samples_path(dataset), after.ids)
    if before.logits is not None and after.logits is not None:
        features["cluster"] = clusters(before.logits, after.logits).astype(str)
    column = study.unit_of(dataset)
    settings = study.statistics
    rows = find_slices(
        features.drop(columns=column or []), before.answers, after.answers, after.labels,
        unit_codes(features, column), minimum=study.groups.minimum, margin=settings.margin,
        alpha=settings.alpha, seed=settings.seed,
    )  # fmt: skip
    return f"{dataset} {model} {wanted} against {BASELINE}", rows


def study_features(samples: Path, ids: np.ndarray) -> pd.DataFrame:
    """Describe test samples of these ids, (n,), by their attributes and properties of images."""
    people = read_people(samples).test
    described, shape = [people.attributes], people.metadata["shape"]
    if 0 not in shape:
        parts = []
        with pq.ParquetFile(samples) as file:
            for batch in file.iter_batches(4096, columns=["split", "image"]):
                pixels = [
                    np.frombuffer(image, np.uint8).reshape(shape)
                    for split, image in zip(*batch.to_pydict().values(), strict=True)
                    if split == "test"
                ]
                parts.append(image_properties(pixels))
        described.append(pd.concat(parts, ignore_index=True))
    whole = pd.concat(described, axis=1).set_axis(people.ids, axis=0)
    return whole.loc[ids].reset_index(drop=True)
