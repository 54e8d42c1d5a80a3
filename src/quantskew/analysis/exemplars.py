"""The samples that quantization costs: compression-identified exemplars.

Hooker et al. 2020, "Characterising Bias in Compressed Models". One network's flip may be luck; a
sample on which several networks agree before and agree otherwise after is where compression acts.
"""

import numpy as np
import pandas as pd

from quantskew.analysis.effects import Predictions
from quantskew.fairness.metrics import Ints, one_hot
from quantskew.names import BASELINE, FULL_PRECISION, Point


def exemplar_rows(predictions: Predictions, ids: np.ndarray) -> pd.DataFrame:
    """Compute the table ``exemplars`` of a data set and a model; ``ids`` (n,) name the samples."""
    columns = ["id", "label", "before", "after", "flips", "taxicab"]
    parts = [pd.DataFrame(columns=[*Point._fields, *columns])]
    for point, after in predictions.predicted.items():
        if point.method != BASELINE:
            before = predictions.predicted[point._replace(method=BASELINE, bits=FULL_PRECISION)]
            rows = exemplars(before, after, predictions.n_classes)
            rows = rows.assign(id=ids, label=predictions.labels, flips=(before != after).sum(0))
            parts.append(rows.loc[rows.pop("modal"), columns].assign(**point._asdict()))
    return pd.concat(parts[1:] or parts)


def exemplars(reference: Ints, variant: Ints, n_classes: int) -> pd.DataFrame:
    """Find the samples whose answer, over training seeds, is another after quantization.

    Parameters
    ----------
    reference, variant
        (S, n) and (S', n) classes predicted by the networks of each seed.

    Returns
    -------
    pandas.DataFrame
        Row i is sample i. ``before`` and ``after``: its most frequent answers; ``modal``: whether
        they differ. Where the answer before ties with others and one of them is also most frequent
        after, nothing is said to have changed. ``taxicab``: the L1 distance of the two
        distributions of answers over seeds, Σ_k |share before − share after|, from 0 (same
        answers) to 2 (no answer in common).
    """
    before, after = (one_hot(p, n_classes).mean(0) for p in (reference, variant))
    top_before, top_after = (p == p.max(-1, keepdims=True) for p in (before, after))
    both = top_before & top_after
    shared = both.any(-1)
    return pd.DataFrame(
        {
            "before": np.where(shared, both.argmax(-1), before.argmax(-1)),
            "after": np.where(shared, both.argmax(-1), after.argmax(-1)),
            "modal": ~shared,
            "taxicab": np.abs(before - after).sum(-1),
        }
    )
