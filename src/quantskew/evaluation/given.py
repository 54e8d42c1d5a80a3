"""Answers of networks that the study did not make (``answers:``), as tables of the study.

The stage ``given`` writes what the stages that make and evaluate networks write, so that those
who judge answers need not know whose they are. What only a network tells is a table without rows.
"""

import shutil
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from quantskew import tables
from quantskew.answers.given import Given
from quantskew.answers.joining import Joined, join
from quantskew.answers.reading import AnswersError, listed
from quantskew.answers.scoring import log_probabilities
from quantskew.data.groups import groupings
from quantskew.data.people import People, read_people
from quantskew.description import describe
from quantskew.errors import UserError
from quantskew.files import write_json
from quantskew.layout import folder_of, name_rows, predictions_path, samples_path
from quantskew.names import BASELINE, Variant

if TYPE_CHECKING:
    from quantskew.params import Params

WRITTEN = (
    "variants", "groups", "boundaries", "layers", "weight_histograms", "history", "curvature",
    "layer_damage", "deployed", "deployed_groups", "failures",
)  # fmt: skip


def write_given(study: "Params") -> None:
    """Write the answers of every entry of ``answers:``, and ``warnings.json`` of what is missing.

    A ``UserError`` names the rows of a table that cannot be read or does not fit the test samples.
    """
    shutil.rmtree("data/given", ignore_errors=True)
    warnings = {}
    for name, given in study.answers.items():
        test = read_people(samples_path(given.dataset)).test
        try:
            joined = _joined(given, test)
        except AnswersError as error:
            raise UserError(
                f"answers.{name}: {error} (labels: the test samples of {given.dataset})"
            ) from None
        warnings[name] = [*joined.warnings]
        for text in joined.warnings:
            print(f"answers.{name}: {text}")
        _write(study, name, given, test, joined)
    write_json("data/given/warnings.json", warnings)


def _joined(given: Given, test: People[np.ndarray]) -> Joined:
    """Join the tables of an entry with the test samples, which may hold more by a share."""
    samples = pd.DataFrame({"id": test.ids, "label": test.attributes["label"].astype(str)})
    joined = join(
        {str(path): path for path in given.files().values()}, by=(), labels=samples,
        classes=test.classes, threshold=given.threshold, missing=given.missing, numbers=True,
    )  # fmt: skip
    absent = samples.loc[~samples["id"].isin(joined.ids.cast("string").to_pylist()), "id"]
    if len(absent) > given.missing * len(samples):
        raise AnswersError(
            f"the tables lack {len(absent):,} of {len(samples):,} samples, such as "
            f"{listed(map(repr, absent), 3)}; {100 * given.missing:g} % may be missing (missing)"
        )
    return joined


def _write(
    study: "Params", name: str, given: Given, test: People[np.ndarray], joined: Joined
) -> None:
    target = folder_of("given", given.dataset, name)
    ids = joined.ids.cast("string").to_numpy(zero_copy_only=False)
    order = pd.Series(np.arange(len(test.ids)), test.ids).loc[ids].to_numpy()
    by = study.groups_of(given.dataset)
    divisions = groupings(test.attributes.iloc[order], by, study.groups)
    logits = log_probabilities(joined.numbers)
    rows: dict[str, dict[Variant, pd.DataFrame]] = defaultdict(dict)
    for (method, bits, seed), path in given.files().items():
        variant = Variant(given.dataset, name, seed, method, bits)
        outputs, before = (logits.get(str(one)) for one in (path, given.reference[seed]))
        answers = pd.DataFrame(
            {
                "id": ids,
                "label": joined.labels,
                "prediction": joined.answers[str(path)],
                "logits": None if outputs is None else list(outputs),
            }
        )
        tables.write("predictions", variant.name(answers), predictions_path(target, variant))
        rows["variants"][variant] = pd.DataFrame(
            {"base": [BASELINE], "file": str(path), "bytes": None, "images_trained": None}
        )
        if outputs is not None and before is not None:
            for table, own in describe(outputs, before, joined.labels, divisions).items():
                rows[table][variant] = own
    for table in WRITTEN:
        tables.write(table, name_rows(rows[table], table), target / f"{table}.parquet")
