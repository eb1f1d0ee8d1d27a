"""Check rank bounds against brute force and random draws, spectra against quimb, light cones against networkx."""

from __future__ import annotations

import itertools
import json
import math

import networkx as nx
import numpy as np
import pytest
import quimb.tensor as qtn

import deeptn as dtn

from ..market import NETWORKS, nets


@nets
def test_a_random_draw_never_exceeds_the_bound(net):
    analysis = dtn.analysis.analyze(net, net.init(seed=1, dtype="float64"), tolerance=1e-9)
    assert len(analysis.cuts) >= len(net.layout.legs) - 1
    for cut in analysis.cuts:
        assert cut.bound is not None
        assert cut.rank is not None
        assert 1 <= cut.rank <= cut.bound <= min(cut.sizes), cut
        assert cut.effective_rank is not None
        assert 1.0 - 1e-9 <= cut.effective_rank <= cut.rank + 1e-6
        assert np.isclose(sum(s**2 for s in cut.spectrum), 1.0)


def brute_force(net: dtn.Network, inside: set[str]) -> int:
    """Return the minimal cut over all bipartitions of a linear network's nodes; an index on both sides is cut."""
    total = 0
    for number in net.spec.summands:
        best = None
        nodes = net.spec.stages[number].nodes
        for sides in itertools.product((True, False), repeat=len(nodes)):
            holders: dict[str, set[bool]] = {}
            for node, side in zip(nodes, sides):
                for ix in node.indices:
                    holders.setdefault(ix, set()).add(side)
            for leg in net.layout.legs:
                holders[leg.name].add(leg.name in inside)
            size = math.prod(net.spec.index_sizes[ix] for ix, both in holders.items() if len(both) == 2)
            best = size if best is None else min(best, size)
        assert best is not None
        total += best
    sizes = {leg.name: leg.size for leg in net.layout.legs}
    sides = [math.prod(n for name, n in sizes.items() if (name in inside) == side) for side in (True, False)]
    return min(total, *sides)


SMALL = [n for n, net in NETWORKS.items() if net.is_linear and len(net.spec.nodes) <= 11 and len(net.layout.legs) > 1]


@pytest.mark.parametrize("name", SMALL)
def test_the_bound_is_the_minimal_cut(name):
    net = NETWORKS[name]
    legs = [leg.name for leg in net.layout.legs]
    for inside in (legs[:1], legs[1:], legs[::2], legs[: len(legs) // 2]):
        if 0 < len(inside) < len(legs):
            assert dtn.analysis.rank_bound(net, inside) == brute_force(net, set(inside)), inside


@pytest.mark.parametrize(
    "family",
    [
        dtn.TensorTrain(rank=3),
        dtn.Tree(rank=4, activation=None),
        dtn.LowRank(rank=3),
        dtn.MERA(rank=3, activation=None),
    ],
)
def test_generic_networks_reach_their_bound(family):
    net = dtn.network(family, (16, 16))
    analysis = dtn.analysis.analyze(net, net.init(seed=0, scheme="gaussian", dtype="float64"), tolerance=1e-10)
    assert all(cut.rank == cut.bound for cut in analysis.cuts)


def test_depth_and_activation_raise_the_rank_of_a_brick_wall():
    """M=1 is a tensor train of ranks 2, 4, 2, …; two linear layers reach rank 16, with ReLU nearly the full 64."""
    ranks = {}
    for layers, activation in ((1, None), (2, None), (2, "relu")):
        net = dtn.network(dtn.BrickWall(layers=layers, activation=activation), (64, 64))
        cuts = dtn.analysis.analyze(net, net.init(seed=0, dtype="float64"), tolerance=1e-9).cuts
        ranks[layers, activation] = cuts[0].rank, cuts[0].bound
        if layers == 1:
            assert [cut.bound for cut in cuts[1:]] == [2, 4] * 5 + [2]
    assert ranks[1, None] == (4, 4)
    assert ranks[2, None] == (16, 16)
    assert 48 <= ranks[2, "relu"][0] <= ranks[2, "relu"][1] == 64


def test_entropies_are_those_of_quimb():
    mps = qtn.MPS_rand_state(6, bond_dim=4, dtype="float64", seed=3)
    net, params = dtn.from_quimb(mps, shape=(8, 8))
    cuts = dtn.analysis.analyze(net, params).cuts
    entropies = [cut.entropy or 0.0 for cut in cuts]
    assert np.isclose(entropies[0], entropies[3])
    for place in range(1, 6):
        assert np.isclose(entropies[place], mps.entropy(place) * math.log(2), atol=1e-8)
        values = mps.schmidt_values(place)
        assert np.allclose(np.square(cuts[place].spectrum[: len(values)]), values, atol=1e-8)


def test_inspect_says_the_same_of_the_weight(library):
    net = dtn.network(dtn.TTMatrix(rank=2), (12, 18))
    params = net.init(seed=0, like=library)
    mine, given = dtn.analysis.analyze(net, params), dtn.analysis.inspect(net.materialize(params), net.layout)
    for cut, other in zip(mine.cuts, given.cuts, strict=True):
        assert (cut.name, cut.sizes, cut.rank) == (other.name, other.sizes, other.rank)
        assert np.isclose(cut.entropy or 0.0, other.entropy or 0.0, rtol=1e-5)
        assert other.bound is None
    assert json.loads(given.to_json())["cuts"][0]["name"] == "rows | columns"
    assert str(mine).splitlines()[2].split() == ["cut", "matrix", "bound", "rank", "effective", "entropy"]
    assert dtn.analysis.inspect(np.zeros((4, 4))).cuts[0].rank == 0


@nets
def test_light_cones_are_the_ancestors(net):
    if any(not node.inputs for stage in net.spec.stages[1:] for node in stage.nodes):
        return  # a node without marked inputs passes everything on
    graph = nx.DiGraph()
    for number, stage in enumerate(net.spec.stages):
        before = {ix for source in net.spec.sources(number) for ix in net.spec.stages[source].output}
        for node in stage.nodes:
            for ix in node.outputs:
                graph.add_edge(node.name, (number, ix))
            for ix in node.inputs:
                graph.add_edge((number, ix), node.name)
        for ix in before:
            for source in net.spec.sources(number):
                graph.add_edge((source, ix), (number, ix))
        for other in stage.multiply + stage.add:
            for own, theirs in zip(stage.output, net.spec.stages[other].output):
                graph.add_edge((other, theirs), (number, own))
    names = {node.name for node in net.spec.nodes}
    for leg in net.layout.legs:
        above = nx.ancestors(graph, (len(net.spec.stages) - 1, leg.name)) & names
        assert above <= set(dtn.analysis.light_cone(net, leg.name))


def test_light_cone_of_a_brick_wall_widens_by_a_gate_per_half_layer():
    net = dtn.network(dtn.BrickWall(layers=2), (256, 256))
    sizes = [len(dtn.analysis.light_cone(net, leg.name)) for leg in net.layout.legs]
    inner = 1 + 2 + 3 + 4  # gates in each half-layer, from the last one back
    assert sizes[:8] == [1 + 1 + 2, 1 + 2 + 2 + 3, 1 + 2 + 2 + 3, *[inner] * 5]


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_a_spectrum_does_not_depend_on_the_scale(scale):
    cut = dtn.analysis.measure_cut(scale * np.diag([3.0, 4.0]))
    np.testing.assert_allclose(cut.spectrum, [0.8, 0.6])
    assert cut.rank == 2


def test_bad_cuts():
    net = NETWORKS["train"]
    with pytest.raises(dtn.SpecError, match="unknown leg 'a0_9'; expected one of"):
        dtn.analysis.rank_bound(net, ["a0_9"])
    with pytest.raises(dtn.SpecError, match="a cut needs legs on both sides, got 0 of 8"):
        dtn.analysis.rank_bound(net, [])
    with pytest.raises(dtn.SpecError, match="unknown leg 'b0'"):
        dtn.analysis.light_cone(net, "b0")
