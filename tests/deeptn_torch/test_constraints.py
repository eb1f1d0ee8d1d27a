"""Check that isometries stay isometries while a layer is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deeptn_torch import compress, load_model, save_model, train
from torch import nn
from torch.nn.utils import parametrize

import deeptn as dtn
from deeptn.constraints import isometric_nodes
from deeptn.recipe import Recipe

from ..tiers import choose
from ..toy import data, deviation, model


@choose(
    "family",
    {"tree": dtn.Tree(rank=4), "mera": dtn.MERA(rank=3, activation=None), "augmented": dtn.AugmentedTree(rank=3)},
    ["tree"],
)
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
    assert deviation(free[0]) > 1e-2  # without the constraint they drift away
    with pytest.raises(dtn.SpecError, match="remove the constraint"):
        layer.grow(8)
    weight = layer.weight.detach().clone()
    for node in isometric_nodes(layer.network):
        assert node.param is not None
        parametrize.remove_parametrizations(layer.cores, node.param)
    assert torch.allclose(layer.weight, weight)
    layer.grow(8)


@pytest.mark.slow
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
    with pytest.raises(dtn.SpecError, match="does not have full rank"):
        layer.constrain()


@pytest.mark.few(1)
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
