"""Test layers for Equinox and NNX: they behave like the layers they replace, compress models, and share files."""

from __future__ import annotations

from typing import Any

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

from ..tiers import grid

KEY = jax.random.key(0)
LINEAR = {
    "wall": dtn.BrickWall(layers=2, activation=None),
    "relu": dtn.BrickWall(layers=2),
    "train": dtn.TTMatrix(rank=2),
    "tucker": dtn.Tucker(rank=3),
}
families_and_modes = grid(family=LINEAR, mode=["auto", "materialize", "apply"])


def close(a, b, tolerance=1e-5) -> bool:
    return bool(np.allclose(np.asarray(a, "float64"), np.asarray(b, "float64"), atol=tolerance, rtol=tolerance))


@pytest.mark.few(1)
@families_and_modes
def test_equinox_linear(family, mode):
    layer = tne.TNLinear(20, 12, family, key=KEY, mode=mode, batch_hint=8)
    dense = layer.to_dense()
    assert type(dense) is eqx.nn.Linear
    x = jax.random.normal(KEY, (7, 20))
    assert close(jax.vmap(layer)(x), jax.vmap(dense)(x))
    assert close(eqx.filter_jit(jax.vmap(layer))(x), jax.vmap(dense)(x))
    assert close(layer(x[0]), dense(x[0]))
    of_cores = eqx.filter_grad(lambda layer: jnp.sin(jax.vmap(layer)(x)).sum())(layer)
    by_weight = jax.grad(lambda cores: jnp.sin(x @ layer.network.materialize(cores).T + layer.bias).sum())(layer.cores)
    assert all(close(of_cores.cores[name], by_weight[name], 1e-4) for name in by_weight)
    assert of_cores.bias is not None
    with pytest.raises(Exception, match=r"shape|dot"):
        layer(x)


@pytest.mark.slow
def test_equinox_conventions():
    bare = tne.TNLinear(20, 12, use_bias=False, dtype=jnp.bfloat16, key=KEY)
    assert bare.bias is None
    assert bare(jnp.ones(20, jnp.bfloat16)).dtype == jnp.bfloat16
    assert tne.TNLinear("scalar", 4, "LowRank", key=KEY)(jnp.ones(())).shape == (4,)
    both = [tne.TNLinear(20, 12, key=jax.random.key(k)).weight for k in (0, 1)]
    assert not close(both[0], both[1])
    std = float(jnp.std(tne.TNLinear(400, 120, key=KEY).weight))
    assert std == pytest.approx((2 / 400) ** 0.5, rel=0.05)
    many = eqx.filter_vmap(lambda key: tne.TNLinear(20, 12, key=key))(jax.random.split(KEY, 3))
    assert many.cores["L1_g0"].shape[0] == 3
    jitted = eqx.filter_jit(lambda key: tne.TNLinear(20, 12, key=key))(KEY)
    assert close(jitted.weight, tne.TNLinear(20, 12, key=KEY).weight)
    with pytest.raises(dtn.SpecError, match="mode = 'fast'"):
        tne.TNLinear(20, 12, key=KEY, mode="fast")  # type: ignore[arg-type]
    with pytest.raises(dtn.SpecError, match="network makes weights of shape"):
        tne.TNLinear(20, 12, dtn.network("LowRank", (4, 4)), key=KEY)


SIZES = {"1d": (9,), "2d": (9, 8), "3d": (5, 6, 4)}
#: Cover every number of axes once, with networks that are contracted with the input and one that is not.
families_and_sizes = grid(
    lambda family, sizes: (family, sizes) in {("train", "1d"), ("relu", "2d"), ("tucker", "3d")},
    family=LINEAR,
    sizes=SIZES,
)


@pytest.mark.few(1)
@families_and_sizes
def test_equinox_convolutions(family, sizes):
    make: Any = {1: tne.TNConv1d, 2: tne.TNConv2d, 3: tne.TNConv3d}[len(sizes)]
    layer = make(4, 6, 3, family, stride=2, padding="SAME", groups=2, padding_mode="CIRCULAR", key=KEY)
    x = jax.random.normal(KEY, (5, 4, *sizes))
    assert layer.network.shape == (6, 2, *[3] * len(sizes))
    assert close(jax.vmap(layer)(x), jax.vmap(layer.to_dense())(x))
    again = make.from_dense(layer.to_dense(), family, fit=dtn.fitting.Fit(steps=2))
    assert again(x[0]).shape == layer(x[0]).shape
    assert again.dense.padding_mode == "CIRCULAR"


@pytest.mark.slow
@families_and_modes
def test_embeddings(family, mode):
    rows = jnp.array([[3, 29, 0], [5, -1, 3]])
    layer = tne.TNEmbedding(30, 8, family, key=KEY, mode=mode)
    table = layer.to_dense()
    twice = jax.vmap(jax.vmap(layer))
    assert close(twice(rows), jax.vmap(jax.vmap(table))(rows))
    other: Any = tnx.TNEmbed(30, 8, family, rngs=nnx.Rngs(0), mode=mode)
    assert close(other(rows), other.to_dense()(rows))
    assert np.isnan(np.asarray(other(jnp.array([30])))).all()
    assert close(other.attend(jnp.ones((2, 8))), other.to_dense().attend(jnp.ones((2, 8))))
    gradient = nnx.grad(lambda layer: jnp.sin(layer(rows)).sum())(other)
    by_table = jax.grad(lambda cores: jnp.sin(other.network.materialize(cores)[rows]).sum())(other.arrays)
    assert all(close(gradient["cores"][name][...], by_table[name], 1e-4) for name in by_table)


@pytest.mark.few(1)
@families_and_modes
def test_nnx_linear(family, mode):
    layer = tnx.TNLinear(20, 12, family, rngs=nnx.Rngs(0), mode=mode)
    dense = layer.to_dense()
    assert type(dense) is nnx.Linear
    x = jax.random.normal(KEY, (2, 7, 20))
    assert close(layer(x), dense(x))
    assert close(nnx.jit(lambda layer, x: layer(x))(layer, x), dense(x))
    gradient = nnx.grad(lambda layer: jnp.sin(layer(x)).sum())(layer)
    by_weight = jax.grad(lambda cores: jnp.sin(x @ layer.network.materialize(cores).T + layer.bias[...]).sum())(
        layer.arrays
    )
    assert all(close(gradient["cores"][name][...], by_weight[name], 1e-4) for name in by_weight)
    half = tnx.TNLinear(20, 12, family, rngs=nnx.Rngs(0), mode=mode, dtype=jnp.bfloat16)
    assert half(x).dtype == jnp.bfloat16
    assert close(half(x), dense(x), 0.1)


@pytest.mark.slow
def test_nnx_conventions():
    bias = tnx.TNLinear(20, 12, rngs=nnx.Rngs(0), bias_init=nnx.initializers.ones).bias
    assert bias is not None
    assert (bias[...] == 1).all()
    classes: list[Any] = [tnx.TNLinear, nnx.Linear]
    drawn, dense = (made(20, 12, rngs=nnx.Rngs(0), bias_init=nnx.initializers.normal()).bias for made in classes)
    assert close(drawn[...], dense[...])
    with pytest.raises(TypeError, match="std"):
        tnx.TNLinear(20, 12, rngs=nnx.Rngs(0), std=1.0)
    assert tnx.TNLinear(20, 12, rngs=nnx.Rngs(0), use_bias=False).bias is None
    layer = tnx.TNLinear(20, 12, rngs=nnx.Rngs(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param))) == layer.network.num_params + 12

    @nnx.jit
    def make():
        return tnx.TNLinear(20, 12, rngs=nnx.Rngs(0))

    assert close(make().kernel, layer.kernel)
    assert layer.kernel.shape == (20, 12)


@pytest.mark.few(1)
@families_and_sizes
def test_nnx_convolutions(family, sizes):
    layer: Any = tnx.TNConv(4, 6, [3] * len(sizes), family, 2, feature_group_count=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(KEY, (5, *sizes, 4))
    assert layer.network.shape == (6, 2, *[3] * len(sizes))
    assert close(layer(x), layer.to_dense()(x))
    again = tnx.TNConv.from_dense(layer.to_dense(), family, fit=dtn.fitting.Fit(steps=2))
    assert again(x).shape == layer(x).shape


class Mixed(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(20, 16, rngs=rngs)
        self.conv = nnx.Conv(16, 8, (3,), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Sequential(nnx.Linear(8, 12, rngs=rngs), nnx.relu, nnx.Linear(12, 3, rngs=rngs))
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, rows):
        return self.drop(self.head(nnx.relu(self.norm(self.conv(self.embed(rows)))).mean(-2)))


def test_nnx_models_are_compressed_saved_and_read(tmp_path):
    model = Mixed(nnx.Rngs(0))
    model.eval()
    rows = jnp.arange(10).reshape(2, 5)
    full = dtn.LowRank(rank=8)
    small, report = tnx.compress(
        model, {"head.*": full, "embed": dtn.TTMatrix(rank=2), "conv": full}, ignore=["head.layers.2"]
    )
    assert [row.name for row in report.layers] == ["embed", "conv", "head.layers.0"] or len(report.layers) == 3
    assert isinstance(small.head.layers[0], tnx.TNLinear)
    assert isinstance(model.head.layers[0], nnx.Linear)
    assert report.model_after == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(small, nnx.Param)))
    assert close(tnx.fold(small)(rows), small(rows))
    tnx.save_model(small, tmp_path / "m")
    other = Mixed(nnx.Rngs(7))
    other.eval()
    read = tnx.load_model(other, tmp_path / "m")
    assert close(read(rows), small(rows))
    with pytest.raises(dtn.PlanError, match="matches none"):
        tnx.compress(model, {"tail": full})
    with pytest.raises(dtn.FormatError, match="the model has"):
        tnx.load_model(nnx.Sequential(nnx.relu), tmp_path / "m")


def test_equinox_models_are_compressed_saved_and_read(tmp_path):
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 4, 3, padding=1, key=KEY),
            eqx.nn.Lambda(lambda x: jax.nn.relu(x).reshape(-1)),
            eqx.nn.MLP(4 * 36, 3, 12, 1, key=KEY),
        ]
    )
    x = jax.random.normal(KEY, (5, 1, 6, 6))
    targets = {"layers.0": dtn.LowRank(rank=4), "layers.2.layers.*": dtn.LowRank(rank=12)}
    small, report = tne.compress(model, targets, ignore=["layers.2.layers.1"])
    assert [row.name for row in report.layers] == ["layers.0", "layers.2.layers.0"]
    assert close(jax.vmap(small)(x), jax.vmap(model)(x), 1e-4)  # the ranks are full
    assert close(jax.vmap(tne.fold(small))(x), jax.vmap(small)(x))
    tne.save_model(small, tmp_path / "m")
    fresh = jax.tree.map(lambda leaf: leaf * 0 if eqx.is_array(leaf) else leaf, model)
    assert close(jax.vmap(tne.load_model(fresh, tmp_path / "m"))(x), jax.vmap(small)(x))
    with pytest.raises(dtn.FormatError, match="the model has a 'linear' layer"):
        tne.load_model(model.layers[2], tmp_path / "m")
    with pytest.raises(dtn.PlanError, match="single layer"):
        tne.compress(eqx.nn.Linear(3, 4, key=KEY), {"*": "LowRank"})


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "how", [dtn.fitting.Fit(method="adam", steps=60), dtn.fitting.Fit(method="lbfgs", steps=30)], ids=["adam", "lbfgs"]
)
def test_fit(how):
    net = dtn.network(dtn.BrickWall(layers=1), (8, 8))
    weight = net.materialize(net.init(3, like="jax"))
    found = deeptn_jax.fit(net, weight, how=how)
    assert len(found.history) == how.steps + 1
    assert found.error <= found.history[0]
    assert 0.9 * min(found.history) < found.error < min(found.history) + 1e-5  # scaled as a whole at the end
    half = deeptn_jax.fit(net, weight.astype(jnp.bfloat16), how=dtn.fitting.Fit(steps=3))
    assert {str(array.dtype) for array in half.params.values()} == {"bfloat16"}
    with pytest.raises(dtn.SpecError, match="must be a jax array of shape"):
        deeptn_jax.fit(net, np.ones((8, 8)))  # type: ignore[arg-type]


@pytest.mark.slow
def test_adam_takes_the_steps_of_torch(x64):
    import torch
    from deeptn_torch import fit as torch_fit

    net = dtn.network(dtn.BrickWall(layers=2), (8, 12))
    weight = np.random.default_rng(0).normal(size=(8, 12))
    how = dtn.fitting.Fit(method="adam", steps=40)
    mine = deeptn_jax.fit(net, jnp.asarray(weight), how=how)
    theirs = torch_fit(net, torch.as_tensor(weight), how=how)
    assert np.allclose(mine.history, theirs.history, rtol=1e-6)
