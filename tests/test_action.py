"""The GitHub Action, whose scripts are run as the runner runs them: by bash, with its variables."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
COMPARE = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "compare")


def inputs_of(step):
    """Names of the inputs that become variables of a step."""
    return {name: value.removeprefix("${{ inputs.").removesuffix(" }}")
            for name, value in step["env"].items()}  # fmt: skip


@pytest.fixture
def act(tmp_path):
    labels = ["cat", "dog"] * 300
    frame = pd.DataFrame({"id": range(600), "label": labels, "prediction": labels})
    frame = frame.assign(person=frame["id"] // 4, **{"my race": ["a", "b"] * 300})
    frame.to_csv(tmp_path / "before.csv", index=False)
    frame.to_csv(tmp_path / "same $(touch x).csv", index=False)
    frame.assign(prediction="cat").to_csv(tmp_path / "worse.csv", index=False)
    frame[:40].to_csv(tmp_path / "few.csv", index=False)

    def run(**given):
        values = {name: one.get("default", "") for name, one in ACTION["inputs"].items()} | given
        variables = {name: str(values[of]) for name, of in inputs_of(COMPARE).items()}
        for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
            (tmp_path / name).write_text("")
            variables[name] = str(tmp_path / name)
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ended = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", COMPARE["run"]],
            cwd=tmp_path, env={**os.environ, "PATH": tools, **variables},
            capture_output=True, text=True,
        )  # fmt: skip
        said = dict(
            line.split("=", 1) for line in (tmp_path / "GITHUB_OUTPUT").read_text().splitlines()
        )
        return ended, said, (tmp_path / "GITHUB_STEP_SUMMARY").read_text()

    return run


def test_every_input_reaches_the_command_as_a_variable():
    used = {name for step in ACTION["runs"]["steps"] for name in inputs_of(step).values()}
    assert set(ACTION["inputs"]) <= used
    assert not any("${{" in step["run"] for step in ACTION["runs"]["steps"])


def test_tables_that_answer_alike_pass_whatever_their_names(act, tmp_path):
    ended, said, summary = act(
        before="before.csv", after="same $(touch x).csv", by="my race\nlabel", unit="person",
        margin="0.1",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert said == {"status": "0", "verdict": "pass"}
    assert "### Answers by group: **pass**" in summary
    assert not (tmp_path / "x").exists()
    for name in ("compare.json", "compare.xml", "compare.md", "evidence.json"):
        assert (tmp_path / "quantskew" / name).stat().st_size


def test_a_harm_fails_and_few_samples_fail_unless_they_may_pass(act):
    ended, said, summary = act(before="before.csv", after="worse.csv", by="my race")
    assert (ended.returncode, said["verdict"]) == (1, "fail")
    assert "my race b" in summary
    few = {"before": "few.csv", "after": "before.csv", "arguments": "--missing\n0.99"}
    ended, said, _ = act(**few)
    assert (ended.returncode, said["verdict"]) == (2, "could not tell"), ended.stderr
    assert act(**few, **{"cannot-tell": "pass"})[0].returncode == 0


def test_what_cannot_be_compared_is_no_verdict(act):
    ended, said, summary = act(before="none.csv", after="worse.csv", policy="p.yaml", margin="0.1")
    assert (ended.returncode, said, summary) == (64, {"status": "64", "verdict": ""}, "")
    assert "p.yaml: no such file" in ended.stderr
