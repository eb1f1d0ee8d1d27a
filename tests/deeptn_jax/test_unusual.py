"""Test unusual uses of generated layers: names of cores, shapes without data or values, arrays of NumPy, tables."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from deeptn_jax.nnx.layers import KINDS
from flax import nnx
from jax import export

import deeptn as dtn

KEY = jax.random.key(0)
TRAIN = dtn.TTMatrix(rank=2)
NAMES = ("values", "items", "kernel", "scale", "mean", "var", "embedding", "bias")
MODES = ("auto", "materialize", "apply")


def named() -> dtn.Network:
    """Return a network of a chain of nodes with names that mean something else in models."""
    ends = ["a", *(f"b{k}" for k in range(len(NAMES) - 1)), "c"]
    nodes = tuple(dtn.spec.Node(name, (ends[k], ends[k + 1]), param=name) for k, name in enumerate(NAMES))
    layout = dtn.spec.Layout.single((6, 4))
    legs = [leg.name for leg in layout.legs]
    rename = {"a": legs[0], "c": legs[1]}
    nodes = tuple(dtn.spec.Node(n.name, tuple(rename.get(i, i) for i in n.indices), param=n.param) for n in nodes)
    stage = dtn.spec.Stage(nodes, tuple(legs))
    return dtn.Network(dtn.spec.NetworkSpec(layout.legs, (stage,), tuple((b, 3) for b in ends[1:-1])), layout)


@pytest.mark.few(1)
@pytest.mark.parametrize("library", [tne, tnx])
def test_a_core_may_have_any_name(library, tmp_path):
    def layer(make: Any, *arguments: Any) -> Any:
        return make(4, 6, *arguments, **({"key": KEY} if library is tne else {"rngs": nnx.Rngs(0)}))

    held: Any = dict if library is tne else nnx.Dict
    model, dense = held(a=layer(library.TNLinear, named())), held(a=layer((eqx.nn if library is tne else nnx).Linear))
    library.save_model(model, tmp_path / "m")
    assert set(dtn.load_model(tmp_path / "m").layers["a"].params) == set(NAMES)
    found = library.load_model(dense, tmp_path / "m")
    assert jnp.array_equal(found["a"](jnp.ones(4)), model["a"](jnp.ones(4)))
    assert jnp.array_equal(found["a"].to_dense()(jnp.ones(4)), model["a"].to_dense()(jnp.ones(4)))


def test_nnx_makes_a_table_of_a_model():
    model = nnx.Sequential(tnx.TNLinear(10, 12, TRAIN, rngs=nnx.Rngs(0), mode="materialize"), nnx.relu)
    assert "TNLinear" in nnx.tabulate(model, jnp.ones((3, 10)))
    assert model(jnp.ones((3, 10))).shape == (3, 12)


def test_an_abstract_layer_has_a_weight_without_data():
    layer = nnx.eval_shape(lambda: tnx.TNLinear(10, 12, TRAIN, rngs=nnx.Rngs(0)))
    table = nnx.eval_shape(lambda: tnx.TNEmbed(10, 12, TRAIN, rngs=nnx.Rngs(0)))
    one = eqx.filter_eval_shape(lambda: tne.TNLinear(10, 12, TRAIN, key=KEY))
    for found, shape in ((layer.kernel, (10, 12)), (layer.decode(), (12, 10)), (table.embedding, (10, 12))):
        assert (found.shape, found.dtype) == (shape, "float32")
    assert one.weight.shape == (12, 10)
    assert {name: array.shape for name, array in layer.arrays.items()} == layer.network.spec.param_shapes


def both(mode: Any) -> list[tuple[Any, jax.Array]]:
    return [
        (tne.TNLinear(10, 12, TRAIN, key=KEY, mode=mode), jnp.ones(10)),
        (tne.TNEmbedding(10, 12, TRAIN, key=KEY, mode=mode), jnp.array(3)),
        (tnx.TNLinear(10, 12, TRAIN, rngs=nnx.Rngs(0), mode=mode), jnp.ones((5, 10))),
        (tnx.TNEmbed(10, 12, TRAIN, rngs=nnx.Rngs(0), mode=mode), jnp.array([3, 4])),
    ]


@pytest.mark.few(1)
@pytest.mark.parametrize("mode", MODES)
def test_cores_may_be_arrays_of_numpy(mode):
    for layer, x in both(mode):
        assert jnp.allclose(jax.device_get(layer)(x), layer(x), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_is_exported_with_an_unknown_number_of_rows(mode):
    (rows,) = export.symbolic_shape("b")
    for layer, x in both(mode)[2:]:
        like = jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
        again = export.export(jax.jit(lambda x, layer=layer: layer(x)))(like)
        assert jnp.allclose(again.call(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("mode", ["materialize", "apply"])
def test_cores_of_another_shape_are_refused(mode):
    layer = tne.TNLinear(10, 12, TRAIN, key=KEY, mode=mode)
    stack = eqx.tree_at(lambda one: one.cores, layer, jax.tree.map(lambda core: core[None], layer.cores))
    with pytest.raises(dtn.SpecError, match="expected an array of shape"):
        stack(jnp.ones(10))


def test_the_static_part_of_a_model_can_be_a_static_argument():
    model = [tne.TNLinear(10, 12, TRAIN, key=KEY), tne.TNWeight(dtn.network(TRAIN, (4, 4)), {"x": jnp.ones(2)})]
    arrays, static = eqx.partition(model, eqx.is_array)
    again = eqx.partition(model, eqx.is_array)[1]
    assert hash(tuple(static)) == hash(tuple(again))
    assert static == again
    call = jax.jit(lambda arrays, static, x: eqx.combine(arrays, static)(x), static_argnums=1)
    assert jnp.allclose(call(arrays[0], static[0], jnp.ones(10)), model[0](jnp.ones(10)), atol=1e-6)


@pytest.mark.parametrize("key", [-1, 1.5, "a", nnx.Rngs(0), jax.random.split(KEY, 3)], ids=range(5))
def test_a_bad_key_is_named(key):
    with pytest.raises(dtn.SpecError, match=r"key must be one key of jax\.random .* or an integer of at least 0, got"):
        tne.compress([eqx.nn.Linear(8, 8, key=KEY)], {"*": TRAIN}, fit=None, key=key)


def test_a_key_may_be_an_integer_of_numpy():
    model, key = [eqx.nn.Linear(8, 8, key=KEY)], np.int64(3)
    one, other = (tne.compress(model, {"*": TRAIN}, fit=None, key=key)[0][0] for key in (key, 3))
    assert jnp.array_equal(one.weight, other.weight)


class Stateful(nnx.Linear):
    """A layer that changes a statistic, a stream of random numbers, an attribute and what it sows."""

    def __init__(self, *sizes: int, rngs: nnx.Rngs):
        super().__init__(*sizes, rngs=rngs)
        self.mean, self.calls = nnx.BatchStat(jnp.zeros(sizes[-1])), 0
        self.first = True
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, inputs: jax.Array, *more: Any, **options: Any) -> jax.Array:
        y = super().__call__(inputs, *more, **options)
        self.mean[...] = 0.5 * self.mean[...] + 0.5 * y.mean(0)
        self.calls += 1
        if hasattr(self, "first"):
            del self.first
        self.sow(nnx.Intermediate, "sown", y.sum())
        return self.drop(y)


@pytest.fixture
def _stateful():
    tnx.register_layer(Stateful)
    yield
    del KINDS[Stateful]


@pytest.mark.few(1)
@pytest.mark.usefixtures("_stateful")
@pytest.mark.filterwarnings("ignore:Using .Module.sow:DeprecationWarning")
@pytest.mark.parametrize("wrap", [lambda f: f, nnx.jit, nnx.remat], ids=["eager", "jit", "remat"])
def test_registered_layers_keep_what_they_change(wrap):
    dense = nnx.Sequential(Stateful(12, 8, rngs=nnx.Rngs(0)))
    made, _ = tnx.compress(dense, {"*": dtn.LowRank(rank=8)})
    x, call = jnp.ones((4, 12)), wrap(lambda model, x: model(x))
    for _ in range(3):
        assert np.allclose(call(made, x), call(dense, x), atol=1e-5)  # the same entries are dropped
    first: Any = dense.layers[0]
    second: Any = made.layers[0]
    one, other = first, second.dense
    assert np.allclose(other.mean[...], one.mean[...], atol=1e-5)
    assert other.calls == one.calls
    assert hasattr(other, "first") == hasattr(one, "first")
    sown, again = (jax.tree.leaves(nnx.pop(model, nnx.Intermediate)) for model in (dense, made))
    assert np.allclose(sown, again, atol=1e-4)
    assert len(sown) == len(again) > 0
    assert other.kernel is None


@pytest.mark.parametrize("mode", MODES)
def test_arguments_have_the_names_of_the_dense_layers(mode):
    for layer, value in (
        (tnx.TNLinear(12, 8, TRAIN, rngs=nnx.Rngs(0), mode=mode), jnp.ones((2, 12))),
        (tnx.TNEmbed(12, 8, TRAIN, rngs=nnx.Rngs(0), mode=mode), jnp.array([1, 3])),
    ):
        assert np.allclose(layer(inputs=value), layer.to_dense()(inputs=value), atol=1e-6)
        assert np.allclose(layer(value, None), layer(value), atol=1e-6)
