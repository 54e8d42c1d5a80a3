"""Files of every runtime answer as the runtime called by hand, and those of others as meant."""

import builtins
import json
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from network_files import N, classifier, intermediate, picture, pictures, tflite
from onnx import TensorProto, helper
from test_cli import run
from torch import nn

from quantskew.analysis.gate import Feeding, Policy
from quantskew.answers.reading import AnswersError
from quantskew.deployment import onnx_files
from quantskew.deployment.answers import write_answers
from quantskew.deployment.converting import convert
from quantskew.deployment.evidence import EvidenceError, from_files, from_several
from quantskew.deployment.runtimes import FileError, Network, open_file, torch_export

# isort: split
import timm

RAW = {"scale": 255, "mean": 0, "std": 1}
CODES = {"scale": 1, "mean": 0, "std": 1}
IMAGES = np.random.default_rng(0).random((9, 3, 32, 32), np.float32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=5).eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """The same network for ONNX Runtime in fp32 and int8."""
    folder = tmp_path_factory.mktemp("exported")
    images = torch.from_numpy(IMAGES)
    onnx_files.export(network, images[:2], folder / "fp32.onnx", {})
    onnx_files.quantize(folder / "fp32.onnx", folder / "int8.onnx", images)
    return folder


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_onnx_runtime_answers_as_called_by_hand(exported, network, name):
    import onnxruntime

    path = exported / f"{name}.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (by_hand,) = session.run(None, {"images": IMAGES})
    file = open_file(path)
    np.testing.assert_array_equal(file(IMAGES), by_hand)
    assert (file.shape, file.layout, file.batch) == ((3, 32, 32), "NCHW", None)
    if name == "fp32":
        with torch.no_grad():
            expected = network(torch.from_numpy(IMAGES)).numpy()
        np.testing.assert_allclose(by_hand, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_openvino_answers_as_called_by_hand(exported, tmp_path, name):
    openvino = pytest.importorskip("openvino")
    path = intermediate(exported / f"{name}.onnx", tmp_path / "network.xml")
    compiled = openvino.Core().compile_model(path, "CPU")
    file = open_file(path)
    np.testing.assert_array_equal(file(IMAGES), compiled([IMAGES])[0])
    assert [part.name for part in file.parts()] == ["network.xml", "network.bin"]
    stored = file.weights()
    assert {weight.integer for weight in stored} == {name == "int8"}
    assert len(stored) == len(open_file(exported / f"{name}.onnx").weights())
    there = open_file(exported / f"{name}.onnx")(IMAGES)
    assert np.abs(file(IMAGES) - there).max() < 0.1 * np.abs(there).max()


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("kind", ["float", "int8", "uint8", "half"])
def test_litert_answers_as_called_by_hand(tmp_path, kind, free):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    path = tflite(tmp_path / "network.tflite", kind=kind, free=free)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 1, 8, 8))
    interpreter = litert.Interpreter(str(path))
    interpreter.allocate_tensors()
    given, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    by_hand = []
    for image in pixels.transpose(0, 2, 3, 1)[:, None]:
        fed = {"int8": image - 128, "uint8": image}.get(kind, image / 255)
        interpreter.set_tensor(given["index"], fed.astype(given["dtype"]))
        interpreter.invoke()
        by_hand.append(interpreter.get_tensor(answer["index"])[0])
    scale = 0.1 if kind == "int8" else 1
    file = open_file(path)
    values = (pixels if kind == "uint8" else pixels / 255).astype(np.float32)
    np.testing.assert_allclose(file(values), np.stack(by_hand) * scale, rtol=1e-5)
    assert (file.layout, file.batch) == ("NHWC", None if free else 1)
    bits = {"int8": 8, "half": 16}.get(kind, 32)
    assert [(one.integer, one.bits) for one in file.weights()] == [(kind == "int8", bits)]


def test_torch_export_answers_as_called_by_hand(network, tmp_path):
    path, images = tmp_path / "network.pt2", torch.from_numpy(IMAGES)
    for sizes in ({0: torch.export.Dim("n")}, None):
        torch.export.save(
            torch.export.export(network, (images[:2],), dynamic_shapes=sizes and (sizes,)), path
        )
        with torch.no_grad():
            by_hand = network(images).numpy()
        file = open_file(path)
        np.testing.assert_allclose(file(IMAGES), by_hand, atol=1e-5)
        assert file.batch == (None if sizes else 2)
    assert not any(weight.integer for weight in file.weights())


def test_masks_and_indices_of_a_program_are_no_integer_weights(tmp_path):
    class Indexed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 3)
            self.register_buffer("places", torch.arange(64).reshape(8, 8))
            self.register_buffer("mask", torch.ones(8, 8, dtype=torch.bool))

        def forward(self, images):
            kept = torch.where(self.mask, images[:, 0], 0.0).flatten(1)
            return self.linear(kept[:, self.places.flatten()])

    path = tmp_path / "indexed.pt2"
    torch_export.export(Indexed(), torch.from_numpy(IMAGES[:2, :1, :8, :8]), path, {})
    assert [weight.integer for weight in open_file(path).weights()] == [False]


def test_what_is_not_installed_is_named_with_the_line_that_helps(tmp_path, monkeypatch):
    importing = builtins.__import__

    def lacking(name, *rest):
        if name.partition(".")[0] in ("ai_edge_litert", "openvino"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    for suffix, extra in (("tflite", "litert"), ("xml", "openvino")):
        path = tmp_path / f"network.{suffix}"
        path.touch()
        with pytest.raises(FileError, match=rf"pip install 'quantskew\[{extra}\]'"):
            open_file(path)


def test_files_of_no_runtime_and_broken_ones_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"'\.pb'; .*\.onnx \(ONNX Runtime\)"):
        open_file(tmp_path / "network.pb")
    with pytest.raises(FileError, match=r"'\.onx'; did you mean '\.onnx'\?; there"):
        open_file(tmp_path / "network.onx")
    for suffix, kind in Network.kinds.items():
        path = tmp_path / f"network{suffix}"
        with pytest.raises(FileError, match="no such file"):
            open_file(path)
        path.write_bytes(b"nothing that can be run")
        with pytest.raises(FileError, match=f"that {kind.runtime} can run: .|cannot be imported"):
            open_file(path)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "test.parquet"
    pictures().to_parquet(path)
    return path


def foreign(path, *, last="", kind=TensorProto.FLOAT, uint8=False):
    """Change the brightness classifier: what it gives, or what it takes."""
    model = onnx.load(classifier(path))
    graph = model.graph
    if last:
        graph.node.append(helper.make_node(last, ["logits"], ["last"], axis=1))
        sizes = ["N", 1] if last == "ArgMax" else ["N", 2]
        graph.output[0].CopyFrom(helper.make_tensor_value_info("last", kind, sizes))
    if uint8:
        shape = ["N", 1, 8, 8]
        graph.input[0].CopyFrom(helper.make_tensor_value_info("u", TensorProto.UINT8, shape))
        graph.node.insert(0, helper.make_node("Cast", ["u"], ["c"], to=TensorProto.FLOAT))
        graph.node.insert(1, helper.make_node("Div", ["c", "by"], ["x"]))
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(255), "by"))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def judged(data, reference, network, *, classes=(), **policy):
    policy = Policy(accuracy=0.5, preprocess=policy.pop("preprocess", RAW), **policy)
    return from_files(reference, network, data, policy, classes=classes)


def test_a_pair_of_two_runtimes_is_judged(data, tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter")
    fp32 = classifier(tmp_path / "fp32.onnx")
    evidence = judged(data, fp32, tflite(tmp_path / "int8.tflite", kind="int8", softmax=True))
    assert evidence.accuracies == (1.0, 1.0)
    assert evidence.input == "1×8×8; middle of pictures of another size, bilinear; pixels / 255; " \
        "mean 0; std 1; NHWC; grey"  # fmt: skip
    assert not evidence.warnings
    assert {"onnxruntime", "ai-edge-litert"} <= {*evidence.provenance["versions"]}
    assert evidence.provenance["integers"]["integer_bytes"] == 1
    # one score more or less is no pair
    three = classifier(tmp_path / "three.onnx", outputs=3)
    with pytest.raises(EvidenceError, match=r"3 outputs, .*int8.tflite has 2"):
        judged(data, three, tmp_path / "int8.tflite")


def test_openvino_and_its_weights_are_judged(data, tmp_path):
    pytest.importorskip("openvino")
    fp32 = classifier(tmp_path / "fp32.onnx")
    int8 = intermediate(classifier(tmp_path / "int8.onnx", integer=True), tmp_path / "int8.xml")
    evidence = judged(data, fp32, int8)
    assert evidence.accuracies == (1.0, 1.0)
    assert evidence.bytes == sum(
        (tmp_path / f"int8.{end}").stat().st_size for end in ("xml", "bin")
    )
    assert "network int8.bin" in evidence.provenance["sha256"]


def test_pixels_that_a_file_normalizes_by_itself_are_fed_as_they_are(data, tmp_path):
    file = foreign(tmp_path / "uint8.onnx", uint8=True)
    with pytest.raises(EvidenceError, match=r"uint8\).*scale: 1, mean: 0, std: 1"):
        judged(data, file, file, preprocess=None)
    with pytest.raises(FileError, match=r"from 0\.\d+ to .*takes uint8 pixels; state .*scale: 1"):
        judged(data, file, file)
    assert judged(data, file, file, preprocess=CODES).accuracies == (1.0, 1.0)


def test_values_far_out_of_the_range_of_codes_are_refused(data, tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter")
    file = tflite(tmp_path / "int8.tflite", kind="int8")
    with pytest.raises(FileError, match=r"from \d+ to 232, and takes values from 0 to 1"):
        judged(data, file, file, preprocess=CODES)


def test_each_file_of_a_pair_may_be_fed_in_its_own_way(data, tmp_path):
    codes = foreign(tmp_path / "uint8.onnx", uint8=True)
    plain = classifier(tmp_path / "fp32.onnx")
    large = classifier(tmp_path / "large.onnx", axes=("N", 1, 12, 12), shift=-0.5)
    own = {"uint8.onnx": CODES}
    evidence = judged(data, plain, codes, preprocess_of=own)
    assert evidence.accuracies == (1.0, 1.0)
    assert "pixels / 1;" in evidence.input
    assert "| 1×8×8" in evidence.input
    with pytest.raises(EvidenceError, match=r"state in the policy how each is fed: preprocess_of"):
        judged(data, plain, large)
    shifted = {**RAW, "resize": (12, 12), "mean": 0.5}  # which the file makes up for
    own = {str(large): shifted, "uint8.onnx": CODES}
    with pytest.raises(EvidenceError, match=r"no file 'uint8.onnx'; there are fp32.onnx, large.o"):
        judged(data, plain, large, preprocess_of=own)
    del own["uint8.onnx"]
    assert judged(data, plain, large, preprocess_of=own).accuracies == (1.0, 1.0)
    # what one of the files cannot use, no file is fed
    frame = pictures()
    frame.loc[3, "image"] = picture(150, (6, 6))
    frame.to_parquet(data)
    other = classifier(tmp_path / "other.onnx")
    evidence = judged(data, plain, other, preprocess_of={"other.onnx": {**RAW, "crop": 8}})
    assert len(evidence.labels) == N - 1
    assert "6×6 pixels, smaller than the crop of 8×8" in evidence.warnings[0]


def answers_table(path, answers):
    frame = pd.DataFrame({"id": np.arange(N)[::-1].astype(str), "prediction": answers[::-1]})
    frame.to_parquet(path)
    return path


def test_files_and_a_simulation_are_compared_with_one_reference(data, tmp_path, capsys):
    frame = pictures().assign(id=np.arange(N).astype(str))
    frame.to_parquet(data)
    wrong = frame["label"].astype(int).to_numpy(copy=True)
    wrong[:30:4] = 1  # eight of the 60 darkest, which are of short fur
    fp32 = classifier(tmp_path / "fp32.onnx")
    shifted = classifier(tmp_path / "int8.onnx", shift=0.2, integer=True)  # 150 is dark to it
    table = answers_table(tmp_path / "simulated.parquet", wrong)
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        json.dumps({"groups": ["fur"], "largest_group_loss": 0.2, "bytes": 1, "preprocess": RAW})
    )
    made = "runtimes", policy, fp32, shifted, table, "--data", data
    written = "-o", tmp_path / "o.parquet", "--figure", tmp_path / "f", "--seconds", "0.01"
    status, said, _ = run(capsys, *made, *written)
    assert status == 1
    assert said.count("  times as fast as the reference: ") == 1  # a table of answers has no speed
    assert "int8.onnx (ONNX Runtime, 100 % integers): fail; accuracy 75.0 %; 75.0 % " in said
    assert "answered alike, least of fur short: 50.0 %" in said
    assert "simulated.parquet (table of answers): pass; accuracy 96.7 %" in said
    rows = pd.read_parquet(tmp_path / "o.parquet").set_index(["file", "group"])
    rows.index = rows.index.set_levels([Path(one).name for one in rows.index.levels[0]], level=0)
    for name, lost in (("int8.onnx", 60), ("simulated.parquet", 8)):
        short, long = rows.loc[name, "short"], rows.loc[name, "long"]
        assert (short["images"], short["lost"], long["lost"]) == (120, lost, 0)
        assert (short["accuracy"], short["agreement"]) == pytest.approx(2 * [1 - lost / 120])
        assert (short["reference"], long["agreement"]) == (1, 1)
        assert short["agreement_low"] < short["agreement"] < short["agreement_high"]
    timed = rows.loc["int8.onnx"].iloc[0]
    for size in (1, 32):
        low, middle, high = (timed[f"speed_{size}{part}"] for part in ("_low", "", "_high"))
        assert 0 < low <= middle <= high
    assert rows.loc["simulated.parquet"][["speed_1", "speed_32"]].isna().all(axis=None)
    figure, shown = (tmp_path / "f").read_text(), ("fp32.onnx", "int8.onnx", "of the reference")
    assert all(name in figure for name in (*shown, "answered as the reference", "32 at a time"))
    from quantskew import compare_runtimes

    found = compare_runtimes([fp32, table], data, Policy(bytes=1, preprocess=RAW))
    assert found.rows["verdict"].unique().tolist() == ["not judged"]  # a table has no size
    assert found.verdict == "could not tell"


def test_tables_of_answers_to_other_samples_are_refused(data, tmp_path):
    fp32 = classifier(tmp_path / "fp32.onnx", classes=("dark", "bright"))
    ids = np.arange(N).astype(str)
    named = pictures().replace({"label": {"0": "dark", "1": "bright"}})
    named.assign(id=ids).to_parquet(data)
    table = tmp_path / "simulated.parquet"
    policy = Policy(accuracy=0.5, preprocess=RAW)
    by_index = pd.DataFrame({"id": ids, "prediction": pictures()["label"].astype(int)})
    by_index.to_parquet(table)
    (evidence,) = from_several([fp32, table], data, policy)
    assert evidence.accuracies == (1.0, 1.0)
    for frame, message in (
        (by_index[1:], "lacks 1 of 240 samples, first '0'"),
        (pd.concat([by_index, by_index[:1]]), "has '0' twice"),
        (by_index.assign(prediction="grey"), "answers 'grey', and the classes are dark, bright"),
    ):
        frame.to_parquet(table)
        with pytest.raises(AnswersError, match=message):
            from_several([fp32, table], data, policy)


def test_labels_as_answers_need_names(data, tmp_path):
    file = foreign(tmp_path / "label.onnx", last="ArgMax", kind=TensorProto.INT64)
    with pytest.raises(EvidenceError, match=r"gives the index of a class .*\(--classes\)"):
        judged(data, file, file)
    evidence = judged(data, file, file, classes=("0", "1"))
    assert evidence.accuracies == (1.0, 1.0)
    with pytest.raises(EvidenceError, match=r"states a threshold, .* the index of a class"):
        judged(data, file, file, classes=("0", "1"), threshold=0.5)
    with pytest.raises(EvidenceError, match=r"answers 0 to 1, and there are 1 classes: 0"):
        judged(data, file, file, classes=("0",))


def test_what_is_no_classifier_is_refused_with_its_inputs_and_outputs(tmp_path):
    path = tmp_path / "network.onnx"

    def ports(*names, sizes):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, sizes) for n in names]

    image, text = ["N", 1, 8, 8], TensorProto.STRING
    for inputs, output, node in (
        (ports("x", sizes=image), ports("y", sizes=image), ("Identity", ["x"], {})),
        (ports("x", "z", sizes=image), ports("y", sizes=image), ("Add", ["x", "z"], {})),
        (ports("x", sizes=["N", 8]), ports("y", sizes=["N", 8]), ("Identity", ["x"], {})),
        (
            ports("x", sizes=image),
            [helper.make_tensor_value_info("y", text, image)],
            ("Cast", ["x"], {"to": text}),
        ),
    ):
        kind, names, options = node
        nodes = [helper.make_node(kind, names, ["y"], **options)]
        graph = helper.make_graph(nodes, "other", inputs, output)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, path)
        with pytest.raises(FileError, match=r"x float32\[\?, .*a classifier takes one tensor"):
            open_file(path)


def table(tmp_path, file, data, classes=(), **policy):
    target = tmp_path / "answers.parquet"
    policy = Feeding(**{"preprocess": RAW, **policy})
    return write_answers(file, data, target, policy, classes=classes), pd.read_parquet(target)


def test_answers_are_a_table_with_the_columns_of_the_data(data, tmp_path):
    frame = pictures().assign(weight=np.arange(N) * 1.5)
    frame["image"] = [b"nothing", *frame["image"][1:]]
    frame.to_parquet(data)
    file = classifier(tmp_path / "network.onnx")
    written, answers = table(tmp_path, file, data)
    assert written.images == len(answers) == N - 1
    assert written.accuracy == 1
    assert written.warnings[0].startswith(f"1 of {N} images")
    assert [*answers] == ["id", "label", "fur", "weight", "prediction", "logits"]
    assert (answers["label"] == frame["label"][1:].astype(int).to_numpy()).all()
    assert (answers["fur"] == frame["fur"][1:].to_numpy()).all()
    assert (answers["weight"] == frame["weight"][1:].to_numpy()).all()
    logits = np.stack(answers["logits"])
    assert (logits.argmax(1) == answers["prediction"]).all()
    levels = np.array([21, 61, 151, 231])[np.arange(1, N) % 4] / 255
    np.testing.assert_allclose(logits[:, 1], 20 * levels - 10, atol=1e-4)


def test_what_the_scores_are_is_seen(data, tmp_path):
    file = foreign(tmp_path / "softmax.onnx", last="Softmax")
    _, answers = table(tmp_path, file, data)
    np.testing.assert_allclose(np.stack(answers["probabilities"]).sum(1), 1, atol=1e-5)
    one = classifier(tmp_path / "one.onnx", outputs=1, answer=("Sigmoid",))
    with pytest.raises(EvidenceError, match=r"threshold: 0.5 for probabilities"):
        table(tmp_path, one, data)
    _, answers = table(tmp_path, one, data, threshold=0.5)
    assert ((answers["score"] >= 0.5) == answers["prediction"]).all()
    label = foreign(tmp_path / "label.onnx", last="ArgMax", kind=TensorProto.INT64)
    names = "dark", "bright"
    frame = pictures().replace({"label": {"0": "dark", "1": "bright"}})
    frame.to_parquet(data)
    _, answers = table(tmp_path, label, data, classes=names)
    assert [*answers] == ["id", "label", "fur", "prediction"]
    assert (answers["label"] == answers["prediction"]).all()
    assert {*answers["label"]} == {*names}
    notes = pq.read_schema(tmp_path / "answers.parquet").metadata
    assert notes[b"classes"] == b"dark\nbright"


def test_a_table_is_written_whole_or_not_at_all(data, tmp_path, monkeypatch):
    file = classifier(tmp_path / "network.onnx")
    frame = pictures()
    monkeypatch.setattr("quantskew.deployment.feeding._VALUES", 64 * 20)
    monkeypatch.setattr("quantskew.deployment.answers._TOGETHER", 50)
    whole = table(tmp_path, file, data)[1]
    assert pq.ParquetFile(tmp_path / "answers.parquet").num_row_groups == 4
    kept = (tmp_path / "answers.parquet").read_bytes()
    frame.loc[200, "label"] = "7"
    frame.to_parquet(data)
    with pytest.raises(EvidenceError, match="label '7' is no class"):
        table(tmp_path, file, data)
    assert (tmp_path / "answers.parquet").read_bytes() == kept
    assert not [*tmp_path.glob(".answers*")]
    monkeypatch.undo()
    pictures().to_parquet(data)
    pd.testing.assert_frame_equal(table(tmp_path, file, data)[1], whole)
    for column in ("prediction", "logits"):
        pictures().assign(**{column: 1}).to_parquet(data)
        with pytest.raises(EvidenceError, match=f"has a column '{column}'"):
            table(tmp_path, file, data)
    with pytest.raises(EvidenceError, match=r"name it \*.parquet"):
        write_answers(file, data, Path("answers.csv"), Feeding(preprocess=RAW))


def test_the_command_says_what_it_wrote(data, tmp_path, capsys):
    file, policy = classifier(tmp_path / "network.onnx"), tmp_path / "policy.yaml"
    policy.write_text(json.dumps({"preprocess": RAW}))
    target = tmp_path / "answers.parquet"
    arguments = "answers", file, "--data", data, "-o", target
    status, said, _ = run(capsys, *arguments, "--policy", policy)
    assert status == 0
    assert f"network.onnx answers 100.0 % of {N} images rightly; written to {target}" in said
    assert "pixels / 255" in said
    status, _, said = run(capsys, *arguments)
    assert status == 64
    assert "how images are to be fed is not in the file" in said


def test_a_converted_file_is_judged_without_being_told_how(exported, tmp_path, capsys):
    pytest.importorskip("openvino")
    fp32, int8 = exported / "fp32.onnx", exported / "int8.onnx"
    model = onnx.load(int8)
    onnx.helper.set_model_props(model, {"pixels": "[0, 1]", "classes": "a\nb\nc\nd\ne"})
    onnx.save(model, tmp_path / "int8.onnx")
    status, said, _ = run(capsys, "convert", tmp_path / "int8.onnx", tmp_path / "int8.xml")
    assert status == 0
    assert "weights, by their bytes: 100.0 % int8" in said
    file = open_file(tmp_path / "int8.xml")
    assert file.classes == ("a", "b", "c", "d", "e")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    answers = open_file(fp32)(pixels.transpose(0, 3, 1, 2) / np.float32(255)).argmax(1)
    labels = np.array([*"abcde"])[answers]
    rows = pd.DataFrame({"image": [one.tolist() for one in pixels], "label": labels})
    rows.to_parquet(tmp_path / "test.parquet")
    policy = Feeding()
    target = tmp_path / "answers.parquet"
    written = write_answers(tmp_path / "int8.xml", tmp_path / "test.parquet", target, policy)
    assert written.accuracy > 0.9
    assert not [*tmp_path.glob("tmp*")]
    with pytest.raises(FileError, match=r"made of a network of a study or of a \.pt2 file"):
        convert(fp32, tmp_path / "int8.tflite")


def test_a_conversion_that_answers_otherwise_is_refused(exported, tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino")
    theirs = openvino.convert_model
    monkeypatch.setattr(openvino, "convert_model", lambda _: theirs(exported / "other.onnx"))
    torch.manual_seed(5)
    other = timm.create_model("resnet10t", num_classes=5).eval()
    onnx_files.export(other, torch.from_numpy(IMAGES[:2]), exported / "other.onnx", {})
    with pytest.raises(FileError, match="answers noise otherwise"):
        convert(exported / "fp32.onnx", tmp_path / "fp32.xml")
    assert not [*tmp_path.iterdir()]
