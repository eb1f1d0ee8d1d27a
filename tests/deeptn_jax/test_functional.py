from __future__ import annotations

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deeptn_jax import apply, init, materialize
from jax.ad_checkpoint import print_saved_residuals
from jax.test_util import check_grads

import deeptn as dtn
from deeptn.arrays import CPU, library

from ..conftest import close
from ..market import NETWORKS
from ..tiers import choose

NAMES = ["brickwall-relu", "brickwall-odd", "brickwall-linear", "tree-relu", "ttmatrix", "cp", "shared"]
some = choose("net", {name: NETWORKS[name] for name in NAMES}, ["brickwall-odd", "cp", "shared"])
KEY = jax.random.key(0)


@pytest.mark.few(1)
@some
def test_init_under_jit_and_vmap(net):
    plain = init(net, KEY)
    assert {name: p.shape for name, p in plain.items()} == net.spec.param_shapes
    assert {p.dtype for p in plain.values()} == {jnp.dtype("float32")}
    jitted = jax.jit(functools.partial(init, net))(KEY)
    assert all(close(jitted[name], plain[name], 1e-5) for name in plain)
    many = jax.vmap(functools.partial(init, net))(jax.random.split(KEY, 3))
    weights = jax.vmap(functools.partial(materialize, net))(many)
    rms = np.sqrt((np.asarray(weights) ** 2).mean(axis=tuple(range(1, weights.ndim))))
    assert np.allclose(rms, (2 / np.prod(net.shape[1:])) ** 0.5, rtol=1e-3)
    assert not np.allclose(weights[0], weights[1])


@pytest.mark.slow
def test_init_of_many_cores_is_not_compiled_and_draws_the_same(monkeypatch):
    net = dtn.network("MERA", (8, 16))
    compiled = init(net, KEY)
    monkeypatch.setattr(library("jax"), "tuning", dataclasses.replace(CPU, compiled=0))
    for name, array in init(net, KEY).items():
        assert close(array, compiled[name], 1e-5), name


@pytest.mark.few(1)
@some
def test_materialize_and_apply_under_jit_vmap_and_grad(net):
    params = init(net, KEY)
    weight = materialize(net, params)
    assert close(jax.jit(materialize, static_argnums=0)(net, params), weight, 1e-5)
    x = jax.random.normal(KEY, (4, int(np.prod(net.shape[1:]))))
    dense = x @ weight.reshape(net.shape[0], -1).T
    assert close(apply(net, params, x), dense, 1e-5)
    assert close(jax.jit(apply, static_argnums=0)(net, params, x), dense, 1e-5)
    assert close(jax.vmap(lambda row: apply(net, params, row))(x), dense, 1e-5)
    by_apply = jax.grad(lambda p: jnp.sin(apply(net, p, x)).sum())(params)
    by_weight = jax.grad(lambda p: jnp.sin(x @ materialize(net, p).reshape(net.shape[0], -1).T).sum())(params)
    assert all(close(by_apply[name], by_weight[name], 1e-4) for name in params)


@choose("name", ["brickwall-odd", "ttmatrix", "tree-wide"], ["ttmatrix"])
def test_check_grads(name, x64):
    net = NETWORKS[name]
    params = net.init(seed=0, like="jax", dtype="float64")
    check_grads(functools.partial(materialize, net), (params,), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_dtypes(x64):
    net = NETWORKS["train"]
    assert {p.dtype for p in init(net, KEY, dtype="float64").values()} == {jnp.dtype("float64")}
    assert {p.dtype for p in init(net, KEY).values()} == {jnp.dtype("float32")}
    assert materialize(net, init(net, KEY, dtype=jnp.bfloat16)).dtype == jnp.bfloat16
    for scheme in ("gaussian", "identity"):
        assert {p.dtype for p in init(net, KEY, scheme=scheme).values()} == {jnp.dtype("float32")}


def test_double_precision_has_to_be_switched_on():
    with pytest.raises(dtn.SpecError, match="jax_enable_x64"):
        init(NETWORKS["train"], KEY, dtype="float64")


def test_one_compilation_serves_new_parameters():
    net = NETWORKS["brickwall-relu"]
    traces = []

    @jax.jit
    def decode(params):
        traces.append(1)
        return materialize(net, params)

    for seed in range(3):
        decode(init(net, jax.random.key(seed)))
    assert len(traces) == 1


def test_it_trains():
    net = dtn.network(dtn.BrickWall(layers=3), (8, 16))
    params = init(net, KEY)
    x = jax.random.normal(jax.random.key(1), (64, 16))
    y = x @ jax.random.normal(jax.random.key(2), (16, 8)) * 0.3

    @jax.jit
    def step(params):
        loss, grads = jax.value_and_grad(lambda p: ((apply(net, p, x) - y) ** 2).mean())(params)
        return loss, {name: p - 0.05 * grads[name] for name, p in params.items()}

    losses = []
    for _ in range(100):
        loss, params = step(params)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.few(1)
@choose("name", ["brickwall-relu", "brickwall-odd", "shared"], ["brickwall-odd", "shared"])
def test_recomputation_changes_no_gradient(name, x64):
    net = NETWORKS[name]
    params = net.init(seed=2, like="jax", dtype="float64")
    probe = np.random.default_rng(1).standard_normal(net.shape)
    found = []
    for recompute in (True, False):
        decode = functools.partial(net.materialize, recompute=recompute)
        found.append(jax.value_and_grad(lambda p, decode=decode: (decode(p) * probe).sum())(params))
    assert close(found[0][0], found[1][0], 1e-10)
    assert all(close(found[0][1][name], found[1][1][name], 1e-10) for name in params)


def test_recomputation_keeps_the_states_between_the_stages_only(capsys):
    net = dtn.network(dtn.BrickWall(layers=4), (64, 64))
    params = net.init(like="jax")
    kept = []
    for recompute in (True, False):
        print_saved_residuals(lambda p, r=recompute: net.materialize(p, recompute=r), params)
        shapes = re.findall(r"^f32\[([\d,]*)\]", capsys.readouterr().out, re.MULTILINE)
        kept.append(sum(math.prod(int(n) for n in shape.split(",") if n) for shape in shapes))
    assert kept[0] < net.num_params + 4 * net.size
    assert kept[1] > 2 * kept[0]
