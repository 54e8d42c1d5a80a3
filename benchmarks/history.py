"""How a study came about cannot change its bytes.

The small study (``small_study.py``, with two widths and two seeds) runs once from an empty store,
its cells one after another. Then it grows: it begins with one method, width and seed, takes on the
others one by one in a random order, runs its cells in one process or in two, and is interrupted in
the middle of trainings. Every file of the results must be the same in the end.

    python benchmarks/history.py --orders 10

Prints each order; exits with 1 if a byte differs. All stages run in this process, without DVC.
"""

import argparse
import random
import runpy
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest.mock import patch

from small_study import ROOT, SETTINGS, Study

from quantskew import params
from quantskew.training import loop

WHOLE: dict[str, list[Any]] = {
    "seeds": [0, 1],
    "bits": [4, 2],
    "methods": ["ptq", "qat"],
    "mitigations": ["fair"],
}
CELLS = ("download", "train", "quantize", "mitigate", "deploy", "evaluate")
ANALYZED = 0.3
"""Share of the smaller studies whose report is written too."""


def settings(parts: dict[str, list[Any]]) -> dict[str, Any]:
    """Parameters of a study that has some of the parts; in the order of the whole one."""
    listed = {
        name: [part for part in whole if part in parts[name]] for name, whole in WHOLE.items()
    }
    return listed | {
        name: {key: SETTINGS[name][key] for key in listed[name]}
        for name in ("methods", "mitigations")
    }


def growing(rng: random.Random) -> Iterator[dict[str, list[Any]]]:
    """Studies from the smallest to the whole one, each with one part more than the one before."""
    parts: dict[str, list[Any]] = {name: [] for name in WHOLE}
    parts |= {"methods": ["ptq"]}  # the reference
    for name in ("seeds", "bits"):
        parts[name] = [rng.choice(WHOLE[name])]
    missing = [(name, part) for name, whole in WHOLE.items() for part in whole
               if part not in parts[name]]  # fmt: skip
    rng.shuffle(missing)
    yield parts
    for name, part in missing:
        parts = parts | {name: [*parts[name], part]}
        yield parts


class Interrupted(BaseException):
    """An interruption, as by Ctrl-C."""


def run(
    study: Study,
    parts: dict[str, list[Any]],
    where: str,
    interruptions: int = 0,
    *,
    analyzed: bool = True,
) -> None:
    """Run the stages; some trainings are interrupted after a checkpoint and started again."""
    study.set(**settings(parts), compute=study.default["compute"] | {"where": where, "workers": 2})
    keep = loop._save

    def interrupt(*given: Any) -> None:
        nonlocal interruptions
        keep(*given)
        if interruptions:
            interruptions -= 1
            raise Interrupted

    with chdir(study.folder), patch.object(loop, "_save", interrupt):
        params.load()
        for stage in (*CELLS, "analyze") if analyzed else CELLS:
            main = runpy.run_path(str(ROOT / f"stages/{stage}.py"))["main"]
            given = {"download": ["digits"], "analyze": []}.get(stage, ["digits", "tiny"])
            while True:
                try:
                    main(*given)
                    break
                except Interrupted:
                    continue


def differences(study: Study, truth: dict[str, str]) -> list[str]:
    """Names of the files that differ."""
    found = study.contents()
    return [name for name in truth | found if found.get(name) != truth.get(name)]


def main() -> None:
    """Grow the study in several orders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as scratch, patch.object(loop, "CHECKPOINT_SECONDS", -1):
        sys.path.insert(0, scratch)
        study = Study(Path(scratch))
        run(study, WHOLE, "here")
        truth = study.contents()
        for number in range(options.orders):
            study.forget()
            rng, steps = random.Random(options.seed + number), []
            *_, whole = orders = [*growing(rng)]
            for parts in orders:
                where, interruptions = rng.choice(["here", "processes"]), rng.randrange(3)
                analyzed = parts == whole or rng.random() < ANALYZED
                run(study, parts, where, interruptions, analyzed=analyzed)
                steps.append(f"{where}, {interruptions} interruptions, {parts}")
            names = differences(study, truth)
            faults += len(names)
            print(f"order {number}: {len(names)} of {len(truth)} files differ", *steps, *names,
                  sep="\n  ")  # fmt: skip
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
