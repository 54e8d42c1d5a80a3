"""The cell that measures the loss surface around a variant: gradient and curvature of each group.

Batch norms are folded into the convolutions first, in every variant: the length of a gradient
depends on how a network is written down, and one that was folded before it was quantized could else
not be compared with the network that it came from. A network in half precision computes in float32
here, with its rounded weights: half precision puts eigenvalues off by more than a percent.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from quantskew import models
from quantskew.data.groups import Groups, divided, group_codes
from quantskew.data.people import read_people
from quantskew.impact.curvature import measure, subsample
from quantskew.impact.damage import predict, weight_change
from quantskew.impact.hessian import GroupLoss
from quantskew.precision import all_digits
from quantskew.quantization.layers import fold_batch_norm
from quantskew.quantization.packing import open_variant
from quantskew.subject import Subject


@all_digits()
def survey(
    folder: Path,
    *,
    subject: Subject,
    base: Path | None,
    attribute: str,
    groups: Groups,
    size: int,
    probes: int,
    errors: bool,
) -> None:
    """Measure one variant on the test set; write ``curvature.parquet``, one row a group.

    Groups that ``groups`` calls too small, by their test samples, are left out; so the table can be
    empty. With ``base``, the fp32 network that the variant was made from, the excess loss and its
    prediction are added (equation 4 of Bellam & Kim). ``bound`` lacks the part of the largest
    eigenvalue there, ½ λmax ``weight_distance``², which another cell finds. For ``size``,
    ``probes`` and ``errors`` see :func:`quantskew.impact.curvature.measure`.
    """
    people, test, where = read_people(subject.samples), subject.test(), models.device()
    codes, names = group_codes(people.attributes, attribute, groups)
    in_test = people.split == "test"
    counted = divided(attribute, codes[in_test], names, groups, None).counted
    members = {
        name: np.flatnonzero(codes[in_test] == g) for g, name in enumerate(names) if counted[g]
    }
    if not members:
        pd.DataFrame().to_parquet(folder / "curvature.parquet")
        return
    pixels, labels = test.images.to(where), test.labels.to(where)

    def images(some: Tensor | slice) -> Tensor:
        # as floats, four times as large, only when they are needed
        return models.as_input(pixels[some], where)

    def folded(subject: Subject) -> nn.Module:
        network = open_variant(subject).float().to(where)
        # the biases that folding makes are parameters like all others
        return fold_batch_norm(network, images(slice(1)))[0].requires_grad_()

    network = folded(subject)
    rows = measure(network, images, labels, members, size=size, probes=probes, errors=errors)
    sizes = pd.Series(np.bincount(codes[~in_test & (codes >= 0)], minlength=len(names)), names)
    rows.insert(1, "n_train", sizes.loc[rows["group"]].to_numpy())
    rows[["weight_distance", "excess_loss", "first_order", "second_order", "bound"]] = math.nan
    if base is not None:
        original = folded(subject.at(base))
        change = weight_change(original, network)

        def damage(some: Tensor, group: str) -> dict[str, float]:
            # a call of its own, so that no graph outlives it
            before = GroupLoss(original, images(some), labels[some], group=group)
            with torch.no_grad():
                after = float(nn.functional.cross_entropy(network(images(some)), labels[some]))
            return predict(before, change) | {"excess_loss": after - before.loss}

        for row, (group, every) in enumerate(members.items()):
            told = damage(torch.as_tensor(subsample(every, size), device=where), group)
            rows.loc[row, [*told]] = [*told.values()]
    rows.assign(attribute=attribute).to_parquet(folder / "curvature.parquet", index=False)
