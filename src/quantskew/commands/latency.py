"""``quantskew latency``: the files of a study are timed."""

import argparse

from quantskew.commands.common import PASS, Command
from quantskew.errors import UserError

TEXT = """\
time the files of a study beside fp32, and list the size of every variant

Writes metrics/latency/<data set>/<model>.json. Times vary between runs, so no stage produces this
file. No runtime executes simulated variants, which are stored packed: only their size is listed.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("dataset", "model"):
        parser.add_argument(f"--{name}", help=f"only this {name} (default: all of the study)")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="time per batch size and pair (default: 4)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")


def _run(options: argparse.Namespace) -> int:
    import torch

    from quantskew import params
    from quantskew.deployment.latency import study_latency

    if not (options.threads >= 1 and 0 < options.seconds < float("inf")):
        raise UserError(
            f"--threads {options.threads}, --seconds {options.seconds:g}: 1 or more, and above 0"
        )
    study = params.load()
    torch.set_num_threads(options.threads)
    for dataset in [options.dataset] if options.dataset else study.datasets:
        for model in [options.model] if options.model else study.models:
            for line in study_latency(dataset, model, seconds=options.seconds):
                print(line)
    return PASS


COMMAND = Command("latency", TEXT, _run, arguments=_arguments)
