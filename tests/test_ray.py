"""A cluster of two nodes on this machine; the second can be taken away."""

import errno
import runpy
import threading
import time
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from quantskew import params
from quantskew.data.prepare import prepare
from quantskew.engine import cells
from quantskew.engine.cells import Cell, CellError
from quantskew.engine.compute import Compute
from quantskew.layout import samples_path

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*", "ignore::ResourceWarning"),
]
ON_RAY = {"where": "ray", "cpus": 1}
# every kind of cell, each as small as it can be
STUDY = {
    "datasets": ["digits"],
    "models": ["resnet18_quarter"],
    "bits": [4],
    "seeds": [0, 1],
    "sources": {"digits": {"imbalance": "paper"}},
    "training": {"epochs": 1},
    "qat": {"epochs": 1},
    "extensions": ["ray_kinds"],
    "methods": {
        "ptq": {}, "qat": {"training": "qat"}, "down": {"weights": {"rounding": "ray_down"}},
    },
    "mitigations": {"balanced": {"recipe": {"sampling": "balanced"}}},
    "groups": {"by": {"digits": ["digit"]}},
    "curvature": {"methods": ["ptq"], "seeds": 1, "samples": 2, "probes": 0, "errors": False},
    "statistics": {"draws": 100},
    "deploy": {"seeds": 1, "calibrations": {"random": {"choice": "random"}}},
}  # fmt: skip
# a kind of the user's own, in a module that lies in the folder of the study alone
KINDS = """
from dataclasses import replace

from quantskew.quantization.rounding import Nearest


class Down(Nearest, kind="ray_down"):
    def __call__(self, layer, nearest, seen):
        low, _ = nearest.limits()
        return replace(nearest, codes=(nearest.codes - 1).maximum(low).short())
"""


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # nodes are processes of this machine with an environment of their own
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
        head = {"num_cpus": 1, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        ray.init(made.address, log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def second(cluster):
    node = cluster.add_node(num_cpus=1)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


def nap(folder: Path, *, number: int) -> None:
    time.sleep(0.2)
    if number == 3:
        raise ValueError("three is not wanted")
    (folder / "out.txt").write_text(str(number), encoding="utf-8")


def finished(store: Path) -> int:
    return sum(not path.suffix for path in store.glob("??/*"))


def take_away(cluster, node, store: Path, done: int) -> threading.Thread:
    """Remove a node once so many cells are done."""

    def work() -> None:
        while finished(store) < done:
            time.sleep(0.02)
        cluster.remove_node(node)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_failing_cell_is_named_and_a_lost_node_costs_nothing_else(
    cluster, second, tmp_path, monkeypatch
):
    monkeypatch.setenv("QUANTSKEW_CELLS", str(tmp_path))
    work = [Cell(str(n), f"{__name__}:nap", number=n) for n in range(12)]
    taking = take_away(cluster, second, tmp_path, 2)
    with pytest.raises(CellError, match=r"1 of 12 cells failed.*\n  3: ValueError.*\n.*number=3"):
        cells.run(work, title="t", compute=Compute(**ON_RAY))
    taking.join()
    made = {path.read_text() for path in tmp_path.rglob("out.txt")}
    assert made == {str(n) for n in range(12)} - {"3"}


def disk_is_full(folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_the_stage(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTSKEW_CELLS", str(tmp_path))
    work = [Cell("full", f"{__name__}:disk_is_full")]
    with pytest.raises(OSError, match="No space left"):
        cells.attempt(work, title="t", compute=Compute(**ON_RAY))


def run_study(folder: Path, compute: dict) -> dict[Path, bytes]:
    """Run every stage that has cells; give what it promises."""
    with chdir(folder):
        Path("ray_kinds.py").write_text(KINDS)
        Path("params.yaml").write_text(yaml.safe_dump(STUDY | {"compute": compute}))
        study = params.load()
        prepare("digits", study.source("digits"), study.downloads).write(samples_path("digits"))
        for stage in ("train", "quantize", "mitigate", "deploy", "evaluate"):
            runpy.run_path(str(ROOT / f"stages/{stage}.py"))["main"]("digits", "resnet18_quarter")
        return {path: path.read_bytes() for path in Path("data").rglob("*.*")}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The study in one process, and how many cells it has."""
    folder = tmp_path_factory.mktemp("here")
    return run_study(folder, {"where": "here", "cpus": 1}), finished(folder / ".cells")


@pytest.mark.parametrize("lost", [False, True], ids=["two nodes", "one lost half-way"])
def test_a_study_on_a_cluster_has_the_bytes_of_one_in_process(
    lost, cluster, second, here, tmp_path
):
    expected, number = here
    taking = take_away(cluster, second, tmp_path / ".cells", number // 2) if lost else None
    found = run_study(tmp_path, ON_RAY)
    if taking is not None:
        taking.join()
    assert number > 20
    assert {path.parts[1] for path in expected} >= {"deployed", "evaluations", "mitigated"}
    assert found.keys() == expected.keys()
    assert [path for path in found if found[path] != expected[path]] == []
