"""Schedules of the learning rate (``training.schedule``)."""

import math
from abc import abstractmethod

from quantskew.sections import Choice


class Schedule(Choice):
    """How the learning rate changes over a training."""

    def factor(self, share: float, warmup: float) -> float:
        """Return the learning rate relative to its peak.

        Parameters
        ----------
        share
            Share of the training that is done, in [0, 1).
        warmup
            Share of the training over which the rate first rises linearly, in [0, 1].

        Examples
        --------
        >>> [round(Step().factor(share, warmup=0.1), 2) for share in (0.05, 0.3, 0.6, 0.8)]
        [0.5, 1.0, 0.1, 0.01]
        """
        if share < warmup:
            return (share + 1e-3) / (warmup + 1e-3)
        return self.decay(share, warmup)

    @abstractmethod
    def decay(self, share: float, warmup: float) -> float:
        """Return the learning rate after the warm-up, relative to its peak."""


class Cosine(Schedule, kind="cosine"):
    """Fall to zero along half a cosine (Loshchilov & Hutter 2017)."""

    def decay(self, share: float, warmup: float) -> float:
        """Fall from 1 at the end of the warm-up to 0 at the end of the training."""
        return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


class Step(Schedule, kind="step"):
    """Fall to a tenth after half of the training, and to a hundredth after three quarters."""

    def decay(self, share: float, warmup: float) -> float:
        """Return 1, 0.1 or 0.01."""
        return 0.1 ** ((share >= 0.5) + (share >= 0.75))


class Constant(Schedule, kind="constant"):
    """Stay at the peak."""

    def decay(self, share: float, warmup: float) -> float:
        """Return 1."""
        return 1.0
