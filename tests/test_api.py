"""The Python interface: the same numbers as the stages, from every kind of data."""

import copy
import io
import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

import quantskew
from quantskew import api, compat, inputs, models, tables
from quantskew.analysis.effects import Predictions, analyze
from quantskew.analysis.study import Statistics
from quantskew.data.groups import Groups, groupings
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.description import describe
from quantskew.errors import UserError
from quantskew.names import Point
from quantskew.params import load
from quantskew.quantization.fitting import Qat
from quantskew.quantization.method import Method
from quantskew.quantization.packing import PackingError
from quantskew.quantization.policies import allocate_bits
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.weights import IntegerWeights
from quantskew.schemas import TABLES

FEW = Statistics(draws=100)
ROOT = Path(__file__).parents[1]


def ink(images: np.ndarray) -> np.ndarray:
    return np.where(images.mean((1, 2, 3)) > 78, "bold", "thin")


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return images, labels, {"ink": ink(images), "late": (np.arange(len(labels)) % 3 == 0)}


def side(digits, rows):
    images, labels, attributes = digits
    return images[rows], labels[rows], {name: values[rows] for name, values in attributes.items()}


@pytest.fixture(scope="module")
def train(digits):
    return side(digits, slice(0, 900))


@pytest.fixture(scope="module")
def test(digits):
    return side(digits, slice(900, None))


@pytest.fixture(scope="module")
def network(train):
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    images, labels = torch.tensor(train[0]) / 255, torch.tensor(train[1])
    for _ in range(60):
        batch = torch.randperm(len(labels))[:128]
        loss = nn.functional.cross_entropy(made(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.eval()


class WithAttributes(Dataset):
    def __init__(self, data):
        self.images, self.labels = torch.tensor(data[0]) / 255, data[1]
        self.attributes = pd.DataFrame(data[2])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i], int(self.labels[i])


class InBatches(WithAttributes):
    def __getitem__(self, i):
        return *super().__getitem__(i), {n: v[i] for n, v in self.attributes.items()}


def by_the_stages(network, test, spec, bits):
    """What the stages' functions say of plain quantization, called one by one."""
    data = inputs.samples(test, network, split="test")
    study = api.audit(network, test, bits=bits, groups=spec, statistics=FEW).study
    divisions = groupings(data.attributes, [spec], Groups())
    example = torch.tensor(test[0][:2]) / 255
    before = models.logits(network, data.images).numpy()
    made = quantize_network(network, example, bits=bits, weights=IntegerWeights()).network
    after = models.logits(made, data.images).numpy()
    predicted = {
        Point("data", "Sequential", "fp32", 32): before.argmax(1)[None],
        Point("data", "Sequential", "ptq", bits): after.argmax(1)[None],
    }
    frames = analyze(Predictions(test[1], before.shape[1], [0], predicted), divisions, study)
    return frames, describe(after, before, test[1], divisions)


def test_the_tables_are_those_of_the_stages(network, test, tmp_path):
    result = api.audit(network, test, bits=3, groups="ink", statistics=FEW)
    frames, described = by_the_stages(network, test, "ink", 3)
    for name, rows in frames._asdict().items():
        key = list(TABLES[name].key)
        expected = rows[result.to_frame(name).columns].sort_values(key, ignore_index=True)
        pd.testing.assert_frame_equal(result.to_frame(name), expected)
        tables.write(name, result.to_frame(name), tmp_path / "canonical.parquet")
    own = result.to_frame("groups").query("method == 'ptq'").set_index("group")
    expected = described["groups"].set_index("group").loc[own.index]
    np.testing.assert_array_equal(own["l2_distance"], expected["l2_distance"])
    assert (own["l2_distance"] > 0).all()


def test_every_kind_of_data_gives_the_same_tables(network, test, tmp_path):
    images, labels, attributes = test
    floats = torch.tensor(images) / 255
    kinds = {
        "floats": (floats, torch.tensor(labels), pd.DataFrame(attributes)),
        "dataset": InBatches(test),
        "attributes": WithAttributes(test),
        "loader": DataLoader(InBatches(test), batch_size=100),
        "shuffled": DataLoader(InBatches(test), batch_size=100, shuffle=True),
    }
    # the reader of images makes pictures of at least 8 pixels; these have just that
    rows = pd.DataFrame({"image": [png(image) for image in images], "label": labels, **attributes})
    rows.to_parquet(tmp_path / "own.parquet")
    own = Source(
        reader="parquet", path=str(tmp_path / "own.parquet"), size=8, channels=1, duplicates="keep"
    )
    kinds["own"] = own
    prepare("own", own, tmp_path).write(tmp_path / "samples.parquet")
    expected = audited(network, test)
    for name, data in kinds.items():
        pd.testing.assert_frame_equal(audited(network, data), expected, obj=name)
    stored = audited(network, tmp_path / "samples.parquet")
    assert stored.query("group == 'all'")["n"].max() < len(labels)  # its test part alone
    # a loader without attributes knows the classes
    plain = api.audit(network, TensorDataset(floats, torch.tensor(labels)), bits=2, statistics=FEW)
    assert plain.to_frame()["attribute"].unique().tolist() == ["label"]


def test_attributes_stand_in_the_order_of_the_images(network, test):
    expected = audited(network, test)
    turned = {name: pd.Series(values, range(len(values))[::-1]) for name, values in test[2].items()}
    pd.testing.assert_frame_equal(audited(network, (*test[:2], turned)), expected)
    data = WithAttributes(test)
    random = BatchSampler(RandomSampler(data), 64, drop_last=False)
    for loader in (
        DataLoader(data, batch_sampler=random),
        DataLoader(data, batch_sampler=[*random]),
    ):
        with pytest.raises(UserError, match="shuffle=False"):
            audited(network, loader)


def test_texts_name_outputs_in_a_given_order_alone(network, test, tmp_path):
    images, labels, _ = test
    names = np.array(["nil", *"bcdefghij"])
    rows = pd.DataFrame({"image": [png(image) for image in images], "label": names[labels]})
    rows["id"] = [f"{row:04d}" for row in rows.index]
    rows = rows[(rows["label"] != "j") | (rows["label"] == "j").cumsum().eq(1)]  # one j is enough
    rows.loc[rows.index[0], "image"] = b"nothing"
    rows.to_parquet(tmp_path / "own.parquet")
    own = Source(
        reader="parquet", path=str(tmp_path / "own.parquet"), size=8, channels=1, duplicates="keep"
    )
    told = {"expected_warning": UserWarning, "match": "own.parquet are left out: 0000: not an"}
    with pytest.warns(**told), pytest.raises(UserError, match=r"own.parquet are b, c, .*classes="):
        inputs.samples(own, network, split="test")
    own = own.model_copy(update={"classes": tuple(names)})
    with pytest.warns(**told):
        found = inputs.samples(own, network, split="test")
    assert found.classes == tuple(names)
    assert found.labels.tolist() == labels[rows.index[1:]].tolist()
    with pytest.raises(UserError, match="label 'nil' is none of b, c"):
        inputs.samples(
            own.model_copy(update={"classes": tuple("bcdefghij")}), network, split="test"
        )


def test_numbers_are_outputs_though_some_are_missing(network, test, tmp_path):
    images, labels, _ = test
    rows = pd.DataFrame({"image": [png(image) for image in images], "label": labels})
    rows = rows[rows["label"] != 3]
    own = Source(
        reader="parquet", path=str(tmp_path / "own.parquet"), size=8, channels=1, duplicates="keep"
    )
    rows.to_parquet(tmp_path / "own.parquet")
    found = inputs.samples(own, network, split="test")
    assert sorted(found.labels.tolist()) == sorted(rows["label"])
    rows.assign(label=rows["label"] + 1).to_parquet(tmp_path / "own.parquet")
    with pytest.raises(UserError, match=r"label 10 of sample .* is no class"):
        inputs.samples(own, network, split="test")


def audited(network, data):
    result = api.audit(network, data, bits=2, groups=["ink*late"], statistics=FEW)
    return result.to_frame().drop(columns=["chance_mean", "chance_upper", "p_chance"])


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image[0]).save(file, "PNG")
    return file.getvalue()


def test_float_images_are_taken_as_they_come():
    images = torch.rand(2, 1, 4, 4)
    before = images.clone()
    torch.testing.assert_close(models.as_input(images, api.CPU), before, rtol=0, atol=0)
    torch.testing.assert_close(images, before, rtol=0, atol=0)


def test_a_policy_is_that_of_the_stages(network, train):
    method = Method.model_validate({"policy": "hawq", "calibration": {"samples": 64, "by": "ink"}})
    made = api.quantize(network, method=method, bits=4, calibration=train)
    data = inputs.samples(train, network, split="train")
    seen = method.calibration.draw(data, 0)
    chosen = allocate_bits(
        network, seen.images[:2], seen.images, seen.labels, seen.groups,
        bits=4, weights=method.weights, policy=method.policy,
    )  # fmt: skip
    assert {name: weight.bits for name, weight in made.weights.items()} == chosen
    assert sum(made.notes["calibration"].values()) == 64


def test_training_in_place_helps_at_two_bits(network, train, test):
    methods = {"ptq": {}, "qat": {"training": "qat", "oscillations": "dampen"}}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = api.compare(
        network, methods=methods, data=test, train=train, bits=2, groups="ink",
        qat=Qat(epochs=2, lr=5e-3), statistics=FEW,
    )  # fmt: skip
    effects = result.to_frame("effects").query("metric == 'overall' and reference == 'ptq'")
    assert effects["change"].item() > 0.1
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert {weight.bits for weight in result.networks["qat", 2].weights.values()} == {2}


def test_a_floating_point_format_has_a_width_of_its_own(network, test):
    methods = {"ptq": {}, "half": {"weights": {"format": "float16"}}}
    result = api.compare(network, methods=methods, data=test, bits=(8, 4), statistics=FEW)
    assert set(result.networks) == {("ptq", 8), ("ptq", 4), ("half", 16)}
    sizes = {key: api.packed_bytes(made.network) for key, made in result.networks.items()}
    assert sizes["ptq", 4] < sizes["ptq", 8] < sizes["half", 16] < api.packed_bytes(network)


def test_a_size_is_that_of_the_codes_or_refused(network):
    made = api.quantize(network, bits=4)
    made.notes["drawn"] = {1, 2}
    with pytest.raises(PackingError, match="set is not JSON serializable"):
        api.packed_bytes(made.network)
    del made.notes["drawn"]
    packed = api.packed_bytes(made.network)
    next(made.network.parameters()).data.add_(1)
    assert packed < api.packed_bytes(made.network)


def test_a_network_in_training_mode_stays_as_it_is(network, train, test):
    given = copy.deepcopy(network).train()
    before = copy.deepcopy(given.state_dict())
    api.audit(given, test, bits=4, statistics=FEW)
    api.quantize(given, bits=4, method={"training": "qat"}, train=train, qat=Qat(bn_batches=2))
    assert all(module.training for module in given.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in given.state_dict().items())


def test_a_reference_that_one_class_would_beat_is_no_basis(network, test):
    constant = copy.deepcopy(network)
    torch.nn.init.zeros_(constant[-1].weight)
    result = api.audit(constant, test, bits=8, groups="ink", statistics=FEW)
    (told,) = result.sentences()
    assert "it is no basis for a verdict" in told
    assert "equivalent" not in told
    assert result.to_frame("certificates")["bound"].isna().all()


def test_results_are_written_drawn_and_told(network, test, tmp_path):
    result = api.compare(
        network, methods={"ptq": {}, "fine": {"weights": {"granularity": "channel"}}},
        data=test, bits=[4, 2], groups=["ink", "late"], statistics=FEW,
    )  # fmt: skip
    result.to_csv(tmp_path / "effects.csv", "effects")
    assert len(pd.read_csv(tmp_path / "effects.csv")) == len(result.to_frame("effects"))
    for view in (None, "accuracy_by_group", "trade_off"):
        figure = result.plot(view)
        assert isinstance(figure, matplotlib.figure.Figure)
        figure.savefig(tmp_path / "figure.svg")
    assert "at int2" in str(result).lower()
    with pytest.raises(UserError, match="did you mean 'levels'"):
        result.to_frame("level")
    with pytest.raises(UserError, match="trade_off"):
        result.plot("pie")


def test_the_answers_behind_a_result_are_those_of_its_tables(network, test):
    result = quantskew.audit(network, test, bits=2, groups=["ink", "late"], statistics=FEW)
    assert list(result.predictions) == ["id", "label", "fp32", "ptq int2"]
    levels = result.to_frame("levels").query("metric == 'accuracy' and attribute == 'ink'")
    for name, method in (("fp32", "fp32"), ("ptq int2", "ptq")):
        own = levels[levels["method"] == method].set_index("group")["value"]
        frame = result.metric_frame("ink", answers=name)
        assert frame.by_group.to_dict() == pytest.approx(own.to_dict())
    # judged as tables of answers, they get the same verdicts
    samples = pd.concat([result.predictions, result.attributes[["ink", "late"]]], axis=1)
    before = samples.assign(prediction=samples["fp32"]).drop(columns=["fp32", "ptq int2"])
    after = samples[["id"]].assign(prediction=samples["ptq int2"])
    again = quantskew.compare_answers(before, after, by=["ink", "late"], statistics=FEW)
    key, numbers = ["attribute", "group", "metric"], ["change", "low", "high", "fdr", "p_holm"]
    one, other = (
        found.to_frame("effects").sort_values(key, ignore_index=True)[[*key, *numbers, "verdict"]]
        for found in (result, again)
    )
    pd.testing.assert_frame_equal(one, other)
    assert "<table" in result._repr_html_()


def test_a_method_has_a_name_parts_or_a_file(tmp_path):
    path = ROOT / "params.yaml"
    assert api.named("qat", path).training.kind == "qat"
    assert api.named({"training": "qat"}) == Method(training="qat")
    with pytest.raises(UserError, match="did you mean 'mpqat'"):
        api.named("mpqad", path)
    with pytest.raises(UserError, match=r"weights\.range"):
        api.named({"weights": {"range": "maxmin"}})


def test_a_method_without_a_study_is_that_of_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert api.named("mpqat") == load(ROOT / "params.yaml").mitigations["mpqat"]
    with pytest.raises(UserError, match=r"/params\.yaml has no method 'qad'; it has fp16, ptq"):
        api.named("qad")
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        api.named("qat", "nowhere.yaml")
    own = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("\n  qat: ", "\n  mine: ")
    (tmp_path / "params.yaml").write_text(own, encoding="utf-8")
    assert api.named("mine").training.trains
    with pytest.raises(UserError, match=r"params\.yaml has no method 'qat'; .*, mine"):
        api.named("qat")


class Wrong(nn.Module):
    def __init__(self, network, shape):
        super().__init__()
        self.network, self.shape = network, shape

    def forward(self, images):
        return self.network(images).reshape(self.shape)


def changed(test, **changes):
    return {"images": test[0], "labels": test[1], "attributes": test[2], **changes}.values()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.arange(5)}, "897 images, 5 labels"),
        ({"attributes": {"ink": ["bold"]}}, "1 attributes"),
        ({"attributes": {"label": np.zeros(897)}}, "rename it"),
        ({"attributes": 3}, "mapping"),
        ({"labels": np.full(897, 10)}, "label 10 of sample 0 .*10 outputs, 0 to 9"),
        ({"labels": np.full(897, -1)}, "label -1 of sample 0"),
        ({"labels": np.zeros(897)}, "N integers"),
        ({"images": np.zeros((897, 1, 8, 8), np.int64)}, "uint8 or floats"),
        ({"images": np.zeros((897, 3, 8, 8), np.uint8)}, r"does not run on images .*3, 8, 8"),
    ],
)
def test_data_that_do_not_fit_are_refused(network, test, changes, message):
    with pytest.raises(UserError, match=message):
        api.audit(network, tuple(changed(test, **changes)), groups="ink", statistics=FEW)


def test_other_mistakes_are_answered(network, train, test, tmp_path):
    with pytest.raises(UserError, match="did you mean 'ink'"):
        api.audit(network, test, groups="inc", statistics=FEW)
    with pytest.raises(UserError, match=r"\(20,\).*logits \(images, classes\)"):
        api.audit(Wrong(network, (-1,)), test)
    with pytest.raises(UserError, match="give a DataLoader"):
        api.audit(network, 3)
    with pytest.raises(UserError, match="bits"):
        api.audit(network, test, bits=1)
    with pytest.raises(UserError, match="2 to 8"):
        api.quantize(network, bits=16)
    with pytest.raises(UserError, match="no method at any width"):
        api.audit(network, test, bits=())
    with pytest.raises(UserError, match="called 'fp32'"):
        api.compare(network, methods={"fp32": {}}, data=test)
    with pytest.raises(UserError, match="shuffle=False"):
        api.audit(network, DataLoader(WithAttributes(test), shuffle=True), groups="ink")
    with pytest.raises(UserError, match=r"own\.parquet"):
        api.audit(network, tmp_path / "own.parquet")
    (tmp_path / "own.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a whole Parquet file"):
        api.audit(network, tmp_path / "own.parquet")
    with pytest.raises(UserError, match="training images as train"):
        api.quantize(network, method={"training": "qat"})
    with pytest.raises(UserError, match="looks at calibration images"):
        api.quantize(network, method={"activations": "static"})
    with pytest.raises(UserError, match="recipe"):
        api.quantize(network, method={"recipe": {"sampling": "balanced"}}, train=train)


def test_weights_alone_say_that_calibration_cannot_matter(network, train):
    with pytest.warns(UserWarning, match="calibration cannot matter"):
        seen = api.quantize(network, bits=4, calibration=train)
    unseen = api.quantize(network, bits=4)
    assert unseen.notes["calibration"] == seen.notes["calibration"] == "none: it cannot matter"
    for name, weight in seen.weights.items():
        assert torch.equal(weight.codes, unseen.weights[name].codes)


def test_importing_the_package_does_not_import_torch():
    code = "import quantskew, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(quantskew.__all__) <= set(dir(quantskew))
    with pytest.raises(AttributeError, match="no attribute 'audits'"):
        quantskew.audits  # noqa: B018


def test_balanced_calibration_counts_the_groups(network, train):
    some = side((*train[:2], train[2]), slice(0, 300))
    made = api.quantize(
        network, method=compat._method(compat.METHODS["bias_aware"], ["ink"]), calibration=some
    )
    bold, thin = made.notes["calibration"].values()
    assert abs(bold - thin) <= 1 or min(bold, thin) == (some[2]["ink"] == "bold").sum()
    applied = compat.apply_quantization(
        network, method="bias_aware_calibration", bit_width=8, calibration_data=some
    )
    assert not torch.equal(applied(torch.ones(1, 1, 8, 8)), network(torch.ones(1, 1, 8, 8)))


def test_fairness_metrics_are_those_of_fairlearn(network, test):
    from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

    found = compat.compute_fairness_metrics(network, test, sensitive_attr="ink")
    predicted = network(torch.tensor(test[0]) / 255).argmax(1).numpy()
    options = {"sensitive_features": test[2]["ink"]}
    for name, metric in (
        ("demographic_parity", demographic_parity_difference),
        ("equalized_odds", equalized_odds_difference),
    ):
        worst = max(metric(test[1] == k, predicted == k, **options) for k in range(10))
        assert found[name] == pytest.approx(worst)
    assert {"predictive_equality", "disparate_impact", "fvo", "note"} <= set(found)
    assert found["worst_group_accuracy"] == min(found["group_accuracy"].values())
    assert found["accuracy"] == pytest.approx((predicted == test[1]).mean())


def test_a_network_knows_the_size_of_its_packed_file(network, test):
    full = compat.compute_fairness_metrics(network, test)["model_size_mb"]
    packed = compat.apply_quantization(network, method="PTQ_INT4")
    assert compat.compute_fairness_metrics(packed, test)["model_size_mb"] < full / 2
    with torch.no_grad():
        packed[0].weight.add_(0.1)  # no longer what its codes stand for
    assert compat.compute_fairness_metrics(packed, test)["model_size_mb"] > full / 2


def test_the_quantizer_claims_no_more_than_it_found(network, train):
    easy = compat.FairnessAwareQuantizer(
        bit_width=8, max_dp_gap=0.9, sensitive_attributes=["ink", "late"]
    )
    made = easy.quantize(model=network, calibration_data=train, fairness_constraint=True)
    assert easy.final_dp_gap <= 0.9
    assert easy.shortfall == 0
    assert "is met" in easy.message
    assert isinstance(made, nn.Module)
    # digits differ in ink by their nature, so no quantization brings the gap to nothing
    strict = compat.FairnessAwareQuantizer(max_dp_gap=1e-4, sensitive_attributes=["ink"])
    with pytest.warns(UserWarning, match="NOT met"):
        strict.quantize(network, train)
    assert strict.final_dp_gap > 1e-4
    assert strict.shortfall == pytest.approx(strict.final_dp_gap - 1e-4)
    assert f"{strict.shortfall:.4f} above" in strict.message
    few = side(train, slice(0, 40))
    unknown = compat.FairnessAwareQuantizer(sensitive_attributes=["ink"])
    with pytest.warns(UserWarning, match="not known to be met"):
        unknown.quantize(network, few)
    assert np.isnan(unknown.shortfall)


def test_a_bound_that_calibration_cannot_meet_is_met_by_a_constraint_in_training():
    """A light tells the side, and the side goes with the class: the network answers by it."""
    generator = torch.Generator().manual_seed(1)
    n = 800
    left = torch.rand(n, generator=generator) < 0.5
    labels = (torch.rand(n, generator=generator) < torch.where(left, 0.8, 0.2)).long()
    images = torch.randint(0, 120, (n, 1, 8, 8), generator=generator)
    images[:, :, 0] += 60 * left[:, None, None]
    images[:, :, 4] += 40 * labels[:, None, None]
    given = (images.byte(), labels, {"side": np.where(left, "left", "right")})
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    pixels = images.float() / 255
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()
    quantizer = compat.FairnessAwareQuantizer(max_dp_gap=0.3, sensitive_attributes=["side"])
    quantizer.quantize(model, given)
    assert quantizer.baseline_dp_gap > 0.4
    assert quantizer.final_dp_gap <= 0.3
    assert "demographic parity constrained" in quantizer.chosen


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net: compat.apply_quantization(net, method="PTQ_INT"), "2 to 8 bits"),
        (lambda net: compat.apply_quantization(net, bit_width=0, method="PTQ"), "bits: got 0"),
        (
            lambda _: compat.FairnessAwareQuantizer(
                max_dp_gap=float("nan"), sensitive_attributes=["ink"]
            ),
            "max_dp_gap: got nan",
        ),
    ],
)
def test_what_no_old_name_can_mean_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call(torch.nn.Linear(64, 2))


def test_methods_by_their_old_names(network, train, test, tmp_path):
    results = compat.compare_quantization_methods(
        model=network, methods=["PTQ_INT8", "PTQ_INT4", "QAT_INT8", "bias_aware"],
        test_loader=test, sensitive_attrs=["ink", "late"],
    )  # fmt: skip
    rows = results.to_frame()
    assert set(zip(rows["method"], rows["bits"], strict=True)) == {
        ("fp32", 32), ("ptq", 8), ("ptq", 4), ("qat", 8), ("bias_aware", 8),
    }  # fmt: skip
    assert results.note.startswith("179 test images")
    assert rows.query("group == 'all'")["n"].max() == 897 - 179
    results.plot_comparison().savefig(tmp_path / "figure.svg")
    results.save_to_csv(tmp_path / "comparison.csv")
    assert len(pd.read_csv(tmp_path / "comparison.csv")) == len(rows)
    with pytest.raises(UserError, match="did you mean 'bias_aware'"):
        compat.apply_quantization(network, method="bias_awar")
    with pytest.raises(UserError, match="2 to 8 bits"):
        compat.apply_quantization(network, method="PTQ_INT16")
