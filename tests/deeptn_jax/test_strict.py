"""Test that networks are drawn, fitted, trained and used under JAX's strict settings."""

from __future__ import annotations

import contextlib
import logging

import deeptn_jax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from flax import nnx

import deeptn as dtn
from deeptn.fitting import Fit
from deeptn.recipe import Recipe

from ..market import FAMILIES, NETWORKS
from ..tiers import choose, grid

KEY = jax.random.key(0)


@contextlib.contextmanager
def strict():
    """Allow no promotion of ranks or dtypes, and no NaN."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        yield


@pytest.mark.slow
@choose("net", NETWORKS, ["brickwall-odd", "mera-shared", "shared"])
def test_networks_are_drawn_and_used(net):
    with strict():
        for scheme in ("orthogonal", "gaussian", "identity", "copy"):
            params = deeptn_jax.init(net, KEY, scheme=scheme)
        weight = net.materialize(params)
        assert jnp.allclose(net.gather(params, jnp.array([1, 3], "uint8")), weight[jnp.array([1, 3])], atol=1e-5)
        if weight.ndim > 1:
            x = jnp.ones((2, 3, weight[0].size))
            assert jnp.allclose(net.apply(params, x), x @ weight.reshape(len(weight), -1).T, atol=1e-4)
        slopes = jax.grad(lambda params: (net.materialize(params, recompute=True) ** 2).sum())(params)
        assert all(bool(jnp.isfinite(slope).all()) for slope in slopes.values())


@pytest.mark.few(1)
@choose("name", [name for name in NETWORKS if any(node.isometric for node in NETWORKS[name].spec.nodes)], ["mera"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_isometries(name, dtype):
    net = NETWORKS[name]
    if dtype == "complex64" and not net.is_linear:
        net = dtn.network(dtn.Tree(rank=3, activation=None), (16, 8))
    params = deeptn_jax.init(net, KEY, dtype=dtype)
    with strict():
        made = dtn.isometrize(net, params)
        again = dtn.isometrize(net, made)
    assert all(jnp.allclose(again[name], made[name], atol=3e-2 if dtype == "bfloat16" else 1e-5) for name in made)


@pytest.mark.few(1)
@pytest.mark.parametrize("activation", ["tanh", "sin", None])
def test_complex_networks_are_drawn_and_used(activation):
    net = dtn.network(dtn.BrickWall(layers=2, activation=activation), (12, 10))
    with strict():
        params = deeptn_jax.init(net, KEY, dtype="complex64", std=0.5)
        weight = net.materialize(params)
        assert weight.dtype == jnp.complex64
        assert float(jnp.sqrt((jnp.abs(weight) ** 2).mean())) == pytest.approx(0.5, rel=1e-3)
        assert 0.2 < float(jnp.abs(weight.imag).mean()) / float(jnp.abs(weight.real).mean()) < 5
    layer = tne.TNLinear(10, 12, net, dtype=jnp.complex64, key=KEY)
    assert jnp.iscomplexobj(layer.bias)
    assert jnp.allclose(layer(jnp.ones(10, "complex64")), layer.to_dense()(jnp.ones(10, "complex64")), atol=1e-4)
    with pytest.raises(dtn.SpecError, match="no meaning for complex64"):
        deeptn_jax.init(dtn.network("BrickWall", (12, 10)), KEY, dtype="complex64")
    with pytest.raises(dtn.SpecError, match="expected one of float64"):
        deeptn_jax.init(net, KEY, dtype="int32")


@pytest.mark.few(1)
@choose("family", FAMILIES, ["ttmatrix"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fits(family, dtype):
    net = dtn.network(family, (12, 10))
    weight, rounding = jax.random.normal(KEY, (12, 10)).astype(dtype), 1e-2 if dtype == "bfloat16" else 1e-3
    with strict():
        for method, steps in (("adam", 2), ("lbfgs", 2), ("adam", 0)):
            found = deeptn_jax.fit(net, weight, how=Fit(method=method, steps=steps))
            assert found.params.keys() == net.spec.param_shapes.keys()
            assert len(found.history) == steps + 1
            assert found.error <= found.history[0] + rounding


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_recipe(dtype):
    net = dtn.network(dtn.BrickWall(layers=2), (2, 16))
    x = np.random.default_rng(0).normal(size=(32, 16)).astype("float32")
    recipe = Recipe(epochs=4, batch=16, core_lr=0.02, clip=1.0, decay=0.01)
    with strict():
        found = deeptn_jax.train(
            lambda params, x: x.astype(dtype) @ params["fc"].T, {"fc": net.init(like="jax", dtype=dtype)},
            {"fc": net}, x, (x[:, 0] > 0).astype(int), recipe, seed=0,
        )  # fmt: skip
    assert found.loss < 1
    assert {str(core.dtype) for core in found.params["fc"].values()} == {dtype}


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("labels", ["classes", "numbers"])
def test_healing(dtype, labels):
    x = np.random.default_rng(0).normal(size=(32, 16)).astype("float32")
    y = (x[:, 0] > 0).astype("int32") if labels == "classes" else x[:, :2]
    teacher = eqx.nn.MLP(16, 2, 8, 1, key=jax.random.key(0))
    small, _ = tne.compress(teacher, {"layers.0": dtn.LowRank(rank=2)})
    narrow = lambda model: jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, model)
    recipe = Recipe(epochs=2, batch=16, clip=1.0, distill=0.3)
    inputs = jax.numpy.asarray(x, dtype)
    with strict():
        healed, history = tne.heal(
            narrow(small), narrow(teacher), (inputs, y), recipe, features=["layers.0"], validation=(inputs, y)
        )
    assert history.score is not None
    assert {str(a.dtype) for a in jax.tree.leaves(eqx.filter(healed, eqx.is_inexact_array))} == {dtype}


CONTEXTS = {
    "strict": strict,
    "checking_leaks": jax.checking_leaks,
    "disable_jit": jax.disable_jit,
    "x64": lambda: jax.enable_x64(True),
}


@pytest.mark.few(1)
@grid(context=CONTEXTS, fit={"random": None, "auto": "auto", "adam": Fit(method="adam", steps=1)})
def test_models_are_compressed(context, fit, tmp_path):
    x, rules = jnp.ones((3, 10)), {"layers.0": dtn.TTMatrix(rank=2), "layers.2": dtn.LowRank(rank=2)}
    with context():
        model = nnx.Sequential(*(nnx.Linear(10, 10, rngs=nnx.Rngs(0)) for _ in range(3)))
        small, _ = tnx.compress(model, rules, fit=fit, key=0)
        tnx.save_model(small, tmp_path / "nnx")
        assert jnp.allclose(tnx.load_model(model, tmp_path / "nnx")(x), small(x), atol=1e-5)
        mlp = eqx.nn.MLP(10, 10, 10, 2, key=KEY, dtype=jnp.float32)
        less, _ = tne.compress(mlp, rules, fit=fit, key=0)
        tne.save_model(less, tmp_path / "eqx")
        assert jnp.allclose(jax.vmap(tne.load_model(mlp, tmp_path / "eqx"))(x), jax.vmap(less)(x), atol=1e-5)
        assert jnp.allclose(jax.vmap(tne.fold(less))(x), jax.vmap(less)(x), atol=1e-5)


@pytest.mark.slow
def test_equal_layers_share_their_programs():
    """Neither random cores nor a gradient make JAX compile or trace anything for every layer."""
    counts = []
    for depth in (2, 6):
        jax.clear_caches()
        model = {str(k): eqx.nn.Linear(16, 16, key=KEY) for k in range(depth)}
        with jax.log_compiles(True), _counted() as messages:
            small, _ = tne.compress(model, {"*": dtn.BrickWall(layers=2)}, fit=None, key=0)
        counts.append(sum("Compiling" in message for message in messages))
    assert counts[0] == counts[1]
    decodes = jax.make_jaxpr(lambda layers: [layer.weight for layer in layers.values()])(small)
    bodies = {id(eqn.params["jaxpr"].jaxpr) for eqn in decodes.eqns if eqn.params.get("name") == "_run"}
    assert len(bodies) == 1


@contextlib.contextmanager
def _counted():
    """Collect the log messages of JAX."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
