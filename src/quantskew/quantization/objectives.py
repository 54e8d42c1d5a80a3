"""What is minimised where groups differ: the mean over all images, or the worst-off group."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from typing_extensions import override

from quantskew.sections import Choice

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint
    from torch import Tensor


class Objective(Choice):
    """How the errors of groups become the one number that is minimised (``objective``)."""

    by_group: ClassVar[bool] = True  # whether the group of each image must be known

    @abstractmethod
    def error(self, errors: Tensor, counts: Tensor) -> Tensor:
        """Return one error, a scalar, from the summed errors and the counts of groups, (G,)."""

    @abstractmethod
    def program(self, costs: np.ndarray) -> tuple[np.ndarray, list[LinearConstraint]]:
        """Return what an integer program minimises, and the constraints that this takes.

        ``costs`` are those of each 0/1 variable for each group, (variables, groups). The
        coefficients and constraints are on the variables and one more that is free.
        """


class Mean(Objective, kind="mean"):
    """The sum over all groups."""

    by_group: ClassVar[bool] = False

    @override
    def error(self, errors: Tensor, counts: Tensor) -> Tensor:
        return errors.sum()

    @override
    def program(self, costs: np.ndarray) -> tuple[np.ndarray, list[LinearConstraint]]:
        return np.append(costs.sum(1), 0), []


class WorstGroup(Objective, kind="worst_group"):
    """The group that is worst off: it loses as little as possible.

    The program minimises t, its free variable, subject to ``Σ cost ≤ t`` for every group.
    """

    @override
    def error(self, errors: Tensor, counts: Tensor) -> Tensor:
        return (errors / counts.clamp_min(1)).max()

    @override
    def program(self, costs: np.ndarray) -> tuple[np.ndarray, list[LinearConstraint]]:
        from scipy.optimize import LinearConstraint  # 20 MB, which few need

        variables, groups = costs.shape
        bound = LinearConstraint(np.hstack([costs.T, -np.ones((groups, 1))]), ub=0)
        return np.append(np.zeros(variables), 1), [bound]
