"""Answers of networks that the study did not make (``answers:``), as tables of the study.

The stage ``given`` writes what the stages that make and evaluate networks write, so that those
who judge answers need not know whose they are. What only a network tells is a table without rows.
"""

import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import model_validator

from quantskew import tables
from quantskew.answers.joining import Joined, join
from quantskew.answers.reading import AnswersError, listed
from quantskew.answers.scoring import log_probabilities
from quantskew.data.groups import groupings
from quantskew.data.people import People, read_people
from quantskew.description import describe
from quantskew.errors import UserError
from quantskew.files import write_json
from quantskew.layout import folder_of, name_rows, predictions_path, samples_path
from quantskew.names import BASELINE, FULL_PRECISION, UNKNOWN_WIDTH, Variant
from quantskew.sections import Fraction, Names, Section

if TYPE_CHECKING:
    from quantskew.params import Params

WRITTEN = (
    "variants", "groups", "boundaries", "layers", "weight_histograms", "history", "curvature",
    "layer_damage", "deployed", "deployed_groups", "failures",
)  # fmt: skip
_TABLE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*?)(?:-([1-9]\d?)bit)?")


class Given(Section):
    """Tables of answers to the test samples of a data set, as ``quantskew compare`` reads them.

    The entry stands beside the models of the study, and its tables beside their variants. Label and
    groups are those of the data set. A table called ``ptq-4bit`` is of the method ``ptq`` at 4
    bits, and is compared as such; of any other name, the width is not known. Instead of one table
    there may be a list of them, one for each training seed, as many as of the reference.
    """

    dataset: str
    reference: Names  # answers before compression
    tables: dict[str, Names]  # answers after it, by a name of your choice
    threshold: float | None = None  # score from which on the second of two classes is answered
    missing: Fraction = 0.0  # share of the test samples that a table may lack

    @model_validator(mode="after")
    def _tables_fit_together(self) -> "Given":
        if not self.tables:
            raise ValueError("tables: none is given to compare with the reference")
        for name, files in self.tables.items():
            found = _TABLE.fullmatch(name)
            if not found or found[1] == BASELINE:
                raise ValueError(
                    f"tables: {name!r} names a method; use letters, digits, '_' and '-', and not "
                    f"{BASELINE}, which is the reference"
                )
            if len(files) != len(self.reference):
                raise ValueError(
                    f"tables: {name} has {len(files)} files, and reference {len(self.reference)}; "
                    "give one of each training seed"
                )
        times = Counter(str(path) for path in self.files().values())
        twice = [path for path, count in times.items() if count > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)} is given more than once")
        return self

    def files(self) -> dict[tuple[str, int, int], Path]:
        """File of each method, width and seed, those of the reference first."""
        found, reference = {}, f"{BASELINE}-{FULL_PRECISION}bit"
        for name, files in {reference: self.reference, **self.tables}.items():
            method, bits = _TABLE.fullmatch(name).groups()  # type: ignore[union-attr]
            for seed, file in enumerate(files):
                found[method, int(bits or UNKNOWN_WIDTH), seed] = Path(file)
        return found


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
