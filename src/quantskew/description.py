"""What the logits of a variant mean for each group."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from quantskew.data.groups import Grouping
from quantskew.data.loading import Samples
from quantskew.fairness.metrics import calibration_error, fvo, worst_group
from quantskew.fairness.parity import fairness_differences
from quantskew.impact.logits import boundary_histograms, by_group, per_sample


def describe(
    outputs: np.ndarray, reference: np.ndarray, test: Samples, divisions: list[Grouping]
) -> dict[str, pd.DataFrame]:
    """What a variant does to each group, against its fp32 network.

    Parameters
    ----------
    outputs, reference
        Logits of the variant and of the fp32 network of its seed, (n, K).

    Returns
    -------
    dict
        The tables ``groups``, ``fairness`` and, for the first grouping, ``boundaries``, without the
        columns of the variant.
    """
    labels = test.labels.numpy()
    measured = per_sample(outputs, reference, labels)
    probabilities = softmax(outputs.astype(np.float64), axis=1)
    groups, fairness = [], [_metric("all", "accuracy", measured["correct"].mean())]
    fairness.append(_metric("all", "loss", measured["loss"].mean()))
    for attribute, codes, names, counted in divisions:
        n_groups = len(names)
        rows = by_group(measured, codes, n_groups)
        rows.insert(0, "attribute", attribute)
        rows.insert(1, "group", names)
        rows["counted"] = counted
        rows["calibration_error"] = calibration_error(probabilities, labels, codes, n_groups)
        groups.append(rows)
        accuracy = rows["accuracy"].to_numpy()
        worst, group = worst_group(accuracy, counted)
        fairness.append(_metric(attribute, "fvo", fvo(accuracy, counted)))
        name = names[int(group)] if group >= 0 else "no group is large enough"
        fairness.append(_metric(attribute, "worst_group", worst, name))
        parity = fairness_differences(
            labels,
            outputs.argmax(1),
            codes,
            n_groups=n_groups,
            n_classes=outputs.shape[1],
            counted=counted,
        )
        note = parity.reason or parity.note
        fairness += [
            _metric(attribute, metric, value, "" if metric == "recall_gap" else note)
            for metric, value in parity.values.items()
        ]
    return {
        "groups": pd.concat(groups),
        "fairness": pd.DataFrame(fairness),
        "boundaries": _boundaries(measured["true_probability"], divisions[0]),
    }


def _boundaries(true_probability: pd.Series, division: Grouping) -> pd.DataFrame:
    counts = boundary_histograms(true_probability, division.codes, len(division.names))
    groups, bins = counts.shape
    edges = np.arange(bins + 1) / bins
    return pd.DataFrame(
        {
            "attribute": division.attribute,
            "group": np.repeat(division.names, bins),
            "low": np.tile(edges[:-1], groups),
            "high": np.tile(edges[1:], groups),
            "count": counts.ravel(),
        }
    )


def _metric(attribute: str, metric: str, value: Any, note: str = "") -> dict[str, Any]:
    return {"attribute": attribute, "metric": metric, "value": float(value), "note": note}


def predictions(outputs: np.ndarray, test: Samples) -> pd.DataFrame:
    """Rows of the table ``predictions`` without the columns of the variant."""
    return pd.DataFrame(
        {
            "id": test.ids,
            "label": test.labels.numpy(),
            "prediction": outputs.argmax(1),
            "logits": list(outputs),
        }
    )


def history_by_group(
    correct: np.ndarray, loss: np.ndarray, sample: np.ndarray, data: Samples
) -> pd.DataFrame:
    """Accuracy and loss of each class by epoch, on the class-balanced watched samples.

    Bellam & Kim (§4.6) call the difference between classes, once their numbers are equal, example
    difficulty.

    Parameters
    ----------
    correct, loss
        (epochs, watched).
    sample
        (watched,) rows of ``data``.
    """
    epochs = len(correct)
    frame = pd.DataFrame(
        {
            "epoch": np.repeat(np.arange(1, epochs + 1), len(sample)),
            "split": np.tile(data.split[sample], epochs),
            "group": np.tile(np.array(data.classes, object)[data.labels.numpy()[sample]], epochs),
            "accuracy": correct.reshape(-1).astype(float),
            "loss": loss.reshape(-1).astype(float),
        }
    )
    return (
        frame.groupby(["epoch", "split", "group"], as_index=False)
        .agg(n=("loss", "size"), accuracy=("accuracy", "mean"), loss=("loss", "mean"))
        .assign(attribute="label")
    )


def bounded(surface: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Complete the bound of Tran et al. by the largest eigenvalue at the fp32 network.

    Both are what the survey of the loss wrote, of a variant and of ``base``.
    """
    curved = base["largest_eigenvalue"] * surface["weight_distance"] ** 2 / 2
    return surface.assign(bound=surface["bound"] + curved)
