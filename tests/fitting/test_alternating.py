"""Test alternating least squares, from a closed form and from scratch."""

from __future__ import annotations

import math

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import relative_error
from deeptn.base import CACHE
from deeptn.fitting import alternating
from deeptn.fitting.alternating import alternate, balanced, can_alternate, is_multilinear

from ..market import FAMILIES, NETWORKS

LINEAR = [name for name, net in NETWORKS.items() if is_multilinear(net)]
WEIGHT = np.random.default_rng(0).standard_normal((24, 36))


def some_weight(net: dtn.Network, dtype: str) -> np.ndarray:
    generator = np.random.default_rng(1)
    weight = generator.standard_normal(net.shape)
    return weight + 1j * generator.standard_normal(net.shape) if dtype == "complex128" else weight


@pytest.mark.few(26)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", LINEAR)
def test_a_sweep_is_what_lstsq_finds_core_by_core(name, dtype):
    net = NETWORKS[name]
    if net.size > 2000 or net.num_params > 1500:
        pytest.skip("too large for a dense Jacobian")
    weight, params = some_weight(net, dtype), net.init(seed=2, dtype=dtype)
    found, errors = alternate(net, weight, params, sweeps=1, tolerance=0)
    for key in (name for stage in net.spec.summands for name in _params(net, stage)):
        columns = []
        for entry in range(params[key].size):  # W is linear in this core: its Jacobian, one entry at a time
            unit = np.zeros(params[key].size, params[key].dtype)
            unit[entry] = 1
            columns.append(net.materialize(params | {key: unit.reshape(params[key].shape)}).ravel())
        still = net.materialize(params | {key: 0 * params[key]}).ravel()  # what the other summands make
        matrix = np.stack(columns, axis=1) - still[:, None]
        if not net.layout.is_padded:
            solved = np.linalg.lstsq(matrix, weight.ravel() - still, rcond=None)[0]
            params = params | {key: solved.reshape(params[key].shape)}
    if not net.layout.is_padded:
        expected = relative_error(net.materialize(params), weight)
        assert errors[-1] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert relative_error(net.materialize(found), weight) == pytest.approx(min(errors), rel=1e-9, abs=1e-12)
    assert errors[-1] <= errors[0] + 1e-12


def _params(net: dtn.Network, stage: int) -> list[str]:
    return [node.param for node in net.spec.stages[stage].nodes if node.param is not None]


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [dtn.CP(), dtn.TensorRing(), dtn.Kronecker(), dtn.BlockTerm(), dtn.PEPS(), dtn.MERA(activation=None)],
    ids=lambda family: type(family).__name__,
)
def test_errors_never_rise_and_fall_with_the_size(family):
    weight, found = WEIGHT[:12, :18], []
    for size in (1, 2, 3) if isinstance(family, (dtn.PEPS, dtn.MERA)) else (1, 2, 3, 4, 8):
        net = dtn.network(family.resized(size), weight.shape)
        start = net.init(dtype="float64", std=float(weight.std()))
        _, errors = alternate(net, weight, start, sweeps=20)
        assert np.all(np.diff(errors[:-1]) <= 1e-12)
        found.append(dtn.decompose(weight, family.resized(size)).error)
    assert found == sorted(found, reverse=True)
    assert found[0] < 1


@pytest.mark.few(1)
@pytest.mark.parametrize("family", [dtn.CP(rank=3), dtn.TensorRing(rank=2), dtn.Kronecker(terms=2)])
def test_it_recovers_a_weight_that_the_family_can_make(family):
    net = dtn.network(family, (24, 36))
    weight = net.materialize(net.init(seed=7, dtype="float64"))
    assert dtn.decompose(weight, family).error < 0.01


@pytest.mark.slow
def test_it_is_as_good_as_tensorly():
    import tensorly
    from tensorly.decomposition import parafac, tensor_ring_als

    tensor = dtn.Layout.balanced(WEIGHT.shape).to_legs(WEIGHT)
    layout = dtn.Layout.balanced(WEIGHT.shape)
    theirs, ring = [], []
    for seed in range(3):
        factors = parafac(tensor, 5, init="random", random_state=seed)
        theirs.append(relative_error(tensorly.cp_to_tensor(factors), tensor))
        cores = tensor_ring_als(tensor, [2] * (tensor.ndim + 1), random_state=seed)
        ring.append(relative_error(tensorly.tr_to_tensor(cores), tensor))
    assert dtn.decompose(WEIGHT, dtn.CP(rank=5), layout).error <= 1.001 * min(theirs)
    assert dtn.decompose(WEIGHT, dtn.TensorRing(rank=2), layout).error <= 1.001 * min(ring)


def test_only_the_entries_of_the_weight_count():
    weight = np.random.default_rng(3).standard_normal((5, 9))
    padded = dtn.Layout.padded(weight.shape)
    closed = dtn.decompose(weight, dtn.TensorTrain(rank=2), padded, sweeps=0)
    better = dtn.decompose(weight, dtn.TensorTrain(rank=2), padded)
    assert better.error < 0.97 * closed.error
    assert better.error == pytest.approx(relative_error(better.net.materialize(better.params), weight))


@pytest.mark.few(1)
@pytest.mark.parametrize("family", [dtn.TensorTrain(rank=4), dtn.HierarchicalTucker(rank=4), dtn.Tree(activation=None)])
def test_a_closed_form_is_improved(family):
    closed, better = dtn.decompose(WEIGHT, family, sweeps=0), dtn.decompose(WEIGHT, family)
    assert better.error < 0.995 * closed.error
    one = dtn.decompose(WEIGHT, family, sweeps=1)
    assert better.error < one.error < closed.error


@pytest.mark.parametrize("name", LINEAR)
def test_balanced_cores_have_one_norm_and_the_same_weight(name):
    net = NETWORKS[name]
    params = {key: array * 10.0**k for k, (key, array) in enumerate(net.init(seed=1, dtype="float64").items())}
    found = balanced(net, params)
    assert relative_error(net.materialize(found), net.materialize(params)) < 1e-10
    for stage in net.spec.summands:
        norms = [float(np.linalg.norm(found[key])) for key in _params(net, stage)]
        assert norms == pytest.approx([math.exp(np.log(norms).mean())] * len(norms))
    zero = {key: 0 * array for key, array in params.items()}
    assert all(not array.any() for array in balanced(net, zero).values())


def test_large_weights_get_fewer_sweeps(monkeypatch):
    net = dtn.network(dtn.CP(rank=4), (512, 256))
    assert alternating.default_sweeps(net, scratch=False) == 100
    flops = alternating._sweep_flops(net.spec)
    monkeypatch.setattr(alternating, "POLISH_FLOPS", 3.5 * flops)
    monkeypatch.setattr(alternating, "SCRATCH_FLOPS", 50.5 * flops)
    assert alternating.default_sweeps(net, scratch=False) == 3
    assert alternating.default_sweeps(net, scratch=True) == 50
    monkeypatch.setattr(alternating, "SCRATCH_FLOPS", flops)
    assert alternating.default_sweeps(net, scratch=True) == alternating.LEAST
    product = net.size * 2  # every update multiplies the target with at least one core
    assert flops > len(net.layout.legs) * product


def test_a_core_with_too_many_bonds_stays(monkeypatch):
    monkeypatch.setattr(alternating, "MOST", 3)
    CACHE.clear()
    net = dtn.network(dtn.Tucker(rank=2), (8, 12), dtn.Layout.single((8, 12)))
    params = net.init(dtype="float64")
    found, errors = alternate(net, WEIGHT[:8, :12], params, sweeps=3)
    CACHE.clear()
    assert np.array_equal(found["core"], params["core"])
    assert not np.array_equal(found["U0"], params["U0"])
    assert errors[-1] < errors[0]


def test_networks_with_large_cores_are_fitted_by_gradient():
    large = dtn.network(dtn.MERA(rank=8, activation=None), WEIGHT.shape)
    assert is_multilinear(large)
    assert not can_alternate(large)
    assert dtn.fitting.Fit().resolved(large).method == "lbfgs"
    with pytest.raises(dtn.SpecError, match="too large for ALS; fit it by gradient"):
        dtn.decompose(WEIGHT, dtn.MERA(rank=8, activation=None))


def test_an_exact_start_is_kept():
    weight = np.outer(np.arange(1.0, 9.0), np.ones(6))
    net = dtn.network(dtn.LowRank(rank=1), (8, 6))
    params = {"U": np.arange(1.0, 9.0)[:, None], "V": np.ones((1, 6))}
    found, errors = alternate(net, weight, params)
    assert errors == [0.0]
    assert np.array_equal(found["U"], params["U"])


@pytest.mark.slow
def test_every_linear_family_without_shared_parameters_can_be_decomposed():
    shape, failed = (16, 12), []
    for name, family in FAMILIES.items():
        net = dtn.network(family, shape)
        if is_multilinear(net):
            found = dtn.decompose(np.random.default_rng(5).standard_normal(shape), family, sweeps=3)
            failed += [name] * (not 0 <= found.error < 1)
    assert not failed
