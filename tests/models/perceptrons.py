"""Small networks and data for the tests of training and healing, the same ones in every framework."""

from __future__ import annotations

from typing import Any

import deeptn_torch
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from flax import nnx
from torch import nn

import deeptn as dtn
from deeptn.models import History

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 16)).astype("float32")
NUMBERS = np.stack([X[:, 0] * X[:, 1], X[:, 2]], 1)
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0).astype(int)
WALL = dtn.BrickWall(layers=2)


def mlp(outputs: int = 2, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, outputs))


def small(outputs: int = 2, seed: int = 0) -> Any:
    return deeptn_torch.compress(mlp(outputs, seed), {"0": WALL}, fit=None, seed=0)[0]


def equinox_of(model: Any) -> Any:
    """Return the same weights in Equinox, dense or generated."""
    like = eqx.nn.MLP(16, model[2].out_features, 8, 1, key=jax.random.key(0))
    first = model[0]
    state = {f"layers.{k}": model[2 * k] for k in (0, 1)}
    if hasattr(first, "network"):
        like, _ = tne.compress(like, {"layers.0": first.network}, fit=None)
        cores = {name: jnp.asarray(core.detach().numpy()) for name, core in first.cores.items()}
        like = eqx.tree_at(lambda m: m.layers[0].cores, like, cores)
        like = eqx.tree_at(lambda m: m.layers[0].dense.bias, like, jnp.asarray(first.bias.detach().numpy()))
    else:
        like = eqx.tree_at(lambda m: m.layers[0].weight, like, jnp.asarray(first.weight.detach().numpy()))
        like = eqx.tree_at(lambda m: m.layers[0].bias, like, jnp.asarray(first.bias.detach().numpy()))
    last = state["layers.1"]
    return eqx.tree_at(
        lambda m: (m.layers[1].weight, m.layers[1].bias),
        like,
        (jnp.asarray(last.weight.detach().numpy()), jnp.asarray(last.bias.detach().numpy())),
    )


def nnx_of(model: Any) -> Any:
    """Return the same weights in NNX, dense or generated."""
    like: Any = nnx.Sequential(
        nnx.Linear(16, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, model[2].out_features, rngs=nnx.Rngs(0))
    )
    first = model[0]
    if hasattr(first, "network"):
        like, _ = tnx.compress(like, {"layers.0": first.network}, fit=None)
        for name, core in first.cores.items():
            like.layers[0].cores[name][...] = jnp.asarray(core.detach().numpy())
    else:
        like.layers[0].kernel[...] = jnp.asarray(first.weight.detach().numpy().T)
    like.layers[0].bias[...] = jnp.asarray(first.bias.detach().numpy())
    like.layers[2].kernel[...] = jnp.asarray(model[2].weight.detach().numpy().T)
    like.layers[2].bias[...] = jnp.asarray(model[2].bias.detach().numpy())
    return like


def outputs_of(model: Any) -> np.ndarray:
    """Return what a model of Equinox or NNX makes of the inputs."""
    return np.asarray(model(X) if isinstance(model, nnx.Module) else jax.vmap(model)(X))


def losses(history: History) -> list[float]:
    return [epoch.loss for epoch in history.epochs]


def noisy() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(deeptn_torch.TNLinear(16, 8, WALL), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))


class NoisyEquinox(eqx.Module):
    first: Any
    drop: Any
    last: Any

    def __init__(self):
        keys = jax.random.split(jax.random.key(0))
        self.first = tne.TNLinear(16, 8, WALL, key=keys[0])
        self.drop = eqx.nn.Dropout(0.3)
        self.last = eqx.nn.Linear(8, 3, key=keys[1])

    def __call__(self, x: Any, *, key=None) -> Any:
        return self.last(self.drop(self.first(x), key=key))


class NoisyNNX(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = tnx.TNLinear(16, 8, WALL, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(self.drop(self.norm(self.first(x))))
