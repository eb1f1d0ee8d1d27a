"""Test growth: larger networks for the same weight."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import to_numpy

from ..conftest import LIBRARIES, close
from ..tiers import grid

WALLS = {
    "linear": (dtn.BrickWall(layers=1, activation=None), (12, 10)),
    "linear deep": (dtn.BrickWall(layers=3, activation=None, cyclic=True), (8, 16)),
    "relu": (dtn.BrickWall(layers=2), (12, 10)),
    "relu odd": (dtn.BrickWall(layers=3), (8, 4)),
    "relu plain": (dtn.BrickWall(layers=2, normalize=None), (16, 16)),
    "three sites": (dtn.BrickWall(layers=2, sites=3), (16, 16)),
    "staircase": (dtn.BrickWall(layers=2, pattern="staircase"), (16, 16)),
    "lifted": (dtn.BrickWall(layers=2, bond=3), (8, 8)),
}


@pytest.mark.few(2)
@grid(lambda wall, library: library != "jax" or wall in ("linear", "relu odd"), wall=WALLS, library=LIBRARIES)
def test_a_deeper_wall_has_the_same_weight(wall, library):
    pytest.importorskip(library)
    net = dtn.network(*wall)
    params = net.init(seed=1, like=library)
    deeper = dtn.fitting.deepen(net, params)
    assert deeper.error < 1e-6  # single precision
    assert dtn.fitting.deepen(net, net.init(seed=1, dtype="float64")).error < 1e-12
    assert deeper.net.topology == replace(wall[0], layers=wall[0].layers + 1)
    assert {type(p) for p in deeper.params.values()} == {type(p) for p in params.values()}
    assert close(deeper.net.materialize(deeper.params), net.materialize(params), 1e-5)
    again = dtn.fitting.deepen(deeper.net, deeper.params)
    assert close(again.net.materialize(again.params), net.materialize(params), 1e-5)


def test_the_error_of_other_activations_is_stated():
    errors = {}
    for activation in ("leaky_relu:0.2", "tanh"):
        net = dtn.network(dtn.BrickWall(layers=2, activation=activation), (16, 16))
        params = net.init(seed=1, dtype="float64")
        deeper = dtn.fitting.deepen(net, params)
        before, after = net.materialize(params), deeper.net.materialize(deeper.params)
        errors[activation] = deeper.error
        assert np.isclose(deeper.error, np.linalg.norm(after - before) / np.linalg.norm(before))
    assert 0.01 < errors["leaky_relu:0.2"] < 0.5
    assert 0.01 < errors["tanh"] < 0.5
    noisy = dtn.fitting.deepen(dtn.network(*WALLS["relu"]), dtn.network(*WALLS["relu"]).init(seed=0), noise=0.1)
    assert 0.01 < noisy.error < 1.0


FAMILIES = {
    "train": (dtn.TensorTrain(rank=2), 5),
    "ttmatrix": (dtn.TTMatrix(rank=2), 3),
    "ring": (dtn.TensorRing(rank=2), 3),
    "tucker": (dtn.Tucker(rank=2), 3),
    "cp": (dtn.CP(rank=2), 5),
    "block term": (dtn.BlockTerm(terms=2), 3),
    "kronecker": (dtn.Kronecker(terms=2), 4),
    "butterfly": (dtn.Butterfly(terms=2), 3),
    "lowrank": (dtn.LowRank(rank=2), 6),
    "peps": (dtn.PEPS(rank=2), 3),
    "hierarchical tucker": (dtn.HierarchicalTucker(rank=2), 4),
    "tree": (dtn.Tree(rank=2), 4),
    "tree plain": (dtn.Tree(rank=2, normalize=None, activation="tanh"), 4),
    "tree leaky": (dtn.Tree(rank=2, activation="leaky_relu:0.2"), 3),
    "tree linear": (dtn.Tree(rank=2, activation=None), 4),
    "augmented tree": (dtn.AugmentedTree(rank=2), 4),
    "mera": (dtn.MERA(rank=2), 4),
    "mera linear": (dtn.MERA(rank=2, activation=None, arity=3), 3),
}


@pytest.mark.few(10)
@grid(lambda case, library: library != "jax" or case in ("train", "tree", "cp"), case=FAMILIES, library=LIBRARIES)
def test_a_wider_network_has_the_same_weight(case, library):
    pytest.importorskip(library)
    family, size = case
    net = dtn.network(family, (24, 18))
    params = net.init(seed=1, like=library)
    wider = dtn.fitting.widen(net, params, size)
    assert wider.net.num_params > net.num_params
    assert wider.error < 1e-6  # single precision
    assert dtn.fitting.widen(net, net.init(seed=1, dtype="float64"), size).error < 1e-12
    assert close(wider.net.materialize(wider.params), net.materialize(params), 1e-5)


@pytest.mark.parametrize("name", ["train", "tree", "mera", "cp", "tucker"])
def test_the_new_entries_are_trained(name, torch):
    family, size = FAMILIES[name]
    net = dtn.network(family, (16, 16))
    wider = dtn.fitting.widen(net, net.init(seed=1, dtype="float64"), size)
    cores = {key: torch.from_numpy(p).requires_grad_() for key, p in wider.params.items()}
    probe = torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (wider.net.materialize(cores) * probe).sum().backward()
    grown = 0
    for key, core in cores.items():
        old = net.spec.param_shapes[key]
        fresh = torch.ones(core.shape, dtype=torch.bool)
        fresh[tuple(slice(n) for n in old)] = False
        grown += int((core.grad[fresh] != 0).sum()) if core.grad is not None else 0
    assert grown > 0


def test_a_normalized_state_of_another_activation_changes_the_weight():
    net = dtn.network(dtn.Tree(rank=2, activation="tanh"), (16, 16))
    params = net.init(seed=1, dtype="float64")
    wider = dtn.fitting.widen(net, params, 4)
    before, after = net.materialize(params), wider.net.materialize(wider.params)
    assert np.isclose(wider.error, np.linalg.norm(after - before) / np.linalg.norm(before))
    assert 1e-4 < wider.error < 0.5


def test_the_same_size_is_the_same_network():
    net = dtn.network(dtn.MERA(rank=2), (16, 16))
    params = net.init(seed=1, dtype="float64")
    same = dtn.fitting.widen(net, params, 2)
    assert same.net == net
    assert all(np.allclose(to_numpy(same.params[name]), params[name]) for name in params)


def test_what_cannot_grow():
    wall, train = dtn.network(dtn.BrickWall(layers=1), (4, 4)), dtn.network(dtn.TensorTrain(rank=2), (4, 4))
    with pytest.raises(dtn.SpecError, match="only one layer, and a layer added after it cannot leave W unchanged"):
        dtn.fitting.deepen(wall, wall.init())
    with pytest.raises(dtn.SpecError, match=r"deepen adds layers, but TensorTrain\(rank=3\) has the same nodes as"):
        dtn.fitting.deepen(train, train.init())
    with pytest.raises(dtn.SpecError, match=r"widen enlarges bonds, but BrickWall\(layers=2\) has other nodes than"):
        dtn.fitting.widen(wall, wall.init(), 2)
    with pytest.raises(dtn.SpecError, match=r"node 'core0' has the shape .* and cannot grow"):
        dtn.fitting.widen(train, train.init(), 1)
    with pytest.raises(dtn.SpecError, match="size must be at least 1, got 0"):
        dtn.fitting.widen(train, train.init(), 0)
    with pytest.raises(dtn.SpecError, match="params of another network"):
        dtn.fitting.widen(train, wall.init(), 3)
    bare = dtn.Network(train.spec, train.layout)
    for what in (lambda: dtn.fitting.grow(bare, bare.init(), 3), lambda: dtn.fitting.deepen(bare, bare.init())):
        with pytest.raises(dtn.SpecError, match=r"changes the size of a topology, but this network has no topology"):
            what()
    uniform = dtn.network(dtn.TensorTrain(rank=2, shared=True), (4, 4))
    with pytest.raises(dtn.SpecError, match="the larger network has no parameter 'core__2_2_2', but the smaller"):
        dtn.fitting.grow(uniform, uniform.init(), 3)


def test_growth_to_the_same_size_or_a_smaller_one_changes_nothing():
    net = dtn.network(dtn.TensorTrain(rank=(2, 4, 2)), (4, 4))
    params = net.init()
    for size in (1, 4):
        same = dtn.fitting.grow(net, params, size)
        assert same.net is net
        assert all(same.params[name] is params[name] for name in params)


COMBINED = {
    "sum": (dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.BrickWall(layers=2))), 4),
    "sum of two walls": (dtn.Sum(terms=(dtn.BrickWall(layers=3), dtn.BrickWall(layers=2))), 3),
    # the ring has no parameter of its own that could be scaled
    "sum with a shared core": (
        dtn.Sum(terms=(dtn.TensorRing(rank=2, shared=True), dtn.BrickWall(layers=2))),
        3,
    ),
    "sum linear": (dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.TensorTrain(rank=2))), 4),
    "product": (dtn.Product(terms=(dtn.LowRank(rank=2), dtn.Tree(rank=2))), 4),
    "sum in a product": (
        dtn.Product(terms=(dtn.Sum(terms=(dtn.LowRank(rank=2), dtn.CP(rank=2))), dtn.BrickWall(layers=2))),
        3,
    ),
}


@pytest.mark.parametrize("case", COMBINED.values(), ids=COMBINED)
def test_the_last_term_of_a_sum_or_product_grows(case):
    family, size = case
    net = dtn.network(family, (16, 16))
    params = net.init(seed=1, dtype="float64")
    larger = dtn.fitting.grow(net, params, size)
    assert larger.net.topology == family.resized(size)
    assert family.resized(size).terms == (*family.terms[:-1], family.terms[-1].resized(size))
    assert family.resized(size).size == size
    assert larger.net.num_params > net.num_params
    assert larger.error < 1e-12
    assert close(larger.net.materialize(larger.params), net.materialize(params), 1e-12)


@pytest.mark.slow
def test_gradient_fits_do_not_get_worse_with_size():
    torch, fits = pytest.importorskip("torch"), pytest.importorskip("deeptn_torch")
    draw = np.random.default_rng(0)
    weight = torch.as_tensor((draw.standard_normal((16, 16)) / np.arange(1, 17)) @ draw.standard_normal((16, 32)))
    nets = [dtn.network(dtn.Tree(rank=rank, activation="relu"), (16, 32)) for rank in range(1, 7)]
    errors = [fits.fit(net, weight, how=dtn.fitting.Fit(steps=60)).error for net in nets]
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(errors)), errors
    alone = [fits.fit(net, weight, how=dtn.fitting.Fit(method="lbfgs", steps=60)).error for net in nets]
    assert any(after > before for before, after in pairwise(alone))  # else this test shows nothing
    assert all(found <= single * (1 + 1e-9) for found, single in zip(errors, alone))


@pytest.mark.slow
def test_gradient_fits_of_small_sizes_in_jax():
    jax, _ = pytest.importorskip("jax"), pytest.importorskip("optax")
    from deeptn_jax import fit

    weight = np.random.default_rng(1).standard_normal((8, 8)).astype("float32")
    nets = [dtn.network(dtn.Tree(rank=rank, activation="relu"), (8, 8)) for rank in (1, 2)]
    errors = [fit(net, jax.numpy.asarray(weight), how=dtn.fitting.Fit(steps=30)).error for net in nets]
    assert errors[0] >= errors[1] > 0
