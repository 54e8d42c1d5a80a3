"""Gradient norms and curvature of every group's loss at the weights of one network.

The back half of the impact flow (Bellam & Kim, §4.4 and §4.5, Figures 8–10), and the two factors
of Liu et al.: a group's gradient norm and its Hessian trace.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from quantskew.impact import gradients, spectrum
from quantskew.impact.hessian import GroupLoss


def subsample(members: ArrayLike, size: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Draw ``size`` of a group's samples without replacement, sorted, or all if there are no more.

    Examples
    --------
    >>> subsample([7, 2, 5], size=4)
    array([2, 5, 7])
    """
    rows = np.asarray(members, dtype=np.int64)
    if len(rows) <= size:
        return np.sort(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size, replace=False))


def measure(
    network: nn.Module,
    images: Tensor | Callable[[Tensor], Tensor],
    labels: Tensor,
    groups: Mapping[str, ArrayLike],
    *,
    size: int = 25,
    probes: int = 0,
    errors: bool = True,
) -> pd.DataFrame:
    """Measure the gradient and the curvature of each group's mean cross-entropy: one row a group.

    ================================== ======================================================
    ``group``, ``n``, ``sampled``      name, number of samples, number of samples drawn
    ``gradient_plain``                 norm of the mean gradient over all samples
    ``gradient_equal_n``               expected norm at the size of the smallest group
    ``gradient_unbiased_square``       squared norm without the bias that depends on n, and its
    and ``…_error``                    standard error; :func:`quantskew.impact.gradients.norms`
    ``largest_eigenvalue``             λmax of the Hessian, and its standard error over the
    and ``…_error``                    draw of samples (NaN without ``errors``)
    ``residual``, ``products``         relative residual of the solver, and products it took
    ``trace`` and ``…_error``          estimated trace of the Hessian; NaN without ``probes``
    ================================== ======================================================

    The network is in evaluation mode, with the (dequantized) weights at which to measure, and all
    samples, (n, …) and (n,), are on its device; instead of all images at once there may be a
    function that makes those at some indices. ``groups`` are indices of samples by the name of
    the group; they may overlap. Of each group ``size`` samples are drawn for per-sample gradients
    and Hessians; the mean gradient is taken over all of them. ``probes`` counts the random vectors
    behind a trace, 0 for no trace, and ``errors`` costs two or three products a group.

    Raises
    ------
    ValueError
        When a group has no sample.
    quantskew.impact.gradients.NotFiniteError
        When a loss, a gradient or a curvature is NaN or infinite.
    quantskew.impact.gradients.NoDerivativeError
        When torch lacks a derivative of an operator of the network; names the operator.
    """
    members = {group: np.asarray(rows, dtype=np.int64) for group, rows in groups.items()}
    empty = [group for group, rows in members.items() if not len(rows)]
    if empty:
        raise ValueError(f"group {empty[0]!r} has no sample; leave it out")
    equal_n = min(map(len, members.values()))
    at = images.__getitem__ if isinstance(images, Tensor) else images

    def row(group: str, indices: NDArray[np.int64]) -> dict[str, Any]:
        # a call of its own, so that all graphs and bases are freed when it returns
        every = torch.as_tensor(indices, device=labels.device)
        some = torch.as_tensor(subsample(indices, size), device=labels.device)
        drawn = at(some), labels[some]
        # what does not need the graph of the Hessian comes before it, to take its memory in turn
        if len(some) < len(every):
            gradient = gradients.mean_gradient(network, at(every), labels[every], group=group)
        else:
            gradient = GroupLoss(network, *drawn, group=group).gradient
        squares, along = gradients.per_sample(network, *drawn, gradient)
        loss = GroupLoss(network, *drawn, group=group)
        norms = gradients.norms(gradient, squares, along, len(indices), equal_n=equal_n)
        top = spectrum.largest_eigenvalue(loss.curve, loss.factors, image=loss.image)
        error = trace = trace_error = math.nan
        if errors:
            error = spectrum.eigenvalue_error(loss.curvatures_along(loss.vector(top.vector)))
        if probes:
            trace, trace_error = spectrum.trace(
                loss.curve, top, image_of=loss.image_of, size=len(gradient), probes=probes
            )
        return {
            "group": group,
            "n": len(indices),
            "sampled": len(some),
            **{f"gradient_{name}": value for name, value in asdict(norms).items()},
            "largest_eigenvalue": top.value,
            "largest_eigenvalue_error": error,
            "residual": top.residual,
            "products": top.products,
            "trace": trace,
            "trace_error": trace_error,
        }

    return pd.DataFrame([row(group, indices) for group, indices in members.items()])
