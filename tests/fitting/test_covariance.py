"""Test fits that know the inputs of a layer."""

from __future__ import annotations

from typing import Any

import deeptn_jax
import deeptn_torch
import jax
import numpy as np
import pytest
import torch

import deeptn as dtn
from deeptn.fitting import Covariance, Fit, find_params
from deeptn.fitting.alternating import alternate, can_alternate
from deeptn.fitting.covariance import LegMetric

FAMILIES = (
    dtn.LowRank(rank=4),
    dtn.TensorTrain(rank=4),
    dtn.TTMatrix(rank=4),
    dtn.Tucker(rank=4),
    dtn.CP(rank=6),
    dtn.TensorRing(rank=3),
    dtn.Kronecker(),
    dtn.HierarchicalTucker(rank=4),
    dtn.PEPS(rank=2),
    dtn.BlockTerm(),
    dtn.BrickWall(layers=1, activation=None),
    dtn.Tree(rank=4, activation=None),
    dtn.Sum(terms=(dtn.LowRank(rank=2), dtn.TTMatrix(rank=2))),
)


#: Sides of the weight that inputs multiply, and whether the covariance is diagonal.
SIDES = pytest.mark.parametrize(("axis", "diagonal"), [(1, False), (1, True), (0, False), (0, True)])


def layer(
    shape: tuple[int, ...] = (24, 36), count: int = 500, axis: Any = 1, diagonal: bool = False
) -> tuple[np.ndarray, Covariance]:
    """Return a weight, and the covariance of inputs most of whose variance is in few directions."""
    rng = np.random.default_rng(0)
    size = int(np.prod(shape[1:])) if axis else shape[0]
    mixing = rng.normal(size=(size, size)) * np.exp(-np.arange(size) / 6)[:, None]
    covariance = Covariance(size, axis=axis, diagonal=diagonal)
    covariance.add(rng.normal(size=(count, size)) @ (mixing[:, ::-1] * np.exp(np.arange(size) / 9)))
    return rng.normal(size=shape), covariance


@SIDES
def test_low_rank_is_the_optimum(axis, diagonal):
    weight, covariance = layer(axis=axis, diagonal=diagonal)
    half = np.linalg.cholesky(covariance.matrix)
    values = np.linalg.svd(weight @ half if axis else half.T @ weight, compute_uv=False)
    best = np.sqrt((values[4:] ** 2).sum() / (values**2).sum())
    for sweeps in (0, None):
        found = dtn.decompose(weight, dtn.LowRank(rank=4), covariance=covariance, sweeps=sweeps)
        assert found.error == pytest.approx(best, rel=1e-6)


@pytest.mark.few(1)
@SIDES
@pytest.mark.parametrize("family", FAMILIES[:4], ids=lambda family: type(family).__name__)
def test_every_side_has_the_smaller_error(family, axis, diagonal):
    weight, covariance = layer(axis=axis, diagonal=diagonal)
    half = np.linalg.cholesky(covariance.matrix)
    plain = dtn.decompose(weight, family)
    found = dtn.decompose(weight, family, covariance=covariance)
    errors = []
    for net, params, _ in (plain, found):
        gap = net.materialize(params) - weight
        sizes = [np.linalg.norm(one @ half if axis else half.T @ one) for one in (gap, weight)]
        errors.append(sizes[0] / sizes[1])
    assert errors[1] == pytest.approx(found.error, rel=1e-9)
    assert errors[1] < 0.95 * errors[0]
    how = Fit(method="lbfgs", steps=60)
    by_gradient = deeptn_torch.fit(found.net, torch.from_numpy(weight), None, how, covariance)
    assert by_gradient.error < errors[0]


@pytest.mark.few(1)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_outputs_are_closer_than_without(family):
    weight, covariance = layer()
    plain = dtn.decompose(weight, family)
    found = dtn.decompose(weight, family, covariance=covariance)
    assert found.error < 0.9 * covariance.error(plain.net.materialize(plain.params), weight)
    x = np.random.default_rng(1).normal(size=(10, 36)) @ np.linalg.cholesky(covariance.matrix).T  # as those added
    gap = np.linalg.norm(x @ (found.net.materialize(found.params) - weight).T) / np.linalg.norm(x @ weight.T)
    assert gap == pytest.approx(found.error, rel=0.5)


@pytest.mark.few(13)
@SIDES
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_an_update_is_a_minimum(family, axis, diagonal):
    # Without padding, whose entries follow only once per sweep.
    weight, covariance = layer((16, 32), axis=axis, diagonal=diagonal)
    net = dtn.network(family, weight.shape)
    metric = LegMetric(net.layout, covariance)
    found, errors = alternate(net, weight, net.init(0), 1, 0.0, metric)
    assert errors[-1] == pytest.approx(covariance.error(net.materialize(found), weight), rel=1e-9)
    last = [node.param for node in net.spec.stages[net.spec.summands[-1]].nodes if node.param is not None][-1]
    step = np.random.default_rng(2).normal(size=found[last].shape) * np.abs(found[last]).max() * 1e-3
    sides = [covariance.error(net.materialize(found | {last: found[last] + s * step}), weight) ** 2 for s in (-1, 1)]
    rise = np.mean(sides) - errors[-1] ** 2
    assert rise > 0
    assert abs(sides[1] - sides[0]) < 1e-4 * rise


def test_white_inputs_change_nothing():
    weight, white = layer()[0], identity(36)
    for family in FAMILIES[:4]:
        plain, found = (dtn.decompose(weight, family, covariance=one) for one in (None, white))
        assert found.error == pytest.approx(plain.error, rel=0.02)


@pytest.mark.few(5)
@pytest.mark.parametrize("shape", [(7, 5), (12, 3, 3, 3), (5, 26)])
@pytest.mark.parametrize("family", [dtn.LowRank(rank=2), dtn.TTMatrix(rank=3), dtn.TensorTrain(rank=3)], ids=str)
def test_padding_kernels_and_few_inputs(family, shape):
    weight, covariance = layer(shape, count=4)  # fewer inputs than columns
    net = dtn.network(family, shape, dtn.Layout.padded(shape))
    found = dtn.decompose(weight, family, net.layout, covariance=covariance)
    plain = dtn.decompose(weight, family, net.layout)
    assert found.error <= covariance.error(plain.net.materialize(plain.params), weight) + 1e-9
    assert found.error < 0.9


def test_a_budget_and_other_libraries():
    weight, covariance = layer()
    found = dtn.decompose(weight, "TTMatrix", budget=240, covariance=covariance)
    assert found.net.num_params <= 240
    assert found.error < 0.3
    moved = dtn.decompose(torch.from_numpy(weight).float(), "TTMatrix", budget=240, covariance=covariance)
    assert isinstance(next(iter(moved.params.values())), torch.Tensor)
    assert moved.error == pytest.approx(found.error, abs=1e-3)


def test_counts_of_rows():
    covariance, index = Covariance(5, axis=0, diagonal=True), np.array([[0, 4], [4, -1]])
    covariance.add_indices(index)
    covariance.add_indices(torch.tensor([2, 2]))
    assert covariance.count == 6
    assert np.allclose(covariance.moments, [1 / 6, 0, 2 / 6, 0, 3 / 6])
    whole = Covariance(5, axis=0)
    whole.add(np.eye(5)[[0, 4, 4, 4, 2, 2]])
    assert np.allclose(whole.matrix, covariance.matrix)
    with pytest.raises(dtn.SpecError, match="indices must be integers, got float64"):
        covariance.add_indices(np.ones(3))
    with pytest.raises(dtn.SpecError, match="indices must be from -5 to 4, got 1…5"):
        covariance.add_indices(np.array([1, 5]))
    assert covariance.count == 6
    with pytest.raises(dtn.SpecError, match=r"the covariance is for 5 rows, but the weight has shape \(4, 5\)"):
        dtn.decompose(np.ones((4, 5)), "LowRank", covariance=covariance)
    with pytest.raises(dtn.SpecError, match="axis = 2; expected 1"):
        Covariance(5, axis=2)  # type: ignore[arg-type]


def test_damping_reaches_every_direction():
    for axis, diagonal in ((1, False), (0, True)):
        covariance = Covariance(3, axis=axis, diagonal=diagonal)  # type: ignore[arg-type]
        covariance.add(np.array([[3.0, 0.0, 0.0]]))
        assert np.allclose(covariance.damped(0.1).matrix, np.diag([9.3, 0.3, 0.3]))
        assert np.allclose(covariance.matrix, np.diag([9.0, 0.0, 0.0]))


def test_batches_are_summed():
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32")
    whole, parts = Covariance(4), Covariance(4)
    whole.add(x)
    for part in x:
        parts.add(torch.from_numpy(part))
    assert whole.count == parts.count == 30
    assert np.allclose(whole.matrix, parts.matrix)
    assert np.allclose(whole.matrix, np.einsum("bsi,bsj->ij", x, x, dtype="float64") / 30)


def test_bad_input():
    covariance = Covariance(4)
    with pytest.raises(dtn.SpecError, match="no inputs have been added"):
        covariance.matrix  # noqa: B018
    for bad, text in (
        (np.ones((3, 5)), r"inputs must have shape \(…, 4\), got \(3, 5\)"),
        (np.float64(1), "inputs must have shape"),
        (np.array([[1, 2, np.nan, 3]]), "not finite"),
        (np.ones((2, 4), complex), "inputs must be real"),
    ):
        with pytest.raises(dtn.SpecError, match=text):
            covariance.add(bad)
    assert covariance.count == 0
    covariance.add(np.eye(4))
    with pytest.raises(dtn.SpecError, match=r"the covariance is for 4 inputs, but the weight has shape \(24, 36\)"):
        dtn.decompose(layer()[0], "LowRank", covariance=covariance)
    with pytest.raises(dtn.SpecError, match="need one node for each leg"):
        dtn.decompose(layer()[0], "Butterfly", covariance=layer()[1])
    with pytest.raises(dtn.SpecError, match="need one node for each leg"):
        dtn.decompose(layer()[0], "Butterfly", budget=400, covariance=layer()[1])


def test_inputs_of_a_core_count_as_bonds():
    net = dtn.network(dtn.CP(rank=500), (64, 64), dtn.Layout.balanced((64, 64)))
    assert can_alternate(net)
    assert not can_alternate(net, LegMetric(net.layout, layer((64, 64))[1]).coupling)
    weight, covariance = layer((64, 64))
    with pytest.raises(dtn.SpecError, match="cores too large for ALS; fit it by gradient"):
        dtn.decompose(weight, dtn.CP(rank=500), net.layout, covariance=covariance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "family"),
    [
        ("torch", dtn.BrickWall(layers=3)),
        ("torch", dtn.Butterfly()),
        ("torch", dtn.TTMatrix(rank=4)),
        ("jax", dtn.BrickWall(layers=2)),
    ],
    ids=str,
)
def test_fits_by_gradient(library, family):
    weight, covariance = layer()
    net = dtn.network(family, weight.shape)
    fit: Any = deeptn_torch.fit if library == "torch" else deeptn_jax.fit
    goal: Any = torch.from_numpy(weight) if library == "torch" else jax.numpy.asarray(weight, "float32")
    how = Fit(method="lbfgs", steps=40)
    plain, found = (fit(net, goal, how=how, covariance=one) for one in (None, covariance))
    assert found.error < 0.95 * covariance.error(net.materialize(plain.params), goal)
    assert found.error == pytest.approx(covariance.error(net.materialize(found.params), goal), rel=1e-6)
    assert found.error <= min(found.history) * (1 + 1e-3)
    with pytest.raises(dtn.SpecError, match="the covariance is for 4 inputs"):
        fit(net, goal, how=how, covariance=identity(4))


def test_als_is_used_where_every_leg_has_one_node():
    weight, covariance = layer()
    for family, same in ((dtn.TTMatrix(rank=2), "als"), (dtn.Butterfly(), "lbfgs")):
        net = dtn.network(family, weight.shape)
        found, other = (
            deeptn_torch.fit(net, torch.from_numpy(weight), how=Fit(method=method, steps=5), covariance=covariance)
            for method in ("auto", same)
        )
        assert found.error == pytest.approx(other.error, rel=1e-9)
    with pytest.raises(dtn.SpecError, match="need one node for each leg"):
        deeptn_torch.fit(net, torch.from_numpy(weight), how=Fit(method="als"), covariance=covariance)


@pytest.mark.slow
def test_gradients_go_on_where_als_cannot():
    weight, covariance = layer((64, 512), count=2000)
    net = dtn.network(dtn.TTMatrix(rank=18), (64, 512), dtn.Layout((64, 512), ((4, 4, 4), (8, 8, 8))))
    assert can_alternate(net)
    assert not can_alternate(net, LegMetric(net.layout, covariance).coupling)
    closed = dtn.decompose(weight, net.topology or "", net.layout, covariance=covariance)
    goal = torch.from_numpy(weight)
    found = find_params(net, goal, "auto", deeptn_torch.fit, lambda: 0, covariance)
    assert covariance.error(net.materialize(found), goal) < 0.95 * closed.error
    small, small_covariance = layer()  # ALS has done what can be done
    net = dtn.network(dtn.TTMatrix(rank=4), small.shape)
    found = find_params(net, torch.from_numpy(small), "auto", deeptn_torch.fit, lambda: 0, small_covariance)
    expected = dtn.decompose(small, dtn.TTMatrix(rank=4), covariance=small_covariance)
    assert small_covariance.error(net.materialize(found), small) == pytest.approx(expected.error, rel=1e-6)


def identity(size: int) -> Covariance:
    found = Covariance(size)
    found.add(np.eye(size))
    return found
