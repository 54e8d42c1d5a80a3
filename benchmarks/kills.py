"""Kill a small study at random moments, go on each time, and see that no byte of it differs.

The study (``small_study.py``) is started from nothing again and again, and is hit after random
times by SIGKILL, SIGINT or SIGTERM, sent to ``dvc``, to the stage, to a worker, to the fork server
that starts the workers, or to all of them at once; of those that are there, most often to the kind
that was hit least. Half of the kills, by chance, wait for a training that has left a checkpoint, if
one comes soon. What ends is started again until the study is whole. Every file under ``data``,
``metrics`` and ``plots`` is compared with that of a last run, which nobody disturbs, and no cell
that was finished before a kill may be lost or made again.

    python benchmarks/kills.py --kills 60
    python benchmarks/kills.py --ray --kills 10      # on a cluster of Ray, its workers among those

Goes on where it stopped (``--done``). Prints how often each kind of process was hit, in which
stage, and what was found afterwards; exits with 1 if a byte differs, a cell is lost, or a run
hangs, fails unhit, or prints a traceback that is not that of the kill.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil
from small_study import Study
from tqdm import tqdm

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
SURVIVED = ("worker", "fork server", "ray worker")
"""Processes whose end the stage survives, as long as no cell loses its process three times."""
LIMIT = 1800  # seconds of one run
PATIENCE = 20  # seconds for which a kill waits for a training
ADDRESS = "127.0.0.1:6399"
BROKEN = {"Unable to read RWLock-file": ".dvc/tmp/rwlock", "'./dvc.lock' validation": "dvc.lock"}
"""Files that DVC writes in place and leaves half-written where it is killed, by what it says."""
NOT_OURS = ("KeyboardInterrupt", "InterruptedError")
"""Ends of tracebacks that Python or DVC prints where a signal meets it before the program."""


def processes(run: subprocess.Popen[str], cluster: int | None) -> dict[str, list[psutil.Process]]:
    """Processes of a run by kind; ``cluster`` is the process that started Ray."""
    below = psutil.Process(run.pid).children(recursive=True)
    stages = [one for one in below if any(part.startswith("stages/") for part in one.cmdline())]
    stage = [one for one in stages if "python" in one.name()][:1]
    forked = [one for one in below if any("forkserver" in part for part in one.cmdline())]
    servers = [one for one in forked if stage and one.ppid() == stage[0].pid]
    found = {
        "dvc": [psutil.Process(run.pid)],
        "stage": stage,
        "fork server": servers,
        "worker": [one for one in forked if one not in servers],
    }
    if cluster is not None:
        there = psutil.Process(cluster).children(recursive=True)
        task = "ray::_there"  # as ray_pool names it; what else is called so are agents of the node
        found["ray worker"] = [one for one in there if one.cmdline()[:1] == [task]]
    return found


def resumable(study: Study) -> bool:
    """Say whether a training is under way that left a checkpoint in the last second."""
    for file in study.folder.glob(".cells/??/*.part/checkpoint*"):
        with suppress(FileNotFoundError):  # the training may just have ended
            if time.time() - file.stat().st_mtime < 1:
                return True
    return False


def hit(
    run: subprocess.Popen[str],
    study: Study,
    survivable: bool,
    cluster: int | None,
    known: list[list[str]],
) -> list[str] | None:
    """Send a signal to a process of a run, of a kind that few of the ``known`` ones were of.

    Returns
    -------
    list or None
        What was hit, by which signal, in which stage, and whether a training had left a checkpoint
        from which it can go on. None if nothing was there to be hit.
    """
    sent = random.choice(SIGNALS)
    try:
        found = processes(run, cluster)
        there = [kind for kind, some in found.items() if some]
        allowed = [kind for kind in (*there, "all") if survivable or kind not in SURVIVED]
        before = Counter(what[0] for what in known)
        target = random.choices(allowed, [0.5 ** before[kind] for kind in allowed])[0]
        stage = next((part for one in found["stage"] for part in one.cmdline()
                      if part.startswith("stages/")), "between stages")  # fmt: skip
        training = resumable(study)
        if target == "all":
            os.killpg(run.pid, sent)
        else:
            random.choice(found[target]).send_signal(sent)
    except (psutil.NoSuchProcess, psutil.ZombieProcess, ProcessLookupError):
        return None
    return [target, sent.name, stage, "in training" if training else "elsewhere"]


def traceback(text: str) -> str:
    """The first traceback in the output of a run that is not that of a signal, if there is one."""
    between = r"\n.*\n\nDuring handling of the above exception.*\n\nTraceback.*\n"
    chained = re.sub(between, "\n", text)  # the last one says what it was
    for found in re.findall(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)*.*", chained):
        if not found.splitlines()[-1].startswith(NOT_OURS):
            return str(found[-600:])
    return ""


@contextmanager
def ray_cluster() -> Iterator[int]:
    """Start Ray on this machine; give the process that did."""
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={ADDRESS[-4:]}",
               "--include-dashboard=false", "--disable-usage-stats"]  # fmt: skip
    tool = Path(sys.executable).parent / command[0]
    with subprocess.Popen([tool, *command[1:]], stdout=subprocess.DEVNULL) as process:
        try:
            time.sleep(20)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def campaign(
    study: Study,
    kills: int,
    minutes: float,
    every: float,
    known: list[list[str]],
    note: Callable[[list[str]], None],
    cluster: int | None,
) -> list[str]:
    """Run until kills or time are enough; append each to ``known``; return what is wrong.

    The last run starts from nothing and is not hit: the others must have its bytes.
    """
    start, faults, whole = time.monotonic(), list[str](), list[dict[str, str]]()
    where = {} if cluster is None else {"where": "ray", "address": ADDRESS}
    study.set(compute=study.default["compute"] | {"workers": 2} | where)
    cells: dict[str, int] = {}
    last = False
    while True:
        run, began, here = study.start(), time.monotonic(), list[list[str]]()
        while True:
            enough = last or len(known) >= kills or time.monotonic() - start > 60 * minutes
            try:
                # often too short for a stage, sometimes long enough for several
                run.wait(LIMIT if enough else random.expovariate(1 / every))
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() - began > LIMIT:
                    os.killpg(run.pid, signal.SIGKILL)
                    faults.append(f"hangs after {here}")
                    break
            cells |= study.cells()
            patience = time.monotonic() + random.choice((0, PATIENCE))
            while time.monotonic() < patience and run.poll() is None and not resumable(study):
                time.sleep(0.01)
            survived = sum(what[0] in SURVIVED for what in here)
            if what := hit(run, study, survived < 2, cluster, known):
                known.append(what)
                here.append(what)
                note(what)
        kept = study.cells()
        lost = [name for name, made in cells.items() if kept.get(name) != made]
        faults += [f"cell {name} lost or made again after {here}" for name in lost]
        if found := traceback(study.output()):
            faults.append(f"a traceback after {here}: {found}")
        if run.returncode == 0:
            whole.append(study.contents())
            print(f"whole after {len(known)} kills: {len(whole[-1])} files, {len(kept)} cells")
            if last:
                break
            last, cells = enough, {}
            study.forget()
        elif broken := [name for words, name in BROKEN.items() if words in study.output()]:
            print(f"{broken[0]} of dvc removed after {len(known)} kills")
            (study.folder / broken[0]).unlink()
        elif all(what[0] in SURVIVED for what in here):
            return [*faults, f"failed, though only {here} were hit: {study.output()[-2000:]}"]
    *others, truth = whole
    return faults + [
        f"{name} of whole run {number} differs"
        for number, results in enumerate(others)
        for name in sorted(truth | results)
        if results.get(name) != truth.get(name)
    ]


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=600, help="no kill is begun after these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=15, help="mean seconds between signals")
    parser.add_argument("--ray", action="store_true", help="run the cells on a cluster of Ray")
    parser.add_argument("--done", type=Path, default=Path("kills.jsonl"), help="kept results")
    options = parser.parse_args()
    known: list[list[str]] = []
    if options.done.exists():
        known = [json.loads(line) for line in options.done.read_text().splitlines()]
    random.seed(options.seed + len(known))
    bar = tqdm(total=options.kills, initial=len(known), unit="kill")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
        options.done.open("a") as log,
        bar,
        ray_cluster() if options.ray else nullcontext() as cluster,
    ):

        def note(what: list[str]) -> None:
            log.write(json.dumps(what) + "\n")
            log.flush()
            bar.update()

        study = Study(Path(scratch))
        faults = campaign(
            study, options.kills, options.minutes, options.every, known, note, cluster
        )
    for what, counts in zip(
        ("process", "signal", "stage", "where"), zip(*known, strict=True), strict=True
    ):
        print(f"by {what}: {', '.join(f'{k} {n}' for k, n in Counter(counts).most_common())}")
    print(f"{len(known)} kills, {len(faults)} faults", *faults, sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
