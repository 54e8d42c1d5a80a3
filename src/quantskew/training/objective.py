"""The module that a training minimizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from quantskew.errors import UserError

if TYPE_CHECKING:
    from quantskew.training.losses import Loss, State


class Objective(nn.Module):
    """A loss together with its state, which moves and is saved as the buffers of a module."""

    def __init__(self, loss: Loss, state: State | None = None) -> None:
        super().__init__()
        self.loss = loss
        for name, tensor in (state or {}).items():
            self.register_buffer(name, tensor)

    def forward(self, outputs: Tensor, targets: Tensor, batch: Tensor) -> Tensor:
        """Update the state, and return the loss of a batch; see :meth:`Loss.of_batch`."""
        loss = self.loss.of_batch(outputs, targets, batch, dict(self.named_buffers()))
        if not isinstance(loss, Tensor) or loss.shape or loss.requires_grad < outputs.requires_grad:
            raise UserError(f"loss: {self.loss.kind} gives no scalar that follows from the outputs")
        return loss
