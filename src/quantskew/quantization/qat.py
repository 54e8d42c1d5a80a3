"""Quantization-aware training with learned step sizes (LSQ, Esser et al. 2020).

Each quantizable layer computes with ``ŵ = s · round(clip(w / s, −Qn, Qp))``, while ``w`` and the
scale ``s`` are what is trained. Batch norms stay as they are, so that training still has their
statistics.

    network = prepare(network, example, bits=4, weights=weights)
    … train network, with scale_parameters(network) as a group without weight decay …
    quantized = convert(network)
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import update_bn

from quantskew.quantization.activations import Activations, FloatActivations
from quantskew.quantization.affine import SMALLEST, code_range, quantize
from quantskew.quantization.codes import FLOAT, QuantizedWeight, Widths
from quantskew.quantization.input_quantizers import restore
from quantskew.quantization.layers import left_out, quantizable
from quantskew.quantization.learned_activations import learned_grids, take_learned_grids
from quantskew.quantization.packing import Quantized
from quantskew.quantization.starts import LeastError, LsqStart, ScaleStart
from quantskew.quantization.weights import IntegerWeights
from quantskew.quantization.widths import uniform


class LearnedScale(nn.Module):
    """The LSQ quantizer of one weight tensor: signed codes, a learned scale, zero point 0.

    There is one scale a tensor or one an output channel. Its gradient is scaled by
    ``1 / √(N · Qp)`` with N weights to a scale.
    """

    def __init__(
        self,
        weight: Tensor,
        bits: int,
        *,
        per_channel: bool = False,
        start: ScaleStart = LsqStart(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.bits = bits
        self.low, self.high = code_range(bits, "symmetric")
        scale = start(weight, bits, per_channel=per_channel)
        self.scale = nn.Parameter(scale.clamp_min(SMALLEST))
        self.gradient_scale = (self.high * weight.numel() / scale.numel()) ** -0.5

    def forward(self, weight: Tensor) -> Tensor:
        """Return the fake-quantized weight."""
        quantized: tuple[Tensor] = _FakeQuantize.apply([self], weight, self.scale)  # type: ignore[no-untyped-call]
        return quantized[0]

    def fake_quantize(self, weight: Tensor) -> Tensor:
        """Return ŵ without a graph; in place, a tenth of the time of torch's fused kernel."""
        scale = self.grid()
        # the product alone would forget the memory format of a weight of one channel or pixel, and
        # a first layer without it makes all others convert their inputs
        out = torch.empty_like(weight, requires_grad=False)
        steps = torch.mul(weight.detach(), scale.reciprocal(), out=out)
        return steps.round_().clamp_(self.low, self.high).mul_(scale)

    def gradients(
        self, gradient: Tensor, weight: Tensor, quantized: Tensor, inverse: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return those of the weight and of the scale from that of ŵ; ``inverse`` is ``1 / s``."""
        # the derivative is the straight-through one: the gradient where w / s is inside, else 0
        straight = torch.ops.aten.hardtanh_backward(gradient, weight * inverse, self.low, self.high)
        # s · ∂ŵ/∂s is ŵ everywhere, and −w inside only
        step = (gradient * quantized).addcmul_(straight, weight, value=-1)
        return straight, step.sum_to_size(inverse.shape) * inverse * self.gradient_scale

    def grid(self) -> Tensor:
        """Return the scale in use: that learned, kept above zero."""
        return self.scale.detach().clamp_min(SMALLEST)


class Prepared(nn.Module):
    """A network whose layers compute with fake-quantized weights; it owns their quantizers.

    The weights of the layers in ``network`` stay what they are: those that are trained.
    """

    def __init__(self, network: nn.Module, quantizers: Mapping[str, LearnedScale]) -> None:
        super().__init__()
        self.network = network
        self.quantizers = nn.ModuleList(quantizers.values())
        self.layers: dict[str, Any] = {name: network.get_submodule(name) for name in quantizers}
        numbers = {layer.weight: number for number, layer in enumerate(self.layers.values())}
        # with the other names of a weight that layers share
        self.places = {
            name: numbers[parameter]
            for name, parameter in network.named_parameters(remove_duplicate=False)
            if parameter in numbers
        }

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        weights = [layer.weight for layer in self.layers.values()]
        scales = [quantizer.scale for quantizer in self.quantizers]
        quantized = _FakeQuantize.apply(self.quantizers, *weights, *scales)  # type: ignore[no-untyped-call]
        given = {name: quantized[number] for name, number in self.places.items()}
        logits: Tensor = functional_call(self.network, given, images, tie_weights=False)
        return logits


class _FakeQuantize(torch.autograd.Function):
    """Of all layers at once: a node of autograd a layer takes as long as its arithmetic."""

    @staticmethod
    def forward(
        ctx: Any, quantizers: Sequence[LearnedScale], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        weights = tensors[: len(quantizers)]
        quantized = [*map(LearnedScale.fake_quantize, quantizers, weights)]
        inverse = [quantizer.grid().reciprocal_() for quantizer in quantizers]
        ctx.save_for_backward(*weights, *quantized, *inverse)
        ctx.quantizers = quantizers
        return tuple(quantized)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        count = len(gradients)
        saved = (ctx.saved_tensors[start : start + count] for start in (0, count, 2 * count))
        each = map(LearnedScale.gradients, ctx.quantizers, gradients, *saved)
        of_weights, of_scales = zip(*each, strict=True)
        return None, *of_weights, *of_scales


class _Dampening(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, quantizers: Sequence[LearnedScale], *weights: Tensor) -> Tensor:
        distances = []
        for weight, quantizer in zip(weights, quantizers, strict=True):
            scale = quantizer.grid()
            steps = (weight * scale.reciprocal()).clamp_(quantizer.low, quantizer.high)
            # zero where w is clipped, so it is the gradient there too
            distances.append(steps.sub_(steps.round()).mul_(scale))
        ctx.save_for_backward(*distances)
        squares = [torch.linalg.vector_norm(d).square() * (len(d) / d.numel()) for d in distances]
        return torch.stack(squares).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(d * (gradient * (2 * len(d) / d.numel())) for d in ctx.saved_tensors)


def prepare(
    network: nn.Module,
    example: Tensor,
    *,
    bits: int,
    weights: IntegerWeights,
    widths: Mapping[str, Widths] | None = None,
    activations: Activations = FloatActivations(),  # noqa: B008
    calibration: Tensor | None = None,
    groups: Tensor | None = None,
    start: ScaleStart = LeastError(),  # noqa: B008
) -> Prepared:
    """Return a copy of a network, trained in float32, whose layers train with quantized weights.

    Of ``weights`` its ``granularity``, ``first_last`` and ``rgb_first`` are used: the grid is
    symmetric and learned, and batch norms are not folded. ``widths`` names the width of each layer,
    2 to 8, instead of ``bits`` with these exemptions, and ``start`` where the scales of weights
    start. ``example`` is an input batch, for the order in which the layers run.

    With static ``activations`` the input of each layer gets a learned scale and offset (LSQ+),
    which start at the range that the ``calibration`` images (N, …) give, of ``groups`` from 0 on,
    (N,); they are asymmetric.
    """
    network = copy.deepcopy(network)
    widths = widths or uniform(network, example, bits=bits, weights=weights)
    activations.learn(network, calibration, groups)
    learned = {}
    for name, layer in quantizable(network).items():
        width = widths[name]
        if width == FLOAT:
            continue
        if not isinstance(width, int):
            raise ValueError(
                f"QAT gives all channels of a layer one width; {name} has {sorted({*width})}"
            )
        learned[name] = LearnedScale(
            layer.weight, width, per_channel=weights.per_channel, start=start
        )
    return Prepared(network, learned)


def quantizers(network: Prepared) -> dict[str, tuple[nn.Parameter, LearnedScale]]:
    """Return the trained weight and the quantizer of each layer of a prepared network by name."""
    pairs: Any = zip(network.layers.items(), network.quantizers, strict=True)
    return {name: (layer.weight, quantizer) for (name, layer), quantizer in pairs}


def scale_parameters(network: Prepared) -> list[nn.Parameter]:
    """Return learned scales and offsets: they want a learning rate of their own and no decay."""
    weights = [quantizer.scale for _, quantizer in quantizers(network).values()]
    inputs = [p for grid in learned_grids(network).values() for p in grid.parameters()]
    return weights + inputs


def apart(
    groups: Sequence[Mapping[str, Any]], network: Prepared, *, lr: float
) -> list[dict[str, Any]]:
    """Return groups of parameters with the learned scales in one of their own."""
    scales = scale_parameters(network)
    known = {id(scale) for scale in scales}
    others = [{**g, "params": [p for p in g["params"] if id(p) not in known]} for g in groups]
    return [*others, {"params": scales, "lr": lr, "weight_decay": 0.0}]


def damp(network: Prepared) -> Tensor:
    """Return the loss that pulls weights to the middle of their bins (Nagel et al. 2022, eq. 5).

    Σ over layers and output channels of the mean over the rest of ``(ŵ − clip(w))²``, with ŵ held
    fixed: it keeps weights from oscillating between two codes, and acts on weights only.
    """
    weights = [layer.weight for layer in network.layers.values()]
    loss: Tensor = _Dampening.apply(network.quantizers, *weights)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def convert(network: Prepared) -> Quantized:
    """Turn a trained network into a plain one with the weights that it computed with.

    The copy gives bit by bit the logits of the ``network``, as of :func:`prepare`, in evaluation
    mode.
    """
    trained = copy.deepcopy(network).eval()
    codes = {}
    for name, (weight, quantizer) in quantizers(trained).items():
        scale = quantizer.grid()
        zero = torch.zeros_like(scale, dtype=torch.int32)
        integers = quantize(weight, scale, zero, quantizer.low, quantizer.high)
        codes[name] = QuantizedWeight(integers, scale, zero, quantizer.bits, "symmetric")
        weight.copy_(codes[name].dequantize())
    made = trained.network
    grids = take_learned_grids(made)
    notes: dict[str, Any] = {"format": "integer", "folded": [], "left_out": left_out(made, codes)}
    if grids is not None:
        restore(made, grids)
        notes["activations"] = grids
    return Quantized(made, codes, notes, {})


def reestimate_batch_norm(network: nn.Module, images: Tensor, *, batch_size: int = 64) -> None:
    """Take the statistics of the batch norms anew, in place: plain means over batches of images.

    While weights move and oscillate, the running statistics lag behind, most of all at few bits.
    """
    mode = network.training
    # a last batch of one image may have no variance
    update_bn([batch for batch in images.split(batch_size) if len(batch) > 1], network)
    network.train(mode)
