"""Run stages of a small study where the machine is not as they would have it.

A full disk, folders that cannot be written, no network, no home, one core, little memory, other
locales and time zones, a path with spaces and umlauts, two runs at once. Each run ends in one of
the ways of ``faults.py``: *taken*, and its files have the bytes of an undisturbed run; *refused*,
with a message and no traceback; or it is a fault. What was refused runs once more without the
obstacle, and must then have these bytes too.

    sudo python benchmarks/environment.py                   # stage download
    sudo python benchmarks/environment.py --stages download train

Mounts small file systems below a temporary folder, for which it has to be root, on Linux.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from faults import OK
from small_study import Study

SECONDS = 600
GIVEN = {"download": ("digits",), "train": ("digits", "tiny")}


class Ending(NamedTuple):
    """How a run ended: its status and what it printed."""

    status: int | None
    text: str


class Case(NamedTuple):
    """An obstacle: what is put before the command, variables, and what is mounted meanwhile."""

    name: str
    prefix: tuple[str, ...] = ()
    variables: dict[str, str] = {}
    mounted: tuple[str, ...] = ()  # a folder of the study, and options of mount
    at_once: int = 1


@contextmanager
def mounted(folder: Path, place: str = "", *options: str) -> Iterator[None]:
    """Mount something over a folder of the study."""
    if not place:
        yield
        return
    target = folder / place
    target.mkdir(parents=True, exist_ok=True)
    what = [str(target)] if "bind" in options[-1] else ["tmpfs"]
    subprocess.run(["mount", *options, *what, str(target)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def run(study: Study, stages: list[str], case: Case) -> Ending:
    """Run stages with an obstacle, one or several runs at once."""
    environment = {**os.environ, "PYTHONPATH": str(study.folder / "src")} | case.variables
    environment = {name: value for name, value in environment.items() if value != "unset"}
    with mounted(study.folder, *case.mounted):
        for stage in stages:
            command = [*case.prefix, sys.executable, f"stages/{stage}.py", *GIVEN[stage]]
            running = [
                subprocess.Popen(command, cwd=study.folder, env=environment, text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                for _ in range(case.at_once)
            ]  # fmt: skip
            try:
                texts = [one.communicate(timeout=SECONDS)[0] for one in running]
            except subprocess.TimeoutExpired:
                for one in running:
                    one.kill()
                return Ending(None, "")
            for one, text in zip(running, texts, strict=True):
                if one.returncode or "Traceback" in text:
                    return Ending(one.returncode, text)
        if case.mounted:  # what was mounted is seen only here
            shutil.copytree(study.folder / "data", study.folder / "seen", dirs_exist_ok=True)
    return Ending(0, "")


def results(study: Study, folder: str = "data") -> dict[str, bytes]:
    """Bytes of the results."""
    files = [path for path in (study.folder / folder).rglob("*.*") if path.is_file()]
    return {str(path.relative_to(study.folder / folder)): path.read_bytes() for path in files}


def cases(needed: int) -> Iterator[Case]:
    """Obstacles; ``needed`` bytes is what the results and the store take."""
    sizes = (4096, needed // 2, needed - 4096)
    for place in ("data", ".cells"):
        for size in sizes:
            full = (place, "-t", "tmpfs", "-o", f"size={size}")
            yield Case(f"{place} on a full disk of {size:,} bytes", mounted=full)
        yield Case(f"{place} read-only", mounted=(place, "-o", "bind,ro"))
    yield Case("data/downloads read-only", mounted=("data/downloads", "-o", "bind,ro"))
    yield Case("no network", ("unshare", "--net"))
    yield Case("no home", variables={"HOME": "unset"})
    yield Case("a home that is not there", variables={"HOME": "/nowhere"})
    yield Case("one core", ("taskset", "--cpu-list", "0"))
    for megabytes in (800, 3000):  # with less, the libraries themselves cannot be loaded
        limit = f"--as={megabytes * 2**20}"
        yield Case(f"{megabytes} MB of addresses", ("prlimit", limit))
    yield Case("16 open files", ("prlimit", "--nofile=16"))
    for locale in ("C", "tr_TR.UTF-8", "de_DE.ISO-8859-1"):
        variables = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        yield Case(f"locale {locale}", variables=variables)
    yield Case("time zone of Chatham", variables={"TZ": "Pacific/Chatham"})
    yield Case("two runs at once", at_once=2)


def judged(study: Study, stages: list[str], case: Case, truth: dict[str, bytes]) -> tuple[str, str]:
    """Run a case from nothing; return how it ends and why."""
    study.forget()
    shutil.rmtree(study.folder / "seen", ignore_errors=True)
    ending = run(study, stages, case)
    if ending.status is None:
        return "hang", ""
    if "Traceback" in ending.text or ending.status < 0 or (ending.status and not ending.text):
        return "traceback", f"status {ending.status} {ending.text[-600:]}"
    how = "refused" if ending.status else "taken"
    if ending.status:
        again = run(study, stages, Case("again"))
        if again.status:
            return "wrong", f"not afterwards either: {again.text[-600:]}"
    found = results(study, "seen" if case.mounted and how == "taken" else "data")
    differ = [name for name in truth if found.get(name) != truth[name]]
    return ("wrong", f"{differ} differ") if differ else (how, ending.text[-200:])


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", nargs="*", choices=GIVEN, default=["download"])
    options = parser.parse_args()
    tally: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        study = Study(Path(scratch, "a study of Zoë's"))
        assert run(study, options.stages, Case("undisturbed")).status == 0
        truth = results(study)
        needed = sum(map(len, truth.values()))
        for case in cases(needed):
            how, why = judged(study, options.stages, case, truth)
            tally[how] += 1
            print(f"{how}: {case.name}: {' '.join(why.split())}", flush=True)
    print(f"{sum(tally.values())} cases: {dict(tally)}")
    sys.exit(any(how not in OK for how in tally))


if __name__ == "__main__":
    main()
