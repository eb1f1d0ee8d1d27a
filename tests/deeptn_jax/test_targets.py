"""Test which layers can be compressed beyond the common ones, and which refuse."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from flax import nnx

import deeptn as dtn

KEY = jax.random.key(0)
FULL = dtn.LowRank(rank=99)
pytestmark = pytest.mark.filterwarnings("ignore:layer .* parameters for a weight")


def close(found: Any, wanted: Any) -> bool:
    return bool(jnp.allclose(found, wanted, atol=1e-4))


class Recurrent(eqx.Module):
    """A cell in a scan, with a head."""

    cell: Any
    head: eqx.nn.Linear

    def __call__(self, inputs: jax.Array) -> jax.Array:
        zeros = jnp.zeros(12)
        start = zeros if isinstance(self.cell, eqx.nn.GRUCell) else (zeros, zeros)
        state, _ = jax.lax.scan(lambda state, x: (self.cell(x, state), None), start, inputs)
        return self.head(jax.tree.leaves(state)[0])


@pytest.mark.few(1)
@pytest.mark.parametrize("cell", [eqx.nn.GRUCell, eqx.nn.LSTMCell])
def test_equinox_cells(cell, tmp_path):
    model = Recurrent(cell(8, 12, key=KEY), eqx.nn.Linear(12, 3, key=KEY))
    x = jax.random.normal(KEY, (5, 8))
    small, report = tne.compress(model, {"cell.*": FULL})
    assert [row.name for row in report.layers] == ["cell.weight_ih", "cell.weight_hh"]
    assert type(small.cell) is cell
    assert close(small(x), model(x))
    assert close(eqx.filter_jit(small)(x), model(x))
    slopes = eqx.filter_grad(lambda model: model(x).sum())(small)
    assert all(bool(jnp.any(core != 0)) for core in slopes.cell.weight_hh.cores.values())
    once = eqx.filter_jit(eqx.filter_grad(lambda model: tne.fold(model)(x).sum()))(small)  # decodes before the scan
    assert all(map(close, jax.tree.leaves(once), jax.tree.leaves(slopes)))
    tne.save_model(small, tmp_path / "m")
    assert close(tne.load_model(model, tmp_path / "m")(x), small(x))
    assert list(dtn.load_model(tmp_path / "m").layers) == ["cell.weight_ih", "cell.weight_hh"]
    plain = tne.fold(small)
    assert isinstance(plain.cell.weight_ih, jax.Array)
    assert close(plain(x), model(x))
    one, _ = tne.compress(model, {"cell.weight_hh": dtn.TTMatrix(rank=2)}, fit=None)
    assert isinstance(one.cell.weight_ih, jax.Array)
    assert one.cell.weight_hh.shape == model.cell.weight_hh.shape
    assert jnp.tanh(one.cell.weight_hh).dtype == one.cell.weight_hh.T.dtype == jnp.float32
    with pytest.raises(AttributeError, match="no attribute 'gates'"):
        _ = one.cell.weight_hh.gates


class Attention(nnx.Module):
    """Attention, and a linear layer over two axes."""

    def __init__(self, rngs: nnx.Rngs):
        self.attention = nnx.MultiHeadAttention(4, 32, 16, rngs=rngs, decode=False)
        self.general = nnx.LinearGeneral((4, 8), (2, 3), axis=(-2, -1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.general(self.attention(x).reshape(*x.shape[:-1], 4, 8))


@pytest.mark.slow
def test_nnx_general_and_attention(tmp_path):
    model, x = Attention(nnx.Rngs(0)), jax.random.normal(KEY, (2, 7, 32))
    small, report = tnx.compress(model, {"*": FULL})
    shapes = {row.name: row.shape for row in report.layers}
    assert shapes["attention.query"] == (16, 32)
    assert shapes["attention.out"] == (32, 16)
    assert shapes["general"] == (6, 32)
    assert close(small(x), model(x))
    assert close(nnx.jit(lambda model, x: model(x))(small, x), model(x))
    assert small.attention.query.kernel.shape == (32, 4, 4)
    tnx.save_model(small, tmp_path / "m")
    bias: Any = dtn.load_model(tmp_path / "m").layers["general"].bias
    assert bias.shape == (6,)
    assert close(tnx.load_model(Attention(nnx.Rngs(1)), tmp_path / "m")(x), small(x))
    plain = tnx.fold(small)
    assert type(plain.attention.out) is nnx.LinearGeneral
    assert close(plain(x), model(x))
    tnx.save_model(nnx.Dict(a=small, b=model.general), tmp_path / "both")
    assert dtn.load_model(tmp_path / "both").tensors["b.weight"].shape == (6, 32)
    with pytest.raises(dtn.SpecError, match="leave it out"):
        tnx.TNLinearGeneral(4, 5, batch_axis={0: 3}, rngs=nnx.Rngs(0))


def test_torch_reads_a_general_layer(tmp_path):
    torch = pytest.importorskip("torch")
    import deeptn_torch as dtt

    model = nnx.Dict(q=nnx.LinearGeneral(8, (2, 3), rngs=nnx.Rngs(0), bias_init=nnx.initializers.normal(1.0)))
    small, _ = tnx.compress(model, {"q": dtn.TTMatrix(rank=2)})
    tnx.save_model(small, tmp_path / "m")
    theirs = dtt.load_model(torch.nn.ModuleDict({"q": torch.nn.Linear(8, 6)}), tmp_path / "m")
    x = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    assert close(theirs["q"](torch.as_tensor(x)).detach().numpy(), small["q"](jnp.asarray(x)).reshape(5, 6))


WRAPPED: dict[str, Any] = {
    "equinox.nn.WeightNorm": lambda: (tne, {"a": eqx.nn.WeightNorm(eqx.nn.Linear(10, 12, key=KEY))}),
    "equinox.nn.SpectralNorm": lambda: (
        tne, {"a": eqx.nn.SpectralNorm(eqx.nn.Linear(10, 12, key=KEY), "weight", key=KEY)},
    ),
    "equinox.nn.WeightNorm of a cell": lambda: (
        tne, {"a": eqx.nn.WeightNorm(eqx.nn.GRUCell(8, 12, key=KEY), "weight_ih")},
    ),
    "nnx.WeightNorm": lambda: (tnx, nnx.Dict(a=nnx.WeightNorm(_linear(), rngs=nnx.Rngs(0)))),
    "nnx.SpectralNorm": lambda: (tnx, nnx.Dict(a=nnx.SpectralNorm(_linear(), rngs=nnx.Rngs(0)))),
    "nnx.WeightNorm, deep": lambda: (
        tnx, nnx.Dict(a=nnx.WeightNorm(nnx.Sequential(_linear(), nnx.relu), rngs=nnx.Rngs(0))),
    ),
}  # fmt: skip


def _linear() -> nnx.Linear:
    return nnx.Linear(10, 12, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", WRAPPED)
def test_normalized_layers_are_refused(name):
    library, model = WRAPPED[name]()
    with pytest.raises(dtn.PlanError, match=r"is normalized by the \w+Norm around it, .* to ignore"):
        library.compress(model, {"*": "LowRank"})
    model["b"] = eqx.nn.Linear(10, 12, key=KEY) if library is tne else _linear()
    report = library.compress(model, {"*": "LowRank"}, ignore=["a.*"])[1]
    assert [row.name for row in report.layers] == ["b"]


def test_a_generated_layer_inside_a_wrapper_says_why_it_fails():
    with pytest.raises(dtn.SpecError, match=r"use layer\.cores or layer\.to_dense"):
        eqx.nn.WeightNorm(tne.TNLinear(10, 12, key=KEY))(jnp.ones(10))
    with pytest.raises(dtn.SpecError, match=r"call layer\.to_dense"):
        setattr(tnx.TNLinear(10, 12, rngs=nnx.Rngs(0)), "kernel", nnx.Param(jnp.ones((10, 12))))  # noqa: B010


class Twice(nnx.Linear):
    """Adds a method only."""

    def twice(self, x: jax.Array) -> jax.Array:
        return 2 * self(x)


class Scaled(nnx.Linear):
    """Has its own computation and another parameter."""

    def __init__(self, *sizes: int, rngs: nnx.Rngs):
        super().__init__(*sizes, rngs=rngs)
        self.gain = nnx.Param(jnp.full((), 3.0))

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        return super().__call__(x) * self.gain[...]


def test_subclasses_of_nnx_linear(tmp_path):
    x = jax.random.normal(KEY, (3, 10))
    small: Any
    model: Any = nnx.Sequential(Twice(10, 12, rngs=nnx.Rngs(0)), Scaled(12, 8, rngs=nnx.Rngs(0)))
    with pytest.raises(dtn.PlanError, match=r"own __call__, which would be lost; write register_layer\(Scaled\)"):
        tnx.compress(model, {"*": FULL})
    small, _ = tnx.compress(model, {"layers.0": FULL})
    assert close(small(x), model(x))
    assert type(tnx.fold(small).layers[0]) is Twice
    assert close(small.layers[0].to_dense().twice(x), model.layers[0].twice(x))
    with pytest.raises(AttributeError, match=r"write layer\.to_dense"):
        small.layers[0].twice(x)
    tnx.register_layer(Scaled)
    small, _ = tnx.compress(model, {"*": FULL})
    assert close(small(x), model(x))
    tnx.save_model(small, tmp_path / "m")
    assert close(tnx.load_model(model, tmp_path / "m")(x), model(x))
    assert close(tnx.fold(small)(x), model(x))


def test_options_set_later_take_effect():
    layer: Any = tnx.TNLinear(10, 12, rngs=nnx.Rngs(0))
    layer.dtype = jnp.bfloat16
    assert layer(jnp.ones(10)).dtype == jnp.bfloat16
    layer.bias = nnx.Param(jnp.ones(12))
    assert layer.to_dense().bias[...].sum() == 12


@pytest.mark.slow
def test_stacks_are_refused():
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def stack(rngs):
        return nnx.Linear(12, 12, rngs=rngs)

    with pytest.raises(dtn.PlanError, match=r"stack of weights of shape \(3, 12, 12\)"):
        tnx.compress(nnx.Dict(a=stack(nnx.Rngs(0))), {"a": "LowRank"})
    many = eqx.filter_vmap(lambda key: eqx.nn.GRUCell(8, 12, key=key))(jax.random.split(KEY, 3))
    with pytest.raises(dtn.PlanError, match=r"stack of weights of shape \(3, 36, 8\)"):
        tne.compress({"a": many}, {"a.weight_ih": "LowRank"})


CONVOLUTION: Any = tne.TNConv1d
SIZES: dict[str, Any] = {
    "equinox linear": lambda n, m: tne.TNLinear(n, m, key=KEY)(jnp.ones(10)),
    "equinox embedding": lambda n, m: tne.TNEmbedding(n, m, key=KEY)(jnp.array(3)),
    "equinox convolution": lambda n, m: CONVOLUTION(n, m, 3, key=KEY)(jnp.ones((10, 5))),
    "nnx linear": lambda n, m: tnx.TNLinear(n, m, rngs=nnx.Rngs(0))(jnp.ones(10)),
    "nnx general": lambda n, m: tnx.TNLinearGeneral(n, (m, 2), rngs=nnx.Rngs(0))(jnp.ones(10)),
    "nnx embedding": lambda n, m: tnx.TNEmbed(n, m, rngs=nnx.Rngs(0))(jnp.array(3)),
    "nnx convolution": lambda n, m: tnx.TNConv(n, m, (3,), rngs=nnx.Rngs(0))(jnp.ones((5, 10))),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", SIZES)
def test_sizes_may_be_integers_of_numpy(name):
    found = jax.jit(lambda: SIZES[name](np.prod((2, 5)), np.int32(12)))()
    assert close(found, SIZES[name](10, 12))


@pytest.mark.slow
def test_a_table_of_one_row_and_a_table_of_integers():
    rows = jnp.array([0, 0, 3])
    for options in ({}, {"dtype": jnp.int32}):
        for size in (1, 3):
            layer = tnx.TNEmbed(size, 8, "LowRank", rngs=nnx.Rngs(0), mode="apply", **options)
            found, wanted = layer(rows), layer.to_dense()(rows)
            assert found.dtype == wanted.dtype
            assert jnp.array_equal(found, wanted, equal_nan=found.dtype != jnp.int32) or close(found[:2], wanted[:2])


def test_only_the_bias_of_a_convolution_is_flat_in_files(tmp_path):
    conv: Any = eqx.nn.Conv1d
    model = {
        "relative_position_bias": jnp.arange(6.0).reshape(2, 3),
        "plain": conv(4, 5, 3, key=KEY),
        "small": CONVOLUTION(4, 5, 3, "LowRank", key=KEY),
    }
    tne.save_model(model, tmp_path / "m")
    file: Any = dtn.load_model(tmp_path / "m")
    assert file.tensors["relative_position_bias"].shape == (2, 3)
    assert file.tensors["plain.bias"].shape == file.layers["small"].bias.shape == (5,)
    dense = {**jax.tree.map(jnp.zeros_like, model), "small": conv(4, 5, 3, key=KEY)}
    found = tne.load_model(dense, tmp_path / "m")
    assert jax.tree.all(jax.tree.map(jnp.array_equal, found, model))


class Shown(eqx.nn.Linear):
    """Has a property that needs the weight."""

    @property
    def size(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self))


class ShownToo(nnx.Linear):
    """The same in NNX."""

    @property
    def size(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self)))


@pytest.mark.parametrize("library", [tne, tnx])
def test_properties_of_the_dense_layer_need_its_weight(library):
    made: Any = Shown if library is tne else ShownToo
    dense = made(10, 12, key=KEY) if library is tne else made(10, 12, rngs=nnx.Rngs(0))
    layer = library.TNLinear.from_dense(dense, FULL)
    with pytest.raises(AttributeError, match=r"'size' is a property .* write layer\.to_dense\(\)\.size$"):
        _ = layer.size
    assert layer.to_dense().size == 132
    assert layer.in_features == 10


class Gated(eqx.nn.GRUCell):
    """Has its own computation."""

    def __call__(self, x: jax.Array, hidden: jax.Array, *, key: Any = None) -> jax.Array:
        return jnp.tanh(2 * self.weight_ih[:12] @ x + hidden)


def test_cells_with_their_own_call_are_refused():
    make: Any = Gated
    cell = make(8, 12, key=KEY)
    with pytest.raises(dtn.PlanError, match=r"belongs to a Gated with its own __call__.* put a .*TNWeight"):
        tne.compress([cell], {"*": FULL})
    net = dtn.network(dtn.TTMatrix(rank=2), (36, 8))
    made = eqx.tree_at(lambda cell: cell.weight_ih, cell, tne.TNWeight(net, net.init(like="jax")))
    assert close(tne.fold([made])[0](jnp.ones(8), jnp.ones(12)), made(jnp.ones(8), jnp.ones(12)))


@pytest.mark.slow
def test_a_weight_is_used_as_an_array():
    net = dtn.network(dtn.TTMatrix(rank=2), (36, 8))
    weight: Any = tne.TNWeight(net, net.init(like="jax"))
    array, x = weight.to_dense(), np.arange(8.0, dtype="float32")
    assert np.array_equal(np.asarray(weight), array)
    assert np.asarray(weight, "float64").dtype == "float64"
    assert (weight.ndim, len(weight), len(list(weight))) == (2, 36, 36)
    for use in (
        lambda w: w**2, lambda w: 2 * w, lambda w: w[0], lambda w: x - w, lambda w: w / 2 + w, lambda w: 1 / w,
        lambda w: -w, abs, lambda w: w @ x, lambda w: w > 0, lambda w: w.T @ w,
    ):  # fmt: skip
        assert isinstance(use(weight), jax.Array)
        assert jnp.array_equal(use(weight), use(array))
