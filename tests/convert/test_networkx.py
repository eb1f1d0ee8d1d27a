"""Test conversion to networkx graphs and back."""

from __future__ import annotations

import pytest

import deeptn as dtn

from ..market import FAMILIES


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_networkx_there_and_back(family):
    net = dtn.network(family, (12, 8))
    graph = dtn.to_networkx(net)
    assert {node.name for node in net.spec.nodes} <= set(graph)
    legs = {name: size for _, data in graph.nodes(data=True) for name, size in data["legs"].items()}
    assert legs == {leg.name: leg.size for leg in net.spec.legs}
    if len(net.spec.stages) == 1:
        again = dtn.from_networkx(graph)
        shapes = lambda net: sorted(tuple(sorted(net.spec.node_shape(node))) for node in net.spec.nodes)
        assert shapes(again) == shapes(net)
        assert sorted(again.layout.leg_sizes) == sorted(net.layout.leg_sizes)
