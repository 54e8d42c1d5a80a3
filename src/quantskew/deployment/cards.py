"""Model cards of the deployed files, in the format of the Hugging Face hub.

The front matter holds the hub's metadata (library, task, data set, results), so that a folder with
the file and its card, renamed to ``README.md``, can be uploaded as it is.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from quantskew.data.loading import Samples, load
from quantskew.deployment.shipped import Deployed
from quantskew.engine.fingerprint import file_hash
from quantskew.files import write_text
from quantskew.layout import folder_of, samples_path
from quantskew.names import Variant

if TYPE_CHECKING:
    from quantskew.params import Params

TEMPLATE = Path(__file__).with_name("card.md.j2")


def write_cards(study: "Params", deployed: Deployed, dataset: str, model: str) -> None:
    """Write the card ``<file>.md`` of every deployed file of a data set and a model."""
    data, target = load(samples_path(dataset)), folder_of("deploy", dataset, model)
    for _, file in deployed.deployed.iterrows():
        variant = Variant(*(file[column] for column in Variant._fields))
        own = (deployed.deployed_groups[[*Variant._fields]] == list(variant)).all(axis=1)
        text = card(study, file, deployed.deployed_groups[own], data)
        write_text(target / f"{variant.stem}.md", text)


def card(study: "Params", file: "pd.Series[Any]", groups: pd.DataFrame, data: Samples) -> str:
    """Text of the card of one file.

    Parameters
    ----------
    study
        All parameters.
    file
        Row of the file in the table ``deployed``.
    groups
        Rows of the file in the table ``deployed_groups``.
    data
        All samples of the data set.
    """
    name = f"{file['model']} on {file['dataset']}, {'fp32' if file['bits'] == 32 else 'int8'}"
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
        tags=["onnx", "quantskew", *(["int8", "quantized"] if file["bits"] == 8 else [])],
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
