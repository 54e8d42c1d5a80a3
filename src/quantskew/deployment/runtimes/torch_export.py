"""Programs of ``torch.export``."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from quantskew.deployment.runtimes.network import Network, Port, Weight


class TorchExport(
    Network,
    suffix=".pt2",
    runtime="torch.export",
    library="torch",
    install="quantskew[study]",
):
    """A ``.pt2`` file that ``torch.export.save`` wrote.

    ``threads`` has no effect: torch has one number of threads for the whole process.
    """

    def _load(self, threads: int | None) -> tuple[Sequence[Port], Sequence[Port]]:
        import torch

        program = torch.export.load(self.path)
        self.program, self.module = program, program.module()
        nodes = {node.name: node for node in program.graph.nodes}
        signature = program.graph_signature
        return tuple(
            [_port(nodes[str(name)]) for name in names if name in nodes]
            for names in (signature.user_inputs, signature.user_outputs)
        )  # type: ignore[return-value]

    def _run(self, batch: np.ndarray) -> np.ndarray:
        import torch
        from torch.utils import _pytree as pytree

        with torch.inference_mode():
            answers = pytree.tree_leaves(self.module(torch.from_numpy(batch)))
        answer: np.ndarray = answers[self.place].numpy()
        return answer

    def weights(self) -> list[Weight]:
        """List the stored tensors of several axes."""
        stored = [*self.program.state_dict.values(), *self.program.constants.values()]
        return [
            Weight(not item.is_floating_point(), float(item.numel() * item.element_size()))
            for item in stored
            if item.ndim > 1
        ]


def _port(node: Any) -> Port:
    import torch

    value = node.meta["val"]
    sizes = tuple(size if isinstance(size, int) else None for size in value.shape)
    return Port(node.name, sizes, torch.empty(0, dtype=value.dtype).numpy().dtype)
