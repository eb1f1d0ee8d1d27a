"""The families against their formulas and against other packages; as layers; and networks of many nodes."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import fields, replace
from typing import Any

import deeptn_jax
import networkx as nx
import numpy as np
import pytest
import quimb.tensor as qtn
import tensorly
import tensornetwork
import torch
from deeptn_torch import TNConv2d, TNLinear
from sklearn.datasets import load_digits

import deeptn as dtn
from deeptn.testing import families
from deeptn.topologies import topology

from ..conftest import close

#: One of each, small; with activations where the family has them.
ZOO = {
    "brickwall": dtn.BrickWall(layers=2),
    "brickwall-three-sites": dtn.BrickWall(layers=2, sites=3, activation="leaky_relu:0.2"),
    "brickwall-cyclic": dtn.BrickWall(layers=2, cyclic=True, activation=None),
    "brickwall-lifted": dtn.BrickWall(layers=2, bond=3),
    "staircase": dtn.BrickWall(layers=2, pattern="staircase"),
    "tree": dtn.Tree(rank=4),
    "tree-ternary": dtn.Tree(rank=4, arity=3),
    "augmented-tree": dtn.AugmentedTree(rank=4),
    "mera": dtn.MERA(rank=4),
    "mera-ternary": dtn.MERA(rank=3, arity=3, activation="leaky_relu:0.2"),
    "mera-invariant": dtn.MERA(rank=4, shared=True),
    "hierarchical-tucker": dtn.HierarchicalTucker(rank=4),
    "train": dtn.TensorTrain(rank=4),
    "train-uniform": dtn.TensorTrain(rank=4, shared=True),
    "ttmatrix": dtn.TTMatrix(rank=3),
    "ring": dtn.TensorRing(rank=3),
    "tucker": dtn.Tucker(rank=3),
    "block-term": dtn.BlockTerm(terms=3, rank=2),
    "cp": dtn.CP(rank=6),
    "kronecker": dtn.Kronecker(terms=4),
    "butterfly": dtn.Butterfly(),
    "monarch": dtn.Butterfly(levels=2),
    "peps": dtn.PEPS(rank=2),
    "lowrank": dtn.LowRank(rank=3),
    "residual": dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.BrickWall(layers=2))),
    "sum": dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.TTMatrix(rank=2))),
    "product": dtn.Product(terms=(dtn.LowRank(rank=2), dtn.LowRank(rank=2))),
}
zoo = pytest.mark.parametrize("family", ZOO.values(), ids=ZOO)


def formula_names(family: dtn.Topology, legs: int, d: int, columns: int) -> dict:
    """What a formula may name: see `deeptn.Topology`."""
    values = {field.name: getattr(family, field.name) for field in fields(family)}

    def bond(k: int) -> int:
        return min(values["rank"], d**k, d ** (legs - k))

    side = d ** (legs // 2)
    names = {"Q": legs, "d": d, "rows": side, "columns": side, "log2": lambda n: int(math.log2(n)), "bond": bond}
    return values | names | {"wire": lambda k: d if k == 1 else bond(k), "R": legs // columns, "C": columns}


@pytest.mark.parametrize("name", families())
def test_formulas_count_the_parameters(name):
    cls = type(topology(name))
    assert cls.formula
    assert cls.equation
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


@zoo
@pytest.mark.parametrize("shape", [(120, 400), (16, 6, 5, 5)])
def test_at_budget_never_exceeds_the_budget(family, shape):
    least = dtn.network(family.resized(1), shape).num_params
    for params in (least, least + 1, 2 * least, 3000):
        if params < least:
            continue
        net = dtn.at_budget(family, shape, params)
        assert net.num_params <= params
        assert net.topology is not None
        if not getattr(family, "shared", False):  # with a rank that is cut fewer nodes may be alike
            bigger = dtn.network(family.resized(net.topology.size + 1), shape).num_params
            assert bigger > params or bigger == net.num_params
    with pytest.raises(dtn.SpecError, match=f"at least {least} parameters"):
        dtn.at_budget(family, shape, least - 1)


# Other packages


def tensor(net: dtn.Network, params: dict) -> np.ndarray:
    """The generated tensor, an axis per leg."""
    return net.materialize(params).reshape(net.layout.leg_sizes)


def quimb_networks() -> dict[str, Any]:
    builder: Any = qtn
    cp = [
        builder.Tensor(np.random.default_rng(0).standard_normal((n, 4)), (ix, "r")) for ix, n in zip("abc", (3, 4, 5))
    ]
    return {
        "MPS": builder.MPS_rand_state(8, bond_dim=3, dtype="float64", seed=1),
        "MPS cyclic": builder.MPS_rand_state(6, bond_dim=3, cyclic=True, dtype="float64", seed=1),
        "MPO": builder.MPO_rand(4, bond_dim=3, dtype="float64", seed=1),
        "TTN": builder.TN_rand_tree(9, 3, phys_dim=2, seed=2, dtype="float64"),
        "MERA": builder.MERA.rand(8, max_bond=3, dtype="float64"),
        "PEPS": builder.PEPS.rand(2, 4, 2, seed=3, dtype="float64"),
        "regular 3": builder.TN_rand_reg(10, 3, 2, phys_dim=2, seed=4, dtype="float64"),
        "regular 4": builder.TN_rand_reg(8, 4, 2, phys_dim=2, seed=5, dtype="float64"),
        "hyper": builder.TensorNetwork(cp),
    }


@pytest.mark.parametrize("name", list(quimb_networks()))
def test_networks_that_quimb_makes(name):
    network = quimb_networks()[name]
    output = network.outer_inds() if name != "hyper" else ("a", "b", "c")
    net, params = dtn.from_quimb(network, output=output)
    expected = network.contract(output_inds=output, optimize="greedy", preserve_tensor=True).data
    assert close(net.materialize(params), expected, 1e-10)
    (again,) = dtn.to_quimb(net, params)
    assert again.num_tensors == network.num_tensors
    assert again.contract(output_inds=[leg.name for leg in net.spec.legs], preserve_tensor=True).data.shape == net.shape


def test_the_sizes_are_those_of_quimb():
    pairs = (
        (dtn.TensorTrain(rank=2), qtn.MPS_rand_state(8, bond_dim=2)),
        (dtn.PEPS(rank=3, columns=4), qtn.PEPS.rand(2, 4, 3)),
        (dtn.TensorRing(rank=3), qtn.MPS_rand_state(8, bond_dim=3, cyclic=True)),
    )
    for family, network in pairs:
        assert dtn.network(family, (16, 16)).num_params == sum(t.size for t in network.tensors if t is not None)


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
    """Kronecker products, Monarch's blocks of rank one, Hadamard products and sums, by NumPy alone."""
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


@zoo
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


@zoo
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


# As layers

DIGITS: Any = load_digits()
IMAGES = torch.tensor(DIGITS.images, dtype=torch.float32)[:512] / 16
LABELS = torch.tensor(DIGITS.target)[:512]


def falls(model: torch.nn.Module, images: torch.Tensor, steps: int = 30) -> None:
    """A few steps of Adam lower the loss by a fifth at least."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(images), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], (losses[0], losses[-1])


@zoo
def test_a_linear_layer_trains_and_is_saved(family, tmp_path):
    torch.manual_seed(0)
    layer = TNLinear(64, 32, family)
    falls(torch.nn.Sequential(torch.nn.Flatten(), layer, torch.nn.ReLU(), torch.nn.Linear(32, 10)), IMAGES)
    params = {name: core.detach() for name, core in layer.cores.items()}
    dtn.save(tmp_path / "layer.safetensors", layer.network, params)
    net, arrays = dtn.load(tmp_path / "layer.safetensors", like="torch")
    assert net == layer.network
    assert torch.equal(net.materialize(arrays), layer.weight.detach())
    other = TNLinear(64, 32, family)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)


@zoo
def test_a_convolution_trains_and_is_saved(family, tmp_path):
    torch.manual_seed(0)
    layer = TNConv2d(8, 16, 3, topology=family)
    first = torch.nn.Conv2d(1, 8, 3)
    body = torch.nn.Sequential(
        first, torch.nn.ReLU(), layer, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 10)
    )
    falls(body, IMAGES[:, None])
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = TNConv2d(8, 16, 3, topology=family)
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(other.weight, layer.weight)


@zoo
def test_jax_trains_and_is_saved(family, tmp_path):
    import jax
    import jax.numpy as jnp

    net = dtn.network(family, (10, 64))
    params = deeptn_jax.init(net, jax.random.key(0))
    x, labels = jnp.asarray(IMAGES.numpy().reshape(-1, 64)), jnp.asarray(LABELS.numpy())

    def loss(params):
        scores = jax.nn.log_softmax(deeptn_jax.apply(net, params, x))
        return -scores[jnp.arange(len(labels)), labels].mean()

    @jax.jit
    def step(params, moments):
        value, gradients = jax.value_and_grad(loss)(params)
        moments = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g * g, moments, gradients)
        update = jax.tree.map(lambda p, m, g: p - 0.01 * g / (jnp.sqrt(m) + 1e-6), params, moments, gradients)
        return update, moments, value

    moments = jax.tree.map(jnp.ones_like, params)
    losses = []
    for _ in range(40):
        params, moments, value = step(params, moments)
        losses.append(float(value))
    assert losses[-1] < 0.97 * losses[0]
    dtn.save(tmp_path / "w.safetensors", net, params)
    again, arrays = dtn.load(tmp_path / "w.safetensors", like="jax")
    assert again == net
    jax.clear_caches()
    materialize = jax.jit(functools.partial(deeptn_jax.materialize, net))
    assert bool((materialize(arrays) == materialize(params)).all())


# Many nodes


@pytest.mark.parametrize("kind", ["chain", "tree"])
def test_a_thousand_nodes(kind):
    graph = nx.path_graph(1000) if kind == "chain" else nx.random_labeled_tree(1000, seed=0)
    nx.set_node_attributes(graph, {0: {"legs": 4}, 999: {"legs": 5}})
    net = dtn.from_networkx(graph, rank=3)
    weight = net.materialize(net.init(seed=0, dtype="float64"))
    assert weight.shape == (4, 5)
    assert np.isclose(np.sqrt(np.mean(weight**2)), math.sqrt(2 / 5))
    again = dtn.NetworkSpec.from_dict(json.loads(json.dumps(net.spec.to_dict())))
    assert again == net.spec


def test_what_no_machine_can_contract_is_refused():
    graph = nx.random_regular_graph(3, 600, seed=0)
    nx.set_node_attributes(graph, {0: {"legs": 4}, 1: {"legs": 5}})
    net = dtn.from_networkx(graph)
    with pytest.raises(dtn.ProgramError, match=r"needs 10\^\d+ elements at once .* fewer cycles"):
        net.init()
    with pytest.raises(dtn.ProgramError, match="flops in the best order"):
        net.materialize({name: np.zeros(shape) for name, shape in net.spec.param_shapes.items()})


def test_graphs_are_layers_too():
    """A graph of the user's own has as many legs as it says, so that its layers name the layout."""
    torch.manual_seed(0)
    deep = dtn.Graph(nodes=[{"S": "pq"}, {"U": "pax", "V": "xbq"}], output=["pq", "ab"], rank=6)
    layer = TNLinear(64, 32, deep)
    falls(torch.nn.Sequential(torch.nn.Flatten(), layer, torch.nn.ReLU(), torch.nn.Linear(32, 10)), IMAGES)
    kernel = TNConv2d(8, 16, 3, topology=dtn.Graph.from_einsum("ox,xiy,yhz,zw->oihw", rank=4))
    assert kernel.weight.shape == (16, 8, 3, 3)
    body = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), kernel, torch.nn.Flatten(), torch.nn.Linear(256, 10)
    )
    falls(body, IMAGES[:, None])
