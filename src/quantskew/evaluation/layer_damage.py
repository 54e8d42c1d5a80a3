"""The cell that quantizes one layer of an fp32 network alone, and sees which groups it hurts."""

from pathlib import Path

import pandas as pd
import torch

from quantskew import models
from quantskew.data.groups import Groups, group_codes
from quantskew.quantization.calibration import BalancedChoice
from quantskew.quantization.layers import fold_batch_norm, quantizable
from quantskew.quantization.packing import open_variant
from quantskew.quantization.policies import Allocation
from quantskew.quantization.sensitivity import measured
from quantskew.quantization.weights import IntegerWeights
from quantskew.subject import Subject


def survey(
    folder: Path,
    *,
    subject: Subject,
    bits: int,
    weights: IntegerWeights,
    attribute: str,
    groups: Groups,
    size: int,
) -> None:
    """Quantize each layer alone; write ``layer_damage.parquet``, one row a layer and group.

    The ``subject`` is the fp32 network; ``bits`` and ``weights`` say how the one layer is rounded.
    The rise of the loss is measured on ``size`` test samples of a group, on average.
    """
    test, where = subject.test(), models.device()
    every, names = group_codes(test.attributes, attribute, groups)
    codes = torch.as_tensor(every)
    some = BalancedChoice().choose(codes, samples=size * len(names), seed=0)
    images = models.as_input(test.images[some], where)
    network = open_variant(subject).to(where)
    if weights.fold_bn:
        network, _ = fold_batch_norm(network, images[:1])
    layers = quantizable(network)
    labels, of_group = test.labels[some].to(where), codes[some].to(where)
    problem = Allocation(network, layers, images, labels, of_group, bits, weights, seed=0)
    rises = measured(problem, choices=(bits,))
    rows = pd.DataFrame(rises[:, 0].cpu().double().numpy(), index=[*layers], columns=names)
    rows = rows.rename_axis("layer").melt(var_name="group", value_name="rise", ignore_index=False)
    rows = rows.reset_index()
    rows["position"] = rows["layer"].map({name: place for place, name in enumerate(layers)})
    rows["sampled"] = codes[some].bincount()[pd.Index(names).get_indexer(rows["group"])].numpy()
    rows.assign(attribute=attribute).to_parquet(folder / "layer_damage.parquet", index=False)
