"""How quantization changes the logits of a network, for each sample and each group.

The second step of the impact flow of Bellam & Kim (§4.2, §4.3, equations 7–9 and 11, Figures 5–7).
All of it is computed from stored logits, without the network: :func:`per_sample` once per variant,
:func:`by_group` once per grouping of the samples.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from quantskew.errors import UserError
from quantskew.fairness.metrics import one_hot, ratio


class LogitsError(UserError, ValueError):
    """Logits that are no numbers."""


def per_sample(logits: ArrayLike, reference: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """Measure each sample's logits and their distance from those of the reference network.

    Both are of shape (n, K), of the same samples; ``labels`` are integers in 0 … K−1, (n,). One row
    a sample:

    ===================== ===================================================================
    ``null_logits``       whether either vector is zero, so that the angle is undefined
    ``cosine_distance``   1 − cos of the angle, 0 … 2 (equation 7); NaN for null logits
    ``l1_distance``       Σ|z̃ − z|
    ``l2_distance``       ‖z̃ − z‖₂
    ``logit_variance``    variance over the K logits of the variant, divisor K (equation 9)
    ``softmax_variance``  variance over the K softmax probabilities of the variant, divisor K
    ``top_probability``   largest softmax probability (equation 11)
    ``true_probability``  that of the true class: the distance to the decision boundary (DTDB)
    ``loss``              cross-entropy in nats, −log ``true_probability``
    ``correct``           whether the largest logit is that of the true class
    ===================== ===================================================================

    Raises
    ------
    ValueError
        When shapes do not match, a label is out of range, or a logit is NaN or infinite.

    Examples
    --------
    >>> rows = per_sample([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]], labels=[0, 0])
    >>> rows[["cosine_distance", "l1_distance", "correct"]].values.tolist()
    [[0.0, 1.0, True], [1.0, 2.0, False]]
    """
    after, before = _logits(logits, "logits"), _logits(reference, "reference")
    truth = np.asarray(labels)
    if after.shape != before.shape or truth.shape != after.shape[:1]:
        raise ValueError(
            "logits and reference must be (n, K) and labels (n,); "
            f"got {after.shape}, {before.shape} and {truth.shape}"
        )
    samples, classes = after.shape
    wrong = np.flatnonzero((truth < 0) | (truth >= classes))
    if wrong.size:
        raise ValueError(f"row {wrong[0]}: label {truth[wrong[0]]} is not in 0 … {classes - 1}")

    norms = [np.linalg.norm(z, axis=1, keepdims=True) for z in (after, before)]
    null = (norms[0] == 0) | (norms[1] == 0)
    units = [
        z / np.where(null, np.nan, norm) for z, norm in zip((after, before), norms, strict=True)
    ]
    log_probability = log_softmax(after, axis=1)
    probability = np.exp(log_probability)
    rows = np.arange(samples)
    return pd.DataFrame(
        {
            "null_logits": null[:, 0],
            # ½‖a − b‖² of unit vectors is 1 − cos without its cancellation at small angles
            "cosine_distance": ((units[0] - units[1]) ** 2).sum(axis=1) / 2,
            "l1_distance": np.abs(after - before).sum(axis=1),
            "l2_distance": np.linalg.norm(after - before, axis=1),
            "logit_variance": after.var(axis=1),
            "softmax_variance": probability.var(axis=1),
            "top_probability": probability.max(axis=1),
            "true_probability": probability[rows, truth],
            "loss": -log_probability[rows, truth],
            "correct": after.argmax(axis=1) == truth,
        }
    )


def by_group(samples: pd.DataFrame, groups: ArrayLike, n_groups: int) -> pd.DataFrame:
    """Average the columns of :func:`per_sample` over each group.

    ``groups`` holds the index of each sample's group in 0 … n_groups−1, or −1 for none, (n,). Row g
    is group g: its size ``n``, the count ``null_logits``, ``accuracy``, and the mean of every other
    column. The mean cosine distance (equation 8) leaves null logits out and is NaN if a group has
    no others; all means of an empty group are NaN.
    """
    codes = _codes(groups, len(samples), n_groups)
    member = one_hot(codes, n_groups).T
    values = samples.rename(columns={"correct": "accuracy"}).astype(float)
    null = values.pop("null_logits").to_numpy()
    known = values.notna().to_numpy().astype(float)
    means = ratio(member @ values.fillna(0).to_numpy(), member @ known)
    rows = pd.DataFrame(means, pd.RangeIndex(n_groups, name="group"), values.columns)
    rows.insert(0, "n", member.sum(1).astype(int))
    rows.insert(1, "null_logits", (member @ null).astype(int))
    return rows


def boundary_histograms(
    true_probability: ArrayLike, groups: ArrayLike, n_groups: int, *, bins: int = 20
) -> NDArray[np.int64]:
    """Histogram of each group's distances to the decision boundary, ``bins`` equal bins of 0 … 1.

    The distance is the softmax probability of the true class, (n,), as in :func:`per_sample`
    (Figure 6b); for the groups see :func:`by_group`. Each row sums to the size of its group.

    Examples
    --------
    >>> boundary_histograms([0.1, 0.9, 1.0], [0, 0, 1], 2, bins=2)
    array([[1, 1],
           [0, 1]])
    """
    distance = np.asarray(true_probability, dtype=np.float64)
    codes = _codes(groups, len(distance), n_groups)
    bin_ = np.minimum((distance * bins).astype(np.int64), bins - 1)
    cell = (codes * bins + bin_)[codes >= 0]
    return np.bincount(cell, minlength=n_groups * bins).reshape(n_groups, bins)


def _logits(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name} must be (n, K); got shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise LogitsError(
            f"{name} are NaN or infinite in {bad.size} of {len(array)} rows, first in row {bad[0]}"
        )
    return array


def _codes(groups: ArrayLike, samples: int, n_groups: int) -> NDArray[np.int64]:
    codes = np.asarray(groups)
    if codes.shape != (samples,):
        raise ValueError(f"groups must be ({samples},), one code per sample; got {codes.shape}")
    wrong = np.flatnonzero((codes < -1) | (codes >= n_groups))
    if wrong.size:
        raise ValueError(
            f"row {wrong[0]}: group {codes[wrong[0]]} is not in 0 … {n_groups - 1}, nor −1 (none)"
        )
    return codes.astype(np.int64)
