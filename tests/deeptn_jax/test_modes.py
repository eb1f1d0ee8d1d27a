"""Test which way layers go: through the decoded weight, or through the network itself."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from deeptn_jax import equinox as tne
from deeptn_jax import layers
from deeptn_jax import nnx as tnx
from flax import nnx

import deeptn as dtn

KEY = jax.random.key(0)
TRAIN = dtn.TTMatrix(rank=2)


def layer_of(name: str, family: dtn.Topology, mode: Any) -> tuple[Any, jax.Array, int]:
    """Return a layer, an input, and the number of rows for which it chooses a way."""
    if name == "equinox linear":
        return tne.TNLinear(20, 12, family, key=KEY, mode=mode, batch_hint=8), jnp.ones(20), 8
    if name == "equinox embedding":
        return tne.TNEmbedding(30, 8, family, key=KEY, mode=mode, batch_hint=16), jnp.array(3), 16
    if name == "nnx linear":
        return tnx.TNLinear(20, 12, family, rngs=nnx.Rngs(0), mode=mode), jnp.ones((5, 20)), 5
    return tnx.TNEmbed(30, 8, family, rngs=nnx.Rngs(0), mode=mode), jnp.array([3, 4, 5]), 3


LAYERS = ("equinox linear", "equinox embedding", "nnx linear", "nnx embedding")


def decodes(layer: Any, x: jax.Array, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether a call decodes the weight."""
    calls = []
    decode = type(layer).decode
    monkeypatch.setattr(type(layer), "decode", lambda self: calls.append(1) or decode(self))
    layer(x)
    monkeypatch.setattr(type(layer), "decode", decode)
    return bool(calls)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", LAYERS)
def test_the_mode_decides(name, monkeypatch):
    for mode, expected in (("materialize", True), ("apply", False)):
        layer, x, _ = layer_of(name, TRAIN, mode)
        assert decodes(layer, x, monkeypatch) == expected
    layer, x, _ = layer_of(name, dtn.BrickWall(layers=2), "apply")
    assert decodes(layer, x, monkeypatch)  # a network with activations has no other way


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("faster", [True, False])
def test_the_prediction_decides_if_the_mode_is_auto(name, faster, monkeypatch):
    asked = []
    monkeypatch.setattr(layers, "is_faster", lambda *args: asked.append(args) or faster)
    layer, x, rows = layer_of(name, TRAIN, "auto")
    assert decodes(layer, x, monkeypatch) == (not faster)
    assert asked == [(layer.network, "gather" if "embedding" in name else "apply", rows, "jax")]


def test_the_dense_layer_gets_what_the_network_cannot_do(monkeypatch):
    empty, _, _ = layer_of("nnx linear", TRAIN, "apply")
    assert decodes(empty, jnp.ones((0, 20)), monkeypatch)
    table, _, _ = layer_of("nnx embedding", TRAIN, "apply")
    assert decodes(table, jnp.zeros(0, "int32"), monkeypatch)
    options: dict[str, Any]
    for options in ({"precision": "highest"}, {"preferred_element_type": jnp.float32}):
        own = tnx.TNLinear(20, 12, TRAIN, rngs=nnx.Rngs(0), mode="apply", **options)
        assert decodes(own, jnp.ones((5, 20)), monkeypatch)
    vector, _, _ = layer_of("equinox linear", TRAIN, "apply")
    with pytest.raises(TypeError):
        decodes(vector, jnp.ones(21), monkeypatch)


@pytest.mark.few(4)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("mode", ["materialize", "apply"])
def test_cores_of_two_dtypes_are_refused(name, mode):
    layer, x, _ = layer_of(name, dtn.LowRank(rank=2), mode)
    core = list(layer.network.spec.param_shapes)[1]
    if name.startswith("nnx"):
        layer.cores[core].set_value(layer.cores[core][...].astype(jnp.bfloat16))
    else:
        layer = eqx.tree_at(lambda one: one.cores[core], layer, layer.cores[core].astype(jnp.bfloat16))
    with pytest.raises(dtn.SpecError, match=f"'{core}' is bfloat16"):
        layer(x)
