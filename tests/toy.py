"""A small problem, and models for it in both frameworks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from deeptn_demo.data import Images
from deeptn_torch import TNLinear
from torch import nn

import deeptn as dtn
from deeptn.constraints import isometric_nodes

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 16))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0).astype(int)


def data(dtype=torch.float64) -> Images:
    x, y = torch.tensor(X, dtype=dtype), torch.tensor(Y)
    return Images("toy", x, y, x, y)


def model(topology=None, seed=0, dtype=torch.float64) -> Any:
    torch.manual_seed(seed)
    layer = TNLinear(16, 8, dtn.BrickWall(layers=2) if topology is None else topology, dtype=dtype)
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 3, dtype=dtype))


def forward(weights, x):
    hidden = jax.nn.relu(x @ weights["first"].T + weights["bias"])
    return hidden @ weights["head"]["weight"].T + weights["head"]["bias"]


def to_jax(net):
    layer = net[0]
    return {
        "first": {name: jnp.asarray(core.detach().numpy()) for name, core in layer.cores.items()},
        "bias": jnp.asarray(layer.bias.detach().numpy()),
        "head": {name: jnp.asarray(p.detach().numpy()) for name, p in net[2].named_parameters()},
    }


def deviation(layer) -> float:
    """Return the largest distance of a marked node, after scaling, from an isometry."""
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
