"""Cells on a Ray cluster, for more than one machine (the extra ``quantskew[ray]``).

Every node sees the folder of the study, and the cell store in it, under the same path: cells find
their data there and leave their results there, whole or not at all. What travels through Ray is
only which cell to do. So a lost worker or node costs the cells that it was at, which Ray starts
again elsewhere.
"""

import os
import sys
from collections.abc import Callable
from itertools import islice
from typing import Any

from quantskew.engine.compute import TRIES, Compute, Outcomes, Tasks
from quantskew.errors import UserError

IN_FLIGHT = 1000
"""Tasks handed to Ray at a time: more than it can run, few enough to wait for any of them."""


def cluster(do: Callable[..., str | None], tasks: Tasks, compute: Compute) -> Outcomes:
    """Call a function with the arguments of each task on a cluster.

    Parameters
    ----------
    do, tasks
        As in :func:`quantskew.engine.pool.processes`.
    compute
        CPUs and GPUs of a task, and the ``address`` of a running cluster; without one a cluster is
        started on this machine, unless the environment names one (``RAY_ADDRESS``).

    Raises
    ------
    UserError
        When Ray is not installed or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise UserError("compute.where: ray needs Ray: pip install 'quantskew[ray]'") from None
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=compute.address, log_to_driver=False, include_dashboard=False)
        except ConnectionError as error:
            raise UserError(f"compute.address: no Ray cluster answers: {error}") from None
    has_gpus = "GPU" in ray.cluster_resources()  # type: ignore[no-untyped-call]
    remote = ray.remote(
        num_cpus=compute.cpus, num_gpus=compute.gpus if has_gpus else 0, max_retries=TRIES
    )(_there)
    waiting = iter(tasks.items())
    names: dict[Any, str] = {}
    try:
        while True:
            for name, task in islice(waiting, IN_FLIGHT - len(names)):
                names[remote.remote(os.getcwd(), do, task)] = name
            if not names:
                return
            (done,), _ = ray.wait([*names])
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayError as error:  # lost more often than it is tried
                outcome = f"{type(error).__name__}: {error}"
            yield names.pop(done), outcome
    finally:
        for reference in names:
            ray.cancel(reference, force=True)
        if started:
            ray.shutdown()


def _there(study: str, do: Callable[..., str | None], task: tuple[Any, ...]) -> str | None:
    os.chdir(study)
    if study not in sys.path:  # as quantskew.engine.command.run has it
        sys.path.insert(0, study)
    return do(*task)
