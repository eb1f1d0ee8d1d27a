"""Test einsum equations and TensorNetwork nodes of every family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensornetwork

import deeptn as dtn

from ..conftest import close
from ..market import FAMILIES


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_numpy_einsum_and_tensornetwork_say_the_same(family):
    net = dtn.network(family, (12, 8))
    params = net.init(seed=1, dtype="float64")
    expected = net.layout.to_legs(net.materialize(params))
    equations, groups = dtn.to_einsum(net, params), dtn.to_tensornetwork(net, params)
    by_einsum: Any = 0
    by_nodes: Any = 0
    for number in net.spec.summands:
        equation, arrays = equations[number]
        by_einsum = by_einsum + np.einsum(equation, *arrays, optimize="greedy")
        nodes, edges = groups[number]
        by_nodes = by_nodes + tensornetwork.contractors.auto(nodes, output_edge_order=edges).tensor
    kept = tuple(slice(n) for n in expected.shape)
    assert close(net.layout.from_legs(by_einsum[kept]), net.materialize(params), 1e-10)
    assert close(net.layout.from_legs(by_nodes[kept]), net.materialize(params), 1e-10)
