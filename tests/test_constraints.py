"""Isometries that stay isometries, in every library."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from deeptn_jax import train as jax_train
from deeptn_torch import compress, load_model, save_model, train
from torch import nn
from torch.nn.utils import parametrize

import deeptn as dtn
from deeptn import Recipe
from deeptn.constraints import isometric_nodes

from .toy import X, Y, data, forward, model, to_jax


def deviation(layer) -> float:
    """The largest distance of a marked node, scaled, from an isometry."""
    worst = 0.0
    for node in isometric_nodes(layer.network):
        core = layer.cores[node.param].detach().numpy()
        order = [node.indices.index(ix) for ix in (*node.outputs, *node.inputs)]
        rows = int(np.prod([core.shape[k] for k in order[: len(node.outputs)]]))
        matrix = core.transpose(order).reshape(rows, -1)
        matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        square = matrix.T @ matrix
        worst = max(worst, abs(square / square[0, 0] - np.eye(len(square))).max())
    return worst


@pytest.mark.parametrize("family", [dtn.Tree(rank=4), dtn.MERA(rank=3, activation=None), dtn.AugmentedTree(rank=3)])
def test_isometries_stay_isometries(family):
    net = model(family)
    layer = net[0]
    before = layer.weight.detach().clone()
    layer.constrain()
    layer.constrain()  # a second time changes nothing
    assert torch.allclose(layer.weight, before)
    train(net, data(), Recipe(epochs=50, lr=0.05, batch=48, decay=0.01), seed=0)  # 100 steps
    assert not torch.allclose(layer.weight, before, rtol=0.1)
    assert deviation(layer) < 1e-12
    free = model(family)
    train(free, data(), Recipe(epochs=50, lr=0.05, batch=48), seed=0)
    assert deviation(free[0]) > 1e-2  # the constraint is what kept them
    with pytest.raises(dtn.SpecError, match="remove the constraint"):
        layer.grow(8)
    weight = layer.weight.detach().clone()
    for node in isometric_nodes(layer.network):
        assert node.param is not None
        parametrize.remove_parametrizations(layer.cores, node.param)
    assert torch.allclose(layer.weight, weight)
    layer.grow(8)


@pytest.mark.parametrize("family", [dtn.Tree(rank=3), dtn.MERA(rank=3)])
def test_isometries_stay_isometries_in_jax(family):
    net = model(family, dtype=torch.float32)
    found = jax_train(
        forward, to_jax(net), {"first": net[0].network}, X.astype("float32"), Y, Recipe(epochs=50, lr=0.05, batch=48),
        seed=0, isometric=True,
    )  # fmt: skip
    made = dtn.isometrize(net[0].network, found.params["first"])
    net[0].load_cores({name: torch.tensor(np.asarray(core)) for name, core in made.items()})
    assert deviation(net[0]) < 1e-5


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_isometrize_is_the_same_everywhere_and_a_projection(dtype):
    net = dtn.network(dtn.MERA(rank=3, activation=None), (12, 10))
    params = net.init(scheme="gaussian", dtype=dtype)
    made = dtn.isometrize(net, params)
    again = dtn.isometrize(net, made)
    torch_made = dtn.isometrize(net, {name: torch.tensor(core) for name, core in params.items()})
    with jax.enable_x64():
        jax_made = dtn.isometrize(net, {name: jnp.asarray(core) for name, core in params.items()})
    for name, core in made.items():
        assert np.allclose(core, again[name])
        assert np.allclose(core, torch_made[name].numpy())
        assert np.allclose(core, np.asarray(jax_made[name]))
        assert np.isclose(np.linalg.norm(core), np.linalg.norm(params[name]))


def test_which_nodes_can_be_isometries():
    net = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    with pytest.raises(dtn.SpecError, match="no node of BrickWall"):
        dtn.isometrize(net, net.init())
    with pytest.raises(dtn.SpecError, match="unknown node 'L9_g0'"):
        dtn.isometrize(net, net.init(), ["L9_g0"])
    with pytest.raises(dtn.SpecError, match="has no inputs"):
        dtn.isometrize(net, net.init(), ["L1_g0"])
    made = dtn.isometrize(net, net.init(scheme="gaussian", dtype="float64"), ["L2_g1"])
    square = made["L2_g1"].reshape(4, 4) @ made["L2_g1"].reshape(4, 4).T
    assert np.allclose(square, square[0, 0] * np.eye(4))


def test_constrained_layers_compile_and_are_saved(tmp_path):
    dense = nn.Sequential(nn.Linear(16, 8), nn.ReLU())
    small, _ = compress(dense, {"0": dtn.Tree(rank=2)}, fit=None)
    layer: Any = small[0]
    layer.constrain()
    x = torch.randn(3, 16)
    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), small(x), atol=1e-6)
    save_model(small, tmp_path / "c.safetensors")
    assert torch.allclose(load_model(dense, tmp_path / "c.safetensors")(x), small(x), atol=1e-6)


def test_a_core_without_full_rank_is_not_constrained():
    layer = model(dtn.Tree(rank=2))[0]
    layer.grow(4)
    with pytest.raises(dtn.SpecError, match="has not full rank"):
        layer.constrain()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_constraints_and_growth(dtype):
    layer = model(dtn.MERA(rank=2), dtype=dtype)[0]
    before = layer.weight.detach().float()
    layer.constrain()
    assert layer.weight.dtype == dtype
    assert torch.allclose(layer.weight.float(), before, atol=0.1)
    made = dtn.isometrize(layer.network, layer.network.init(like="jax", dtype=str(dtype).partition(".")[2]))
    assert str(made["L1_w0"].dtype) == str(dtype).partition(".")[2]
    free = model(dtn.BrickWall(layers=2), dtype=dtype)[0]
    old = free.weight.detach().double()
    reported = free.grow(3)
    new = free.network.materialize({name: core.detach().double() for name, core in free.cores.items()})
    assert reported > 1e-6
    assert float((new - old).norm() / old.norm()) < 3 * reported + 0.02
