"""Model cards of the deployed files, in the format of the Hugging Face hub.

The front matter holds the hub's metadata (library, task, data set, results), so that a folder with
the file and its card, renamed to ``README.md``, can be uploaded as it is.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from quantskew import tables
from quantskew.data.groups import groupings
from quantskew.data.people import People, read_people
from quantskew.deployment.shipped import Deployed
from quantskew.engine.fingerprint import file_hash
from quantskew.fairness.catalogue import CATALOGUE, values
from quantskew.fairness.parity import Answers
from quantskew.files import write_text
from quantskew.layout import folder_of, predictions_path, samples_path
from quantskew.names import FULL_PRECISION, Variant

if TYPE_CHECKING:
    from quantskew.params import Params

_KINDS = {FULL_PRECISION: "fp32", 8: "int8", 4: "weights of matrix products in int4"}
TEMPLATE = Path(__file__).with_name("card.md.j2")


def write_cards(study: "Params", deployed: Deployed, dataset: str, model: str) -> None:
    """Write the card ``<file>.md`` of every deployed file of a data set and a model."""
    data, target = read_people(samples_path(dataset)), folder_of("deploy", dataset, model)
    for _, file in deployed.deployed.iterrows():
        variant = Variant(*(file[column] for column in Variant._fields))
        own = (deployed.deployed_groups[[*Variant._fields]] == list(variant)).all(axis=1)
        metrics = whole_groupings(study, variant, predictions_path(target, variant), data)
        digest = file_hash(target / file["file"])
        text = card(study, file, deployed.deployed_groups[own], data, metrics, digest)
        write_text(target / f"{variant.stem}.md", text)


def whole_groupings(
    study: "Params", variant: Variant, answers: Path, data: People[np.ndarray]
) -> dict[str, dict[str, float]]:
    """Every metric of the catalogue that is not of single groups, by title and grouping.

    A metric that a grouping gives no meaning is left out.
    """
    columns = ["id", "prediction"]
    rows = tables.read("predictions", answers, columns).to_pandas().set_index("id")
    predicted, test = rows.loc[data.test.ids, "prediction"].to_numpy(), data.test
    found: dict[str, dict[str, float]] = {}
    for one in groupings(test.attributes, study.groups_of(variant.dataset), study.groups):
        of = (one.codes, one.counted, len(data.classes))
        measured = values(Answers(test.labels, predicted[None], *of))
        for name, metric in CATALOGUE.items():
            if metric.of != "each group" and not np.isnan(measured[name]).any():
                found.setdefault(metric.title, {})[one.attribute] = float(measured[name][0])
    return found


def card(
    study: "Params",
    file: "pd.Series[Any]",
    groups: pd.DataFrame,
    data: People[np.ndarray],
    metrics: Mapping[str, Mapping[str, float]],
    digest: str,
) -> str:
    """Text of the card of a file, of its rows in the tables ``deployed`` and ``deployed_groups``.

    ``metrics`` are those of :func:`whole_groupings`; ``digest`` is the SHA-256 of the file.
    """
    bits = file["bits"]
    name = f"{file['model']} on {file['dataset']}, {_KINDS[bits]}"
    notes = data.metadata
    results = [
        _result(file, "accuracy", "Accuracy", file["accuracy"], notes["dataset"]),
        *(
            _result(file, "fvo", f"FVO by {attribute}", np.ptp(part["accuracy"]), notes["dataset"])
            for attribute, part in groups[groups["counted"]].groupby("attribute", sort=False)
            if len(part) > 1
        ),
    ]
    front = ModelCardData(
        license=study.deploy.licence,
        library_name="onnxruntime",
        pipeline_tag="image-classification",
        tags=["onnx", "quantskew", *([f"int{bits}", "quantized"] if bits < FULL_PRECISION else [])],
        datasets=[file["dataset"]],
        metrics=["accuracy"],
        model_name=name,
        eval_results=results,
    )
    return _template().render(
        front=front.to_yaml(),
        name=name,
        file=file,
        notes=notes,
        data_hash=file_hash(samples_path(file["dataset"])),
        data=data,
        metrics=metrics,
        digest=digest,
        version=version("quantskew"),
        study=study,
        divisions=dict([*groups.groupby("attribute", sort=False)]),
        left_out=groups.loc[~groups["counted"], "group"].tolist(),
        worst=groups.loc[groups["bound"].idxmax()] if groups["bound"].notna().any() else None,
    )


def _result(file: "pd.Series[Any]", kind: str, name: str, value: float, dataset: str) -> EvalResult:
    return EvalResult(
        task_type="image-classification",
        dataset_type=file["dataset"],
        dataset_name=dataset,
        dataset_split="test",
        metric_type=kind,
        metric_name=name,
        metric_value=round(float(value), 4),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
