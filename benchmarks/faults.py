"""Hand the product what it cannot use, and see that each thing is refused by name.

Every case is a bad or unusual input: a value of ``params.yaml`` or of a policy, a damaged image,
archive, table, network or ONNX file, a function of the user's own, a name of a class or a group. It
runs in another process, under a limit of time, and ends in one of these ways:

==========  =================================================================================
refused     by an error that a user can put right
taken       and what came out is what it must be, by a check of the case
traceback   an error of another kind
wrong       taken, and the check fails: silently wrong
hang        no end within the limit
==========  =================================================================================

    python benchmarks/faults.py                      # all families; goes on where it stopped
    python benchmarks/faults.py --family archives csv

Prints a tally, and every case that is neither refused nor taken; exits with 1 if there is any.
"""

import argparse
import copy
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from tqdm import tqdm

from quantskew import api, models, params
from quantskew.analysis import gate
from quantskew.analysis.figures import FIGURES
from quantskew.analysis.study import Statistics
from quantskew.answers.judging import compare_answers
from quantskew.architecture import Architecture
from quantskew.data.groups import Groups, groupings
from quantskew.data.loading import load
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.data.sources.registry import KEYS, READERS, Raw, Terms, source
from quantskew.data.storing import Prepared
from quantskew.deployment.evidence import from_files
from quantskew.engine.fingerprint import defines, identity
from quantskew.errors import UserError
from quantskew.fairness.catalogue import CATALOGUE
from quantskew.fairness.score_catalogue import SCORES
from quantskew.quantization import packing
from quantskew.quantization.fitting import Qat
from quantskew.quantization.post import Post
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.ranges import WeightRange
from quantskew.quantization.rounding import Rounding
from quantskew.quantization.weights import IntegerWeights
from quantskew.sections import checked, read
from quantskew.training.losses import Loss

ROOT = Path(__file__).parents[1]
SECONDS = 60
COUNT = 40
NUMBERS = itertools.count()
OK = ("refused", "taken")
HOSTILE: tuple[Any, ...] = (
    None, True, "x", "", -1, 0, 1.5, 1e9, float("nan"), float("inf"), 10**30, [], {}, [None],
    ["a", "a"], {"kind": "nope"}, "../../x", "ü\n<script>", [[[]]], "1e400", "0x10", "٣",
)  # fmt: skip
NAMES = (
    "$10%-$20%", "A$#$B", "a\nb", "a|b", "<script>alert(1)</script>", "=1+1", "@SUM(A1)", "&amp;",
    "\\frac{1}{2}", "$\\alpha$", "שלום", "a\u202eb", "x" * 300, " ", "a*b", "`code`", "**bold**",
    "[link](x)", "a_b^c", "%s{0}", "\t", "'; DROP TABLE", '"quoted"', "ñandú", "日本語", "🙂",
)  # fmt: skip


class Case(NamedTuple):
    """An input, and what is done with it; the check of what comes out is an assertion in it."""

    name: str
    run: Callable[[], object]


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a tree of mappings and lists."""
    yield at
    listed = enumerate(value) if isinstance(value, list) else ()
    for key, part in value.items() if isinstance(value, dict) else listed:
        yield from leaves(part, (*at, key))


def replaced(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    """A tree with another value at one place."""
    if not at:
        return value
    tree = copy.deepcopy(tree)
    inner = tree
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return tree


def as_given(model: Any, at: tuple[Any, ...], value: Any) -> None:
    """Assert that a value that was accepted is the one that was given, and no reading of it."""
    for key in at:
        if not isinstance(model, dict | tuple):  # a short form, of which nothing lies below
            return
        model = model.get(key) if isinstance(model, dict) else model[key]
    plain = model[0] if isinstance(model, tuple) and len(model) == 1 else model  # one of several
    same = model == value or plain == value or (isinstance(model, tuple) and [*model] == value)
    of_number = isinstance(plain, int | float) and isinstance(value, int | float | str)
    same |= of_number and not isinstance(value, bool) and float(value) == plain  # 1e-6 is a text
    empty = value in ({}, None)  # the defaults of a section
    kind = isinstance(model, dict) and isinstance(value, str) and value in model.values()
    assert same or empty or kind, (value, model)


def of_settings(base: Any, parse: Callable[[Any], Any]) -> Iterator[Case]:
    """Every hostile value at every place of a YAML file."""
    for at in leaves(base):
        for value in HOSTILE:

            def run(at: tuple[Any, ...] = at, value: Any = value) -> None:
                model = parse(replaced(base, at, value))
                if at:
                    as_given(model.model_dump(), at, value)

            yield Case(f"{'.'.join(map(str, at))} = {value!r}", run)


def parameters(_: Path) -> Iterator[Case]:
    """Values of params.yaml."""
    base = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    yield from of_settings(base, lambda given: params.parse(given, "params.yaml"))


def policies(_: Path) -> Iterator[Case]:
    """Values of a policy of the gate."""
    preprocess = {"resize": 32, "crop": 28, "scale": 255, "mean": [0.5], "std": [0.5],
                  "layout": "NCHW", "channels": "RGB"}  # fmt: skip
    base = {"groups": ["race"], "bins": {"age": [0, 19]}, "minimum": 30, "confidence": 0.95,
            "largest_group_loss": 0.05, "fvo_increase": 0.05, "accuracy": 0.8, "bytes": 1000,
            "expected_accuracy": 0.9, "max_rejects": 0.1, "preprocess": preprocess}  # fmt: skip
    yield from of_settings(base, lambda given: checked(gate.Policy, given, "policy.yaml"))


def yaml_files(folder: Path) -> Iterator[Case]:
    """Files that are no YAML, or not what it looks like."""
    texts: dict[str, bytes] = {
        "empty": b"", "binary": bytes(range(256)), "a list": b"[1, 2]", "a text": b"hello",
        "a tab": b"a:\n\t- b", "a key twice": b"bits: 8\nbits: 4", "an alias bomb":
        b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "deep": b"[" * 5000, "utf-16":
        "bits: 8".encode("utf-16"), "a tag": b"!!python/object/apply:os.system [echo]",
        "unclosed": b"bits: [8, 4", "two documents": b"bits: 8\n---\nbits: 4",
    }  # fmt: skip
    for name, text in texts.items():
        path = folder / "given.yaml"

        def run(path: Path = path, text: bytes = text) -> None:
            path.write_bytes(text)
            read(gate.Policy, path, "")

        if name != "empty":
            yield Case(name, run)
    yield Case("a folder", lambda: read(gate.Policy, folder, ""))
    yield Case("nothing", lambda: read(gate.Policy, folder / "no.yaml", ""))


def pictures() -> list[np.ndarray]:
    """As many pictures, each unlike the others."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (12, 12, 3), dtype=np.uint8) for _ in range(COUNT)]


def encoded(pixels: np.ndarray, kind: str = "png", **options: Any) -> bytes:
    """The bytes of a picture."""
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def rows() -> pd.DataFrame:
    """A table of a label and a group for each picture."""
    numbers = np.arange(COUNT)
    return pd.DataFrame(
        {
            "image": [f"{number:02d}.png" for number in numbers],
            "label": np.array(["ill", "well"])[numbers % 2],
            "site": np.array(["a", "b", "c"])[numbers % 3],
        }
    )


def as_truth(made: Prepared) -> None:
    """Assert that every sample kept is as it was written, and that the rest is listed."""
    truth, images = rows(), pictures()
    left_out = {*made.rejects["id"].astype(str)}
    kept = {int(str(name).rpartition("/")[2].partition(".")[0]) for name in made.rows["id"]}
    assert len(made.rows) + len(left_out - {*made.rows["id"].astype(str)}) == COUNT
    for at, row in zip(made.where, made.rows.itertuples(), strict=True):
        number = int(str(row.id).rpartition("/")[2].partition(".")[0])
        assert row.site == truth["site"][number]
        same = (made.pixels[at].transpose(1, 2, 0) == images[number]).all()
        assert same, f"the pixels of {row.id} are not those written"
    assert kept


SOURCE = {"label": "label", "size": 12, "attributes": ("site",), "max_rejects": 0.9}


def prepared(path: Path, **source: Any) -> Prepared:
    """The table of samples of a source."""
    given = Source(path=str(path), **{**SOURCE, **source})
    return prepare("own", given, path.parent / "downloads")


def archive_bytes(form: str) -> bytes:
    """An archive of all pictures with their CSV."""
    stream = io.BytesIO()
    contents = {f"{n:02d}.png": encoded(p) for n, p in enumerate(pictures())}
    contents["labels.csv"] = rows().to_csv(index=False).encode()
    if form == "zip":
        with zipfile.ZipFile(stream, "w") as packed:
            for name, content in contents.items():
                packed.writestr(name, content)
    else:
        with tarfile.open(fileobj=stream, mode="w:gz" if form == "tar.gz" else "w") as packed:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def damaged(whole: bytes, cuts: int, flips: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Copies that are cut, or have one byte changed, or a block of zeros."""
    rng = np.random.default_rng(seed)
    for at in np.linspace(0, len(whole) - 1, cuts).astype(int):
        yield f"cut at {at}", whole[:at]
    for at in rng.integers(0, len(whole), flips):
        yield f"byte {at} changed", whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
        yield f"zeros from {at}", whole[:at] + bytes(512) + whole[at + 512 :]


def archives(folder: Path) -> Iterator[Case]:
    """Damaged archives of pictures."""
    table = folder / "table.csv"
    for form in ("tar", "tar.gz", "zip"):
        for name, content in damaged(archive_bytes(form), 25, 40):

            def run(form: str = form, content: bytes = content) -> None:
                path = folder / f"own.{form}"
                path.write_bytes(content)
                rows().to_csv(table, index=False)
                as_truth(prepared(path, reader="folder", table=table.name))

            yield Case(f"{form}: {name}", run)


def images(folder: Path) -> Iterator[Case]:
    """Damaged pictures, and pictures of unusual kinds."""
    first = pictures()[0]

    def case(name: str, content: bytes) -> Case:
        def run() -> None:
            where = folder / "pictures"
            where.mkdir()
            for number, pixels in enumerate(pictures()):
                (where / f"{number:02d}.png").write_bytes(encoded(pixels))
            (where / "00.png").write_bytes(content)
            rows().to_csv(where / "labels.csv", index=False)
            as_truth(prepared(where, reader="folder", table="labels.csv"))

        return Case(name, run)

    for name, content in damaged(encoded(first), 15, 30):
        yield case(f"png: {name}", content)
    grey = np.zeros((12, 12), np.uint16)
    grey[0] = 60_000
    kinds = {
        "empty": b"", "text": b"hello", "html": b"<html>", "svg": b"<svg/>", "16 bits":
        encoded(grey), "constant": encoded(np.zeros((12, 12, 3), np.uint8)), "a zip":
        archive_bytes("zip"), "float tiff": encoded(np.zeros((12, 12), np.float32), "tiff"),
    }  # fmt: skip
    for name, content in kinds.items():
        yield case(name, content)


def csv(folder: Path) -> Iterator[Case]:
    """Tables beside a folder of pictures that are not as they should be."""
    text = rows().to_csv(index=False)
    lines = text.splitlines()
    texts: dict[str, str | bytes] = {
        "empty": "",
        "header only": lines[0],
        "binary": bytes(range(256)) * 4,
        "utf-16": text.encode("utf-16"),
        "byte order mark": text.encode("utf-8-sig"),
        "latin-1": text.replace("ill", "krank\xe4").encode("latin-1"),
        "NUL": text.replace("ill", "i\0l", 1),
        "semicolons": text.replace(",", ";"),
        "tabs": text.replace(",", "\t"),
        "old Mac lines": text.replace("\n", "\r"),
        "a column twice": text.replace("site", "label", 1),
        "no label": text.replace("label", "x", 1),
        "a short row": "\n".join([*lines[:5], "04.png", *lines[6:]]),
        "a long row": "\n".join([*lines[:5], lines[5] + ",x,y,z", *lines[6:]]),
        "a row twice": "\n".join([*lines, lines[1]]),
        "a cut row": text[:-9],
        "an open quote": text.replace("ill", '"ill', 1),
        "no label in a row": text.replace(",ill,", ",,", 1),
        "one class": text.replace("ill", "well"),
        "a missing file": text.replace("03.png", "99.png"),
        "absolute": text.replace("03.png", "/etc/passwd"),
        "climbing": text.replace("03.png", "../../x"),
        "a folder": text.replace("03.png", "."),
    }
    for name, content in texts.items():

        def run(content: str | bytes = content) -> None:
            where = folder / "pictures"
            where.mkdir()
            for number, pixels in enumerate(pictures()):
                (where / f"{number:02d}.png").write_bytes(encoded(pixels))
            raw = content if isinstance(content, bytes) else content.encode()
            (where / "labels.csv").write_bytes(raw)
            as_truth(prepared(where, reader="folder", table="labels.csv"))

        yield Case(name, run)


def parquet(folder: Path) -> Iterator[Case]:
    """Parquet files that are damaged, or hold other types."""
    images = [encoded(pixels) for pixels in pictures()]
    frame = rows().assign(id=rows()["image"], image=images)
    stream = io.BytesIO()
    frame.to_parquet(stream, index=False)
    contents = dict(damaged(stream.getvalue(), 20, 0))
    site = frame["site"].astype(object)
    changes: dict[str, Callable[[], pd.DataFrame]] = {
        "no rows": lambda: frame.iloc[:0],
        "a null id": lambda: frame.assign(id=frame["id"].where(frame.index > 0)),
        "an id twice": lambda: frame.assign(id=["x", "x", *frame["id"][2:]]),
        "images as text": lambda: frame.assign(image="x"),
        "images as numbers": lambda: frame.assign(image=1),
        "images as lists": lambda: frame.assign(image=[[1, 2]] * COUNT),
        "no image": lambda: frame.drop(columns="image"),
        "images all null": lambda: frame.assign(image=None),
        "labels all null": lambda: frame.assign(label=None),
        "labels as lists": lambda: frame.assign(label=[["a"]] * COUNT),
        "labels NaN": lambda: frame.assign(label=np.nan),
        "groups as lists": lambda: frame.assign(site=[["a"]] * COUNT),
        "a group named all": lambda: frame.assign(site="all"),
        "groups null": lambda: frame.assign(site=site.where(frame.index > 3)),
    }
    for name, content in contents.items():
        yield Case(name, lambda c=content: _parquet(folder, c))  # type: ignore[misc]
    for name, change in changes.items():

        def run(change: Callable[[], pd.DataFrame] = change) -> None:
            given = io.BytesIO()
            pq.write_table(pa.Table.from_pandas(change(), preserve_index=False), given)
            _parquet(folder, given.getvalue(), exact=False)

        yield Case(name, run)


def _parquet(folder: Path, content: bytes, *, exact: bool = True) -> None:
    path = folder / "own.parquet"
    path.write_bytes(content)
    made = prepared(path, reader="parquet")
    if exact:
        as_truth(made)
    assert len(made.rows)


def network() -> nn.Module:
    """A small network with weights of its own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))


def packed(folder: Path) -> Iterator[Case]:
    """Damaged files of packed codes."""
    path, example = folder / "packed.safetensors", torch.zeros(2, 1, 8, 8)
    packing.save(path, quantize_network(network(), example, bits=4, weights=IntegerWeights()))
    whole = path.read_bytes()
    expected = packing.load(path, network())(example + 1)
    for name, content in damaged(whole, 20, 30):

        def run(content: bytes = content) -> None:
            path.write_bytes(content)
            assert torch.equal(packing.load(path, network())(example + 1), expected)

        yield Case(name, run)


def classifier(path: Path) -> bytes:
    """An ONNX file that answers by brightness."""
    gain = np.array([[-20, 20]], np.float32)
    stored = [
        numpy_helper.from_array(gain, "gain"),
        numpy_helper.from_array(-0.5 * gain[0], "bias"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["row"]),
        helper.make_node("MatMul", ["row", "gain"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "classifier", [given], [result], stored)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path.read_bytes()


def onnx_files(folder: Path) -> Iterator[Case]:
    """Damaged ONNX files, and data that do not fit them."""
    before, after, data = folder / "a.onnx", folder / "b.onnx", folder / "test.parquet"
    whole = classifier(before)
    dark = [encoded((pixels // 4) + 190 * np.uint8(n % 2)) for n, pixels in enumerate(pictures())]
    frame = rows().assign(image=dark, label=np.arange(COUNT) % 2)
    preprocess = {"scale": 255, "mean": [0], "std": [1], "layout": "NCHW", "channels": "RGB"}
    policy = checked(
        gate.Policy,
        {"groups": ["site"], "largest_group_loss": 0.1, "minimum": 5, "preprocess": preprocess},
        "policy",
    )

    def judged(content: bytes, table: pd.DataFrame) -> None:
        before.write_bytes(whole)
        after.write_bytes(content)
        table.to_parquet(data, index=False)
        evidence = from_files(before, after, data, policy)
        findings = gate.judge(evidence, policy)
        assert gate.overall(findings) != "pass" or (evidence.after == evidence.labels).all()

    yield Case("whole", lambda: judged(whole, frame))
    for name, content in damaged(whole, 20, 25):
        yield Case(name, lambda c=content: judged(c, frame))  # type: ignore[misc]
    changes = {
        "label ²": frame.assign(label="²"), "label null": frame.assign(label=None),
        "label 7": frame.assign(label=7), "label −1": frame.assign(label=-1),
        "no site": frame.drop(columns="site"), "no image": frame.drop(columns="image"),
        "no rows": frame.iloc[:0], "label 0.5": frame.assign(label=0.5),
        "site null": frame.assign(site=None), "broken images": frame.assign(image=b"x"),
    }  # fmt: skip
    for name, table in changes.items():
        yield Case(name, lambda t=table: judged(whole, t))  # type: ignore[misc]


def naive(path: Path) -> pd.DataFrame:
    """A table as pandas reads it, all of it texts."""
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    if path.suffix == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False)
    return pq.read_table(path).replace_schema_metadata().to_pandas()


def answers(folder: Path) -> Iterator[Case]:
    """Damaged tables of answers, in every format, against a sound one."""
    n = 300
    labels = np.array(["ill", "well"])[np.arange(n) % 2]
    truth = pd.DataFrame({"id": np.arange(n).astype(str), "label": labels, "prediction": labels})
    before, after = truth.assign(site=np.array(["a", "b"])[np.arange(n) // 150]), truth.copy()
    after.loc[:29, "prediction"] = "well"
    stream = io.BytesIO()
    after.to_parquet(stream, index=False)
    written = {
        "csv": after.to_csv(index=False).encode(),
        "jsonl": after.to_json(orient="records", lines=True).encode(),
        "parquet": stream.getvalue(),
    }

    def judged(form: str, content: bytes) -> None:
        path = folder / f"after.{form}"
        path.write_bytes(content)
        found = compare_answers(before, path, by="site").frames["levels"]
        read = naive(path)
        both = before.merge(read.astype(str), on="id", suffixes=("", "_after"))
        assert len(both) == n
        right = (both["prediction_after"] == both["label"]).groupby(both["site"]).mean()
        rows = found[(found["metric"] == "accuracy") & (found["method"] == path.name)]
        assert (rows.set_index("group")["value"] == right).all()

    for form, whole in written.items():
        for name, content in [("whole", whole), *damaged(whole, 20, 30)]:
            yield Case(f"{form}: {name}", partial(judged, form, content))


def names(_: Path) -> Iterator[Case]:
    """Names of groups, from the samples to verdict, Markdown and figure."""
    rng = np.random.default_rng(0)
    labels, codes = rng.integers(2, size=200), np.arange(200) % 2
    answers = np.where(rng.random((2, 200)) < 0.9, labels, 1 - labels)

    for name in NAMES:

        def run(name: str = name) -> None:
            people = pd.DataFrame({"site": np.array([name, "plain"])[codes]})
            division = groupings(people, ["site"], Groups())
            assert (np.array(division[0].names)[division[0].codes] == people["site"]).all()
            evidence = gate.Evidence(
                name=name, reference="fp32", labels=labels, before=answers[0], after=answers[1],
                n_classes=2, divisions=division, bytes=1, classes=("no", name),
            )  # fmt: skip
            policy = checked(gate.Policy, {"largest_group_loss": 0.5}, "policy")
            found = gate.judge(evidence, policy)
            table = gate.by_group(evidence, policy)
            assert {*table["group"]} == {name, "plain"}
            json.dumps(gate.as_json(evidence, policy, found))
            lines = gate.as_markdown(evidence, policy, found).splitlines()
            assert sum(line.startswith("| site") for line in lines) == 2
            place = {"panel": name, "width": "int8", "n": 100, "low": 0.1, "high": 0.9}
            drawn = table[["group"]].assign(**place, value=0.5, seeds=[[0.5], [0.5]])
            svg = FIGURES["accuracy_by_group"].drawing.svg(drawn)
            assert "<script" not in svg.replace("&lt;script", "")

        yield Case(repr(name[:30]), run)


def raising(error: BaseException) -> Callable[..., Any]:
    """A function that fails, whatever it is given."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


FAILURES: tuple[BaseException, ...] = (
    KeyError("site"), ZeroDivisionError("division by zero"), RuntimeError(), AssertionError(),
    RecursionError("too deep"), StopIteration(), OSError(2, "no such file"), SystemExit(0),
    SystemExit("bye"), UnicodeDecodeError("utf-8", b"x", 0, 1, "invalid"), NotImplementedError(),
)  # fmt: skip


@contextmanager
def own_module(folder: Path, text: str) -> Iterator[str]:
    """A module of the user's own; what it registers is forgotten afterwards."""
    registries: tuple[dict[str, Any], ...] = (
        READERS, KEYS, CATALOGUE, SCORES, FIGURES, WeightRange.kinds, Rounding.kinds, Post.kinds,
        Loss.kinds,
    )  # fmt: skip
    before = [dict(one) for one in registries]
    name = f"own_{next(NUMBERS)}"
    (folder / f"{name}.py").write_text(text.replace("NAME", name), encoding="utf-8")
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield name
    finally:
        sys.path.remove(str(folder))
        for known in [*sys.modules]:
            if known.partition(".")[0] == name:
                del sys.modules[known]
        for one, known_before in zip(registries, before, strict=True):
            one.clear()
            one.update(known_before)


def readers(folder: Path) -> Iterator[Case]:
    """Readers of data sets that are the user's own."""
    pixels, frame = pictures(), rows().rename(columns={"image": "id"})
    facts: dict[str, Any] = {
        "rows": frame, "images": pixels, "terms": Terms("page", "licence"), "label": "label",
        "size": 12,
    }  # fmt: skip

    def broken(at: int, error: BaseException) -> Iterator[np.ndarray]:
        yield from pixels[:at]
        raise error

    def case(name: str, reader: Callable[..., Any]) -> Case:
        def run() -> None:
            with own_module(folder, ""):
                source("own")(reader)
                made = prepare("own", Source.model_validate(SOURCE), folder)
                as_truth(made)
                made.write(folder / "samples.parquet")
                assert len(load(folder / "samples.parquet")) == len(made.rows)

        return Case(name, run)

    def given(**change: Any) -> Callable[..., Any]:
        return lambda *_: Raw(**facts | change)

    yield case("as it should be", given())
    yield case("needs no argument", lambda: Raw(**facts))
    yield case("needs three", lambda _, __, more: more)
    yield case("a generator", lambda *_: (Raw(**facts) for _ in range(1)))
    for error in FAILURES:
        yield case(f"raises {error!r}", raising(error))
        yield case(f"raises {error!r} at an image", lambda *_, e=error: Raw(
            **facts | {"images": broken(9, e)}))  # fmt: skip
        yield case(f"measures {error!r}", given(measure=raising(error)))
    for value in (None, 7, "x", frame, facts, (frame, pixels), Raw, [Raw(**facts)]):
        yield case(f"returns a {type(value).__name__}", lambda *_, v=value: v)
    tables: dict[str, Any] = {
        "records": frame.to_dict("records"), "none": None, "an array": frame.to_numpy(),
        "a mapping": frame.to_dict("list"), "no rows": frame.iloc[:0],
        "no id": frame.drop(columns="id"), "no label": frame.drop(columns="label"),
        "an id twice": frame.assign(id=["x", "x", *frame["id"][2:]]),
        "ids that are numbers": frame.assign(id=np.arange(COUNT)),
        "ids that are lists": frame.assign(id=[[1]] * COUNT),
        "labels that are lists": frame.assign(label=[["a"]] * COUNT),
        "labels that are numbers": frame.assign(label=np.arange(COUNT) % 2),
        "labels that are NaN": frame.assign(label=np.nan),
        "labels that are true": frame.assign(label=np.arange(COUNT) % 2 == 0),
        "labels of categories": frame.assign(label=frame["label"].astype("category")),
        "one class": frame.assign(label="ill"),
        "one row": frame.iloc[:1], "another index": frame.set_index(np.arange(COUNT)[::-1]),
        "an index twice": frame.set_index(np.zeros(COUNT, int)),
        "a column twice": pd.concat([frame, frame[["site"]]], axis=1),
        "a column named 0": frame.assign(x=1).rename(columns={"x": 0}),
        "a column named image": frame.assign(image="x"),
        "splits of other words": frame.assign(split="nope"),
        "a split without test": frame.assign(split="train"),
        "a split of NaN": frame.assign(split=np.nan),
        "groups that are lists": frame.assign(site=[["a"]] * COUNT),
        "groups of mixed types": frame.assign(more=[1, "a"] * (COUNT // 2)),
        "groups that are objects": frame.assign(more=[object()] * COUNT),
        "a group of complex numbers": frame.assign(more=1j),
        "a group named as the pixels": frame.assign(**{"\0at": 1}),
    }  # fmt: skip
    for name, table in tables.items():
        yield case(f"rows: {name}", given(rows=table))
    streams: dict[str, Callable[[], Any]] = {
        "none": lambda: None, "a number": lambda: 7, "too few": lambda: pixels[:-1],
        "too many": lambda: [*pixels, pixels[0]], "no end": lambda: itertools.cycle(pixels),
        "empty": list, "one array": lambda: np.stack(pixels), "texts": lambda: ["x"] * COUNT,
        "pictures of PIL": lambda: [*map(PIL.Image.fromarray, pixels)],
        "tensors": lambda: [*map(torch.from_numpy, pixels)], "nones": lambda: [None] * COUNT,
        "lists": lambda: [one.tolist() for one in pixels], "a mapping": lambda: {"a": 1},
        "floats": lambda: [one / 255 for one in pixels], "wide": lambda: [
            one.astype(np.int64) for one in pixels], "planes first": lambda: [
            one.transpose(2, 0, 1) for one in pixels], "four axes": lambda: [
            one[None] for one in pixels], "no pixels": lambda: [one[:0] for one in pixels],
        "bytes": lambda: [*map(encoded, pixels)],
        "NaN": lambda: [np.full((12, 12), np.nan)] * COUNT,
        "one array for all": lambda: (one for one in _reused(pixels)), "a file that is missing":
        lambda: [Path("nope.png")] * COUNT, "errors": lambda: [KeyError("x")] * COUNT,
    }  # fmt: skip
    for name, stream in streams.items():
        yield case(f"images: {name}", lambda *_, s=stream: Raw(**facts | {"images": s()}))
    settings: dict[str, tuple[Any, ...]] = {
        "classes": (("ill",), ("ill", "ill"), ("ill", "well", "x"), (), "ill", (1, 2), None, 7,
                    ("a", "b"), ["ill", "well"]),
        "size": (0, -1, None, "x", 12.5, (12,), (12, 12)), "channels": (0, 2, "x", None),
        "native": ((1, 1), "x", 12, (12, 12)), "together": ("nobody", 7, "site", ["site"]),
        "measure": ("x", lambda x: None, lambda x: {"bright": [1]}, lambda x: {1: [1] * len(x)},
                    lambda x: {"bright": x.mean((1, 2, 3))}, lambda x: x.fill(0),
                    lambda x: {"label": pd.Categorical(["a"] * len(x))},
                    lambda x: {"bright": pd.Categorical(["a"] * (len(x) - 1))}),
        "test_fraction": (0, 1, 2, -1, float("nan"), "x", None), "imbalance": ("x", 7),
        "rejects": ("x", (("a", "b", "c"),), (7,), None, (("left", 7),)),
        "absent": (-1, "x", None), "terms": (None, "x"),
        "label": (None, 7, "", "site", "id", "split"),
    }  # fmt: skip
    for name, values in settings.items():
        for number, value in enumerate(values):
            shown = f"a function {number}" if callable(value) else repr(value)
            yield case(f"{name} = {shown}", given(**{name: value}))


def _reused(pixels: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Every picture in the same array, as a reader that saves memory might give it."""
    one = np.empty_like(pixels[0])
    for picture in pixels:
        one[:] = picture
        yield one


MAKE = """
import sys
import torch
from torch import nn

def plain(classes, channels, size):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size ** 2, classes))

class Odd(nn.Module):
    def __init__(self, classes, channels, size):
        super().__init__()
        self.body = plain(classes, channels, size)
    def forward(self, x):
        ANSWER

def make(classes, channels, size):
    BODY
"""
STATEMENTS = (
    "raise KeyError('site')", "raise SystemExit(0)", "sys.exit('bye')", "raise StopIteration",
    "1 / 0", "assert False", "raise OSError(2, 'no such file')", "return nope", "return None",
    "raise NotImplementedError", "return make(classes, channels, size)", "pass", "return 7",
    "open('/nowhere')", "import nowhere", "yield 1", "print('x'); return 'x'",
)  # fmt: skip
FILES: dict[str, str] = {
    "not Python": "def make(:", "nothing": "", "NUL": "a = '\0'",
    "a tab": "if 1:\n\ta=1\n        b=2",
    "latin-1": "# -*- coding: latin-1 -*-\n# ü\nmake = 7", "fails": "1 / 0", "exits": "exit(3)",
    "exits quietly": "raise SystemExit", "misses a module": "import nowhere_at_all",
    "misses a name": "from os import nowhere_at_all", "imports itself": "import NAME\nNAME.make",
    "no function": "make = 7", "a class": "class make:\n    pass", "async":
    "async def make(*a, **k):\n    pass", "no arguments": "def make():\n    return 7", "deep":
    "make = " + "(" * 150 + ")" * 150, "raises a stop": "raise StopIteration",
    "another name": "def made(*a, **k):\n    return 7", "bad codec": "# coding: nope\nmake = 7",
}  # fmt: skip


def factories(folder: Path) -> Iterator[Case]:
    """Factories of networks that are the user's own."""
    pixels = torch.from_numpy(np.stack(pictures())[..., :1].transpose(0, 3, 1, 2).copy())

    def used(named: str) -> None:
        how = checked(Architecture, {"factory": named}, "architectures")
        identity(how)
        defines(named)
        shape = {"classes": 2, "channels": 1, "size": 12}
        built = models.build("own", **shape, architecture=how)
        network = models.own(built)
        labels, keep = torch.arange(COUNT) % 2, pixels.clone()
        found = api.audit(network, (pixels, labels), bits=4, statistics=Statistics(draws=100))
        assert torch.equal(pixels, keep), "the images were written to"
        with torch.no_grad():
            naive = network.eval()(pixels.float() / 255)
        right = (naive.real.float().argmax(1) == labels).float()
        assert naive.isfinite().all(), "no numbers"
        read = found.frames["groups"].query("method == 'fp32'").set_index("group")["accuracy"]
        for label in (0, 1):
            assert abs(read[str(label)] - right[labels == label].mean()) < 1e-6

    def case(name: str, text: str, attribute: str = "make") -> Case:
        def run() -> None:
            with own_module(folder, text) as module:
                used(attribute.replace("NAME", module) if ":" in attribute else
                     f"{module}:{attribute}")  # fmt: skip

        return Case(name, run)

    def making(body: str, answer: str = "return self.body(x)") -> str:
        return MAKE.replace("BODY", body).replace("ANSWER", answer)

    for name, text in FILES.items():
        yield case(f"a file: {name}", text)
    for named in (
        "NAME", "NAME:", ":make", "", "NAME:make.more", "NAME.more:make", "NAME:make()",
        "nowhere:x",
        "os:nowhere", "os:getcwd", "os.path:join", "..NAME:make", "NAME:MAKE", "NAME:make:make",
        "timm:nowhere", "torchvision:nowhere", "NAME/x:make", "ü:make", "timm:", "torchvision:",
    ):  # fmt: skip
        yield case(f"named {named!r}", making("return plain(classes, channels, size)"), named + (
            "" if ":" in named else ":make"))  # fmt: skip
    for body in STATEMENTS:
        yield case(f"the factory: {body}", making(body))
        yield case(f"the network: {body}", making(
            "return Odd(classes, channels, size)", body.replace("make(classes, channels, size)",
            "self(x)")))  # fmt: skip
    bodies = (
        "return plain", "return Odd", "return plain(classes + 1, channels, size)",
        "return plain(1, channels, size)", "return plain(classes, 3, size)", "return [plain]",
        "return plain(classes, channels, size).half()",
        "return plain(classes, channels, size).double()",
        "return torch.jit.script(plain(classes, channels, size))", "return nn.Flatten()",
        "return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))", "return nn.Identity()",
        "net = plain(classes, channels, size); net[1].weight.data.fill_(float('nan')); return net",
        "net = plain(classes, channels, size); net[1].weight.data.fill_(1e38); return net",
        "net = plain(classes, channels, size); net[1].weight.requires_grad = False; return net",
        "return nn.Sequential(plain(classes, channels, size), nn.Dropout(0.5))",
        "return nn.Sequential(nn.BatchNorm2d(channels), *plain(classes, channels, size))",
        "return plain(classes, channels, size).state_dict()",
        "return nn.Sequential(plain(classes, channels, size), nn.Unflatten(1, (1, classes)))",
        "print('made'); return plain(classes, channels, size)",
        "torch.set_grad_enabled(False); return plain(classes, channels, size)",
        "net = plain(classes, channels, size).to('meta'); return net",
    )  # fmt: skip
    for body in bodies:
        yield case(f"the factory: {body}", making(body))
    answers = (
        "return self.body(x).long()", "return self.body(x)[0]", "return self.body(x)[:, 0]",
        "return {'a': self.body(x), 'b': x}", "return (self.body(x), x)", "return []",
        "return {'logits': self.body(x)}", "return self.body(x) * float('nan')",
        "x.zero_(); return self.body(x)", "return torch.rand(len(x), 2)",
        "return self.body(x).numpy()",
        "return self.body(x)[1:]", "return torch.cat([self.body(x)] * 2)",
        "return self.body(x) - self.body(x).mean(0)", "return self.body(x).to(torch.complex64)",
        "return self.body(x).half()", "return self.body(x).argmax(1)",
        "return self.body(x).tolist()",
        "self.body[1].weight.data.mul_(2); return self.body(x)",
        "self.extra = nn.Linear(2, 2); return self.extra(self.body(x))",
        "self.n = getattr(self, 'n', 0) + 1; return self.body(x) + self.n % 2 * 100 * x.sum()",
        "return self.body(x) / 0", "return self.body(x)[:, :, None]", "return self.body(x).bool()",
    )  # fmt: skip
    for answer in answers:
        yield case(f"the network: {answer}", making("return Odd(classes, channels, size)", answer))


def functions(folder: Path) -> Iterator[Case]:
    """Functions of methods that are the user's own (``function:``)."""
    start = """
import sys
import torch
from torch import nn
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.weights import IntegerWeights

def make(network, *, bits, train, example, seed):
    BODY
"""
    torch.manual_seed(1)
    images, labels = torch.rand(COUNT, 1, 8, 8), torch.arange(COUNT) % 2

    def used(named: str) -> None:
        given, train = network(), (images.clone(), labels.clone())
        made = api.quantize(given, method={"function": named}, bits=4, train=train)
        assert torch.equal(train[0], images), "the images were written to"
        assert torch.equal(train[1], labels), "the labels were written to"
        for name, value in network().state_dict().items():
            assert torch.equal(given.state_dict()[name], value), "the network was written to"
        answer = made.network(images)
        assert answer.shape == (COUNT, 2), answer.shape
        assert answer.isfinite().all(), "no numbers"
        packing.save(folder / "made.safetensors", made)
        again = packing.load(folder / "made.safetensors", network())(images)
        assert torch.allclose(again, answer, atol=1e-5), "another network is read again"

    def case(name: str, text: str, attribute: str = "NAME:make") -> Case:
        def run() -> None:
            with own_module(folder, text) as module:
                used(attribute.replace("NAME", module))

        return Case(name, run)

    for name, text in FILES.items():
        yield case(f"a file: {name}", text)
    for named in ("NAME", "NAME:", "NAME:make.more", "NAME.more:make", "nowhere:make", "os:getcwd",
                  "NAME:MAKE", "os.path:nowhere", "ü:make", "NAME:_0", "1:2"):  # fmt: skip
        yield case(f"named {named!r}", start.replace("BODY", "return network"), named)
    bodies = (
        "return network", "return network.state_dict()", "return type(network)", "return example",
        "return nn.Linear(2, 2)", "return nn.Sequential(*network, nn.Linear(2, 2))",
        "return network.half()", "return network.double()",
        "network[0] = nn.Identity(); return network",
        "network[0].weight.data.fill_(float('nan')); return network",
        "network[0].weight.data.fill_(float('inf')); return network",
        "network[0].weight.data.fill_(1e30); return network",
        "network[0].weight.data.zero_(); return network",
        "network[0].weight = None; return network",
        "train.images.zero_(); train.labels.zero_(); example.zero_(); return network",
        "return nn.Sequential(*network).train()", "return network.requires_grad_(False)",
        "return torch.jit.script(network)", "return network.to('meta')", "return network, 1",
        "network.extra = torch.zeros(1); return network", "print(network); return network",
        "network.register_buffer('extra', torch.zeros(1)); return network",
        "network[0].register_forward_hook(lambda m, x, y: y * 0 + 1); return network",
        "network[0].register_forward_hook(lambda m, x, y: 1 / 0); return network",
        "network[0].weight.data = network[0].weight.data[:2]; return network",
        "network.forward = lambda x: x; return network", "network.forward = 7; return network",
        "return quantize_network(network, example, bits=bits, weights=IntegerWeights())",
        "return quantize_network(network, example, bits=9, weights=IntegerWeights())",
        "network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)); "
        "return quantize_network(network, example, bits=bits, weights=IntegerWeights())",
        "made = quantize_network(network, example, bits=bits, weights=IntegerWeights()); "
        "return made._replace(weights={}) if hasattr(made, '_replace') else None",
        "made = quantize_network(network, example, bits=bits, weights=IntegerWeights()); "
        "made.network[0].weight.data.mul_(2); return made",
        "made = quantize_network(network, example, bits=bits, weights=IntegerWeights()); "
        "made.notes.clear(); return made",
        "made = quantize_network(network, example, bits=bits, weights=IntegerWeights()); "
        "made.notes['x'] = object(); return made",
        "torch.manual_seed(torch.seed()); network[3].weight.data.normal_(); return network",
    )  # fmt: skip
    for body in (*STATEMENTS, *bodies):
        yield case(body, start.replace("BODY", body))
    for signature in ("", "network", "*a", "**k", "network, bits", "a, b, c, d, e", "network, /"):
        text = f"def make({signature}):\n    return None"
        yield case(f"make({signature})", text)


def extensions(folder: Path) -> Iterator[Case]:
    """Modules of the user's own that register kinds and metrics (``extensions:``)."""
    base = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))

    def case(name: str, text: str, use: Callable[[str], object] = lambda _: None,
             named: str = "NAME") -> Case:  # fmt: skip
        def run() -> None:
            with own_module(folder, text) as module:
                params.parse(base | {"extensions": [named.replace("NAME", module)]}, "params.yaml")
                use(module)

        return Case(name, run)

    for name, text in FILES.items():
        yield case(f"a file: {name}", text)
    for named in ("NAME.more", ".NAME", "NAME.", "os.path", "nowhere", "nowhere.at.all",
    "NAME:make",
                  "ü", "quantskew", "quantskew.nowhere", "__main__", "NAME NAME"):  # fmt: skip
        yield case(f"named {named!r}", "", named=named)
    start = "import numpy as np\nfrom quantskew.fairness.catalogue import metric\n"
    n, sites = 300, np.arange(300) % 3
    told = pd.DataFrame({"id": np.arange(n).astype(str), "label": np.arange(n) // 3 % 2})
    told = told.assign(prediction=np.where(np.arange(n) % 7, told["label"], 0))
    before = told.assign(prediction=told["label"], site=np.array(["a", "b", "c"])[sites])
    right = (told["prediction"] == told["label"]).groupby(sites).mean()

    def of_metric(module: str) -> None:
        draws = Statistics(draws=100)
        found = compare_answers(before, told, by="site", statistics=draws).frames["levels"]
        found = found[found["method"] != "fp32"].set_index("metric")
        assert np.isclose(found["value"]["fvo"], right.max() - right.min()), "other metrics changed"
        one = found[found.index == module]
        assert len(one), "the metric is in no table"
        naive = float(right.min() / right.max())
        assert one["value"].isin([naive, *right, np.nan]).all(), "another value"

    facts = 'of="grouping", better="higher", title="own", name="NAME"'
    fine = "counts.accuracy.min(-1) / counts.accuracy.max(-1)"
    for body in (
        fine, f"float(({fine}).mean())", f"({fine}).tolist()", f"str({fine})", "None", "'x'", "1",
        "counts.accuracy", "counts.accuracy[..., :2]", "counts.nothing", "1 / 0", "np.nan",
        f"({fine})[..., None]", "counts", "{}", "np.array([])", f"({fine}) * np.nan", "exit(0)",
        f"({fine}) + 1j", f"({fine}).sum()", "counts.hits.fill(0)", "counts.positives.fill(1)",
        "[1, [2]]", f"({fine}) > 0.5", f"({fine}) * 100", "counts.accuracy.min()", "np.inf",
        f"print(counts) or {fine}", "next(iter(()))", f"({fine}).astype('float16')",
        f"counts.hits.fill(0) or {fine}", f"counts.accuracy.sort() or {fine}",
        f"setattr(counts, 'hits', 0) or {fine}",
    ):  # fmt: skip
        text = f"{start}@metric({facts})\ndef own(counts):\n    return {body}\n"
        yield case(f"a metric: {body}", text, of_metric)
    for changed in (
        facts.replace("grouping", "nobody"), facts.replace("higher", "more"), "", "name='NAME'",
        facts.replace("grouping", "each group"), facts.replace("grouping", "everyone"),
        facts.replace("NAME", "fvo"), f"{facts}, nope=1", f"{facts}, span=(1, 0)",
        f"{facts}, span=7", f"{facts}, bounds=7", f"{facts}, chance=7", f"{facts}, by_class=True",
        f"{facts}, exact=True", f"{facts}, debiased=lambda counts: 1 / 0",
        f"{facts}, chance=lambda *a: 7", facts.replace('"own"', "7"),
    ):  # fmt: skip
        text = f"{start}@metric({changed})\ndef own(counts):\n    return {fine}\n"
        yield case(f"a metric({changed})", text, of_metric)
    yield case("a metric without arguments", f"{start}@metric({facts})\ndef own():\n    return 1\n",
               of_metric)  # fmt: skip

    images, labels = torch.rand(COUNT, 1, 8, 8), torch.arange(COUNT) % 2

    def of_method(method: dict[str, Any], module: str) -> None:
        text = json.dumps(method).replace("NAME", module)
        data = images.clone(), labels.clone()
        found = api.audit(
            network(), data, train=data, method=json.loads(text), bits=4, qat=Qat(epochs=1),
            statistics=Statistics(draws=100),
        )  # fmt: skip
        assert torch.equal(data[0], images), "the images were written to"
        assert torch.equal(data[1], labels), "the labels were written to"
        (made,) = found.networks.values()
        packing.save(folder / "made.safetensors", made)

    kinds: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
        "from quantskew.quantization.ranges import WeightRange as Family": (
            "clip(self, weight, dims, bits, scheme)",
            {"weights": {"range": "NAME"}},
            ("weight.amin(dims, keepdim=True), weight.amax(dims, keepdim=True)", "None", "1, 2",
             "weight.amin(), weight.amax()", "weight, weight", "weight.amin(dims, keepdim=True)",
             "weight.amax(dims, keepdim=True), weight.amin(dims, keepdim=True)", "1 / 0",
             "weight.amin(dims, keepdim=True) * float('nan'), weight.amax(dims, keepdim=True)",
             "weight.zero_() and (1, 2)", "(weight.zero_(), weight)", "'x'", "exit(0)",
             "torch.zeros(3), torch.ones(3)", "weight.amin(dims, keepdim=True).double(), 1.0",
             "weight.amin(dims, keepdim=True) * float('inf'), weight.amax(dims, keepdim=True)"),
        ),
        "from quantskew.quantization.rounding import Rounding as Family": (
            "__call__(self, layer, nearest, seen)",
            {"weights": {"rounding": "NAME"}, "calibration": {"samples": 16}},
            ("nearest", "None", "layer", "7", "nearest.codes", "1 / 0", "exit(0)", "seen.inputs",
             "replace(nearest, codes=nearest.codes + 1000)", "replace(nearest, codes=None)",
             "replace(nearest, codes=nearest.codes[:1])", "replace(nearest, bits=2)",
             "replace(nearest, codes=nearest.codes.float() + 0.5)",
             "layer.weight.data.zero_() is None or nearest",
             "seen.inputs.zero_() is None or nearest"),
        ),
        "from quantskew.quantization.post import Post as Family": (
            "__call__(self, quantized, material)",
            {"post": "NAME"},
            ("{}", "None", "7", "{1: object()}", "{'x': torch.zeros(1)}", "1 / 0", "exit(0)",
             "quantized.network[0].weight.data.zero_() is None or {}",
             "setattr(quantized, 'network', None) or {}",
             "material.images().images.zero_() is None or {}",
             "quantized.network[0].bias.data.fill_(float('nan')) is None or {}",
             "quantized.weights.clear() or {}"),
        ),
        "from quantskew.training.losses import Loss as Family": (
            "of_batch(self, outputs, targets, batch, state)",
            {"training": "qat", "recipe": {"during": "qat", "loss": "NAME"}},
            ("torch.nn.functional.cross_entropy(outputs, targets)", "None", "7", "outputs", "1 / 0",
             "exit(0)", "outputs.sum() * float('nan')", "outputs.detach().sum()", "'x'",
             "torch.zeros(())", "outputs.sum().item()", "outputs.sum().long()",
             "outputs.sum() * 1e30",
             "targets.zero_() is None or outputs.sum()", "outputs.zero_().sum()", "outputs.mean(0)",
             "state.clear() or outputs.sum()"),
        ),
    }  # fmt: skip
    for first, (signature, method, bodies) in kinds.items():
        family = first.split()[3]
        for body in bodies:
            text = (
                f"import torch\nfrom dataclasses import replace\n{first}\n\n\n"
                f"class Own(Family, kind='NAME'):\n    def {signature}:\n        return {body}\n"
            )
            yield case(f"a {family}: {body}", text, partial(of_method, method))
        for changed in ("kind='NAME'", "kind=7", "kind=''", ""):
            text = f"{first}\n\n\nclass Own(Family, {changed}):\n    pass\n"
            yield case(f"an abstract {family}({changed})", text, partial(of_method, method))


def loaders(_: Path) -> Iterator[Case]:
    """Images, labels and attributes that a program hands over."""
    torch.manual_seed(2)
    images, labels = torch.rand(COUNT, 1, 8, 8), torch.arange(COUNT) % 2
    sites = ["a", "b"] * (COUNT // 4) + ["b", "a"] * (COUNT // 4)

    class Own(torch.utils.data.Dataset[Any]):
        def __init__(
            self, item: Callable[[int], Any], length: Any = COUNT, more: Any = None
        ) -> None:
            self.item, self.length = item, length
            if more is not None:
                self.attributes = more

        def __len__(self) -> int:
            return self.length() if callable(self.length) else self.length  # type: ignore[no-any-return]

        def __getitem__(self, index: int) -> Any:
            return self.item(index)

    def case(name: str, given: Callable[[], Any], by: Any = "label") -> Case:
        def run() -> None:
            net = network()
            keep = images.clone()
            found = api.audit(net, given(), bits=4, groups=by, statistics=Statistics(draws=100))
            assert torch.equal(images, keep), "the images were written to"
            with torch.no_grad():
                right = (net(images).argmax(1) == labels).float()
            read = found.frames["groups"].query("method == 'fp32'").set_index("group")["accuracy"]
            if by == "label":
                for label in (0, 1):
                    assert abs(read[str(label)] - right[labels == label].mean()) < 1e-6
            if by == "site":
                for site in {*read.index} - {"unknown"}:
                    own = torch.tensor([one == site for one in sites])
                    assert abs(read[site] - right[own].mean()) < 1e-6

        return Case(name, run)

    def of(item: Callable[[int], Any], **options: Any) -> Callable[[], Any]:
        return lambda: Own(item, **options)

    def sample(index: int) -> Any:
        return images[index], labels[index]

    def failing(index: int, error: BaseException) -> Any:
        if index < 9:
            return sample(index)
        raise error

    yield case("as it should be", of(sample))
    for error in FAILURES:
        yield case(f"a dataset raises {error!r}", of(partial(failing, error=error)))
        yield case(f"a length raises {error!r}", of(sample, length=raising(error)))
    items: dict[str, Callable[[int], Any]] = {
        "none": lambda i: None, "one": lambda i: images[i],
        "one of a tuple": lambda i: (images[i],),
        "four": lambda i: (images[i], labels[i], {}, 1), "a text": lambda i: "x",
        "a mapping": lambda i: {"image": images[i], "label": labels[i]},
        "labels that are texts": lambda i: (images[i], "x"),
        "labels that are floats": lambda i: (images[i], float(labels[i])),
        "labels of one": lambda i: (images[i], labels[i][None]),
        "labels one-hot": lambda i: (images[i], torch.eye(2)[labels[i]]),
        "labels below 0": lambda i: (images[i], -1), "label 2": lambda i: (images[i], 2),
        "label 2 to the 40": lambda i: (images[i], 2**40), "labels 2 to the 70":
        lambda i: (images[i], 2**70), "labels true": lambda i: (images[i], bool(labels[i])),
        "labels none": lambda i: (images[i], None), "images none": lambda i: (None, labels[i]),
        "images of texts": lambda i: ("x", labels[i]), "swapped": lambda i: (labels[i], images[i]),
        "images of other sizes": lambda i: (torch.rand(1, 8, 8 + i % 2), labels[i]),
        "images NaN": lambda i: (images[i] * float("nan"), labels[i]),
        "an image NaN": lambda i: (images[i] * (float("nan") if i == 3 else 1), labels[i]),
        "images infinite": lambda i: (images[i] + float("inf"), labels[i]),
        "images of integers": lambda i: ((images[i] * 255).long(), labels[i]),
        "images of complex numbers": lambda i: (images[i] + 0j, labels[i]),
        "images in double": lambda i: (images[i].double(), labels[i]),
        "images of arrays": lambda i: (images[i].numpy(), int(labels[i])),
        "images with gradients": lambda i: (images[i].clone().requires_grad_(), labels[i]),
        "images that are sparse": lambda i: (images[i].to_sparse(), labels[i]),
        "images without pixels": lambda i: (images[i][:, :0], labels[i]),
        "three axes too many": lambda i: (images[i][None, None], labels[i]),
        "attributes none": lambda i: (images[i], labels[i], None),
        "attributes a list": lambda i: (images[i], labels[i], ["a"]),
        "pictures of PIL": lambda i: (PIL.Image.new("L", (8, 8)), labels[i]),
    }  # fmt: skip
    for name, item in items.items():
        yield case(f"a dataset: {name}", of(item))
    for length in (0, -1, COUNT + 1, 10**9, 2.5, "x", None):
        yield case(f"a length of {length!r}", of(sample, length=lambda n=length: n))

    def told(attribute: Callable[[int], Any], index: int) -> Any:
        return *sample(index), attribute(index)

    attributes: dict[str, Callable[[int], Any]] = {
        "as they should be": lambda i: {"site": sites[i]}, "none": lambda i: {"site": None},
        "label": lambda i: {"site": sites[i], "label": 1}, "lists": lambda i: {"site": [sites[i]]},
        "sometimes": lambda i: {"site": sites[i]} if i % 2 else {}, "a number": lambda i: {0: 1},
        "other": lambda i: {"place": sites[i]}, "mixed": lambda i: {"site": sites[i] if i else 7},
        "NaN": lambda i: {"site": float("nan")}, "tensors": lambda i: {"site": torch.zeros(3)},
    }  # fmt: skip
    for name, attribute in attributes.items():
        yield case(f"attributes: {name}", of(partial(told, attribute)), "site")
    frames: dict[str, Any] = {
        "as they should be": pd.DataFrame({"site": sites}), "too short": pd.DataFrame(
        {"site": sites[1:]}), "empty": pd.DataFrame({"site": []}), "a list": sites, "a text": "x",
        "another index": pd.DataFrame({"site": sites}, index=range(COUNT)[::-1]),
        "a column twice": pd.DataFrame([[s, s] for s in sites], columns=["site", "site"]),
        "numbers as names": pd.DataFrame({0: sites}), "a mapping": {"site": sites},
        "label": pd.DataFrame({"site": sites, "label": 1}),
        "null": pd.DataFrame({"site": [None] * COUNT}),
    }  # fmt: skip
    for name, frame in frames.items():
        yield case(f"a frame: {name}", of(sample, more=frame), "site")
        yield case(f"a third item: {name}", partial(tuple, (images, labels, frame)), "site")
    whole: dict[str, Callable[[], Any]] = {
        "none": lambda: None, "an empty tuple": lambda: (), "images alone": lambda: images,
        "a loader that shuffles": lambda: torch.utils.data.DataLoader(
            Own(sample, more=pd.DataFrame({"site": sites})), shuffle=True),
        "lengths that differ": lambda: (images, labels[1:]),
        "nothing": lambda: (images[:0], labels[:0]),
        "texts": lambda: ("x", "y"), "a generator": lambda: (one for one in [(images, labels)]),
        "a path to nowhere": lambda: "nowhere.parquet", "a number": lambda: 7, "lists": lambda: (
        images.tolist(), labels.tolist()), "arrays": lambda: (images.numpy(), labels.numpy()),
        "an unsigned array": lambda: (images.numpy(), labels.numpy().astype(np.uint16)),
        "labels that are unsigned": lambda: (images, labels.to(torch.uint8)),
        "a read-only array": lambda: (_frozen(images.numpy()), labels.numpy()),
    }  # fmt: skip
    for name, one in whole.items():
        yield case(f"data: {name}", one)
    for by in (
        "nobody",
        "",
        (),
        ["label", "label"],
        "label*label",
        "label*nobody",
        ["a", 1],
    ):
        yield case(f"groups = {by!r}", of(sample), by)


def _frozen(array: np.ndarray) -> np.ndarray:
    copied = array.copy()
    copied.flags.writeable = False
    return copied


def litert_files(folder: Path) -> Iterator[Case]:
    """Damaged LiteRT files, and some that are no classifiers of such images."""
    sys.path.insert(0, str(ROOT / "tests"))
    files = importlib.import_module("network_files")
    by_brightness, by_class, tflite = files.classifier, files.pictures, files.tflite

    reference, file, data = (folder / name for name in ("a.onnx", "b.tflite", "test.parquet"))
    policy = checked(
        gate.Policy,
        {"groups": ["fur"], "largest_group_loss": 0.1, "minimum": 5, "preprocess": {
            "scale": 255, "mean": [0], "std": [1], "channels": "RGB"}},
        "policy",
    )  # fmt: skip

    def written(change: Callable[[Any], object] | None = None, **form: Any) -> bytes:
        tflite(file, **form)
        if change is None:
            return file.read_bytes()
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT.InitFromPackedBuf(file.read_bytes())
        change(model)
        builder = flatbuffers.Builder(1 << 12)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def judged(content: bytes) -> None:
        by_brightness(reference)
        by_class(40).to_parquet(data, index=False)
        file.write_bytes(content)
        evidence = from_files(reference, file, data, policy)
        assert (evidence.after >= 0).all()
        assert (evidence.after < 2).all()
        assert gate.overall(gate.judge(evidence, policy)) != "pass" or (
            evidence.after == evidence.labels).mean() > 0.9  # fmt: skip

    def tensor(model: Any, place: int, **changed: Any) -> None:
        for name, value in changed.items():
            setattr(model.subgraphs[0].tensors[place], name, value)

    def graph(model: Any, **changed: Any) -> None:
        for name, value in changed.items():
            setattr(model.subgraphs[0], name, value)

    for form in ({}, {"free": True}, {"kind": "int8"}, {"kind": "uint8"}, {"kind": "half"},
                 {"softmax": True}, {"shape": (1, 8, 8, 3)}, {"shape": (1, 1, 8, 8)},
                 {"shape": (3, 8, 8, 1)}, {"shape": (1, 9, 9, 1)}, {"shape": (1, 8, 8, 2)},
                 {"kind": "int16"}, {"kind": "int32"}, {"shape": (0, 8, 8, 1)}):  # fmt: skip
        yield Case(f"written as {form}", lambda f=form: judged(written(**f)))  # type: ignore[misc]
    whole = written()
    contents = {
        "empty": b"", "text": b"hello", "another magic": whole[:4] + b"TFL2" + whole[8:],
        "no magic": whole[:4] + bytes(4) + whole[8:], "an ONNX file": classifier(folder / "o.onnx"),
        "zeros": bytes(len(whole)), "ones": b"\xff" * len(whole), "twice": whole * 2,
        "more behind it": whole + bytes(99), "a zip": archive_bytes("zip"),
    }  # fmt: skip
    for name, content in (*contents.items(), *damaged(whole, 20, 60)):
        yield Case(name, partial(judged, content))
    changes: dict[str, Callable[[Any], object]] = {
        "no input": lambda m: graph(m, inputs=[]), "two inputs": lambda m: graph(m, inputs=[0, 2]),
        "no output": lambda m: graph(m, outputs=[]), "two outputs": lambda m: graph(
            m, outputs=[*m.subgraphs[0].outputs, 2]), "no graph": lambda m: setattr(
            m, "subgraphs", []), "two graphs": lambda m: m.subgraphs.append(m.subgraphs[0]),
        "no operators": lambda m: graph(m, operators=[]), "an input of no tensor": lambda m: graph(
            m, inputs=[99]), "an output below 0": lambda m: graph(m, outputs=[-1]),
        "the input as output": lambda m: graph(m, outputs=[0]), "no buffers": lambda m: setattr(
            m, "buffers", []), "no operator codes": lambda m: setattr(m, "operatorCodes", []),
        "another version": lambda m: setattr(m, "version", 9), "a name twice": lambda m: tensor(
            m, 1, name="image"), "no name": lambda m: tensor(m, 0, name=None),
        "an input of two axes": lambda m: tensor(m, 0, shape=[8, 8]), "a shape below 0": lambda m:
        tensor(m, 0, shape=[1, -8, 8, 1]), "a huge shape": lambda m: tensor(
            m, 0, shape=[1, 2**20, 2**20, 1]), "integers as input": lambda m: tensor(m, 0, type=9),
        "texts as input": lambda m: tensor(m, 0, type=5),
        "weights NaN": lambda m: _filled(m, np.nan),
        "weights infinite": lambda m: _filled(m, np.inf),
        "weights of nothing": lambda m: _filled(m, 0),
    }  # fmt: skip
    for name, change in changes.items():
        yield Case(name, lambda c=change: judged(written(c)))  # type: ignore[misc]


def _filled(model: Any, value: float) -> None:
    for buffer in model.buffers:
        if buffer.data is not None and len(buffer.data) == 8:
            buffer.data = np.full(2, value, np.float32).view(np.uint8)


FAMILIES: dict[str, Callable[[Path], Iterator[Case]]] = {
    one.__name__: one
    for one in (
        parameters, policies, yaml_files, images, archives, csv, parquet, packed, onnx_files,
        answers, names, litert_files, readers, factories, functions, extensions, loaders,
    )
}  # fmt: skip


NEEDED = {"litert_files": "ai_edge_litert"}
"""What a family cannot be tried without."""


def ending(run: Callable[[], object]) -> tuple[str, str]:
    """Run a case here; return how it ends and why."""
    try:
        run()
    except UserError as error:
        return "refused", str(error)
    except AssertionError as error:
        return "wrong", repr(error)
    except (Exception, SystemExit) as error:
        return "traceback", f"{type(error).__name__}: {error}"
    return "taken", ""


def _run(cases: list[Case], folder: Path, connection: Connection) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    for case in cases:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.chdir(folder)
        connection.send(ending(case.run))


def endings(cases: list[Case], folder: Path) -> Iterator[tuple[str, str]]:
    """Run cases one after the other in a process that is replaced where one hangs or ends it."""
    context = multiprocessing.get_context("fork")
    at = 0
    while at < len(cases):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(cases[at:], folder, there))
        process.start()
        there.close()
        try:
            while at < len(cases):
                if not here.poll(SECONDS):
                    result = "hang", f"no end after {SECONDS} s"
                    break
                result = here.recv()
                at += 1
                yield result
            else:
                continue
        except EOFError:
            process.join()
            result = "traceback", f"the process ended with {process.exitcode}"
        finally:
            process.kill()
            process.join()
        at += 1
        yield result


def campaign(families: list[str], done: Path) -> Counter[tuple[str, str]]:
    """Run all cases of some families that were not run yet; return how many ended in which way."""
    tally: Counter[tuple[str, str]] = Counter()
    known: dict[str, list[str]] = {}
    if done.exists():
        known = dict(json.loads(line) for line in done.read_text().splitlines())
    with tempfile.TemporaryDirectory() as scratch, done.open("a") as log:
        for family in families:
            if importlib.util.find_spec(NEEDED.get(family, "sys")) is None:
                print(f"{family}: left out, for {NEEDED[family]} is not installed")
                continue
            folder = Path(scratch, family)
            folder.mkdir()
            cases = {f"{family}: {case.name}": case for case in FAMILIES[family](folder)}
            waiting = {name: case for name, case in cases.items() if name not in known}
            ends = endings([*waiting.values()], folder)
            for name, end in zip(tqdm(waiting, desc=family, unit="case"), ends, strict=True):
                known[name] = [*end]
                log.write(json.dumps([name, known[name]]) + "\n")
                log.flush()
            for name in cases:
                how, why = known[name]
                tally[family, how] += 1
                if how not in OK:
                    print(f"{how}: {name}: {why[:300]}")
    return tally


def table(tally: Counter[tuple[str, str]]) -> str:
    """The tally as a Markdown table."""
    ways = [*OK, "traceback", "wrong", "hang"]
    lines = [f"| family | cases | {' | '.join(ways)} |", "|---" * (2 + len(ways)) + "|"]
    families = [*dict.fromkeys(family for family, _ in tally)]
    for family in [*families, "all"]:
        counts = [
            sum(n for (f, w), n in tally.items() if w == way and family in (f, "all"))
            for way in ways
        ]
        lines.append(f"| {family} | {sum(counts)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", nargs="*", choices=FAMILIES, default=[*FAMILIES])
    parser.add_argument("--done", type=Path, default=Path("faults.jsonl"), help="kept results")
    options = parser.parse_args()
    # a family starts threads, of which the forked processes of the next one know nothing
    spawned = multiprocessing.get_context("spawn")
    tally: Counter[tuple[str, str]] = Counter()
    with ProcessPoolExecutor(1, spawned, max_tasks_per_child=1) as pool:
        for family in options.family:
            tally += pool.submit(campaign, [family], options.done).result()
    print(table(tally))
    sys.exit(any(how not in OK for _, how in tally))


if __name__ == "__main__":
    main()
