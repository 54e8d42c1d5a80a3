import json
import os
import subprocess
import sys
import time

import pytest

from quantskew.engine import costs


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTSKEW_CELLS", str(tmp_path / "cells"))
    monkeypatch.setattr(costs, "SECONDS", 0.01)
    return tmp_path / "cells"


def test_memory_of_processes_below_is_counted(store):
    hungry = "held = bytearray(10**8); print(len(held), flush=True); input()"
    with costs.noted(["train", "digits"]):
        child = subprocess.Popen(
            [sys.executable, "-c", hungry], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout.readline() == b"100000000\n"
        alone = costs._memory()
        child.communicate(b"\n")
    with costs.noted(["analyze"]):
        after = costs._memory()
    lines = (store / costs.LOG).read_text(encoding="utf-8").splitlines()
    first, second = map(json.loads, lines)
    assert first["command"] == ["train", "digits"]
    assert second["command"] == ["analyze"]
    assert alone - after > 0.9e8
    assert first["peak_bytes"] > second["peak_bytes"] > 1e7


def test_what_failed_is_not_noted(store):
    with pytest.raises(ValueError, match="wrong"), costs.noted(["train"]):
        raise ValueError("wrong")
    assert not (store / costs.LOG).exists()


STAGE = """
import time
from pathlib import Path
time.sleep({late})
from quantskew.engine.command import run

def main():
    Path("begun").touch()
    time.sleep(3)
    Path("ended").touch()

run(main)
"""


@pytest.mark.parametrize(("late", "ends"), [(0, False), (1.5, True)])
def test_a_stage_ends_with_its_dvc_however_early_that_ended(tmp_path, late, ends):
    """Its dvc waits for it, or ends before the stage has looked for it."""
    stage = tmp_path / "stage.py"
    stage.write_text(STAGE.format(late=late), encoding="utf-8")
    waits = "one.wait()" if not ends else "time.sleep(0.5)"
    program = (
        "import subprocess, sys, time\n"
        f"one = subprocess.Popen([sys.executable, 'stage.py'])\n{waits}\n"
    )
    (tmp_path / "dvc").write_text(program, encoding="utf-8")
    environment = {**os.environ, "DVC_STAGE": "train", "QUANTSKEW_CELLS": str(tmp_path / "cells")}
    subprocess.run([sys.executable, "dvc"], cwd=tmp_path, env=environment, check=True)
    time.sleep(6 if ends else 0)
    assert (tmp_path / "ended").exists() is not ends
