"""Test how the bonds of a family share a budget, without and with a weight."""

from __future__ import annotations

import math

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import relative_error
from deeptn.budget import ENOUGH, BondSizes, at_common_size

RNG = np.random.default_rng(0)
SPECTRUM = (RNG.standard_normal((48, 48)) / np.arange(1, 49)) @ RNG.standard_normal((48, 60))
BONDED = ["TensorTrain", "TTMatrix", "Tucker", "TensorRing"]


@pytest.mark.few(16)
@pytest.mark.parametrize("family", BONDED)
@pytest.mark.parametrize("shape", [(120, 400), (256, 64), (96, 64, 3, 3)])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_the_budget_is_spent(family, shape, share):
    budget = int(share * math.prod(shape))
    assert ENOUGH * budget <= dtn.at_budget(family, shape, budget).num_params <= budget


@pytest.mark.parametrize("family", BONDED)
def test_counted_parameters_are_those_of_the_network(family):
    common = at_common_size(family, (512, 600), 7000)
    bonds = BondSizes.of(common, 7000)
    assert bonds is not None
    moved = bonds.full_nearby(bonds.search(bonds.falling, bonds.start))
    assert len(moved)
    for sizes in moved[:20]:
        net = bonds.network(sizes)
        assert net.num_params == bonds.count(sizes)
        assert [net.spec.index_sizes[name] for name in bonds.names] == sizes.tolist()
        assert net.num_params <= 7000


def test_limits_are_the_largest_useful_sizes():
    net = dtn.network(dtn.TensorTrain(rank=1), (8, 8))
    bonds = BondSizes.of(net, 10**6)
    assert bonds is not None
    assert bonds.limits.tolist() == [2, 4, 8, 4, 2]
    assert bonds.affordable.tolist() == [2, 4, 8, 4, 2]
    small = BondSizes.of(net, 20)
    assert small is not None
    assert small.affordable.tolist() == [2, 4, 5, 4, 2]  # each size costs 2 + 2 parameters


def test_families_with_one_size_stay_as_they_are():
    for family in ("LowRank", "BrickWall", "CP", dtn.TensorTrain(shared=True)):
        found = dtn.at_budget(family, (48, 60), 700)
        assert found == at_common_size(family, (48, 60), 700)


def test_equal_sizes_are_kept_if_nothing_is_left():
    net = dtn.network(dtn.TensorTrain(rank=3), (120, 400))
    found = dtn.at_budget("TensorTrain", (120, 400), net.num_params)
    assert found.num_params == net.num_params


@pytest.mark.few(3)
@pytest.mark.parametrize("family", ["TensorTrain", "TTMatrix", "Tucker"])
@pytest.mark.parametrize("budget", [150, 300, 600, 1200])
def test_bonds_suit_the_weight(family, budget):
    layout = None if family != "TensorTrain" else dtn.Layout.balanced((48, 60))
    found = dtn.decompose(SPECTRUM, family, layout, budget=budget, sweeps=0)
    assert found.net.num_params <= budget
    for other in (dtn.at_budget, at_common_size):
        topology = other(family, (48, 60), budget, layout).topology
        assert topology is not None
        assert found.error <= dtn.decompose(SPECTRUM, topology, layout, sweeps=0).error + 1e-12
    assert found.error == pytest.approx(relative_error(found.net.materialize(found.params), SPECTRUM))


def test_ranks_are_recovered():
    net = dtn.network(dtn.TensorTrain(rank=(2, 5, 3, 6)), (48, 60), dtn.Layout((48, 60), ((6, 8), (5, 4, 3))))
    weight = net.materialize(net.init(seed=3, dtype="float64"))
    found = dtn.decompose(weight, "TensorTrain", net.layout, budget=net.num_params)
    assert found.net.spec == dtn.network(dtn.TensorTrain(rank=(2, 5, 3, 3)), (48, 60), net.layout).spec
    assert found.error < 1e-12


@pytest.mark.slow
def test_the_best_sizes_of_a_small_tucker_network():
    weight, layout = SPECTRUM[:12, :20], dtn.Layout((12, 20), ((4, 3), (5, 4)))
    found = dtn.decompose(weight, "Tucker", layout, budget=80, sweeps=0)
    errors = {}
    for rank in np.ndindex(4, 3, 5, 4):
        sizes = tuple(r + 1 for r in rank)
        net = dtn.network(dtn.Tucker(rank=sizes), (12, 20), layout)
        if net.num_params <= 80:
            errors[sizes] = dtn.decompose(weight, dtn.Tucker(rank=sizes), layout, sweeps=0).error
    assert found.error <= 1.01 * min(errors.values())


@pytest.mark.slow
def test_a_ring_of_equal_sizes_is_recovered():
    net = dtn.network(dtn.TensorRing(rank=2), (20, 40), dtn.Layout.balanced((20, 40)))
    weight = net.materialize(net.init(seed=1, dtype="float64"))
    assert dtn.at_budget("TensorRing", net.shape, net.num_params, net.layout).topology != net.topology
    found = dtn.decompose(weight, "TensorRing", net.layout, budget=net.num_params)
    assert found.net.topology == net.topology
    assert found.error < 1e-9


@pytest.mark.slow
def test_a_ring_uses_the_budget_and_als():
    found = dtn.decompose(SPECTRUM, "TensorRing", dtn.Layout.balanced((48, 60)), budget=400)
    assert ENOUGH * 400 <= found.net.num_params <= 400
    assert found.error < 0.9


@pytest.mark.parametrize("budget", [0, 1.5, "all"])
def test_bad_budgets(budget):
    with pytest.raises(dtn.SpecError, match="budget must be"):
        dtn.decompose(SPECTRUM, "TensorTrain", budget=budget)


def test_a_budget_below_the_smallest_network():
    with pytest.raises(dtn.SpecError, match="at least 108 parameters"):
        dtn.decompose(SPECTRUM, "LowRank", budget=50)
    assert dtn.decompose(0 * SPECTRUM, "TensorTrain", budget=300).error == 0
