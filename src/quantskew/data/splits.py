"""Which samples train and which test, and how the training part is made imbalanced."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

PAPER_FRACTIONS = (1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 16, 1 / 16)
"""Share of the training samples kept of each class in the imbalanced sets of Bellam & Kim."""


def units(*keys: np.ndarray) -> np.ndarray:
    """Number the smallest sets of samples that no key tears apart, from 0, (N,).

    A key has N integers. Samples with the same value of any key belong together, and so do samples
    that are linked through others.
    """
    samples = np.arange(len(keys[0]))
    ends, offset = [], len(samples)
    for key in keys:
        values, codes = np.unique(key, return_inverse=True)
        ends.append(codes + offset)
        offset += len(values)
    rows, columns = np.tile(samples, len(keys)), np.concatenate(ends)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(offset, offset))
    return np.asarray(connected_components(graph, directed=False)[1][: len(samples)])


def stratified(labels: np.ndarray, units: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draw the test part, (N,) booleans: the same share of every class, no unit on both sides.

    ``labels`` are class indices and ``units`` numbers of units, (N,). A unit counts for the class
    of its first sample; where that leaves a class with fewer than two units, for the rarest class
    of its samples. The ``fraction`` of each class tests: as near below it, rounded, as whole units
    allow, but at least one unit and never all; a class of one unit has none. The ``seed`` sets the
    order in which the units of a class are drawn.
    """
    chosen, first, sizes = np.unique(units, return_index=True, return_counts=True)
    strata = labels[first]
    if np.bincount(strata, minlength=labels.max() + 1)[labels].min() < 2:
        rarest = np.lexsort((labels, np.bincount(labels)[labels], units))
        strata = labels[rarest[np.unique(units[rarest], return_index=True)[1]]]
    generator = np.random.default_rng(seed)
    test = []
    for label in np.unique(strata):
        members = np.flatnonzero(strata == label)
        if len(members) < 2:
            continue
        members = generator.permutation(members)
        filled = np.cumsum(sizes[members])
        count = np.searchsorted(filled, round(fraction * filled[-1]), side="right")
        test.append(chosen[members[: np.clip(count, 1, len(members) - 1)]])
    return np.isin(units, np.concatenate([*test, []]))


def thin(labels: np.ndarray, fractions: tuple[float, ...], seed: int) -> np.ndarray:
    """Keep a share of each class, drawn by seed and rounded down: (N,) booleans.

    ``labels`` are class indices, and ``fractions`` one share a class, above 0 and at most 1.
    """
    generator = np.random.default_rng(seed)
    keep = np.zeros(len(labels), bool)
    for label, fraction in enumerate(fractions):
        members = generator.permutation(np.flatnonzero(labels == label))
        # 1e-9 so that a third of 300 is 100 whatever a third is in binary
        keep[members[: int(fraction * len(members) + 1e-9)]] = True
    return keep
