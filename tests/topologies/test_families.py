"""Test the families against their formulas, textbook definitions and TensorLy; test networks of many nodes."""

from __future__ import annotations

import json
import math
import random
from dataclasses import fields, replace

import networkx as nx
import numpy as np
import pytest
import tensorly

import deeptn as dtn
from deeptn.testing import families
from deeptn.topologies import topology

from ..conftest import close
from ..tiers import grid


def formula_names(family: dtn.Topology, legs: int, d: int, columns: int) -> dict:
    """Return the names that a formula may use; see `deeptn.Topology`."""
    values = {field.name: getattr(family, field.name) for field in fields(family)}

    def bond(k: int) -> int:
        return min(values["rank"], d**k, d ** (legs - k))

    side = d ** (legs // 2)
    names = {"Q": legs, "d": d, "rows": side, "columns": side, "log2": lambda n: int(math.log2(n)), "bond": bond}
    return values | names | {"wire": lambda k: d if k == 1 else bond(k), "R": legs // columns, "C": columns}


@pytest.mark.parametrize("name", families())
def test_formulas_count_the_parameters(name):
    cls = type(topology(name))
    assert cls.formula, f"{name} needs a formula; the docstring of deeptn.Topology lists the names that it may use"
    assert cls.equation, f"{name} needs an equation"
    tried = 0
    for d, legs, size in ((d, legs, size) for d in (2, 3, 4) for legs in (2, 4, 8) for size in (1, 2, 3, 5, 9)):
        half = legs // 2
        columns = legs // 2
        family = cls(**{cls.size_field: size})
        if name == "PEPS":
            if columns < 2 or size > 3:
                continue
            family = replace(family, columns=columns)
        order = "interleaved" if "row and column legs" in cls.formula else "rows"
        layout = dtn.Layout((d**half, d**half), ((d,) * half, (d,) * half), order)
        expected = eval(cls.formula, formula_names(family, legs, d, columns))
        assert dtn.network(family, layout.shape, layout).num_params == expected, (family, d, legs)
        tried += 1
    assert tried >= 18


def tensor(net: dtn.Network, params: dict) -> np.ndarray:
    """Return the generated tensor, with one axis per leg."""
    return net.materialize(params).reshape(net.layout.leg_sizes)


def test_tensorly_reconstructs_the_same():
    layout = dtn.Layout((6, 20), ((6,), (4, 5)))

    def made(family):
        net = dtn.network(family, (6, 20), layout)
        params = net.init(seed=3, dtype="float64")
        return params, tensor(net, params)

    params, found = made(dtn.CP(rank=3))
    assert close(found, tensorly.cp_to_tensor((None, [params[f"U{k}"] for k in range(3)])), 1e-12)
    params, found = made(dtn.Tucker(rank=3))
    assert close(found, tensorly.tucker_to_tensor((params["core"], [params[f"U{k}"] for k in range(3)])), 1e-12)
    params, found = made(dtn.TensorTrain(rank=3))
    cores = [params["core0"][None], params["core1"], params["core2"][..., None]]
    assert close(found, tensorly.tt_to_tensor(cores), 1e-12)
    params, found = made(dtn.TensorRing(rank=3))
    assert close(found, tensorly.tr_to_tensor([params[f"core{k}"] for k in range(3)]), 1e-12)


def test_the_textbook_says_the_same():
    """Compute Kronecker products, Monarch's rank-one blocks, Hadamard products and sums with NumPy alone."""
    net = dtn.network(dtn.Kronecker(terms=2), (6, 10), dtn.Layout((6, 10), ((2, 3), (5, 2)), "interleaved"))
    params = net.init(dtype="float64")
    a, b = params["A0"], params["A1"]
    assert close(net.materialize(params), sum(np.kron(a[..., t], b[..., t]) for t in range(2)), 1e-12)
    net = dtn.network(dtn.Butterfly(levels=2), (6, 15), dtn.Layout((6, 15), ((2, 3), (5, 3))))
    weight = net.materialize(net.init(dtype="float64")).reshape(2, 3, 5, 3)
    blocks = weight.transpose(0, 3, 1, 2).reshape(6, 3, 5)
    assert all(np.linalg.matrix_rank(block, 1e-10) == 1 for block in blocks)
    for family, join in ((dtn.Product, np.multiply), (dtn.Sum, np.add)):
        net = dtn.network(family(terms=(dtn.LowRank(rank=2), dtn.LowRank(rank=1))), (6, 10))
        params = net.init(dtype="float64")
        one, other = (params[f"T{k}_U"] @ params[f"T{k}_V"] for k in range(2))
        assert close(net.materialize(params), join(one, other), 1e-12)


@pytest.mark.parametrize("family", [dtn.AugmentedTree(activation=None), dtn.MERA(activation=None)])
@pytest.mark.parametrize("count", range(2, 14))
def test_disentanglers_stand_across_boundaries(family, count):
    net = dtn.network(family, (2**count,), dtn.Layout((2**count,), ((2,) * count,)))
    below = {ix: node.name for node in net.spec.nodes for ix in node.outputs}
    touched = []
    for node in net.spec.nodes:
        if "_u" in node.name:
            assert below[node.inputs[0]] != below[node.inputs[1]]
            assert "_u" not in below[node.inputs[0]] + below[node.inputs[1]] or isinstance(family, dtn.MERA)
            touched += node.inputs
    assert len(set(touched)) == len(touched)


@grid(lambda kind, count: count == "100", kind=["chain", "tree"], count=[100, 1000])
def test_many_nodes(kind, count):
    draw = random.Random(0)
    graph = nx.path_graph(count) if kind == "chain" else nx.Graph((k, draw.randrange(k)) for k in range(1, count))
    nx.set_node_attributes(graph, {0: {"legs": 4}, count - 1: {"legs": 5}})
    net = dtn.from_networkx(graph, rank=3)
    weight = net.materialize(net.init(seed=0, dtype="float64"))
    assert weight.shape == (4, 5)
    assert np.isclose(np.sqrt(np.mean(weight**2)), math.sqrt(2 / 5))
    again = dtn.NetworkSpec.from_dict(json.loads(json.dumps(net.spec.to_dict())))
    assert again == net.spec


@pytest.mark.parametrize(("nodes", "rank"), [(80, 16), pytest.param(600, 2, marks=pytest.mark.slow)])
def test_what_no_machine_can_contract_is_refused(nodes, rank):
    graph = nx.random_regular_graph(3, nodes, seed=0)
    nx.set_node_attributes(graph, {0: {"legs": 4}, 1: {"legs": 5}})
    net = dtn.from_networkx(graph, rank=rank)
    with pytest.raises(dtn.ProgramError, match=r"needs 10\^\d+ elements at once .* fewer cycles"):
        net.init()
    with pytest.raises(dtn.ProgramError, match="flops in the best order"):
        net.materialize({name: np.zeros(shape) for name, shape in net.spec.param_shapes.items()})
