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
import io
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

from quantskew import params
from quantskew.analysis import gate
from quantskew.analysis.figures import FIGURES
from quantskew.answers.judging import compare_answers
from quantskew.data.groups import Groups, groupings
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.data.storing import Prepared
from quantskew.deployment.evidence import from_files
from quantskew.errors import UserError
from quantskew.quantization import packing
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.weights import IntegerWeights
from quantskew.sections import checked, read

ROOT = Path(__file__).parents[1]
SECONDS = 60
COUNT = 40
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


FAMILIES: dict[str, Callable[[Path], Iterator[Case]]] = {
    one.__name__: one
    for one in (
        parameters, policies, yaml_files, images, archives, csv, parquet, packed, onnx_files,
        answers, names,
    )
}  # fmt: skip


def ending(run: Callable[[], object]) -> tuple[str, str]:
    """Run a case here; return how it ends and why."""
    try:
        run()
    except UserError as error:
        return "refused", str(error)
    except AssertionError as error:
        return "wrong", repr(error)
    except Exception as error:
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
    tally = campaign(options.family, options.done)
    print(table(tally))
    sys.exit(any(how not in OK for _, how in tally))


if __name__ == "__main__":
    main()
