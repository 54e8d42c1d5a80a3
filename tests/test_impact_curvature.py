import math
import weakref
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional as F  # noqa: N812

from quantskew import models
from quantskew.impact import curvature, damage, gradients
from quantskew.impact.hessian import GroupLoss
from quantskew.impact.spectrum import eigenvalue_error, largest_eigenvalue, trace
from quantskew.quantization.activations import Activations


@pytest.fixture(autouse=True)
def _one_thread():
    """Operations this small only lose by being shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["double", "single"])
def small(request):
    """A tiny network with batch normalization, 24 samples, and its dense Hessian in double."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).double()
    network(torch.randn(64, 1, 8, 8, dtype=torch.float64))  # running statistics
    network.eval()
    images = torch.randn(24, 1, 8, 8, dtype=torch.float64)
    labels = torch.randint(0, 3, (24,))
    point = {name: p.detach() for name, p in network.named_parameters()}

    def loss(flat):
        parts = flat.split([p.numel() for p in point.values()])
        shaped = {k: v.view_as(p) for (k, p), v in zip(point.items(), parts, strict=True)}
        return F.cross_entropy(functional_call(network, shaped, (images,)), labels)

    flat = gradients.flatten(point.values())
    dense = hessian(loss)(flat)
    slope = torch.func.grad(loss)(flat)
    return network.to(request.param), images.to(request.param), labels, dense, slope


def _loss(small):
    return GroupLoss(*small[:3])


def _close(a, b, tolerance=1e-4):
    torch.testing.assert_close(
        torch.as_tensor(a).double(), torch.as_tensor(b).double(), rtol=tolerance, atol=tolerance
    )


def test_gradient_and_products_are_those_of_the_dense_hessian(small):
    loss, (_, _, _, dense, slope) = _loss(small), small
    _close(loss.gradient, slope)
    _close(gradients.mean_gradient(*small[:3]), slope)
    vector = torch.randn(dense.shape[0], dtype=torch.float64)
    _close(loss.product(vector.to(loss.gradient)), dense @ vector)


def test_largest_eigenvalue_is_that_of_the_dense_hessian(small):
    loss, dense = _loss(small), small[3]
    top = largest_eigenvalue(loss.product, loss.gradient, tolerance=1e-3)
    exact = torch.linalg.eigvalsh(dense)[-1]
    _close(top.value, exact)
    assert top.residual <= 1e-3
    vector = top.vector.double()
    measured = (dense @ vector - top.value * vector).norm() / top.value
    assert float(measured) == pytest.approx(top.residual, abs=1e-4)
    again = largest_eigenvalue(loss.product, top.vector, tolerance=1e-3)
    _close(again.value, exact)


def test_a_full_basis_gives_the_exact_trace(small):
    loss, dense = _loss(small), small[3]
    never = -1.0
    top = largest_eigenvalue(loss.product, loss.gradient, tolerance=never, max_products=10**6)
    assert top.products >= torch.linalg.matrix_rank(dense, hermitian=True, rtol=1e-4)
    value, error = trace(loss.product, top, probes=2)
    _close(value, dense.trace())
    assert error < 1e-4


def test_the_trace_is_unbiased_and_its_error_honest(small):
    loss, dense = _loss(small), small[3]
    top = largest_eigenvalue(loss.product, loss.gradient, tolerance=0.3)
    drawn = [trace(loss.product, top, probes=4, seed=seed) for seed in range(40)]
    values, errors = np.array(drawn).T
    spread = values.std(ddof=1)
    assert abs(values.mean() - float(dense.trace())) < 4 * spread / math.sqrt(40)
    assert np.sqrt((errors**2).mean()) == pytest.approx(spread, rel=0.35)


def test_curvatures_of_the_samples_are_those_of_their_own_hessians(small):
    network, images, labels, _, _ = small
    loss = _loss(small)
    vector = torch.randn_like(loss.gradient)
    along = loss.curvatures_along(vector)
    for i in (0, 7):
        one = GroupLoss(network, images[i : i + 1], labels[i : i + 1])
        _close(along[i], vector @ one.product(vector), 1e-3)
    _close(along.mean(), vector @ loss.product(vector), 1e-3)


def test_the_error_of_the_eigenvalue_follows_a_jackknife(small):
    network, images, labels, _, _ = small
    loss = _loss(small)
    top = largest_eigenvalue(loss.product, loss.gradient)
    n, left_out = len(labels), []
    for i in range(n):
        keep = torch.arange(n) != i
        part = GroupLoss(network, images[keep], labels[keep])
        left_out.append(largest_eigenvalue(part.product, top.vector).value)
    jackknife = math.sqrt((n - 1) * np.var(left_out))
    error = eigenvalue_error(loss.curvatures_along(top.vector))
    assert error == pytest.approx(jackknife, rel=0.25)


@pytest.mark.parametrize("kind", Activations.kinds.values())
def test_per_sample_gradients_are_those_of_a_loop(small, kind):
    network, images, labels, _, slope = small
    kind().quantize(network, images)
    rows = torch.stack(
        [
            gradients.mean_gradient(network, images[i : i + 1], labels[i : i + 1])
            for i in range(len(labels))
        ]
    )
    squares, along = gradients.per_sample(network, images, labels, slope.to(images))
    _close(squares, (rows**2).sum(1))
    _close(along, rows @ slope.to(images))


def test_parameter_blocks_and_batches_change_nothing(small, monkeypatch):
    whole = gradients.per_sample(*small[:3], small[4].to(small[1]))
    mean = gradients.mean_gradient(*small[:3])
    monkeypatch.setattr(gradients, "BATCH", 7)
    monkeypatch.setattr(gradients, "PER_SAMPLE_NUMBERS", 200)
    for a, b in zip(whole, gradients.per_sample(*small[:3], small[4].to(small[1])), strict=True):
        _close(a, b)
    _close(mean, gradients.mean_gradient(*small[:3]))


def test_long_vectors_keep_their_length():
    vector = torch.randn(12_000_000, generator=torch.Generator().manual_seed(0))
    exact = float(vector.double() @ vector.double())
    assert gradients.inner(vector, vector) == pytest.approx(exact, rel=1e-6)


def test_norms_are_those_of_naive_sums_and_drawn_subsets():
    rng = np.random.default_rng(0)
    rows = torch.tensor(rng.normal(0.4, 1, (9, 5)))
    mean = rows.mean(0)
    norms = gradients.norms(mean, (rows**2).sum(1), rows @ mean, 9, equal_n=4)
    pairs = sum(float(rows[i] @ rows[j]) for i in range(9) for j in range(9) if i != j)
    assert norms.unbiased_square == pytest.approx(pairs / (9 * 8))
    assert norms.plain == pytest.approx(float(mean.norm()))
    every = [float(rows[list(c)].mean(0).norm() ** 2) for c in combinations(range(9), 4)]
    assert norms.equal_n**2 == pytest.approx(np.mean(every))


def test_the_u_statistic_has_no_bias_where_the_plain_norm_has():
    rng = np.random.default_rng(1)
    truth = np.full(6, 0.2)
    squares: dict[int, list[gradients.Norms]] = {4: [], 40: []}
    for n, found in squares.items():
        for _ in range(1500):
            rows = torch.tensor(rng.normal(truth, 1, (n, 6)))
            mean = rows.mean(0)
            found.append(gradients.norms(mean, (rows**2).sum(1), rows @ mean, n, equal_n=4))
    expected = float(truth @ truth)
    for n, found in squares.items():
        unbiased = np.array([f.unbiased_square for f in found])
        plain = np.array([f.plain**2 for f in found])
        assert abs(unbiased.mean() - expected) < 4 * unbiased.std() / math.sqrt(1500)
        assert plain.mean() == pytest.approx(expected + 6 / n, rel=0.05)
        # at equal n the two sizes agree
        assert np.mean([f.equal_n**2 for f in found]) == pytest.approx(expected + 6 / 4, rel=0.05)
    error = np.mean([f.unbiased_square_error for f in squares[40]])
    assert error == pytest.approx(np.std([f.unbiased_square for f in squares[40]]), rel=0.25)


def test_one_sample_has_no_unbiased_norm():
    row = torch.tensor([3.0, 4.0])
    norms = gradients.norms(row, (row @ row)[None], (row @ row)[None], 1, equal_n=1)
    assert norms.plain == norms.equal_n == 5
    assert math.isnan(norms.unbiased_square)


@pytest.mark.parametrize("start", [torch.zeros(50), torch.eye(50)[0]])
def test_the_largest_is_algebraic_and_found_from_any_start(start):
    basis = torch.linalg.qr(torch.randn(50, 50, generator=torch.Generator().manual_seed(2)))[0]
    values = torch.linspace(-100, -1, 50)
    matrix = basis @ values.diag() @ basis.T
    top = largest_eigenvalue(lambda v: matrix @ v, start)
    assert top.value == pytest.approx(-1, rel=1e-3)
    mixed = torch.cat([torch.tensor([-100.0, 2.0]), torch.zeros(48)]).diag()
    assert largest_eigenvalue(lambda v: mixed @ v, start).value == pytest.approx(2, rel=1e-3)


def test_a_start_in_the_wrong_eigenvector_is_left():
    matrix = torch.tensor([1.0] + [5.0] + [0.0] * 48).diag()
    top = largest_eigenvalue(lambda v: matrix @ v, torch.eye(50)[0])
    assert top.value == pytest.approx(5, rel=1e-4)


def test_a_flat_loss_has_no_curvature():
    top = largest_eigenvalue(torch.zeros_like, torch.zeros(10))
    assert (top.value, top.residual, top.products) == (0, 0, 1)


def test_a_solver_cut_short_says_so():
    matrix = torch.arange(200.0).diag()
    top = largest_eigenvalue(lambda v: matrix @ v, torch.zeros(200), max_products=5)
    assert top.products == 5
    assert top.residual > 1e-3


def test_a_parameter_without_use_does_not_curve():
    network = nn.Linear(3, 2)
    network.unused = nn.Parameter(torch.ones(4))
    network.eval()
    loss = GroupLoss(network, torch.randn(5, 3), torch.randint(0, 2, (5,)))
    product = loss.product(torch.ones_like(loss.gradient))
    names = list(gradients.trainable(network))
    at = sum(network.get_parameter(n).numel() for n in names[: names.index("unused")])
    assert (product[at : at + 4] == 0).all()
    assert (loss.gradient[at : at + 4] == 0).all()


def test_the_prediction_is_the_taylor_polynomial(small):
    network, images, labels, dense, slope = small
    loss = _loss(small)
    top = largest_eigenvalue(loss.product, loss.gradient)
    moved = nn.Sequential(*[type(m)(*_arguments(m)) for m in network]).to(images.dtype).eval()
    moved.load_state_dict(network.state_dict())
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(0.01 * torch.randn_like(p))
    change = damage.weight_change(network, moved)
    told = damage.predict(loss, change)
    d = change.double()
    _close(told["weight_distance"], d.norm())
    _close(told["first_order"], slope @ d)
    _close(told["second_order"], slope @ d + d @ dense @ d / 2)
    _close(told["bound"], slope.norm() * d.norm())
    assert told["second_order"] <= told["bound"] + top.value * float(d.norm()) ** 2 / 2
    with torch.no_grad():
        measured = float(F.cross_entropy(moved(images), labels)) - loss.loss
    assert measured == pytest.approx(told["second_order"], rel=0.1, abs=1e-4)


def _arguments(module):
    return {
        nn.Conv2d: (1, 3, 3, 2),
        nn.BatchNorm2d: (3,),
        nn.AdaptiveAvgPool2d: (2,),
        nn.Linear: (12, 3),
    }.get(type(module), ())


def test_weight_change_wants_one_architecture():
    folded = nn.Sequential(nn.Conv2d(1, 2, 3, bias=True)).eval()
    plain = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False)).eval()
    with pytest.raises(ValueError, match=r"'0.bias', \(2,\) in one; was one of them folded"):
        damage.weight_change(plain, folded)


def test_measure_puts_a_row_a_group_together(small):
    network, images, labels, _, _ = small
    groups = {"few": np.arange(6), "all": np.arange(24)}
    table = curvature.measure(network, images, labels, groups, size=10, probes=3)
    table = table.set_index("group")
    assert table["n"].tolist() == [6, 24]
    assert table["sampled"].tolist() == [6, 10]
    assert (table["residual"] <= 1e-3).all()
    assert table.notna().all(axis=None)
    _close(table.loc["all", "gradient_plain"], small[4].norm())
    assert table.loc["few", "gradient_plain"] == table.loc["few", "gradient_equal_n"]
    few = GroupLoss(network, images[:6], labels[:6])
    exact = largest_eigenvalue(few.product, few.gradient, tolerance=1e-6).value
    _close(table.loc["few", "largest_eigenvalue"], exact, 1e-3)
    plain = curvature.measure(network, images, labels, groups, size=10, errors=False)
    assert plain[["trace", "largest_eigenvalue_error"]].isna().all(axis=None)


def test_no_two_graphs_are_in_memory_at_once(small, monkeypatch):
    alive, most = weakref.WeakSet(), []

    class Counted(GroupLoss):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(curvature, "GroupLoss", Counted)
    curvature.measure(*small[:3], {"few": np.arange(6), "all": np.arange(24)}, size=10)
    assert {*most} == {1}


class Scaled(nn.Module):
    """A network whose outputs are multiplied by one learned number."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.gain = inner, nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        return self.gain * self.inner(images)


def test_a_parameter_of_a_single_number_counts_as_any_other(small):
    network, images, labels = Scaled(small[0]).to(small[1]).eval(), *small[1:3]
    slope = gradients.mean_gradient(network, images, labels)
    squares, along = gradients.per_sample(network, images, labels, slope)
    each = [
        gradients.mean_gradient(network, images[i : i + 1], labels[i : i + 1])
        for i in range(len(labels))
    ]
    _close(squares, (torch.stack(each) ** 2).sum(1))
    _close(along, torch.stack(each) @ slope)


def test_parameters_that_require_a_gradient_alone_are_measured(small):
    small[0].requires_grad_(False)[5].requires_grad_()
    table = curvature.measure(*small[:3], {"all": np.arange(24)})
    dense = small[3][-39:, -39:]
    loss = GroupLoss(*small[:3])
    _close(loss.product(loss.gradient), dense @ small[4][-39:])
    assert table["gradient_plain"].item() == pytest.approx(float(small[4][-39:].norm()), rel=1e-4)


def test_subsample_is_seeded_and_takes_all_of_a_small_group():
    rows = np.array([9, 3, 5, 7])
    assert curvature.subsample(rows, 4).tolist() == [3, 5, 7, 9]
    once = curvature.subsample(np.arange(100), 10, seed=3)
    assert len(set(once.tolist())) == 10
    assert once.tolist() == curvature.subsample(np.arange(100), 10, seed=3).tolist()
    assert once.tolist() != curvature.subsample(np.arange(100), 10, seed=4).tolist()


def test_what_is_not_finite_is_named_by_group_and_layer(small):
    network, images, labels, _, _ = small
    groups = {"fine": np.arange(12), "broken": np.arange(12, 24)}
    spoiled = images.clone()
    spoiled[15] = torch.inf
    with pytest.raises(gradients.NotFiniteError, match="'broken': layer '0' puts out NaN"):
        curvature.measure(network, spoiled, labels, groups)
    with pytest.raises(gradients.NotFiniteError, match="'broken': layer '0' puts out NaN"):
        curvature.measure(network, spoiled, labels, groups, size=2)
    with torch.no_grad():
        network[5].weight[0, 0] = torch.nan
    with pytest.raises(gradients.NotFiniteError, match=r"'fine': the weights of layer '5.weight'"):
        curvature.measure(network, images, labels, groups)


def test_refuses_training_mode_frozen_networks_and_empty_groups(small):
    network, images, labels, _, _ = small
    with pytest.raises(ValueError, match="group 'none' has no sample"):
        curvature.measure(network, images, labels, {"none": np.array([], dtype=int)})
    with pytest.raises(ValueError, match="training mode"):
        GroupLoss(network.train(), images, labels)
    with pytest.raises(ValueError, match="no parameter of the network requires a gradient"):
        GroupLoss(network.eval().requires_grad_(False), images, labels)


def test_what_is_measured_has_all_digits_of_fp32():
    seen, before = [], torch.backends.cudnn.conv.fp32_precision

    class Watching(nn.Linear):
        def forward(self, x):
            kinds = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
            seen.append({kind.fp32_precision for kind in kinds})
            return super().forward(x)

    network, labels = Watching(3, 2).eval(), torch.tensor([0, 1])
    images = torch.rand(2, 3)
    loss = GroupLoss(network, images, labels)
    loss.curvatures_along(loss.gradient)
    direction = gradients.mean_gradient(network, images, labels)
    gradients.per_sample(network, images, labels, direction)
    models.logits(nn.Sequential(nn.Flatten(), network), images[..., None, None])
    assert len(seen) == 5
    assert all(kinds == {"ieee"} for kinds in seen)
    assert torch.backends.cudnn.conv.fp32_precision == before != "ieee"
