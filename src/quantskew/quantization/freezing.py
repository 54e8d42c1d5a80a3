"""Iterative freezing of oscillating weights during QAT (Nagel et al. 2022, section 4.3)."""

import torch
from torch import Tensor

from quantskew.quantization.qat import Prepared, quantizers


class Freezer:
    """Freezes weights whose codes flip back and forth; call :meth:`step` after each update.

    A weight oscillates where its code changes in the direction opposite to its last change. Once
    the moving average of these events passes the threshold, the weight stays at the code that the
    moving average of its codes rounds to, for the rest of the training.

    Parameters
    ----------
    network
        From :func:`quantskew.quantization.qat.prepare`.
    momentum
        Share of the newest step in both averages; the paper uses 0.001 to 0.01.
    """

    def __init__(self, network: Prepared, *, momentum: float = 0.001) -> None:
        self.network = network
        self.momentum = momentum
        self._states = {name: _State(codes) for name, codes in self._codes().items()}

    @torch.no_grad()
    def step(self, threshold: float) -> None:
        """Note which codes flipped, freeze above the threshold, keep the frozen where they are.

        Parameters
        ----------
        threshold
            Frequency of oscillation, e.g. falling from 0.1 to 0.01 along a cosine.
        """
        codes = self._codes()
        for name, (weight, quantizer) in quantizers(self.network).items():
            frozen_at = self._states[name].update(codes[name], self.momentum, threshold)
            torch.where(frozen_at.isnan(), weight, frozen_at * quantizer.grid(), out=weight)

    def frozen(self) -> float:
        """Share of all weights that are frozen."""
        masks = [state.frozen_at.isnan().logical_not() for state in self._states.values()]
        return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    def _codes(self) -> dict[str, Tensor]:
        return {
            name: quantizer.fake_quantize(weight).div_(quantizer.grid()).round_()
            for name, (weight, quantizer) in quantizers(self.network).items()
        }


class _State:
    """What is remembered of one weight tensor, in its shape."""

    def __init__(self, codes: Tensor) -> None:
        self.codes, self.average = codes, codes.clone()
        self.direction, self.frequency = torch.zeros_like(codes), torch.zeros_like(codes)
        self.frozen_at = torch.full_like(codes, torch.nan)

    def update(self, codes: Tensor, momentum: float, threshold: float) -> Tensor:
        change = (codes - self.codes).sign_()
        oscillated = (change * self.direction) < 0
        self.frequency.lerp_(oscillated.to(codes.dtype), momentum)
        self.average.lerp_(codes, momentum)
        self.direction = torch.where(change == 0, self.direction, change)
        self.codes = codes
        fresh = (self.frequency > threshold) & self.frozen_at.isnan()
        self.frozen_at[fresh] = self.average[fresh].round()
        return self.frozen_at
