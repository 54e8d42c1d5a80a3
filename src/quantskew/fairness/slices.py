"""Which part of the data loses most, when nobody listed the group.

A slice is described by columns: a value of one that has few, a quarter of the values of a number,
the label, or two of these together. It is *found* on one half of the samples and *tested* on the
other, so that the search does not make its p-value small. Units are kept together: no person is in
both halves.

A tested slice has to show two things, each at the level of its p-value, which is the larger one:
that it loses (the exact exchange test of :func:`quantskew.fairness.paired.exchange_p_value`), and
that it loses more than all other samples (the limits of :func:`.gaps.against_rest_limits`). So a
loss that all share is no slice.

Of the slices tested at most a share α is false, on average, by Benjamini & Hochberg (1995). Their
procedure wants tests that are independent or rise together. Slices share samples, which makes
their tests rise together, and each is compared with its rest, which makes those of slices that
share none fall a little; ``benchmarks/coverage.py`` shows that the rate holds with both.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from scipy.special import log_softmax

from quantskew.errors import UserError
from quantskew.fairness.gaps import against_rest_limits, rest_rates
from quantskew.fairness.limits import Changes, change_limits, unit_totals
from quantskew.fairness.metrics import Bools, Floats, Ints
from quantskew.fairness.paired import exchange_p_value
from quantskew.fairness.verdicts import false_discovery_rate, p_value_of_limits, verdicts
from quantskew.units import numbered

COLUMNS = (
    "slice", "n", "before", "after", "change", "low", "high", "rest", "p_value", "fdr", "verdict",
)  # fmt: skip
_ALIKE = 0.5  # of two slices with more than this share of the smaller one in common, one is tested
_MANY = 50  # different values beyond which texts name samples instead of describing them


class SliceError(UserError, ValueError):
    """Samples that no slice can be found of."""


def find_slices(
    features: pd.DataFrame,
    before: ArrayLike,
    after: ArrayLike,
    labels: ArrayLike,
    units: ArrayLike | None = None,
    *,
    bins: int = 4,
    minimum: int = 30,
    most: int = 5,
    margin: float = 0.02,
    alpha: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """Find the slices of the data that lose most accuracy.

    Parameters
    ----------
    features
        One row a sample, one column what may describe it, such as :func:`image_properties`,
        metadata and :func:`clusters`. They must treat both networks alike: not what one of them
        answers, which would make it look better on its own slices.
    before, after
        (n,) or (S, n) classes that the networks answer.
    labels
        (n,) true classes, which describe samples too (as ``label``, unless ``features`` has it).
    units
        (n,) who each sample comes from; None where each is its own.
    bins
        Parts of equal size that a number is divided into.
    minimum
        Units of a slice in each half, at least.
    most
        Slices that are tested. More of them find more, and make each harder to show.
    margin, alpha
        As in :func:`quantskew.fairness.verdicts.verdicts`; ``alpha`` bounds the false discoveries.
    seed
        Of the halves.

    Returns
    -------
    One row a tested slice, the surest first: ``slice`` in words, ``n`` tested samples, ``before``
    and ``after`` their accuracy, ``change`` with its limits ``low`` and ``high`` (of the tested
    half alone, so the search does not bias them), ``rest`` the change of all other samples,
    ``p_value`` of the slice not losing more than these, or not losing at all; ``fdr`` adjusted for
    all tested, ``verdict``. A slice was found where ``fdr`` ≤ ``alpha``.

    Raises
    ------
    SliceError
        When shapes do not match, or no column describes a part of the samples.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels, light = rng.integers(2, size=2000), rng.random(2000)
    >>> lost = (light < 0.25) & (rng.random(2000) < 0.3)
    >>> found = find_slices(pd.DataFrame({"light": light}), labels, labels ^ lost, labels)
    >>> found.loc[0, ["slice", "verdict"]].tolist()
    ['light 0.00033 to 0.24', 'worse']
    """
    labels = np.asarray(labels)
    networks = [np.atleast_2d(answers) == labels for answers in (before, after)]
    of_unit = np.arange(len(labels)) if units is None else numbered(units)
    shapes = {one.shape for one in networks}
    if len(shapes) > 1 or not len(features) == len(labels) == len(of_unit):
        raise SliceError(
            f"{len(features)} rows of features, {len(labels)} labels, {len(of_unit)} units, and "
            f"answers {' and '.join(map(str, shapes))}: give as many of each"
        )
    if "label" not in features:
        features = features.assign(label=labels)
    items = describe(features, bins)
    searched = _half(of_unit, seed)
    candidates = _candidates(items, searched, of_unit, minimum)
    right, still = (one.astype(np.int64) for one in networks)
    chosen = _search(candidates, (still - right)[:, searched].mean(0), searched, most)
    tested = right[:, ~searched], still[:, ~searched], of_unit[~searched]
    rows = pd.DataFrame(
        [{"slice": one.text, **_test(one.mask[~searched], *tested, alpha)} for one in chosen],
        columns=[name for name in COLUMNS if name not in ("fdr", "verdict")],
    )
    fdr = _adjusted(rows["p_value"].to_numpy(float))
    word = verdicts(rows["low"], rows["high"], margin, p_value=fdr, alpha=alpha)
    rows = rows.assign(fdr=fdr, verdict=word)
    return rows.sort_values("p_value", kind="stable", ignore_index=True)


class Slice(NamedTuple):
    """Samples with a description."""

    text: str
    columns: tuple[str, ...]
    mask: Bools


def describe(features: pd.DataFrame, bins: int = 4) -> list[Slice]:
    """List the parts that single columns divide the samples into.

    Parameters
    ----------
    features
        One row a sample. A number of more values than ``bins`` is divided at its quantiles; any
        other column, by its values; one of more than fifty texts describes nobody.

    Raises
    ------
    SliceError
        When no column divides the samples.
    """
    items = []
    for name, values in features.items():
        numeric = is_numeric_dtype(values) and not is_bool_dtype(values)
        if numeric and values.nunique() > bins and name != "label":
            codes, edges = pd.qcut(values, bins, labels=False, retbins=True, duplicates="drop")
            shown = _told_apart(edges)
            words = {code: f"{name} {a} to {b}" for code, (a, b) in enumerate(pairwise(shown))}
        else:
            codes, names = pd.factorize(values)
            words = {code: f"{name} {value}" for code, value in enumerate(names)}
            if len(words) > _MANY and name != "label":
                continue
        masks = [(text, np.asarray(codes == code)) for code, text in words.items()]
        masks.append((f"{name} unknown", np.asarray(values.isna())))
        items += [
            Slice(text, (str(name),), mask) for text, mask in masks if mask.any() and not mask.all()
        ]
    if not items:
        raise SliceError(
            f"no column divides the samples: {', '.join(map(str, features))} have one value, or "
            f"more than {_MANY} texts"
        )
    return items


def _told_apart(edges: Floats) -> list[str]:
    """Write rising numbers with two digits, or as many more as tell them apart."""
    texts = ([f"{edge:.{digits}g}" for edge in edges] for digits in range(2, 18))
    return next(written for written in texts if len({*written}) == len(edges))


def _half(units: Ints, seed: int) -> Bools:
    """Draw half of the units; mark their samples."""
    count = int(units.max()) + 1
    drawn = np.random.default_rng(seed).permutation(count) < count // 2
    return np.asarray(drawn[units])


def _candidates(items: list[Slice], searched: Bools, units: Ints, minimum: int) -> list[Slice]:
    """Single parts and pairs of two columns with enough units in both halves."""
    first = np.zeros(len(units), bool)  # one sample of each unit, so that units are counted
    first[np.unique(units, return_index=True)[1]] = True
    alone = bool(first.all())

    def large(mask: Bools) -> bool:
        for half in (searched, ~searched):
            own = mask & half
            if own.sum() < minimum or not (alone or np.unique(units[own]).size >= minimum):
                return False
        return True

    singles = [one for one in items if large(one.mask)]
    pairs = [
        Slice(f"{one.text}, {other.text}", one.columns + other.columns, one.mask & other.mask)
        for at, one in enumerate(singles)
        for other in singles[at + 1 :]
        if one.columns != other.columns
    ]
    return singles + [pair for pair in pairs if large(pair.mask)]


def _search(candidates: list[Slice], change: Floats, searched: Bools, most: int) -> list[Slice]:
    """Choose the slices that most surely lose more than the rest, of the searched half.

    ``change`` (n searched,) is that of each sample, mean over seeds.
    """
    from scipy.stats import norm  # 30 MB, not in every stage

    if not candidates:
        return []
    masks = np.array([one.mask[searched] for one in candidates])
    # one slice after the other: as a product of matrices, it would be as many bytes for a bit
    inside = np.array([(len(own), own.sum(), (own**2).sum()) for own in (change[m] for m in masks)])
    n, parts = inside[:, 0], []
    for count, total, squares in (
        inside.T,
        (np.array([len(change), change.sum(), (change**2).sum()]) - inside).T,
    ):
        mean = total / np.maximum(count, 1)
        # one lost and one gained more, so that few changes are not taken for no variance
        parts.append((mean, ((squares + 2) / (count + 2) - mean**2) / np.maximum(count, 1)))
    (own, v), (rest, w) = parts
    z = (own - rest) / np.sqrt(np.maximum(v, 0) + np.maximum(w, 0))
    # among many pairs the best one by chance is better than among few single parts
    single = np.array([len(one.columns) == 1 for one in candidates])
    kinds = np.where(single, single.sum(), (~single).sum())
    chosen: list[int] = []
    for at in np.argsort(norm.logcdf(z) + np.log(kinds), kind="stable"):
        if len(chosen) == most:
            break
        if z[at] >= 0 or own[at] >= 0:
            continue
        common = (masks[chosen] & masks[at]).sum(1)
        if (common <= _ALIKE * np.minimum(n[chosen], n[at])).all():
            chosen.append(int(at))
    return [candidates[at] for at in chosen]


def _adjusted(p_values: Floats) -> Floats:
    """Adjust p-values of slices in the order in which they were found, the surest first.

    Those found first count more: weights 1, 1/2, 1/3, … with a mean of 1 divide the p-values before
    they are adjusted. As the weights come from other samples, the rate of false discoveries holds
    (Genovese, Roeder & Wasserman 2006).
    """
    weights = 1 / np.arange(1, len(p_values) + 1)
    weighted = p_values / (weights / weights.mean()) if len(p_values) else p_values
    return false_discovery_rate(np.minimum(weighted, 1))


def _test(inside: Bools, before: Ints, after: Ints, units: Ints, alpha: float) -> dict[str, float]:
    """Test that a slice loses, and that it loses more than the rest.

    ``before`` and ``after`` (S, n) say whether the networks are right.
    """
    alone = len(np.unique(units)) == inside.size
    codes = np.where(inside, 0, 1)
    rates = rest_rates(before, after, codes, 1, units=None if alone else units).changes
    own = Changes(*(field[:, 0] for field in rates))
    change, rest = rates.value[0]
    total, _ = unit_totals((after - before)[:, inside].sum(0), units[inside])
    loses = exchange_p_value(np.rint(total).astype(np.int64)) / 2 if total.sum() < 0 else 1.0
    more = 1.0
    if change < rest:
        more = float(p_value_of_limits(lambda tail: against_rest_limits(rates, tail))[0]) / 2
    low, high = change_limits(own, alpha / 2)
    return {
        "n": int(inside.sum()),
        "before": float(before[:, inside].mean()),
        "after": float(after[:, inside].mean()),
        "change": float(change),
        "low": float(low[0]),
        "high": float(high[0]),
        "rest": float(rest),
        "p_value": max(loses, more),
    }


def clusters(before: ArrayLike, after: ArrayLike, count: int = 8, seed: int = 0) -> Ints:
    """Divide samples into clusters of alike logits, by k-means.

    The logits of both networks are averaged. Clusters of the reference alone hold the samples that
    it, by chance, answers well, on which any other network looks worse; clusters of the mean treat
    both alike.

    Parameters
    ----------
    before, after
        (n, K) or (S, n, K) logits.

    Returns
    -------
    (n,) codes 0..count−1.
    """
    from scipy.cluster.vq import kmeans2  # 30 MB, not in every stage

    both = np.stack([np.asarray(before, float), np.asarray(after, float)])
    if not np.isfinite(both).all():
        raise SliceError("logits must be finite to be clustered")
    points = log_softmax(both, axis=-1).reshape(-1, *both.shape[-2:]).mean(0)
    rng = np.random.default_rng(seed)
    return np.asarray(kmeans2(points, count, minit="++", rng=rng)[1], np.int64)


def image_properties(images: Sequence[np.ndarray] | np.ndarray) -> pd.DataFrame:
    """Measure what describes an image, whatever it shows.

    Parameters
    ----------
    images
        n images, uint8 (C, H, W) or (H, W), of one size or of several.

    Returns
    -------
    One row an image: ``brightness`` (mean of the luma, 0..1), ``contrast`` (its standard
    deviation), ``sharpness`` (variance of its Laplacian, low for a blurred image; Pech-Pacheco et
    al. 2000) and ``pixels`` (height × width).

    Raises
    ------
    SliceError
        For images that are not uint8, or have another shape.

    Examples
    --------
    >>> image_properties(np.full((1, 3, 8, 8), 51, np.uint8)).round(3).iloc[0].tolist()
    [0.2, 0.0, 0.0, 64.0]
    """
    from scipy.ndimage import laplace  # 30 MB, not in every stage

    rows = []
    for at, image in enumerate(images):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
            raise SliceError(
                f"image {at} is {image.dtype} {image.shape}; it must be uint8 (C, H, W) or (H, W)"
            )
        weights = _LUMA if image.ndim == 3 and len(image) == 3 else np.ones(1)
        planes = image if image.ndim == 3 else image[None]
        luma = np.tensordot(np.resize(weights, len(planes)), planes / 255, 1)
        luma /= np.resize(weights, len(planes)).sum()
        rows.append((luma.mean(), luma.std(), laplace(luma, mode="nearest").var(), luma.size))
    return pd.DataFrame(rows, columns=["brightness", "contrast", "sharpness", "pixels"])


_LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601
