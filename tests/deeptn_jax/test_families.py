"""Check that every family trains in JAX and can be saved."""

from __future__ import annotations

import functools
from typing import Any

import deeptn_jax
import jax
import jax.numpy as jnp
import pytest
from sklearn.datasets import load_digits

import deeptn as dtn

from ..market import FAMILIES
from ..tiers import choose

DIGITS: Any = load_digits()

#: Families in every run: one that is contracted with the input, one with an activation and a sum.
FEW = ("ttmatrix", "residual")


@pytest.mark.few(1)
@choose("family", FAMILIES, FEW)
def test_jax_trains_and_is_saved(family, tmp_path):
    net = dtn.network(family, (10, 64))
    params = deeptn_jax.init(net, jax.random.key(0))
    x, labels = jnp.asarray(DIGITS.data[:512] / 16, "float32"), jnp.asarray(DIGITS.target[:512])

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
