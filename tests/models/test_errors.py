"""Check that an error inside a whole model names the layer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import deeptn_torch
import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import torch
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from flax import nnx
from torch import nn

import deeptn as dtn

RULES = {"*": dtn.TTMatrix(rank=2)}


def torch_layers(count: int) -> nn.ModuleDict:
    return nn.ModuleDict({f"block{k}": nn.Linear(16, 12) for k in range(count)})


def bad_torch() -> Any:
    model: Any = torch_layers(4)
    model["block2"].weight.data[3, 4] = torch.nan
    return model


def bad_equinox() -> Any:
    model = {f"block{k}": eqx.nn.Linear(16, 12, key=jax.random.key(k)) for k in range(4)}
    model["block2"] = eqx.tree_at(lambda layer: layer.weight, model["block2"], jnp.full((12, 16), jnp.nan))
    return model


def bad_nnx() -> Any:
    model = nnx.Dict({f"block{k}": nnx.Linear(16, 12, rngs=nnx.Rngs(k)) for k in range(4)})
    model["block2"].kernel[...] = jnp.full((16, 12), jnp.nan)
    return model


COMPRESS: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
    "torch": (bad_torch, deeptn_torch.compress),
    "equinox": (bad_equinox, tne.compress),
    "nnx": (bad_nnx, tnx.compress),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("framework", COMPRESS)
def test_a_weight_that_is_not_finite(framework):
    make, compress = COMPRESS[framework]
    with pytest.raises(dtn.SpecError, match=r"^layer 'block2': weight has entries that are not finite"):
        compress(make(), RULES)


def test_a_layer_that_cannot_be_generated():
    model = nn.ModuleDict({"table": nn.Embedding(40, 8, max_norm=1.0), "fc": nn.Linear(16, 12)})
    with pytest.raises(dtn.PlanError, match=r"^layer 'table' uses max_norm, scale_grad_by_freq or sparse, which"):
        deeptn_torch.compress(model, {"*": dtn.LowRank(rank=1)})


def test_an_error_of_another_package(monkeypatch):
    def fail(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("SVD did not converge")

    monkeypatch.setattr(importlib.import_module("deeptn.models.compress"), "find", fail)
    with pytest.raises(RuntimeError, match="SVD did not converge") as caught:
        deeptn_torch.compress(torch_layers(2), RULES)
    assert caught.value.__notes__ == ["in layer 'block0'"]


def broken(framework: str) -> Any:
    """Return a model whose second layer has a core of another shape."""
    wall = dtn.BrickWall(layers=2)
    if framework == "torch":
        model: Any = nn.ModuleDict({f"block{k}": deeptn_torch.TNLinear(16, 12, wall) for k in range(2)})
        model["block1"].cores["L1_g0"] = nn.Parameter(torch.zeros(3, 3))
    elif framework == "equinox":
        model = {f"block{k}": tne.TNLinear(16, 12, wall, key=jax.random.key(k)) for k in range(2)}
        model["block1"].cores["L1_g0"] = jnp.zeros((3, 3))
    else:
        model = nnx.Dict({f"block{k}": tnx.TNLinear(16, 12, wall, rngs=nnx.Rngs(k)) for k in range(2)})
        model["block1"].cores["L1_g0"] = nnx.Param(jnp.zeros((3, 3)))
    return model


@pytest.mark.few(1)
@pytest.mark.parametrize("framework", COMPRESS)
def test_a_layer_that_cannot_be_folded(framework):
    fold = {"torch": deeptn_torch.fold_, "equinox": tne.fold, "nnx": tnx.fold}[framework]
    with pytest.raises(dtn.SpecError, match=r"^layer 'block1': parameter 'L1_g0'"):
        fold(broken(framework))
