"""What the logits of a variant mean for each group."""

import numpy as np
import pandas as pd
from scipy.special import softmax

from quantskew.data.groups import Grouping
from quantskew.data.people import People
from quantskew.fairness.metrics import calibration_error
from quantskew.impact.logits import boundary_histograms, by_group, per_sample


def describe(
    outputs: np.ndarray, reference: np.ndarray, labels: np.ndarray, divisions: list[Grouping]
) -> dict[str, pd.DataFrame]:
    """Describe what a network does to each group, against its fp32 network.

    ``outputs`` and ``reference`` are the logits of the network and of the fp32 network of its seed,
    (n, K), ``labels`` the classes of the same samples, (n,), and ``divisions`` the ways of dividing
    them into groups. Returns the tables ``groups`` and, for the first grouping, ``boundaries``,
    without the columns that name the network.
    """
    measured = per_sample(outputs, reference, labels)
    probabilities = softmax(outputs.astype(np.float64), axis=1)
    groups = []
    for attribute, codes, names, counted in divisions:
        rows = by_group(measured, codes, len(names))
        rows.insert(0, "attribute", attribute)
        rows.insert(1, "group", names)
        rows["counted"] = counted
        rows["calibration_error"] = calibration_error(probabilities, labels, codes, len(names))
        groups.append(rows)
    return {
        "groups": pd.concat(groups),
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


def predictions(outputs: np.ndarray, ids: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Lay out logits (n, K) as the table ``predictions``, without the columns of the network."""
    return pd.DataFrame(
        {"id": ids, "label": labels, "prediction": outputs.argmax(1), "logits": list(outputs)}
    )


def history_by_group(
    correct: np.ndarray, loss: np.ndarray, sample: np.ndarray, data: People[np.ndarray]
) -> pd.DataFrame:
    """Accuracy and loss of each class by epoch, on the class-balanced watched samples.

    Bellam & Kim (§4.6) call the difference between classes, once their numbers are equal, example
    difficulty. ``correct`` and ``loss`` are (epochs, watched), and ``sample``, (watched,), are rows
    of ``data``.
    """
    epochs = len(correct)
    frame = pd.DataFrame(
        {
            "epoch": np.repeat(np.arange(1, epochs + 1), len(sample)),
            "split": np.tile(data.split[sample], epochs),
            "group": np.tile(np.array(data.classes, object)[data.labels[sample]], epochs),
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

    Both tables are what the survey of the loss wrote: of a variant, and of its fp32 network.
    """
    curved = base["largest_eigenvalue"] * surface["weight_distance"] ** 2 / 2
    return surface.assign(bound=surface["bound"] + curved)
