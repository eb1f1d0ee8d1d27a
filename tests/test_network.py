"""Test laws that hold for every network in every library."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from autoray import do
from hypothesis import given
from hypothesis import strategies as st

import deeptn as dtn
from deeptn.arrays import to_numpy

from . import oracle
from .conftest import DTYPES, UNSUPPORTED, close
from .market import NETWORKS, few_nets, linear_nets, nets, nets_and_libraries


@nets
def test_materialize_is_the_einsum(net):
    params = net.init(seed=3, dtype="float64")
    weight = net.materialize(params)
    assert weight.shape == net.shape
    assert close(weight, oracle.einsum(net, params), 1e-12)


@pytest.mark.few(55)
@nets_and_libraries
def test_libraries_agree_in_single_precision(net, library):
    pytest.importorskip(library)
    weight = net.materialize(net.init(seed=3, like=library))
    assert close(weight, net.materialize(net.init(seed=3, dtype="float64")), 1e-6 * 4)
    assert close(weight, net.materialize(net.init(seed=3)), 1e-6)


@nets
def test_params_have_the_shapes_of_the_spec(net):
    params = net.init()
    assert {name: p.shape for name, p in params.items()} == net.spec.param_shapes
    assert sum(p.size for p in params.values()) == net.num_params == net.cost().params


LEADS = [(2, 3), (0,), (), (3,), (1,), (2, 0, 3)]


@pytest.mark.few(41)
@nets_and_libraries
def test_apply_is_the_product(net, library):
    """Axes before the columns are kept, even if there are none or one is empty."""
    pytest.importorskip(library)
    params = net.init(seed=1, like=library)
    columns = math.prod(net.shape[1:])
    weight = to_numpy(net.materialize(params)).reshape(net.shape[0], columns)
    count = 2 if not net.is_linear else 6 if library == "numpy" else 4  # nonlinear ones are decoded and multiplied
    for lead in LEADS[:count]:
        x = np.random.default_rng(0).standard_normal((*lead, columns)).astype("float32")
        y = net.apply(params, do("array", x, like=library))
        assert tuple(y.shape) == (*lead, net.shape[0])
        assert type(y) is type(next(iter(params.values())))
        assert close(y, x @ weight.T, 1e-5)


@linear_nets
def test_apply_is_the_product_in_double_precision(net):
    params = net.init(seed=1, dtype="float64")
    x = np.random.default_rng(0).standard_normal((5, math.prod(net.shape[1:])))
    assert close(net.apply(params, x), x @ net.materialize(params).reshape(net.shape[0], -1).T, 1e-12)


@pytest.mark.few(3)
@few_nets
def test_gradients_agree_between_torch_and_jax(net, torch, jax, x64):
    params = net.init(seed=2, dtype="float64")
    probe = np.random.default_rng(1).standard_normal(net.shape)
    leaves = {name: torch.from_numpy(p).requires_grad_() for name, p in params.items()}
    (net.materialize(leaves) * torch.from_numpy(probe)).sum().backward()
    arrays = {name: jax.numpy.asarray(p) for name, p in params.items()}
    found = jax.jit(jax.grad(lambda p: (net.materialize(p) * probe).sum()))(arrays)
    for name, leaf in leaves.items():
        assert close(leaf.grad, found[name], 1e-10), name


@pytest.mark.parametrize("name", ["brickwall-odd", "tree-relu", "ttmatrix-conv", "cp", "shared"])
def test_gradcheck(name, torch):
    net = NETWORKS[name]
    params = {key: p.requires_grad_() for key, p in net.init(seed=5, like="torch", dtype="float64").items()}
    names = list(params)
    assert torch.autograd.gradcheck(lambda *arrays: net.materialize(dict(zip(names, arrays))), tuple(params.values()))


@pytest.mark.few(4)
@linear_nets
def test_gradients_of_apply(net, torch):
    columns = math.prod(net.shape[1:])
    params = {key: p.requires_grad_() for key, p in net.init(seed=5, like="torch", dtype="float64").items()}
    x = torch.randn(3, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    names = list(params)
    call = lambda x, *arrays: net.apply(dict(zip(names, arrays)), x)
    assert torch.autograd.gradcheck(call, (x, *params.values()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(library, dtype):
    net = dtn.network(dtn.BrickWall(layers=2, activation=None), (12, 10))
    message = UNSUPPORTED.get((library, dtype))
    if message:
        with pytest.raises(dtn.SpecError, match=message):
            net.init(like=library, dtype=dtype)
        return
    params = net.init(seed=0, like=library, dtype=dtype)
    weight = net.materialize(params)
    assert str(weight.dtype).endswith(dtype)
    if not dtype.startswith("complex"):
        tolerance = {"float64": 1e-12, "float32": 1e-6, "float16": 5e-3, "bfloat16": 4e-2}[dtype]
        assert close(weight, net.materialize(net.init(seed=0, dtype="float64")), tolerance)


def test_half_precision_is_contracted_in_single(torch):
    net = dtn.network(dtn.BrickWall(layers=4, activation=None), (64, 64))
    params = net.init(like="torch", dtype="bfloat16")
    single = net.materialize({name: p.float() for name, p in params.items()})
    assert torch.equal(net.materialize(params), single.bfloat16())


def test_same_seed_same_numbers_in_every_library(library):
    net = NETWORKS["brickwall-relu"]
    reference = net.init(seed=7)
    params = net.init(seed=7, like=library)
    assert all((to_numpy(params[name]) == reference[name]).all() for name in reference)
    assert not np.array_equal(net.init(seed=8)["L1_g0"], reference["L1_g0"])


def test_like_an_array_takes_its_dtype_and_device(torch):
    params = NETWORKS["train"].init(like=torch.zeros(1, dtype=torch.float64))
    assert params["core0"].dtype == torch.float64
    with pytest.raises(dtn.SpecError, match="leave device out"):
        NETWORKS["train"].init(device="cuda")


def test_a_parameter_may_have_any_name():
    graph = dtn.Graph(nodes={"input": "ax", "batch": "xb"}, rank=2)
    net = dtn.network(graph, (3, 4))
    params = net.init(dtype="float64")
    x = np.random.default_rng(0).standard_normal((3, 4))
    assert close(net.apply(params, x), x @ net.materialize(params).T, 1e-12)


def test_the_weight_is_fresh(torch):
    turned = dtn.network(dtn.Graph(nodes={"A": "ba"}, output="ab"), (3, 4))
    for net in (*NETWORKS.values(), turned):
        params = net.init(like="torch")
        before = {name: p.clone() for name, p in params.items()}
        weight = net.materialize(params)
        weight.zero_()
        assert all(torch.equal(params[name], before[name]) for name in params)
        assert float(net.materialize(params).abs().sum()) > 0


@nets
def test_hash_and_equality(net):
    again = dtn.Network(
        dtn.NetworkSpec.from_dict(json.loads(json.dumps(net.spec.to_dict()))),
        dtn.Layout.from_dict(json.loads(json.dumps(net.layout.to_dict()))),
    )
    assert again == net
    assert hash(again) == hash(net)
    assert {net: 1}[again] == 1


@pytest.mark.few(1)
@few_nets
def test_jit_vmap_and_functional_call(net, torch, jax):
    params = net.init(seed=4, like="jax")
    assert close(jax.jit(net.materialize)(params), net.materialize(params), 1e-5)
    stacked = {name: jax.numpy.stack([p, 2 * p]) for name, p in params.items()}
    both = jax.vmap(net.materialize)(stacked)
    assert close(both[1], net.materialize({name: 2 * p for name, p in params.items()}), 1e-5)
    tensors = {name: torch.tensor(np.asarray(p)) for name, p in stacked.items()}
    assert close(torch.func.vmap(net.materialize)(tensors), both, 1e-5)


@st.composite
def graphs(draw):
    """Draw random graphs: sizes of 1, hyper-indices, disconnected parts, up to six nodes."""
    count = draw(st.integers(1, 6))
    open_count = draw(st.integers(1, 4))
    bonds = [f"b{k}" for k in range(draw(st.integers(0, 5)))]
    nodes: dict[str, list[str]] = {f"N{k}": [] for k in range(count)}
    names = sorted(nodes)
    for ix in bonds:
        for name in draw(st.lists(st.sampled_from(names), min_size=min(2, count), max_size=3, unique=True)):
            nodes[name].append(ix)
    output = [f"o{k}" for k in range(open_count)]
    for ix in output:
        for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
            nodes[name].append(ix)
    held = {ix for indices in nodes.values() for ix in indices}
    if count == 1:
        nodes = {name: [ix for ix in indices if ix in output] for name, indices in nodes.items()}
        held = set(output)
    sizes = {ix: draw(st.integers(1, 4)) for ix in sorted(held)}
    order = draw(st.permutations(output))
    return dtn.Graph(nodes={name: tuple(indices) for name, indices in nodes.items()}, sizes=sizes, output=order)


@given(graphs())
def test_any_graph(graph):
    sizes = dict(graph.sizes)
    shape = [sizes[ix] for ix in graph.output[-1]]
    net = dtn.network(graph, shape)
    params = net.init(seed=0, dtype="float64")
    assert close(net.materialize(params), oracle.einsum(net, params), 1e-12)
    if len(shape) > 1:
        x = np.random.default_rng(0).standard_normal((3, math.prod(shape[1:])))
        assert close(net.apply(params, x), x @ net.materialize(params).reshape(shape[0], -1).T, 1e-11)


@given(
    st.sampled_from(["BrickWall", "Tree", "TensorTrain", "TTMatrix", "Tucker", "LowRank"]),
    st.lists(st.integers(2, 12), min_size=2, max_size=3),
    st.integers(1, 4),
    st.sampled_from(["default", "exact", "interleaved", "padded"]),
)
def test_any_shape_and_size(family, shape, size, how):
    cls = {name: getattr(dtn, name) for name in dtn.topologies.topology_names() if hasattr(dtn, name)}[family]
    layout = {
        "default": None,
        "exact": dtn.Layout(tuple(shape)),
        "interleaved": dtn.Layout(tuple(shape), order="interleaved"),
        "padded": dtn.Layout.padded(shape, 3),
    }[how]
    net = dtn.network(cls(**{cls.size_field: size}), shape, layout)
    params = net.init(seed=0, dtype="float64")
    assert close(net.materialize(params), oracle.einsum(net, params), 1e-12)


def test_a_network_from_another_process_is_found_in_a_dictionary():
    code = (
        "import deeptn as dtn, pickle, sys; net = dtn.network(dtn.TTMatrix(rank=3), (16, 12)); hash(net); "
        "sys.stdout.buffer.write(pickle.dumps(net))"
    )
    net = dtn.network(dtn.TTMatrix(rank=3), (16, 12))
    for seed in "12":  # Python's hashes of strings depend on it
        found = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        assert {net: True}[pickle.loads(found.stdout)]
