"""A fixed share of the campaign of bad inputs: all of it is ``python benchmarks/faults.py``."""

import shutil
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import faults

EVERY = {"parameters": 97, "policies": 23, "archives": 29, "packed": 11, "parquet": 5,
         "onnx_files": 13, "images": 13, "litert_files": 13, "readers": 9, "factories": 9,
         "functions": 7, "extensions": 13, "loaders": 9}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", faults.FAMILIES)
def test_bad_inputs_are_refused_by_name_or_taken_as_they_are(family, tmp_path):
    pytest.importorskip(faults.NEEDED.get(family, "sys"))
    work, ends = tmp_path / "work", {}
    work.mkdir()
    for case in [*faults.FAMILIES[family](work)][:: EVERY.get(family, 3)]:
        shutil.rmtree(work)
        work.mkdir()
        ends[case.name] = faults.ending(case.run)
    assert len(ends) > 3
    assert not {name: end for name, end in ends.items() if end[0] not in faults.OK}
