import json
import subprocess
import sys

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
