"""Programs of ``torch.export``."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantskew.deployment.runtimes.network import PIXELS, Network, Port, Weight

if TYPE_CHECKING:
    from torch import Tensor, nn

_NOTES = "quantskew.json"


class TorchExport(
    Network,
    suffix=".pt2",
    runtime="torch.export",
    library="torch",
    install="quantskew[study]",
):
    """A ``.pt2`` file that ``torch.export.save`` wrote.

    ``threads`` is for all that torch does in this process, which has one number of them.
    """

    def _load(self, threads: int | None) -> tuple[Sequence[Port], Sequence[Port]]:
        import torch

        if threads:
            torch.set_num_threads(threads)
        beside = {_NOTES: ""}
        program = torch.export.load(self.path, extra_files=beside)
        self.notes = json.loads(beside[_NOTES] or "{}")
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
        """List the stored tensors of several axes, but for masks and wide indices."""
        import torch

        stored = [*self.program.state_dict.values(), *self.program.constants.values()]
        return [
            Weight(not item.is_floating_point(), 8 * item.element_size(), item.numel())
            for item in stored
            if item.ndim > 1
            and (item.is_floating_point() or item.dtype in (torch.int8, torch.uint8))
        ]


def export(network: "nn.Module", example: "Tensor", path: Path, notes: Mapping[str, str]) -> None:
    """Write a network in evaluation mode, with any batch size.

    Parameters are those of :func:`quantskew.deployment.onnx_files.export`.
    """
    import torch

    program = torch.export.export(
        network.eval(), (example.contiguous(),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    with warnings.catch_warnings():  # that of views of one tensor the first is stored
        warnings.simplefilter("ignore", UserWarning)
        torch.export.save(program, path, extra_files={_NOTES: json.dumps({**notes, **PIXELS})})


def _port(node: Any) -> Port:
    import torch

    value = node.meta["val"]
    sizes = tuple(size if isinstance(size, int) else None for size in value.shape)
    return Port(node.name, sizes, torch.empty(0, dtype=value.dtype).numpy().dtype)
