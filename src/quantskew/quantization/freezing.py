"""Iterative freezing of oscillating weights during QAT (Nagel et al. 2022, section 4.3)."""

import torch
from torch import Tensor, nn

from quantskew.quantization.qat import Prepared, quantizers


class Freezer(nn.Module):
    """Freezes weights whose codes flip back and forth; call :meth:`step` after each update.

    A weight oscillates where its code changes in the direction opposite to its last change. Once
    the moving average of these events passes the threshold, the weight stays at the code that the
    moving average of its codes rounds to, for the rest of the training.

    ``momentum`` is the share of the newest step in both averages; the paper uses 0.001 to 0.01. In
    ``states``, one a layer, ``frozen_at`` is the code of a weight that is frozen, else NaN.
    """

    def __init__(self, network: Prepared, *, momentum: float = 0.001) -> None:
        super().__init__()
        self.momentum = momentum
        # not as a part of its own: the network keeps its state itself
        self._pairs = [*quantizers(network).values()]
        self.states = nn.ModuleList(map(_State, self._codes()))

    @torch.no_grad()
    def step(self, threshold: float) -> None:
        """Note which codes flipped, freeze above this frequency, keep the frozen where they are."""
        for state, codes, (weight, quantizer) in zip(
            self.states, self._codes(), self._pairs, strict=True
        ):
            frozen_at = state(codes, self.momentum, threshold)
            torch.where(frozen_at.isnan(), weight, frozen_at * quantizer.grid(), out=weight)

    def _codes(self) -> list[Tensor]:
        return [
            quantizer.fake_quantize(weight).div_(quantizer.grid()).round_()
            for weight, quantizer in self._pairs
        ]


class _State(nn.Module):
    """What is remembered of one weight tensor, in its shape."""

    codes: Tensor
    average: Tensor
    direction: Tensor
    frequency: Tensor
    frozen_at: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("average", codes.clone())
        self.register_buffer("direction", torch.zeros_like(codes))
        self.register_buffer("frequency", torch.zeros_like(codes))
        self.register_buffer("frozen_at", torch.full_like(codes, torch.nan))

    def forward(self, codes: Tensor, momentum: float, threshold: float) -> Tensor:
        change = (codes - self.codes).sign_()
        oscillated = (change * self.direction) < 0
        self.frequency.lerp_(oscillated.to(codes.dtype), momentum)
        self.average.lerp_(codes, momentum)
        self.direction = torch.where(change == 0, self.direction, change)
        self.codes = codes
        fresh = (self.frequency > threshold) & self.frozen_at.isnan()
        self.frozen_at[fresh] = self.average[fresh].round()
        return self.frozen_at
