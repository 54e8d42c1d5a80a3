"""Rounding: which of the codes of a grid each weight of a layer gets.

Rounding each weight to its nearest code is best for the weights and not for the output of the
layer. AdaRound and GPTQ look at a sample of the layer's inputs instead.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from typing_extensions import override

from quantskew.quantization.affine import dequantize, quantize
from quantskew.quantization.weighting import Even, Weighting
from quantskew.sections import Choice, Count

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from quantskew.quantization.codes import QuantizedWeight
    from quantskew.quantization.layers import Layer

_STRETCH = 1.2  # of the sigmoid, so that it reaches 0 and 1
_BATCH = 32
UPDATES = 10
"""How often weights that follow the errors of groups move."""


class Seen(NamedTuple):
    """What a layer does on calibration images, and a generator for what is drawn at random.

    ``inputs`` is what the layer gets in the quantized network, (N, …), and ``targets`` what it
    should give, as it does in the float network. Both are empty where no image is looked at.
    ``groups`` holds the group of each image, (N,), where it is known.
    """

    inputs: Tensor
    targets: Tensor
    generator: torch.Generator
    groups: Tensor | None = None


class Rounding(Choice):
    """How weights are rounded to the codes of a grid (``weights.rounding``).

    A kind with ``needs_images`` is given what the layer gets on calibration images; a layer that
    never runs as a module of its own keeps the nearest codes.
    """

    needs_images: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, layer: Layer, nearest: QuantizedWeight, seen: Seen) -> QuantizedWeight:
        """Choose the codes of a layer, which has its float weight and is not changed."""


class Nearest(Rounding, kind="nearest"):
    """Each weight gets its nearest code."""

    needs_images: ClassVar[bool] = False

    @override
    def __call__(self, layer: Layer, nearest: QuantizedWeight, seen: Seen) -> QuantizedWeight:
        return nearest


class AdaRound(Rounding, kind="adaround"):
    """Learn for each weight whether it is rounded down or up (Nagel et al. 2020).

    Adam minimises the squared error of the layer's output plus ``0.01 · Σ (1 − |2h − 1|^β)``, which
    drives the soft choices h to 0 or 1; β falls from 20 to 2 after a fifth of the ``steps``. Each
    step takes a batch of 32 inputs. The squared errors are weighted by group as ``weighting`` says;
    weights that move do so :data:`UPDATES` times.
    """

    steps: Count = 1000
    weighting: Weighting = Even()

    @override
    def __call__(self, layer: Layer, nearest: QuantizedWeight, seen: Seen) -> QuantizedWeight:
        import torch

        from quantskew.quantization.codes import kept_channels

        inputs, targets, generator, groups = seen
        shares = self.weighting.shares(groups, len(inputs), generator)
        weight, scale = layer.weight.detach(), nearest.scale
        low, high = (code - nearest.zero_point for code in nearest.limits())
        floor = torch.floor(weight / scale)
        share = (weight / scale - floor).clamp(1e-3, 1 - 1e-3)
        logits = -torch.log(_STRETCH / (share + (_STRETCH - 1) / 2) - 1)
        logits.requires_grad_()
        optimizer = torch.optim.Adam([logits], 1e-2)
        often = max(1, self.steps // UPDATES)
        for step in range(self.steps):
            up = (torch.sigmoid(logits) * _STRETCH - (_STRETCH - 1) / 2).clamp(0, 1)
            soft = torch.clamp(floor + up, low, high) * scale
            if nearest.kept is not None:
                soft[kept_channels(nearest.bits)] = nearest.kept
            if shares is not None and self.weighting.moves and step % often == 0:
                self.weighting.update(shares, _errors(layer, soft.detach(), inputs, targets))
            picked = torch.randint(len(inputs), (_BATCH,), generator=generator)
            output = torch.func.functional_call(layer, {"weight": soft}, (inputs[picked],))
            # per output channel, as in the paper: summed over channels, averaged over the rest
            errors = (output - targets[picked]).square().flatten(1).mean(1)
            if shares is not None:
                errors = errors * shares.of_images[picked]
            loss = errors.mean() * len(weight)
            done = step / self.steps
            if done >= 0.2:
                beta = 2 + 18 * (1 - (done - 0.2) / 0.8)
                loss = loss + 0.01 * (1 - (2 * up - 1).abs().pow(beta)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        hard = torch.clamp(floor + (logits.detach() > 0), low, high) + nearest.zero_point
        return replace(nearest, codes=hard.to(torch.int16))


class Gptq(Rounding, kind="gptq"):
    """Round column by column and let the later columns make up for each error (Frantar 2023).

    A convolution is the linear layer that acts on its unfolded patches, one for each group of
    channels. With H the second moment of the inputs, damped by a hundredth of its mean diagonal,
    rounding column i with error e moves the columns j > i by ``−e · U_ij / U_ii``, where U is the
    upper Cholesky factor of H⁻¹. The images behind H are weighted by group as ``weighting`` says;
    with weights that move, the layer is rounded :data:`UPDATES` times, and the codes are kept with
    which the error of the worst group is the smallest.
    """

    weighting: Weighting = Even()

    @override
    def __call__(self, layer: Layer, nearest: QuantizedWeight, seen: Seen) -> QuantizedWeight:
        shares = self.weighting.shares(seen.groups, len(seen.inputs), seen.generator)
        if shares is None:
            return self._rounded(layer, nearest, seen.inputs, None)
        if not self.weighting.moves:
            return self._rounded(layer, nearest, seen.inputs, shares.of_images)
        targets = layer(seen.inputs).detach()
        best, least = nearest, float("inf")
        for _ in range(UPDATES):
            made = self._rounded(layer, nearest, seen.inputs, shares.of_images)
            errors = _errors(layer, made.dequantize(), seen.inputs, targets)
            worst = float(shares.means(errors).max())
            if worst < least:
                best, least = made, worst
            self.weighting.update(shares, errors)
        return best

    def _rounded(
        self, layer: Layer, nearest: QuantizedWeight, inputs: Tensor, weights: Tensor | None
    ) -> QuantizedWeight:
        import torch

        moment = second_moment(layer, inputs, weights)
        groups, size, _ = moment.shape
        diagonal = moment.diagonal(dim1=1, dim2=2)
        diagonal += (0.01 * diagonal.mean(1, keepdim=True)).clamp_min(1e-12)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
        upper = torch.linalg.cholesky(inverse, upper=True).float()
        weight = layer.weight.detach().reshape(groups, -1, size).clone()
        rows = weight.shape[:2]
        scale, zero, low, high = (
            facts.reshape((1, 1) if facts.numel() == 1 else rows)
            for facts in (nearest.scale, nearest.zero_point, *nearest.limits())
        )
        codes = torch.empty_like(weight, dtype=torch.int16)
        for start in range(0, size, 128):
            block = slice(start, min(start + 128, size))
            errors = torch.zeros_like(weight[:, :, block])
            for i in range(block.start, block.stop):
                codes[:, :, i] = quantize(weight[:, :, i], scale, zero, low, high)
                error = weight[:, :, i] - dequantize(codes[:, :, i], scale, zero)
                error /= upper[:, i, i, None]
                errors[:, :, i - start] = error
                rest = slice(i + 1, block.stop)
                weight[:, :, rest] -= error[:, :, None] * upper[:, i, None, rest]
            weight[:, :, block.stop :] -= errors @ upper[:, block, block.stop :]
        return replace(nearest, codes=codes.reshape(layer.weight.shape))


def _errors(layer: Layer, weight: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of each output of a layer with another weight, (N,)."""
    import torch

    with torch.no_grad():
        batches = zip(inputs.split(256), targets.split(256), strict=True)
        return torch.cat(
            [
                (torch.func.functional_call(layer, {"weight": weight}, (given,)) - wanted)
                .square().flatten(1).mean(1)
                for given, wanted in batches
            ]
        )  # fmt: skip


def second_moment(layer: Layer, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean outer product of the vectors that the rows of a weight are multiplied with.

    It is float64, (groups, size, size); a linear layer has one group. ``inputs`` is what the layer
    gets, (N, …), and ``weights`` how much each input counts, (N,), on average 1.
    """
    from torch import nn
    from torch.nn.functional import pad, unfold

    if weights is not None:  # the moment is linear in the square of an input
        inputs = inputs * weights.sqrt().reshape(-1, *[1] * (inputs.ndim - 1))
    if isinstance(layer, nn.Linear):
        columns = inputs.reshape(1, -1, layer.in_features)
        return _outer(columns) / columns.shape[1]
    groups = layer.groups
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    total, count = inputs.new_zeros(()), 0
    for batch in inputs.split(_BATCH):
        padded = pad(batch, layer._reversed_padding_repeated_twice, mode)
        patches = unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
        columns = patches.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
        total, count = total + _outer(columns), count + columns.shape[1]
    return total / count


def _outer(columns: Tensor) -> Tensor:
    return (columns.transpose(1, 2) @ columns).double()
