"""A cluster of two nodes on this machine; the second can be taken away."""

import threading
import time
from pathlib import Path

import pytest

from quantskew import cells, params
from quantskew.cells import Cell, CellError
from quantskew.data.prepare import prepare
from quantskew.params import Compute
from quantskew.variants import make_baselines, make_variants, samples_path

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*", "ignore::ResourceWarning"),
]
ONE_THREAD = {"where": "here", "cpus": 1}


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    # nodes are processes of this machine with an environment of their own
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.second = made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture
def ray_on(cluster):
    return {"where": "ray", "address": cluster.address, "cpus": 1}


def nap(folder: Path, *, number: int) -> None:
    time.sleep(0.2)
    if number == 3:
        raise ValueError("three is not wanted")
    (folder / "out.txt").write_text(str(number), encoding="utf-8")


def take_away_once_something_is_done(cluster, store: Path) -> threading.Thread:
    def work() -> None:
        while not any(not path.suffix for path in store.glob("*/*")):
            time.sleep(0.02)
        cluster.remove_node(cluster.second)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_failing_cell_is_named_and_a_lost_node_costs_nothing_else(
    cluster, ray_on, tmp_path, monkeypatch
):
    store = tmp_path / "cells"
    monkeypatch.setenv("QUANTSKEW_CELLS", str(store))
    work = [Cell(str(n), f"{__name__}:nap", number=n) for n in range(12)]
    taking = take_away_once_something_is_done(cluster, store)
    with pytest.raises(CellError, match=r"1 of 12 cells failed.*\n  3: ValueError.*\n.*number=3"):
        cells.run(work, title="t", compute=Compute(**ray_on))
    taking.join()
    made = {path.read_text() for path in store.rglob("out.txt")}
    assert made == {str(n) for n in range(12)} - {"3"}


def test_a_study_with_a_node_lost_has_the_bytes_of_one_in_process(
    cluster, ray_on, tmp_path, monkeypatch
):
    found = []
    for compute in (ONE_THREAD, ray_on):
        study = params.Params(
            datasets=["digits"], models=["resnet18_quarter"], bits=[4], seeds=[0, 1],
            sources={"digits": {}}, training={"epochs": 1},
            methods={"ptq": {}, "fp16": {"weights": {"format": "float16"}}}, compute=compute,
        )  # fmt: skip
        folder = tmp_path / compute["where"]
        folder.mkdir()
        monkeypatch.chdir(folder)
        prepare("digits", study.source("digits"), study.downloads).write(samples_path("digits"))
        taking = None
        if compute is ray_on:
            taking = take_away_once_something_is_done(cluster, folder / ".cells")
        make_baselines(study, "digits", "resnet18_quarter")
        make_variants(study, study.methods, "digits", "resnet18_quarter", stage="quantize")
        if taking is not None:
            taking.join()
        files = [path for path in (folder / "data").rglob("*") if path.is_file()]
        found.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert len(found[0]) > 10
    assert found[0] == found[1]
