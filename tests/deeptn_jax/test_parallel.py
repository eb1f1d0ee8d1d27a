"""Test stacked networks under `scan`, forward mode, and decoded weights sharded over several devices."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import deeptn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deeptn as dtn

from ..tiers import choose

KEY = jax.random.key(0)


@pytest.mark.slow
@pytest.mark.parametrize("family", [dtn.BrickWall(layers=2), dtn.TTMatrix(rank=2)], ids=["relu", "train"])
def test_scan_over_stacked_networks(family):
    net = dtn.network(family, (16, 16))
    stacked = jax.vmap(lambda key: deeptn_jax.init(net, key))(jax.random.split(KEY, 4))
    x = jax.random.normal(KEY, (3, 16))

    @jax.jit
    def deep(stacked, x):
        return jax.lax.scan(lambda x, params: (jnp.tanh(net.apply(params, x)), None), x, stacked)[0]

    wanted = x
    for k in range(4):
        wanted = jnp.tanh(wanted @ net.materialize({name: core[k] for name, core in stacked.items()}).T)
    assert np.allclose(deep(stacked, x), wanted, atol=1e-5)
    gradient = jax.grad(lambda stacked: deep(stacked, x).sum())(stacked)
    assert all(g.shape == stacked[name].shape and bool(jnp.any(g != 0)) for name, g in gradient.items())
    _, slope = jax.jvp(lambda stacked: deep(stacked, x).sum(), (stacked,), (stacked,))
    along = sum(float(jnp.vdot(gradient[name], stacked[name])) for name in stacked)
    assert float(slope) == pytest.approx(along, rel=1e-3)


SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import deeptn as dtn

assert len(jax.devices()) == 4
mesh = Mesh(np.array(jax.devices()), ("rows",))
family = eval(sys.argv[1])
net = dtn.network(family, (64, 48))
params = net.init(like="jax")
x = jax.random.normal(jax.random.key(0), (5, 48))
plain = net.materialize(params)
by_rows = NamedSharding(mesh, P("rows", None))

@jax.jit
def loss(params):
    weight = jax.lax.with_sharding_constraint(net.materialize(params), by_rows)
    return jnp.sin(x @ weight.T).sum(), weight

(value, weight), gradient = jax.value_and_grad(loss, has_aux=True)(params)
assert weight.sharding.is_equivalent_to(by_rows, 2), weight.sharding
assert {shard.data.shape for shard in weight.addressable_shards} == {(16, 48)}
assert np.allclose(weight, plain, atol=1e-5)
wanted = jax.grad(lambda params: jnp.sin(x @ net.materialize(params).T).sum())(params)
assert all(np.allclose(gradient[name], wanted[name], rtol=1e-3, atol=1e-4) for name in wanted)

# Each device decodes the rows that it holds, or all of W, and multiplies with its own.
def local(params, x):
    start = jax.lax.axis_index("rows") * 16
    rows = start + jnp.arange(16)
    return x @ net.gather(params, rows).T

product = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P(), P()), out_specs=P(None, "rows")))
assert np.allclose(product(params, x), x @ plain.T, atol=1e-4)
# Data parallel: every device has its examples, the cores are everywhere.
many = jax.device_put(jax.random.normal(jax.random.key(1), (8, 48)), NamedSharding(mesh, P("rows", None)))
everywhere = jax.device_put(params, NamedSharding(mesh, P()))
assert np.allclose(jax.jit(net.apply)(everywhere, many), np.asarray(many) @ np.asarray(plain).T, atol=1e-4)
print("sharded")
"""


@pytest.mark.slow
@choose("family", ["dtn.BrickWall(layers=2)", "dtn.TTMatrix(rank=2)"], ["dtn.TTMatrix(rank=2)"])
def test_weights_over_several_devices(family):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    script = textwrap.dedent(SHARDED)
    done = subprocess.run([sys.executable, "-c", script, family], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("sharded")
