"""How quantization changes the weights: the first step of the impact flow.

A network is a mapping from the name of a layer to its weights: the original ones θ or the
dequantized ones θ̃ (Bellam & Kim, §4.1, Figures 3 and 4).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from quantskew.names import WHOLE

Network = Mapping[str, torch.Tensor]


def compare(original: Network, dequantized: Network) -> pd.DataFrame:
    """Measure how much the weights of each layer change, and how many become zero.

    One row per layer and one of all layers together, named :data:`~quantskew.names.WHOLE`:

    ===================== ========================================================
    ``layer``             name of the layer
    ``weights``           number of weights
    ``absolute_change``   Σ|θ̃ − θ| (equation 5), in units of the weights
    ``relative_error``    ‖θ̃ − θ‖₂ / ‖θ‖₂; NaN where θ is zero throughout
    ``original_sparsity`` share of the θ that are exactly zero
    ``sparsity``          share of the θ̃ that are exactly zero (equation 6)
    ===================== ========================================================

    A ``ValueError`` is raised when the layers or their shapes differ, a weight is NaN or infinite,
    or a layer bears the name of all layers.

    Examples
    --------
    >>> table = compare({"fc": torch.tensor([3.0, 4.0])}, {"fc": torch.tensor([3.0, 0.0])})
    >>> table[["layer", "absolute_change", "relative_error", "sparsity"]].values.tolist()
    [['fc', 4.0, 0.8, 0.5], ['all', 4.0, 0.8, 0.5]]
    """
    if original.keys() != dequantized.keys():
        differing = ", ".join(sorted(original.keys() ^ dequantized.keys()))
        raise ValueError(f"the two networks must have the same layers; only one has {differing}")
    if WHOLE in original:
        raise ValueError(f"a layer is named {WHOLE!r}, which is all layers here; rename it")
    layers = []
    for layer, before in original.items():
        after = dequantized[layer]
        if before.shape != after.shape:
            raise ValueError(
                f"layer {layer!r} is {tuple(before.shape)} in the original "
                f"and {tuple(after.shape)} dequantized"
            )
        a, b = _values(layer, before), _values(layer, after)
        layers.append(
            {
                "weights": a.size,
                "absolute_change": np.abs(b - a).sum(),
                # not a dot product, whose order of summation depends on the number of threads
                "error": np.square(b - a).sum(),
                "energy": np.square(a).sum(),
                "original_zeros": (a == 0).sum(),
                "zeros": (b == 0).sum(),
            }
        )
    sums = pd.DataFrame(layers, index=[*original])
    sums = pd.concat([sums, sums.sum().to_frame(WHOLE).T]).rename_axis("layer").reset_index()
    return pd.DataFrame(
        {
            "layer": sums["layer"],
            "weights": sums["weights"].astype("int64"),
            "absolute_change": sums["absolute_change"],
            "relative_error": np.sqrt(sums["error"] / sums["energy"].where(sums["energy"] > 0)),
            "original_sparsity": sums["original_zeros"] / sums["weights"],
            "sparsity": sums["zeros"] / sums["weights"],
        }
    )


def histogram(original: Network, network: Network, bins: int) -> pd.DataFrame:
    """Return ``low``, ``high`` and ``count`` of bins over the range of the original weights.

    Weights beyond it, which rounding may exceed by half a step, count in the outermost bin, so that
    the counts sum to the number of weights.
    """
    before, after = (
        np.concatenate([_values(layer, weights) for layer, weights in each.items()])
        for each in (original, network)
    )
    edges = np.histogram_bin_edges(before, bins)
    counts, _ = np.histogram(np.clip(after, edges[0], edges[-1]), edges)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": counts})


def _values(layer: str, weights: torch.Tensor) -> NDArray[np.float64]:
    values = weights.detach().cpu().double().flatten().numpy()
    if not np.isfinite(values).all():
        raise ValueError(
            f"layer {layer!r} holds {(~np.isfinite(values)).sum()} weights that are NaN or infinite"
        )
    return values
