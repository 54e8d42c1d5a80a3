"""The command as its users run it: what it says, and the status it ends with."""

import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import PIL.Image
import psutil
import pytest
import torch
from torch import nn

from quantskew import cli, tables
from quantskew.commands import COMMANDS, gate
from quantskew.commands.common import Command
from quantskew.deployment import onnx_files
from quantskew.engine import command
from quantskew.fairness.plan import images_from_pilot, images_to_certify

ROOT = Path(__file__).parents[1]
CLASSES = ("cat", "dog")


class Brightness(nn.Module):
    """Says dog of bright images; ``shift`` moves the line."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.line = nn.Conv2d(1, 2, 8)
        self.line.weight.data[:] = torch.tensor([-1.0, 1.0])[:, None, None, None] / 64
        self.line.bias.data[:] = torch.tensor([0.5 + shift, -0.5 - shift])

    def forward(self, images):
        return self.line(images).flatten(1)


def picture(value):
    buffer = io.BytesIO()
    pixels = np.full((8, 8), value, np.uint8)
    pixels[0, 0] += 1  # a constant image is no image
    PIL.Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def test_a_reader_that_has_enough_is_no_fault():
    planned = [sys.executable, "-m", "quantskew", "plan", "--loss", "0.02", "--flips", "0.05"]
    with subprocess.Popen(planned, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + 13  # as of a program that SIGPIPE ends


def test_a_broken_pipe_that_is_not_the_output_is_told(capsys, monkeypatch):
    def broken(options):
        raise BrokenPipeError("a worker has ended")

    monkeypatch.setattr(cli, "COMMANDS", [Command("work", "work", broken)])
    with pytest.raises(SystemExit, match="70"):
        cli.main(["work"])
    said = capsys.readouterr().err
    assert said.startswith("unexpected error: BrokenPipeError: a worker has ended;")
    Path(said.split()[-1]).unlink()


@pytest.fixture
def pair(tmp_path):
    """A pair of files, of which the second errs on dogs that are rather dark; and images."""

    def make(shift, n):
        for name, moved in (("fp32", 0.0), ("int8", shift)):
            notes = {"classes": "\n".join(CLASSES)}
            example = torch.rand(2, 1, 8, 8)
            onnx_files.export(Brightness(moved), example, tmp_path / f"{name}.onnx", notes)
        values = np.arange(n) % 4
        frame = pd.DataFrame(
            {
                "image": [picture(v) for v in np.array([20, 60, 150, 230])[values]],
                "label": np.array(CLASSES)[values // 2],
                "fur": np.array(["dark", "light"])[values % 2],
            }
        )
        frame.to_parquet(tmp_path / "test.parquet")
        (tmp_path / "policy.yaml").write_text("groups: [fur, label]\nlargest_group_loss: 0.1\n")
        return [
            "gate", f"{tmp_path}/policy.yaml", "--fp32", f"{tmp_path}/fp32.onnx",
            "--int8", f"{tmp_path}/int8.onnx", "--data", f"{tmp_path}/test.parquet",
        ]  # fmt: skip

    return make


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    shown = capsys.readouterr()
    return ended.value.code, shown.out, shown.err


def test_the_gate_passes_a_file_that_answers_the_same(pair, capsys):
    status, shown, _ = run(capsys, *pair(0.0, 400))
    assert (status, shown.splitlines()[-1]) == (0, "gate: pass")


def test_the_gate_fails_a_file_that_harms_a_group_and_names_it(pair, capsys, tmp_path):
    command = [*pair(0.2, 400), "--json", tmp_path / "g.json", "--markdown", tmp_path / "g.md"]
    status, shown, _ = run(capsys, *command)
    assert status == 1
    assert "fur dark" in shown
    assert "label dog" in shown
    assert "fur light" not in shown
    content = json.loads((tmp_path / "g.json").read_text())
    assert content["verdict"] == "fail"
    assert content["rules"][0]["value"] == pytest.approx(0.5)
    assert "### Gate: **fail**" in (tmp_path / "g.md").read_text()


def test_the_gate_cannot_tell_from_too_few_images(pair, capsys):
    status, shown, _ = run(capsys, *pair(0.0, 60))
    assert (status, shown.splitlines()[-1]) == (2, "gate: could not tell")


def test_a_broken_file_is_named(pair, capsys, tmp_path):
    command = pair(0.0, 60)
    (tmp_path / "int8.onnx").write_bytes(b"not onnx")
    status, _, said = run(capsys, *command)
    assert status == 64
    assert "int8.onnx is not a file that ONNX Runtime can run" in said
    (tmp_path / "test.parquet").write_bytes(b"nothing")
    assert "int8.onnx" in run(capsys, *command)[2]


def test_images_and_labels_that_do_not_fit_are_named(pair, capsys, tmp_path):
    command = pair(0.0, 60)
    path = tmp_path / "test.parquet"
    good = pd.read_parquet(path)
    good.assign(label="cow").to_parquet(path)
    status, _, said = run(capsys, *command)
    assert status == 64
    assert "label 'cow' is no class of" in said
    assert "cat, dog" in said
    good.to_parquet(path)
    assert "has no column 'kind'" in run(capsys, *command, "--label", "kind")[2]
    path.write_bytes(b"nothing")
    assert "test.parquet is not a whole Parquet file" in run(capsys, *command)[2]
    path.unlink()
    assert "test.parquet: no such file" in run(capsys, *command)[2]


def test_files_that_are_no_pair_are_refused(pair, capsys, tmp_path):
    command = pair(0.0, 60)
    model = onnx.load(tmp_path / "int8.onnx")
    onnx.helper.set_model_props(model, {"classes": "cow\ndog"})
    onnx.save(model, tmp_path / "int8.onnx")
    status, _, said = run(capsys, *command)
    assert status == 64
    assert "fp32.onnx: cat, dog; " in said


def test_labels_of_a_file_without_names_are_numbers(pair, capsys, tmp_path):
    command = pair(0.0, 400)
    for name in ("fp32", "int8"):
        onnx_files.export(Brightness(), torch.rand(2, 1, 8, 8), tmp_path / f"{name}.onnx", {})
    path = tmp_path / "test.parquet"
    frame = pd.read_parquet(path)
    frame.assign(label=(frame["label"] == "dog").astype(int)).to_parquet(path)
    assert run(capsys, *command)[0] == 0
    frame.assign(label=3).to_parquet(path)
    assert "label '3' is no class of" in run(capsys, *command)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["gate"], "policy"),
        (["gat", "x"], "invalid choice: 'gat'"),
        (["gate", "none.yaml", "x"], "none.yaml: no such file; see quantskew gate --help"),
    ],
)
def test_what_cannot_be_carried_out_is_no_verdict(capsys, arguments, message):
    status, _, said = run(capsys, *arguments)
    assert status == 64
    assert message in said


def test_help_teaches(capsys):
    status, shown, _ = run(capsys, "gate", "--help")
    assert status == 0
    for part in ("largest_group_loss: 0.05", "examples:", "exit status: 0 pass, 1 fail, 2 could"):
        assert part in shown
    assert all(name in run(capsys, "--help")[1] for name in ("gate", "latency", "doctor"))


@pytest.mark.parametrize("start", ["quantskew.cli", "quantskew.engine.command"])
@pytest.mark.parametrize("locale", ["C", "de_DE.ISO-8859-1"])
def test_names_of_files_are_in_utf8_in_every_locale(tmp_path, start, locale):
    table = pd.DataFrame({"id": range(60), "label": ["ä", "b"] * 30, "who": "Zoë"})
    (tmp_path / "Zoë's").mkdir()
    files = [str(tmp_path / f"Zoë's/{name}.parquet") for name in ("before", "after")]
    for file in files:
        table.assign(prediction=table["label"]).to_parquet(file)
    code = {
        "quantskew.cli": "from quantskew.cli import main; main()",
        "quantskew.engine.command": """
            from quantskew.engine.command import run

            def main():
                import pyarrow.parquet as pq

                print(pq.read_table("before.parquet").num_rows, "−")

            run(main)
        """,
    }[start]
    (tmp_path / "start.py").write_text(textwrap.dedent(code).strip(), encoding="utf-8")
    given = ["compare", *files, "--by", "who"] if start == "quantskew.cli" else []
    command = [sys.executable, tmp_path / "start.py", *given]
    variables = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        command, cwd=tmp_path / "Zoë's", env={**os.environ, **variables}, capture_output=True
    )
    said = done.stdout.decode()
    assert (said == "60 −\n") if not given else ("[−" in said), (said, done.stderr.decode())


@pytest.mark.skipif(sys.platform == "win32", reason="no other process becomes the parent")
def test_a_stage_ends_with_the_dvc_that_started_it(tmp_path):
    stage = tmp_path / "stage.py"
    stage.write_text(
        "import time\nfrom quantskew.engine.command import run\n"
        "def main():\n    print('runs', flush=True)\n    time.sleep(100)\nrun(main)\n"
    )
    dvc = f"import subprocess, sys; subprocess.run([sys.executable, {str(stage)!r}])"
    environment = {**os.environ, "DVC_STAGE": "stage"}
    with subprocess.Popen(
        [sys.executable, "-c", dvc],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True,
    ) as started:  # fmt: skip
        assert started.stdout.readline() == "runs\n"
        (child,) = psutil.Process(started.pid).children()
        started.kill()
        child.wait(20)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_too_little_memory_ends_a_stage_with_a_sentence(tmp_path, monkeypatch, error):
    def main():
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage.py"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit, match=r"^error: too little memory .* the next run goes on"):
        command.run(main)


def test_every_file_of_a_command_is_listed():
    files = Path(gate.__file__).parent.glob("*.py")
    assert {one.name for one in COMMANDS} == {f.stem for f in files} - {"__init__", "common"}


def test_the_policy_in_the_help_is_a_policy(tmp_path):
    from quantskew.analysis.gate import Policy
    from quantskew.params import read

    block = gate.TEXT.split("not checked:\n")[1].split("A rule passes")[0]
    path = tmp_path / "policy.yaml"
    path.write_text(block)
    policy = read(Policy, path, "")
    assert policy.bytes == 1_000_000
    assert policy.groups == ("race", "race*gender")
    assert policy.preprocess.crop == 224


@pytest.mark.parametrize(
    "asked",
    ["runtimes p a b --data d -o {}", "runtimes p a b --data d --figure {}", "convert a {}",
     "layers --fp32 a --int8 b --data d -o {}", "answers a --data d -o {}"],
)  # fmt: skip
def test_where_no_file_can_be_written_is_said_before_the_work(capsys, tmp_path, asked):
    (tmp_path / "file").write_text("")
    for target, problem in ((tmp_path / "file/made", f"no file can be written in {tmp_path}/file"),
                            (tmp_path, "is a folder; name a file")):  # fmt: skip
        status, _, said = run(capsys, *(part.format(target) for part in asked.split()))
        assert status == cli.USAGE
        assert problem in said


@pytest.mark.parametrize("asked", [("--threads", 0), ("--seconds", 0), ("--seconds", "nan")])
def test_a_latency_of_no_time_or_threads_is_refused(capsys, asked):
    status, _, said = run(capsys, "latency", *asked)
    assert status == cli.USAGE
    assert asked[0] in said


def test_latency_is_that_of_pairs_run_in_turn(pair, tmp_path, monkeypatch):
    from quantskew.deployment import latency
    from quantskew.deployment.runtimes import Network, open_file

    pair(0.0, 60)
    ran, call = [], Network.__call__

    def watched(self, images):
        ran.append((self.path.stem, len(images)))
        return call(self, images)

    monkeypatch.setattr(Network, "__call__", watched)
    files = {name: open_file(tmp_path / f"{name}.onnx") for name in ("fp32", "int8")}
    images = [np.random.default_rng(0).random((3, 1, 8, 8), np.float32)] * 2
    found = latency.compare(files, images, seconds=0.01)
    assert ran[::2] == [("fp32", size) for _, size in ran[::2]]
    assert ran[1::2] == [("int8", size) for _, size in ran[1::2]]
    assert {size for _, size in ran} == {1, 32}
    for size in (1, 32):
        times = found[f"batch {size}"]
        assert times["rounds"] == ran.count(("int8", size)) - latency.WARM_UP
        for numbers in (times["fp32_ms"], times["int8_ms"], times["speedup"]):
            assert 0 < numbers["low"] <= numbers["median"] <= numbers["high"]
    assert latency.machine()["threads"] == torch.get_num_threads()


def test_the_doctor_looks_at_libraries_and_data(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, shown, _ = run(capsys, "doctor")
    assert status == 0
    assert "all libraries are installed" in shown
    assert "no params.yaml here" in shown
    (tmp_path / "params.yaml").write_text(
        "datasets: [utkface]\nmodels: [resnet18]\nbits: 8\nseeds: 0\nmethods: {ptq: {}}\n"
        "sources: {utkface: {}, mnist5k: {}, celeba: {}}\n"
    )
    status, shown, _ = run(capsys, "doctor")
    assert status == 1
    assert "missing  data utkface: no files in data/downloads/utkface" in shown
    assert "ok       data mnist5k" in shown
    assert "note     data not available: celeba" in shown
    (tmp_path / "params.yaml").write_text("datasets: 3")
    assert "cannot be run" in run(capsys, "doctor")[1]


def test_the_doctor_names_a_library_that_is_too_old(capsys, monkeypatch):
    from quantskew import doctor

    versions = {"onnxruntime": "1.2"}
    monkeypatch.setattr(doctor, "version", lambda name: versions.get(name, "999"))
    monkeypatch.setattr(doctor, "requires", lambda _: ["onnxruntime>=1.20", "torch>=2; extra=='x'"])
    status, shown, _ = run(capsys, "doctor")
    assert status == 1
    assert "onnxruntime >=1.20: found 1.2; pip install 'onnxruntime>=1.20'" in shown


def plan(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", *map(str, arguments)])
    return ended.value.code, capsys.readouterr()


def test_a_plan_from_an_assumed_rate_of_flips_and_from_seeds(capsys):
    status, said = plan(capsys, "--loss", 0.02, "--flips", 0.05)
    assert (status, said.out.split()[0]) == (0, f"{images_to_certify(0.02, 0.05):,.0f}")
    several = "--images-per-unit", 5, "--correlation", 0.5
    _, said = plan(capsys, "--loss", 0.02, "--flips", 0.05, *several)
    assert said.out.startswith("3,210 images of each group, of 642 units")
    _, said = plan(capsys, "--difference", 0.05, "--seed-sd", 0.02)
    assert said.out.startswith("4 seeds")


def test_a_plan_from_a_pilot_says_how_many_more_of_each_group(capsys, tmp_path):
    rows = pd.DataFrame(
        {"dataset": "d", "model": "m", "seed": [0, 0, 1, 1, 1], "method": "ptq", "bits": 8,
         "attribute": "digit", "group": ["1", "7", "1", "7", "9"], "n": [5000, 300, 5000, 300, 300],
         "lost": [5, 5, 5, 7, 60], "gained": [5, 5, 5, 5, 0], "still_wrong": 0,
         "bound": [0.01, 0.03, 0.01, 0.03, 0.3]}
    )  # fmt: skip
    rows = rows.assign(units=rows["n"], effective=rows["n"].astype(float))
    tables.write("certificates", rows, tmp_path / "certificates.parquet")
    status, said = plan(capsys, tmp_path / "certificates.parquet", "--loss", 0.02)
    more = images_from_pilot(7, 5, 300, 0.02, alpha=0.05 / 3)  # the seed that asks most
    assert status == 0
    assert said.out.splitlines() == [
        "d m ptq 8 bits, digit:",
        "  1: enough (there are 5,000)",
        f"  7: about {more:,.0f} more images (there are 300)",
        "  9: no number of images, as it may lose 2 points (there are 300)",
    ]


def test_a_plan_from_a_pilot_of_people_counts_people(capsys, tmp_path):
    """Five images of each person, alike in what they change, say as much as one."""
    rows = pd.DataFrame(
        {"dataset": "d", "model": "m", "seed": 0, "method": "ptq", "bits": 8, "attribute": "digit",
         "group": ["1", "7"], "n": [1500, 1500], "units": [300, 300], "effective": [300.0, 1500.0],
         "lost": 30, "gained": 30, "still_wrong": 0, "bound": 0.03}
    )  # fmt: skip
    tables.write("certificates", rows, tmp_path / "certificates.parquet")
    _, said = plan(capsys, tmp_path / "certificates.parquet", "--loss", 0.02)
    alone = images_to_certify(0.02, 0.04, alpha=0.05 / 2)
    assert said.out.splitlines()[1:] == [
        f"  1: about {5 * alone - 1500:,.0f} more images of {alone - 300:,.0f} more units "
        "(there are 1,500 of 300 units)",
        "  7: enough (there are 1,500 of 300 units)",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing is asked"),
        (("--loss", 0.02), "either a pilot or --flips"),
        (("--loss", 0.02, "--flips", 3), "they are shares"),
        (("--loss", 5, "--flips", 0.05), "they are shares"),
        (("--loss", 0.02, "--flips", 0.05, "--alpha", 2), "they are shares"),
        (("--loss", 0.02, "--flips", 0.05, "--power", 0), "they are shares"),
        (("pilot.parquet", "--difference", 0.02, "--seed-sd", 0.1), "needs --loss"),
        (("--flips", 0.05, "--difference", 0.02, "--seed-sd", 0.1), "needs --loss"),
        (("--difference", 0.02, "--seed-sd", -0.1), "0 or more"),
        (("--difference", 0.02, "--seed-sd", "nan"), "0 or more"),
        (("--difference", 0.02), "go together"),
        (("--difference", -1, "--seed-sd", 0.1), "must be above 0"),
    ],
)
def test_a_plan_that_cannot_be_made_says_why(capsys, arguments, message):
    status, said = plan(capsys, *arguments)
    assert status == cli.USAGE
    assert message in said.err


def test_a_report_needs_a_study_that_was_run(capsys, tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text("utf-8"), "utf-8")
    monkeypatch.chdir(tmp_path)
    status, _, said = run(capsys, "report")
    assert status == 64
    assert "run `dvc repro`" in said
