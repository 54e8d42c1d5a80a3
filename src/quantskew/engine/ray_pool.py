"""Cells on a Ray cluster, for more than one machine (the extra ``quantskew[ray]``).

Every node sees the folder of the study, including the store of cells, under the same path. Cells
read their data and write their results there; only the descriptions of cells are sent through Ray.
If a worker or node is lost, Ray therefore only has to restart the cells that ran on it.
"""

import os
import pickle
import sys
from collections.abc import Callable
from itertools import islice
from typing import Any

from quantskew.engine.compute import TRIES, Compute, Outcomes, Tasks
from quantskew.errors import UserError, of_the_machine

IN_FLIGHT = 1000
"""Tasks submitted to Ray at a time: more than it can run, few enough to wait on."""


def cluster(do: Callable[..., str | None], tasks: Tasks, compute: Compute) -> Outcomes:
    """Run the tasks on a cluster, as :func:`quantskew.engine.pool.processes` does on one machine.

    ``compute`` has the CPUs and GPUs per task, and the ``address`` of a running cluster. Without
    one (here or in ``RAY_ADDRESS``) a cluster is started on this machine. A ``UserError`` is raised
    when Ray is not installed or no cluster answers.
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
            raise UserError(
                f"compute.address: no Ray cluster answers: {error} One that asks for a token, as "
                "it may from Ray 2.59 on, wants RAY_AUTH_MODE=token in the environment."
            ) from None
    has_gpus = "GPU" in ray.cluster_resources()  # type: ignore[no-untyped-call]
    remote = ray.remote(
        num_cpus=compute.cpus, num_gpus=compute.gpus if has_gpus else 0, max_retries=TRIES
    )(_there)
    waiting = iter(tasks.items())
    names: dict[Any, str] = {}
    try:
        while True:
            for name, task in islice(waiting, IN_FLIGHT - len(names)):
                names[remote.remote(os.getcwd(), do, pickle.dumps(task))] = name
            if not names:
                return
            (done,), _ = ray.wait([*names])
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayError as error:  # lost TRIES times, or raised by the task
                cause = getattr(error, "cause", None)
                if cause is not None and of_the_machine(cause):
                    raise cause from None
                outcome = f"{type(error).__name__}: {error}"
            yield names.pop(done), outcome
    finally:
        for reference in names:
            ray.cancel(reference, force=True)
        if started:
            ray.shutdown()


def _there(study: str, do: Callable[..., str | None], task: bytes) -> str | None:
    os.chdir(study)
    if study not in sys.path:  # as in quantskew.engine.command.run
        sys.path.insert(0, study)
    return do(*pickle.loads(task))  # it may hold kinds of modules in the folder of the study
