"""Gradient norms and curvature of every group's loss at the weights of one network.

The back half of the impact flow (Bellam & Kim, §4.4 and §4.5, Figures 8–10), and the two factors
of Liu et al.: a group's gradient norm and its Hessian trace.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from quantskew.impact import gradients, spectrum
from quantskew.impact.hessian import GroupLoss


def subsample(members: ArrayLike, size: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Draw ``size`` of a group's samples without replacement; all, where it has no more.

    Returns
    -------
    numpy.ndarray
        Rising indices.
    """
    rows = np.asarray(members, dtype=np.int64)
    if len(rows) <= size:
        return np.sort(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size, replace=False))


def measure(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    groups: Mapping[str, ArrayLike],
    *,
    size: int = 25,
    probes: int = 0,
    errors: bool = True,
) -> pd.DataFrame:
    """Measure the gradient and the curvature of each group's mean cross-entropy.

    Parameters
    ----------
    network
        In evaluation mode, with the (dequantized) weights to measure at.
    images, labels
        Shape (n, …) and (n,): every sample, on the device of the network.
    groups
        Name of each group and the indices of its samples; groups may overlap.
    size
        Per-sample gradients and Hessians are taken over a random part of so many of a group's
        samples; the mean gradient is taken over all.
    probes
        Random vectors a trace; 0 for no trace.
    errors
        Whether to give λmax its standard error, at the price of two or three products.

    Returns
    -------
    pandas.DataFrame
        One row a group:

        ================================== ======================================================
        ``group``, ``n``, ``sampled``      its name, its samples, and how many were drawn
        ``gradient_plain``                 norm of its mean gradient over all
        ``gradient_equal_n``               the same at the size of the smallest group
        ``gradient_unbiased_square``       its square without the bias of n, and the standard
        and ``…_error``                    error; see :func:`quantskew.impact.gradients.norms`
        ``largest_eigenvalue``             of its Hessian, and the standard error over the draw of
        and ``…_error``                    samples, NaN unless asked for
        ``residual``, ``products``         of the solver: relative, and how many it took
        ``trace`` and ``…_error``          estimated, NaN without probes
        ================================== ======================================================

    Raises
    ------
    ValueError
        When a group has no sample.
    quantskew.impact.gradients.NotFiniteError
        When a number is NaN or infinite; names the group and the layer.
    quantskew.impact.gradients.NoDerivativeError
        When torch lacks a derivative of an operator of the network; names the operator.
    """
    members = {group: np.asarray(rows, dtype=np.int64) for group, rows in groups.items()}
    empty = [group for group, rows in members.items() if not len(rows)]
    if empty:
        raise ValueError(f"group {empty[0]!r} has no sample; leave it out")
    equal_n = min(map(len, members.values()))
    rows = []
    for group, every in members.items():
        some = torch.as_tensor(subsample(every, size), device=images.device)
        loss = GroupLoss(network, images[some], labels[some], group=group)
        gradient = loss.gradient
        if len(some) < len(every):
            everyone = torch.as_tensor(every, device=images.device)
            gradient = gradients.mean_gradient(
                network, images[everyone], labels[everyone], group=group
            )
        squares, along = gradients.per_sample(network, images[some], labels[some], gradient)
        norms = gradients.norms(gradient, squares, along, len(every), equal_n=equal_n)
        top = spectrum.largest_eigenvalue(loss.curve, loss.factors, image=loss.image)
        error = trace = trace_error = math.nan
        if errors:
            along = loss.curvatures_along(loss.vector(top.vector))
            error = spectrum.eigenvalue_error(along)
        if probes:
            trace, trace_error = spectrum.trace(
                loss.curve, top, image_of=loss.image_of, size=len(gradient), probes=probes
            )
        rows.append(
            {
                "group": group,
                "n": len(every),
                "sampled": len(some),
                **{f"gradient_{name}": value for name, value in asdict(norms).items()},
                "largest_eigenvalue": top.value,
                "largest_eigenvalue_error": error,
                "residual": top.residual,
                "products": top.products,
                "trace": trace,
                "trace_error": trace_error,
            }
        )
    return pd.DataFrame(rows)
