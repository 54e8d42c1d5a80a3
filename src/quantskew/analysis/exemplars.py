"""The samples whose usual answer over seeds is another after quantization, by name."""

import numpy as np
import pandas as pd

from quantskew.analysis.effects import Point, Predictions
from quantskew.fairness.exemplars import exemplars
from quantskew.variants import BASELINE, FULL_PRECISION


def exemplar_rows(predictions: Predictions, ids: np.ndarray) -> pd.DataFrame:
    """Compute the table ``exemplars`` of a data set and a model.

    Parameters
    ----------
    predictions
        Of all points.
    ids
        (n,) names of the samples.
    """
    parts = []
    for point, after in predictions.predicted.items():
        if point.method == BASELINE:
            continue
        before = predictions.predicted[point._replace(method=BASELINE, bits=FULL_PRECISION)]
        found = exemplars(before, after, predictions.n_classes)
        parts.append(
            pd.DataFrame(
                {
                    "id": ids,
                    "label": predictions.labels,
                    "before": found.before,
                    "after": found.after,
                    "flips": (before != after).sum(0),
                    "taxicab": found.taxicab,
                }
            )[found.modal].assign(**point._asdict())
        )
    empty = pd.DataFrame(columns=[*Point._fields, "id", "label", "before", "after", "flips"])
    return pd.concat(parts) if parts else empty.assign(taxicab=[])
