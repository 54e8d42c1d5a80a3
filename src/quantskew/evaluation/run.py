"""The cell that runs a variant on the test set.

It stores the logits of every sample, how far every layer moved and how the weights are spread. All
else follows from these numbers, in :mod:`quantskew.description`, without the network.
"""

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from quantskew import models
from quantskew.impact.weights import compare, histogram
from quantskew.names import WHOLE
from quantskew.quantization import packing
from quantskew.quantization.codes import FLOAT, QuantizedWeight
from quantskew.quantization.layers import fold, fold_batch_norm, quantizable
from quantskew.subject import Subject

BINS = 20
"""Steps of a histogram of weights."""


def evaluate(folder: Path, *, subject: Subject, base: Path, folds: bool) -> None:
    """Run a variant; write ``logits.safetensors`` (test samples × classes) and its weights' tables.

    These are ``layers.parquet``, against the fp32 network ``base``, and
    ``weight_histograms.parquet``. With ``folds`` batch norms are folded before the histogram of a
    variant in floating point, as they were in those beside which it is drawn. A ``ModelError``
    counts the test samples with a logit that is NaN or infinite.
    """
    images, bits = subject.test().images, subject.bits
    network, file = packing.open_variant(subject), subject.file()
    outputs = models.logits(network.to(models.device()), images)
    if lost := int((~outputs.isfinite()).any(1).sum()):
        raise models.ModelError(
            f"{file}: its logits are NaN or infinite for {lost} of {len(outputs)} test samples"
        )
    safetensors.torch.save_file({"logits": outputs}, folder / "logits.safetensors")
    original = packing.open_variant(subject.at(base))
    weights: dict[str, QuantizedWeight] = {}
    share = 1.0
    if bits != FLOAT:
        weights, _, notes = packing.read(file)
        fold(original, notes["folded"])
        share = notes["share"]["weights"]
    before, after = _layer_weights(original), _layer_weights(network)
    rows = compare(before, after)
    widths = {name: weight.mean_bits() for name, weight in weights.items()}
    rows["layer_bits"] = [widths.get(layer, FLOAT if widths else bits) for layer in rows["layer"]]
    whole = rows["layer"] == WHOLE
    parts = rows[~whole]
    rows.loc[whole, "layer_bits"] = np.average(parts["layer_bits"], weights=parts["weights"])
    rows["share"] = share
    rows.to_parquet(folder / "layers.parquet", index=False)
    if folds and not weights:
        image = models.as_input(images[:1], torch.device("cpu"))
        folded, pairs = fold_batch_norm(original, image)
        fold(network.float(), pairs)
        before, after = _layer_weights(folded), _layer_weights(network)
    spread = histogram(before, after, BINS)
    spread.to_parquet(folder / "weight_histograms.parquet", index=False)


def _layer_weights(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: layer.weight.detach().float().cpu() for name, layer in quantizable(network).items()
    }
