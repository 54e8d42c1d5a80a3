"""The gate on files from elsewhere: what it is told, what it refuses, what it says aloud."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import PIL.Image
import pytest
import safetensors.numpy
from network_files import N, classifier, pictures
from onnx import TensorProto, helper
from pydantic import ValidationError

from quantskew import cli, tables
from quantskew.analysis.gate import GateError, Policy, as_json, by_group, heading, judge
from quantskew.data.groups import GroupError
from quantskew.data.loading import load
from quantskew.data.people import read_people
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.deployment.evidence import EvidenceError, from_files, from_study
from quantskew.deployment.onnx_files import FileError
from quantskew.deployment.shipped import described
from quantskew.description import predictions
from quantskew.engine.fingerprint import file_hash
from quantskew.layout import NETWORKS, empty, folder_of, predictions_path, samples_path
from quantskew.names import Variant
from quantskew.params import load as load_params
from quantskew.sections import ParamsError, read

ROOT = Path(__file__).parents[1]
RAW = {"scale": 255, "mean": 0, "std": 1}


@pytest.fixture
def gate(tmp_path):
    """Judge a pair of files on images by a policy; everything may be replaced."""

    def run(frame=None, *, fp32=None, int8=None, classes=(), **policy):
        data = tmp_path / "test.parquet"
        (pictures() if frame is None else frame).to_parquet(data)
        reference = classifier(tmp_path / "fp32.onnx", **(fp32 or {}))
        network = classifier(
            tmp_path / "int8.onnx", **{"integer": True, **(fp32 or {}), **(int8 or {})}
        )
        policy = {"largest_group_loss": 0.2, "preprocess": RAW, "draws": 200, **policy}
        policy = Policy(**{key: value for key, value in policy.items() if value is not None})
        evidence = from_files(reference, network, data, policy, classes=classes)
        return evidence, policy, judge(evidence, policy)

    return run


def texts(evidence, policy):
    return "\n".join(heading(evidence, policy))


def test_a_good_pair_passes_and_says_what_it_rests_on(gate):
    evidence, policy, (finding,) = gate()
    assert finding.verdict == "pass"
    said = texts(evidence, policy)
    assert "accuracy 100.0 %, reference 100.0 %, most frequent class 0 50.0 %" in said
    assert "; pixels / 255; mean 0; std 1; NCHW; grey" in said
    assert not evidence.warnings


@pytest.mark.parametrize("both", [False, True])
def test_answers_that_are_not_finite_are_refused_by_file_and_number(gate, both):
    nan = {"answer": ("Sqrt",)}  # the logit of the other class is below 0
    message = r"int8.onnx answers NaN or infinity for 240 of 240 images, first for test/0000000"
    if both:
        message = r"fp32.onnx answers NaN .* for 240 of 240 .*; .*" + message
    with pytest.raises(EvidenceError, match=message):
        gate(fp32=nan if both else {}, int8=nan)


@pytest.mark.parametrize("wrong", [{"scale": 1.0}, {"mean": 3.0}, {"scale": 1e4}])
def test_a_reference_that_is_fed_wrongly_is_no_basis(gate, wrong):
    message = (
        r"answers 50\.0 % of 240 .* always answering '0' would reach 50\.0 %: it is no basis.* "
        r"It was fed 1×8×8; .*preprocess: {"
    )
    with pytest.raises(GateError, match=message):
        gate(preprocess=RAW | wrong)


def test_a_reference_below_what_is_expected_is_no_basis(gate):
    frame = pictures()
    frame.loc[:60, "label"] = "1"
    with pytest.raises(GateError, match=r"answers 8\d\.\d % .* the policy expects 95 %"):
        gate(frame, expected_accuracy=0.95)
    assert gate(frame, expected_accuracy=0.87)[2][0].verdict == "pass"


def test_preprocessing_is_never_assumed(gate):
    with pytest.raises(EvidenceError, match=r"fp32.onnx and .*int8.onnx: how images are to be fed "
                       r"is not in the file.*layout: NCHW"):  # fmt: skip
        gate(preprocess=None)
    for key in RAW:
        with pytest.raises(ValueError, match=key):
            Policy(accuracy=0.5, preprocess={k: v for k, v in RAW.items() if k != key})


def test_preprocessing_follows_its_steps(gate):
    # the file wants −1 … 1, so that its line lies at 0.5 of that: 191 of 255
    frame = pictures()
    frame["label"] = (np.arange(N) % 4 == 3).astype(int)
    evidence, *_ = gate(frame, preprocess={"scale": 127.5, "mean": [1.0], "std": [1.0]})
    assert evidence.accuracies == (1.0, 1.0)
    wide = pictures(shape=(16, 30))
    evidence, policy, _ = gate(wide, preprocess=RAW | {"resize": 10, "crop": [8, 8]})
    assert evidence.accuracies == (1.0, 1.0)
    assert "resize 10; crop 8×8; bilinear; pixels / 255" in texts(evidence, policy)
    with pytest.raises(EvidenceError, match=r"preprocess gives images of 9×9 .* wants 8×8"):
        gate(wide, preprocess=RAW | {"crop": 9})
    with pytest.raises(EvidenceError, match=r"240 of 240 .* 10×18 pixels, where 8×8 are needed"):
        gate(wide, preprocess=RAW | {"resize": 10})


def test_crop_and_channels_agree_with_torchvision():
    from torchvision.transforms import v2

    from quantskew.data.decoding import resize_and_crop
    from quantskew.data.preprocess import Preprocess

    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8)
    picture = PIL.Image.fromarray(pixels)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    mine = Preprocess(resize=20, crop=15, scale=255, mean=mean, std=std)
    steps = [v2.Resize(20), v2.CenterCrop(15), v2.PILToTensor()]
    theirs = v2.Compose([*steps, v2.ConvertImageDtype(), v2.Normalize(mean, std)])(picture)
    fitted = np.asarray(resize_and_crop(picture, mine.resize, mine.crop, mine.interpolation))
    fitted = fitted.transpose(2, 0, 1)[None]
    np.testing.assert_allclose(mine.values(fitted)[0], theirs.numpy(), atol=1e-6)
    turned = mine.model_copy(update={"channels": "BGR", "mean": (0.0,), "std": (1.0,)})
    np.testing.assert_allclose(turned.values(fitted)[0] * 255, fitted[0, ::-1], atol=1e-4)


def test_where_the_channels_are_is_seen_or_stated(gate):
    nhwc = {"axes": ("N", 8, 8, 1)}
    with pytest.raises(EvidenceError, match=r"images of 8 channels .* read as NCHW.*layout: NHWC"):
        gate(fp32=nhwc, preprocess=RAW | {"layout": "NCHW"})
    with pytest.raises(EvidenceError, match="layout: NHWC"):
        gate(fp32=nhwc, preprocess=None)
    for stated in ({}, {"layout": "NHWC"}):
        evidence, policy, _ = gate(fp32=nhwc, preprocess=RAW | stated)
        assert evidence.accuracies == (1.0, 1.0)
        assert "NHWC" in texts(evidence, policy)
    evidence, *_ = gate(fp32=nhwc, int8={"axes": ("N", 1, 8, 8)})  # each as it is
    assert evidence.accuracies == (1.0, 1.0)
    with pytest.raises(EvidenceError, match="wants images of 12 channels"):
        gate(fp32={"axes": ("N", 12, 8, 8)})


@pytest.mark.parametrize("batch", [1, 7])
def test_a_fixed_batch_runs_in_parts(gate, batch):
    evidence, *_ = gate(fp32={"axes": (batch, 1, 8, 8)})
    assert evidence.accuracies == (1.0, 1.0)
    assert len(evidence.after) == N


def test_images_need_not_be_squares_nor_pictures(gate):
    evidence, *_ = gate(pictures(shape=(8, 12)), fp32={"axes": ("N", 1, 8, 12)})
    assert evidence.accuracies == (1.0, 1.0)
    with pytest.raises(EvidenceError, match="takes images of any size"):
        gate(fp32={"axes": ("N", 1, "H", "W")})
    evidence, *_ = gate(fp32={"axes": ("N", 1, "H", "W")}, preprocess=RAW | {"resize": [6, 9]})
    assert evidence.input.startswith("1×6×9; resize 6×9")


def test_floats_are_fed_as_the_policy_says(gate):
    frame = pictures()
    level = np.array([0.1, 0.3, 0.6, 0.9])[np.arange(N) % 4]
    frame["image"] = [np.full((8, 8), value, np.float32).tolist() for value in level]
    evidence, *_ = gate(frame, preprocess={"scale": 1, "mean": 0, "std": 1})
    assert evidence.accuracies == (1.0, 1.0)
    with pytest.raises(EvidenceError, match="no preprocess resizes or crops"):
        gate(frame, preprocess={"scale": 1, "mean": 0, "std": 1, "crop": 8})
    frame["image"] = [None, np.full((4, 4), 0.5).tolist(), *frame["image"][2:]]
    evidence, *_ = gate(frame, preprocess={"scale": 1, "mean": 0, "std": 1})
    assert "2 of 240 images" in evidence.warnings[0]
    assert "an array (4, 4, 1), where (1, 8, 8) is needed" in evidence.warnings[0]


def test_files_of_other_numbers_of_outputs_are_no_pair(gate):
    with pytest.raises(EvidenceError, match=r"fp32.onnx has 3 outputs, .*int8.onnx has 5"):
        gate(fp32={"outputs": 3}, int8={"outputs": 5})


def test_rows_of_the_training_part_are_not_judged(gate):
    frame = pictures()
    frame["split"] = np.where(np.arange(N) < 80, "train", "test")
    frame.loc[:79, "label"] = "0"
    evidence, *_ = gate(frame)
    assert (len(evidence.labels), evidence.accuracies[0]) == (160, 1.0)
    assert "80 images of other parts than test are left out" in evidence.warnings
    with pytest.raises(EvidenceError, match="has no test images"):
        gate(frame.assign(split="train"))


def test_a_table_of_samples_is_judged_by_its_test_part(gate, tmp_path):
    own = tmp_path / "own.parquet"
    pictures().assign(split=np.where(np.arange(N) % 8 < 4, "train", "test")).to_parquet(own)
    source = Source(reader="parquet", path=str(own), size=8, channels=1, duplicates="keep")
    prepare("own", source, tmp_path).write(tmp_path / "samples.parquet")
    pair = [classifier(tmp_path / f"{name}.onnx", integer=name == "b") for name in "ab"]
    policy = Policy(accuracy=0.5, preprocess=RAW)
    evidence = from_files(*pair, tmp_path / "samples.parquet", policy)
    assert (len(evidence.labels), evidence.accuracies) == (N // 2, (1.0, 1.0))


def test_the_same_file_and_a_file_without_integers_are_named(gate):
    evidence, policy, _ = gate(int8={"integer": False})
    assert evidence.warnings[0] == "both files are the same, byte for byte"
    assert "0 of 1 layers have integer weights, 0.0 %" in evidence.warnings[1]
    said = as_json(evidence, policy, judge(evidence, policy))
    assert said["warnings"] == evidence.warnings
    assert said["integers"] == {"layers": 1, "integer_layers": 0, "integer_bytes": 0.0}
    (only,) = gate(int8={"integer": False, "shift": 0.01})[0].warnings
    assert "is no integer network" in only


def test_a_few_unusable_images_are_counted_and_many_refused(gate):
    frame = pictures()
    black = io.BytesIO()
    PIL.Image.new("L", (8, 8)).save(black, "png")
    frame["image"] = [black.getvalue(), b"nothing", b"", None, *frame["image"][4:]]
    evidence, *_ = gate(frame)
    (said,) = evidence.warnings
    assert said.startswith("4 of 240 images of ")
    assert said.endswith(
        "unusable: test/0000000: constant: every pixel is 0; test/0000001: not an image; "
        "test/0000002: empty file"
    )
    assert len(evidence.labels) == N - 4
    assert len(evidence.provenance["rejects"]) == 4
    with pytest.raises(EvidenceError, match=r"4 of 240 .*the policy allows 1 % \(max_rejects\)"):
        gate(frame, max_rejects=0.01)


def test_images_without_a_label_are_counted(gate):
    frame = pictures()
    frame.loc[5, "label"] = None
    assert "1 of 240 images" in gate(frame)[0].warnings[0]
    assert "it has no label" in gate(frame)[0].warnings[0]


def test_labels_are_texts_as_written(gate):
    with pytest.raises(EvidenceError, match=r"label '01' is no class of .*0 to 1, or texts with"):
        gate(pictures().replace({"label": {"1": "01"}}))
    with pytest.raises(EvidenceError, match="label '²' is no class"):
        gate(pictures().replace({"label": {"1": "²"}}))
    named = pictures().replace({"label": {"0": "1", "1": "01"}})
    evidence, policy, _ = gate(named, classes=("1", "01"))
    assert evidence.accuracies == (1.0, 1.0)
    assert [*by_group(evidence, policy)["group"]] == ["1", "01"]
    with pytest.raises(EvidenceError, match=r"3 names of classes .* tells 2 classes apart"):
        gate(named, classes=("1", "01", "2"))
    with pytest.raises(EvidenceError, match=r"--classes: cat, dog; .*int8.onnx: dog, cat"):
        gate(fp32={"classes": ("dog", "cat")}, classes=("cat", "dog"))


@pytest.mark.parametrize(("answer", "threshold"), [((), 0.0), (("Sigmoid",), 0.5)])
def test_a_single_score_is_read_by_a_threshold(gate, answer, threshold):
    one = {"outputs": 1, "answer": answer}
    with pytest.raises(EvidenceError, match=r"one score for each image.*threshold: 0\.5 for"):
        gate(fp32=one)
    assert gate(fp32=one, threshold=threshold)[0].accuracies == (1.0, 1.0)
    with pytest.raises(EvidenceError, match="gives 2 scores for each image: leave it out"):
        gate(threshold=threshold)


def test_probabilities_answer_as_logits(gate):
    assert gate(fp32={"answer": ("Softmax",)})[0].accuracies == (1.0, 1.0)


def test_one_of_several_outputs_is_chosen_by_name(gate, tmp_path):
    def two(path):
        model = onnx.load(classifier(path))
        shape = ["N", 1]
        model.graph.output.append(helper.make_tensor_value_info("row", TensorProto.FLOAT, shape))
        onnx.save(model, path)
        return path

    pair = two(tmp_path / "a.onnx"), two(tmp_path / "b.onnx")
    pictures().to_parquet(tmp_path / "test.parquet")
    with pytest.raises(FileError, match=r"a.onnx has 2 outputs, logits, row; name the one"):
        from_files(*pair, tmp_path / "test.parquet", Policy(accuracy=0.5, preprocess=RAW))
    policy = Policy(accuracy=0.5, preprocess=RAW, output="logits")
    assert from_files(*pair, tmp_path / "test.parquet", policy).accuracies == (1.0, 1.0)
    with pytest.raises(FileError, match=r"logits, row; .* \(got 'logit'\)"):
        from_files(*pair, tmp_path / "test.parquet", policy.model_copy(update={"output": "logit"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy: 0.5\naccuracy: 0.9", "the key 'accuracy' stands more than once"),
        ("accuracy: true", "accuracy: got True, which holds a truth value; a number is needed"),
        ("bytes: true", "bytes: got True, which holds a truth value"),
        ("fvo_increase: false", "fvo_increase: got False, which holds a truth value"),
        ("accuracy: 0.5\nseed: -1", "seed: got -1"),
        ("accuracy: 0.5\ndraws: 1000000000", "draws: got 1000000000"),
        ("accuracy: 0.5\npreprocess: {scale: 255}", r"preprocess\.mean: is required"),
    ],
)
def test_policies_that_cannot_be_meant_are_refused(tmp_path, text, message):
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        read(Policy, tmp_path / "policy.yaml", "")


def test_small_groups_and_small_cells_take_no_part(gate):
    frame = pictures()
    frame["fur"] = np.where(np.arange(N) < 10, "curly", frame["fur"])
    # one image of class 1 in a group of class 0: its rate of 0 or 1 rests on that image
    frame["coat"] = np.where(frame["label"] == "0", "a", "b")
    frame.loc[frame.index[frame["label"] == "1"][0], "coat"] = "a"
    options = {"groups": ("fur", "coat"), "equalized_odds": 0.1}
    evidence, policy, findings = gate(frame, int8={"shift": 0.3}, **options)
    odds = next(f for f in findings if f.rule == "equalized_odds")
    assert "curly" not in odds.note
    assert "true and false positive rates over fewer than 30 images are left out: 2 of 8" in texts(
        evidence, policy
    )
    loss = next(f for f in findings if f.rule == "largest_group_loss")
    assert "under 30 images, not judged: fur curly" in loss.note
    groups = by_group(evidence, policy).set_index("group")
    assert not groups.loc["curly", "judged"]
    assert np.isnan(groups.loc["curly", "loss_high"])


def test_images_of_one_animal_count_as_one(gate):
    frame = pictures().assign(animal=np.arange(N) // 4 % 6 + 100 * (np.arange(N) % 2))
    evidence, policy, (found,) = gate(frame, groups=("fur",), unit="animal", minimum=6)
    assert "animal units are counted, not images: there are 12" in heading(evidence, policy)
    assert "(120 images of 6 animal units)" in found.note
    assert (found.verdict, found.value) == ("could not tell", 0)
    (alone,) = gate(frame, groups=("fur",))[2]
    assert (alone.verdict, alone.value) == ("pass", 0)
    with pytest.raises(GroupError, match=r"unit: the samples have no column 'animl'; did you mean"):
        gate(frame, unit="animl")


def test_no_group_large_enough_is_said_with_numbers(gate):
    frame = pictures().assign(fur=np.arange(N) % 12 * 10)
    frame["fur"] = frame["fur"].astype(str) + "x"
    _, _, findings = gate(frame, groups=("fur",), fvo_increase=0.1)
    assert {f.verdict for f in findings} == {"could not tell"}
    assert findings[0].note == "no group could be judged: 12 groups under 30 images"
    message = "nothing could be judged: by fur: 12 groups, 0 of them of 30 images or more"
    assert findings[1].note == message
    frame["fur"] = np.where(np.arange(N) < 220, "long", "short")
    _, _, findings = gate(frame, groups=("label", "fur"), fvo_increase=0.1)
    assert findings[1].note == (
        "by label; not judged: by fur: 2 groups, 1 of them of 30 images or more"
    )


def test_numbers_are_grouped_by_the_edges_of_the_policy(gate):
    frame = pictures().assign(weight=np.arange(N) * 1.5)
    with pytest.raises(GroupError, match=r"bins: \{weight: \[0, 19, 40, 60\]\}"):
        gate(frame, groups=("weight",))
    evidence, policy, _ = gate(frame, groups=("weight",), bins={"weight": (0, 180)})
    assert [*by_group(evidence, policy)["images"]] == [120, 120]
    with pytest.raises(ValidationError, match="the bin edges of 'weight' must be rising"):
        gate(frame, groups=("weight",), bins={"weight": (180, 0)})


def test_limits_stay_within_what_a_metric_can_be(gate):
    _, _, findings = gate(
        int8={"shift": 0.3}, groups=("fur",), demographic_parity=0.5, fvo=0.5, fvo_increase=0.5
    )
    for finding in findings:
        assert -1 <= finding.low <= finding.value <= finding.high <= 1
    level = next(f for f in findings if f.rule == "fvo")
    assert 0 <= level.low <= level.high <= 1


def command(tmp_path, *more):
    return [
        "gate", f"{tmp_path}/policy.yaml", "--fp32", f"{tmp_path}/fp32.onnx", "--int8",
        f"{tmp_path}/int8.onnx", "--data", f"{tmp_path}/test.parquet", *more,
    ]  # fmt: skip


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    shown = capsys.readouterr()
    return ended.value.code, shown.out, shown.err


@pytest.fixture
def files(tmp_path):
    classifier(tmp_path / "fp32.onnx")
    classifier(tmp_path / "int8.onnx", integer=True, shift=0.2)
    frame = pictures().replace({"label": {"0": "cat", "1": "dog"}})
    frame["fur"] = np.where(np.arange(N) < 10, "a|<b>\nc", frame["fur"])
    frame.to_parquet(tmp_path / "test.parquet")
    (tmp_path / "policy.yaml").write_text(
        "groups: [label, fur]\nlargest_group_loss: 0.1\npreprocess: {scale: 255, mean: 0, std: 1}\n"
    )
    return tmp_path


def test_json_and_markdown_hold_all_groups_and_hashes(files, capsys):
    import hashlib

    written = files / "g.json", files / "g.md"
    arguments = "--classes", "cat,dog", "--json", written[0], "--markdown", written[1]
    status, shown, _ = run(capsys, *command(files, *arguments))
    assert status == 1
    assert "accuracy 75.0 %, reference 100.0 %, most frequent class cat 50.0 %" in shown
    found = json.loads(written[0].read_text())
    groups = {(g["attribute"], g["group"]): g for g in found["groups"]}
    assert len(groups) == 5
    dog = groups["label", "dog"]
    assert (dog["images"], dog["reference"], dog["accuracy"], dog["lost"]) == (120, 1, 0.5, 60)
    assert dog["loss_low"] < 0.5 < dog["loss_high"]
    small = groups["fur", "a|<b>\nc"]
    assert (small["judged"], small["images"], small["loss_high"]) == (False, 10, None)
    names = {"network": "int8.onnx", "reference": "fp32.onnx", "data": "test.parquet"}
    for what, name in {**names, "policy": "policy.yaml"}.items():
        digest = hashlib.sha256((files / name).read_bytes()).hexdigest()
        assert found["sha256"][what] == digest
        assert digest in written[1].read_text()
    assert {"quantskew", "onnxruntime"} <= {*found["versions"]}
    assert found["reference_accuracy"] == 1
    assert found["majority"] == {"class": "cat", "share": 0.5}
    assert found["policy"]["preprocess"]["scale"] == 255
    text = written[1].read_text()
    assert r"a\|\<b\> c (not judged) | 10 |" in text
    assert "| label | dog | 120 | 100.0 | 50.0 | 60 | 0 |" in text
    assert "pixels / 255" in text


def test_classes_may_be_the_lines_of_a_file(files, capsys):
    (files / "classes.txt").write_text("cat\ndog\n")
    assert run(capsys, *command(files, "--classes", files / "classes.txt"))[0] == 1
    status, _, said = run(capsys, *command(files, "--classes", "dog,cat"))
    assert status == 64  # the reference answers 0 %
    assert "is no basis" in said
    status, _, said = run(capsys, *command(files))
    assert status == 64
    assert "label 'cat' is no class of" in said
    assert "--classes" in said
    assert "names a class twice" in run(capsys, *command(files, "--classes", "cat,cat"))[2]


def test_a_traceback_is_no_verdict(files, capsys, monkeypatch):
    from quantskew.deployment import evidence

    def broken(*_, **__):
        raise ZeroDivisionError("of a kind that nobody thought of\nwith a second line")

    monkeypatch.setattr(evidence, "from_files", broken)
    status, shown, said = run(capsys, *command(files))
    assert (status, shown) == (70, "")
    (line,) = said.splitlines()
    assert line.startswith("unexpected error: ZeroDivisionError: of a kind that nobody thought of;")
    trace = Path(line.rpartition(" ")[2])
    assert "def broken" not in trace.read_text()
    assert 'raise ZeroDivisionError("of a kind' in trace.read_text()
    trace.unlink()


def test_a_verdict_that_cannot_be_written_is_an_error(files, capsys):
    (files / "taken").write_text("a file")
    more = "--classes", "cat,dog", "--markdown", files / "taken/g.md"
    status, _, said = run(capsys, *command(files, *more))
    assert status == 64
    assert "the verdict is fail and cannot be written" in said


def test_data_that_cannot_be_read_are_refused(files, capsys):
    path = files / "test.parquet"
    frame = pd.read_parquet(path)
    frame.head(0).to_parquet(path)
    assert "has no rows" in run(capsys, *command(files, "--classes", "cat,dog"))[2]
    frame.to_parquet(path)
    whole = bytearray(path.read_bytes())
    whole[40:400] = b"\0" * 360
    path.write_bytes(whole)
    status, _, said = run(capsys, *command(files, "--classes", "cat,dog"))
    assert status == 64, said


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of digits whose networks were trained elsewhere, as far as the gate reads it."""
    monkeypatch.chdir(tmp_path)
    parameters = load_params(ROOT / "params.yaml")
    parameters = parameters.model_copy(
        update={"datasets": ("digits",), "models": ("resnet18_quarter",)}
    )
    prepare("digits", Source(), tmp_path).write(samples_path("digits"))
    test = load(samples_path("digits")).test
    fp32 = Variant("digits", "resnet18_quarter", 0, "fp32", 32)
    made = {
        fp32: ("train", fp32),
        fp32._replace(method="ptq", bits=8): ("quantize", fp32),
        fp32._replace(method="int8_random", bits=8): ("deploy", fp32),
    }
    rows = {stage: [] for stage in (*NETWORKS, "deploy")}
    for variant, (stage, base) in made.items():
        folder = folder_of(stage, "digits", "resnet18_quarter")
        folder.mkdir(parents=True, exist_ok=True)
        suffix = "onnx" if stage == "deploy" else "safetensors"
        (folder / f"{variant.stem}.{suffix}").write_bytes(variant.stem.encode())
        row = {"base": base.method, "file": f"{variant.stem}.{suffix}", "bytes": 10}
        rows[stage].append(variant._asdict() | row)
        logits = np.eye(10, dtype=np.float32)[test.labels.numpy()]
        answers = predictions(logits, test.ids, test.labels.numpy())
        places = {"deploy": ["deploy"], "train": ["evaluate", "deploy"], "quantize": ["evaluate"]}
        for place in places[stage]:
            path = predictions_path(folder_of(place, "digits", "resnet18_quarter"), variant)
            tables.write("predictions", variant.name(answers), path)
    folder_of("deploy", "digits", "resnet18_quarter").joinpath(f"{fp32.stem}.onnx").write_text("")
    for stage, listed in rows.items():
        table = "deployed" if stage == "deploy" else "variants"
        frame = empty(table)
        frame = pd.concat([frame, pd.DataFrame(listed)]) if listed else frame
        path = folder_of(stage, "digits", "resnet18_quarter") / f"{table}.parquet"
        texts = dict.fromkeys(("operators", "products", "calibration"), "")
        tables.write(table, frame.fillna({c: texts.get(c, 0) for c in frame}), path)
    return parameters


def test_of_a_study_simulated_networks_are_marked(study):
    policy = Policy(largest_group_loss=0.5, groups=("label",))
    simulated = from_study(study, policy, "ptq-8bit-seed0", dataset=None, model=None)
    assert simulated.warnings == (
        "ptq-8bit-seed0 is simulated in PyTorch; no runtime executes this file",
    )
    ships = from_study(study, policy, "int8_random-8bit-seed0", dataset=None, model=None)
    assert not ships.warnings
    reference = folder_of("train", "digits", "resnet18_quarter") / "fp32-32bit-seed0.safetensors"
    assert simulated.provenance["sha256"]["reference"] == file_hash(reference)
    assert ships.provenance["sha256"]["reference"] != file_hash(reference)
    fed = policy.model_copy(update={"output": "logits"})
    with pytest.raises(EvidenceError, match="output in the policy is for a pair of files"):
        from_study(study, fed, "ptq-8bit-seed0", dataset=None, model=None)


def test_of_a_study_too_answers_must_be_finite(study):
    folder = folder_of("evaluate", "digits", "resnet18_quarter")
    variant = Variant("digits", "resnet18_quarter", 0, "ptq", 8)
    path = predictions_path(folder, variant)
    answers = tables.read("predictions", path).to_pandas()
    answers.at[4, "logits"] = np.full(10, np.nan, np.float32)  # noqa: PD008
    tables.write("predictions", answers, path)
    policy = Policy(largest_group_loss=0.5, groups=("label",))
    with pytest.raises(EvidenceError, match=r"ptq-8bit-seed0.parquet answers NaN .* for 1 of 3"):
        from_study(study, policy, "ptq-8bit-seed0", dataset=None, model=None)


def test_of_a_study_the_units_are_those_of_the_study_or_of_the_policy(study):
    policy = Policy(largest_group_loss=0.5, groups=("slant",), minimum=2)
    given = {"variant": "ptq-8bit-seed0", "dataset": None, "model": None}
    assert from_study(study, policy, **given).units is None
    by_unit = policy.model_copy(update={"unit": "label"})
    own = from_study(study, by_unit, **given)
    groups = study.groups.model_copy(update={"unit": {"digits": "label"}})
    of_study = from_study(study.model_copy(update={"groups": groups}), policy, **given)
    for found in (own, of_study):
        assert found.unit == "label"
        assert len(np.unique(found.units)) == 10
    assert by_group(own, policy)["units"].max() == 10


def test_deployed_files_are_certified_by_the_units_of_the_study(study, tmp_path):
    test = read_people(samples_path("digits")).test
    right = np.eye(10, dtype=np.float32)[test.labels]
    wrong = np.roll(right, 1, axis=1)
    lost = (test.labels == 3)[:, None]
    fp32 = Variant("digits", "resnet18_quarter", 0, "fp32", 32)
    int8 = fp32._replace(method="int8_random", bits=8)
    facts = {"opset": 17, "operators": ["Conv"], "layers": 1, "integer_layers": 1,
             "integer_bytes": 1.0, "integer_operations": 1.0, "calibration": {},
             "products": ""}  # fmt: skip
    folders = {}
    for variant, logits in ((fp32, right), (int8, np.where(lost, wrong, right))):
        folders[variant] = tmp_path / variant.stem
        folders[variant].mkdir()
        (folders[variant] / "network.onnx").write_bytes(b"0")
        (folders[variant] / "facts.json").write_text(json.dumps(facts))
        answers = {"logits": logits, "pytorch": logits}
        safetensors.numpy.save_file(answers, folders[variant] / "logits.safetensors")
    references = dict.fromkeys(folders, fp32)
    bounds = {}
    for unit in (None, "label"):
        groups = study.groups.model_copy(
            update={
                "by": {"digits": ("slant",)},
                "unit": {"digits": unit} if unit else {},
                "minimum": 2,
            }
        )
        asked = study.model_copy(update={"groups": groups})
        made = described(folders, references, test, asked, tmp_path).deployed_groups
        rows = made[made["method"] == "int8_random"].set_index("group")
        share = (rows["lost"] / rows["n"]).to_numpy()
        assert (rows["bound"] > share).all()
        assert (rows["low"] < rows["accuracy"]).all()
        bounds[unit] = rows
    # ten persons, of whom one loses all, say far less than 360 images
    assert (bounds["label"]["bound"] > 2 * bounds[None]["bound"]).all()
    assert (bounds["label"]["low"] < bounds[None]["low"]).all()
