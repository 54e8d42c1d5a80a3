"""Kill a small study at random moments, go on each time, and see that no byte of it differs.

The study runs once undisturbed. Then the same study is started from nothing again and again, and
each run is hit after a random time: by SIGKILL, SIGINT or SIGTERM, sent to ``dvc``, to the stage,
to one of its workers, or to all of them at once. It is started again until it is whole, and every
file under ``data``, ``metrics`` and ``plots`` is compared with that of the undisturbed run.

    python benchmarks/kills.py --kills 60

Goes on where it stopped (``--done``). Prints how often each kind of process was hit, in which
stage, and what was found afterwards; exits with 1 if a byte differs, or a run hangs or ends with a
traceback.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import yaml
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {"datasets": ["digits"], "models": ["resnet18_quarter"], "bits": [4, 2],
                         "seeds": [0, 1]}  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
TARGETS = ("dvc", "stage", "worker", "all")
LIMIT = 1800  # seconds of one run
RESULTS = ("data", "metrics", "plots")
DIFFERS = ("seconds", "inputs")  # folders of times of day and of this machine


def project(folder: Path) -> Path:
    """A repository with the files of this one and a small study."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if name.startswith(("tests/", "docs/", "data/", "metrics/", "plots/")):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")) | SMALL
    params["training"] |= {"epochs": 4}
    params["qat"] |= {"epochs": 3}
    params["statistics"] |= {"draws": 100}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    (folder / "dvc.lock").unlink(missing_ok=True)
    who = ["-c", "user.name=kills", "-c", "user.email=kills@example.com"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True)
    return folder


def start(folder: Path) -> subprocess.Popen[str]:
    """Start ``dvc repro`` as the leader of a group of processes."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": tools, "PYTHONPATH": str(folder / "src")}
    with (folder / "output.txt").open("w") as output:
        return subprocess.Popen(
            ["dvc", "repro"], cwd=folder, env=environment, start_new_session=True, text=True,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    """Digests of all results, by their names."""
    files = (file for name in RESULTS for file in (folder / name).rglob("*"))
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file() and file.name != ".gitignore" and not {*DIFFERS} & {*file.parts}
    }


def forget(folder: Path) -> None:
    """Remove all results, also those of the store and of DVC's cache."""
    for name in (*RESULTS, ".cells", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "dvc.lock").unlink(missing_ok=True)


def hit(process: subprocess.Popen[str], target: str, sent: signal.Signals) -> str | None:
    """Send a signal to one kind of the processes of a run; return the stage that was running."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
        stages = [one for one in below if any(part.startswith("stages/") for part in one.cmdline())]
        names = [part for one in stages for part in one.cmdline() if part.startswith("stages/")]
        first = [one for one in stages if "python" in one.name()]
        workers = [one for one in below if first and first[0] in one.parents()]
        chosen = {"dvc": [psutil.Process(process.pid)], "stage": first[:1], "worker": workers,
                  "all": []}[target]  # fmt: skip
        if target == "all":
            os.killpg(process.pid, sent)
        elif not chosen:
            return None
        else:
            random.choice(chosen).send_signal(sent)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None
    return names[0] if names else "between stages"


def ended(process: subprocess.Popen[str]) -> int | None:
    """Wait for a run to end; return its status, or None if it hangs."""
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None


def unexpected(folder: Path) -> str:
    """The traceback in the output of a run that was not killed, if there is one."""
    text = (folder / "output.txt").read_text(errors="replace")
    found = re.search(r"Traceback \(most recent call last\).*", text, flags=re.S)
    return found[0][-600:] if found else ""


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--done", type=Path, default=Path("kills.jsonl"), help="kept results")
    options = parser.parse_args()
    known = []
    if options.done.exists():
        known = [json.loads(line) for line in options.done.read_text().splitlines()]
    random.seed(options.seed + len(known))
    faults = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = project(Path(scratch))
        began = time.monotonic()
        if ended(start(folder)) != 0:
            sys.exit((folder / "output.txt").read_text()[-3000:])
        duration, truth = time.monotonic() - began, contents(folder)
        forget(folder)
        bar = tqdm(total=options.kills, initial=len(known), unit="kill")
        with bar, options.done.open("a") as log:
            while len(known) < options.kills:
                process = start(folder)
                # short waits hit the first stages, the store makes the later ones come sooner
                waited = random.uniform(1, max(duration / 3, 5))
                try:
                    process.wait(waited)
                except subprocess.TimeoutExpired:
                    target, sent = random.choice(TARGETS), random.choice(SIGNALS)
                    stage = hit(process, target, sent)
                    if stage is not None:
                        log.write(json.dumps([target, sent.name, stage]) + "\n")
                        log.flush()
                        known.append([target, sent.name, stage])
                        bar.update()
                    status = ended(process)
                    if status is None:
                        faults.append(f"hangs after {sent.name} to {target} in {stage}")
                    continue
                if process.returncode != 0 or unexpected(folder):
                    faults.append(f"a run that nobody hit failed: {unexpected(folder)}")
                    break
                found = contents(folder)
                differ = [name for name in truth if found.get(name) != truth[name]]
                faults += [f"{name} differs" for name in differ]
                forget(folder)
            if ended(start(folder)) != 0 or contents(folder) != truth:
                faults.append("the last run does not end with the same bytes")
    for what, counts in zip(("target", "signal", "stage"), zip(*known, strict=True), strict=True):
        print(f"by {what}: {', '.join(f'{k} {n}' for k, n in Counter(counts).most_common())}")
    print(f"{len(known)} kills, {len(faults)} faults", *faults, sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
