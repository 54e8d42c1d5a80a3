"""All networks of a data set on test sets drawn again: what comparisons between them build on.

The effects of :mod:`quantskew.analysis.effects` compare two variants at a time. A trend over
widths, a difference between two models or a place on a frontier involve many, and their errors go
together, as all networks answer the same test samples. So here one draw serves all of them.
"""

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from quantskew.analysis.study import Statistics
from quantskew.data.groups import Grouping
from quantskew.fairness import catalogue
from quantskew.fairness.metrics import Floats, Ints
from quantskew.fairness.null import debiased_fvo
from quantskew.fairness.resampling import observe, resampled, tabulate
from quantskew.names import Point


class Sampled(NamedTuple):
    """Accuracies of P points, S seeds and G groups: as observed, then in each of B draws."""

    points: list[Point]  # P
    accuracy: Floats  # (1 + B, P, S, G); the first row is the test set itself
    overall: Floats  # (1 + B, P, S) over all samples, those of no group included
    division: Grouping
    train_sizes: Ints  # (G,) training samples of each group
    units: Ints | None = None  # (n,) who each sample comes from; None where each is its own

    @property
    def sizes(self) -> Ints:
        """Test samples of each group, (G,)."""
        return self.division.sizes

    @property
    def debiased(self) -> Floats:
        """FVO less the share of chance, (1 + B, P, S).

        Networks that are less accurate for everyone have noisier groups and so a larger FVO;
        without its share of chance, FVO compares widths and methods on equal terms.
        """
        return debiased_fvo(self.accuracy, self.sizes, self.division.counted)


def sample(
    correct: Mapping[Point, np.ndarray],
    division: Grouping,
    train_sizes: Ints,
    settings: Statistics,
    units: Ints | None = None,
) -> Sampled:
    """Draw the test set again for all networks of a data set at once, group by group.

    ``correct`` says whether each prediction is right, (S, n); the other parameters are those of
    :class:`Sampled`. Units are drawn where there are any.
    """
    points = list(correct)
    # right or wrong is all that is asked: a problem of two classes, of which 1 is always true
    answers = np.stack([correct[point] for point in points]).astype(np.int64)
    n_groups = len(division.names)
    places = np.where(division.codes < 0, n_groups, division.codes)
    cells = tabulate(np.ones_like(places), answers, places, n_groups + 1, 2, units=units)
    rng = np.random.default_rng([settings.seed, zlib.crc32(points[0].dataset.encode())])
    counted = division.counted
    drawn = [observe(cells, counted), *resampled(cells, counted, settings.draws, rng)]
    accuracy, whole = (
        np.concatenate([value(counts) for counts in drawn])
        for value in (catalogue.accuracy, catalogue.overall)
    )
    return Sampled(points, accuracy, whole, division, train_sizes, units)
