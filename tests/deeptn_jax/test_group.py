"""Test grouped models: they compute what their own layers compute, and train in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from flax import nnx

import deeptn as dtn

from ..tiers import grid
from .twins import KEY, NORMAL, OPERATIONS, TRAIN, WALL, Case, check, equal

ROWS = jnp.array([[3, 11, 0, 3, 1], [2, 2, 7, 9, 4]])
RULES = {"layers.*": WALL, "head": dtn.BrickWall(layers=2, activation=None), "*": TRAIN}
# Larger than the rounding errors of gradients that are zero, as those of the biases of keys.
ADAM = optax.adam(0.01, eps=0.1)


class EquinoxNet(eqx.Module):
    """All kinds of layers, inside lists and dictionaries; called with one text."""

    embed: eqx.nn.Embedding
    convs: list[eqx.nn.Conv1d]
    cell: eqx.nn.GRUCell
    layers: dict[str, eqx.nn.Linear]
    head: eqx.nn.Linear

    def __init__(self, dtype: Any = jnp.float32):
        self.embed = eqx.nn.Embedding(12, 8, key=KEY, dtype=dtype)
        self.convs = [eqx.nn.Conv1d(5, 5, 3, padding=1, key=KEY, dtype=dtype) for _ in range(2)]
        self.cell = eqx.nn.GRUCell(8, 8, key=KEY, dtype=dtype)
        self.layers = {name: eqx.nn.Linear(8, 8, key=KEY, dtype=dtype) for name in "abc"}
        self.head = eqx.nn.Linear(8, 4, key=KEY, dtype=dtype)

    def __call__(self, rows: jax.Array) -> jax.Array:
        return jax.vmap(self.head)(self.features(rows))

    def features(self, rows: jax.Array) -> jax.Array:
        x = jax.vmap(self.embed)(rows)
        for conv in self.convs:
            x = jnp.tanh(conv(x))
        x = jax.lax.scan(lambda h, one: (h := self.cell(one, h), h), x[0] * 0, x)[1]
        for layer in self.layers.values():
            x = jnp.tanh(jax.vmap(layer)(x))
        return x


class NNXNet(nnx.Module):
    """The same for NNX, with a layer that has two names, and statistics and a dropout that change in every call."""

    def __init__(self, dtype: Any = jnp.float32):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(12, 8, rngs=rngs, param_dtype=dtype)
        self.convs = nnx.List([nnx.Conv(8, 8, (3,), rngs=rngs, param_dtype=dtype) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False, param_dtype=dtype)
        self.layers = nnx.Dict({name: nnx.Linear(8, 8, rngs=rngs, param_dtype=dtype) for name in "abc"})
        self.again = self.layers["a"]
        self.norm, self.drop = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs, param_dtype=dtype)

    def __call__(self, rows: jax.Array) -> jax.Array:
        return self.head(self.features(rows))

    def features(self, rows: jax.Array) -> jax.Array:
        x = self.embed(rows)
        for conv in self.convs:
            x = jnp.tanh(conv(x))
        x = self.norm(self.attention(x))
        for layer in (*self.layers.values(), self.again):
            x = nnx.remat(lambda layer, x: jnp.tanh(layer(x)))(layer, x)
        return self.drop(x)


MAKE: dict[str, Any] = {"equinox": (EquinoxNet, tne), "nnx": (NNXNet, tnx)}
frameworks = pytest.mark.parametrize(("make", "library"), MAKE.values(), ids=MAKE)


def small(make: Any, library: Any, rules: Any = RULES, **options: Any) -> Any:
    return library.compress(make(**options), rules, fit=None, key=0)[0]


def call(model: Any, rows: jax.Array = ROWS) -> jax.Array:
    return model(rows) if isinstance(model, nnx.Module) else jax.vmap(model)(rows)


def parameters(model: Any) -> list[Any]:
    """Return all arrays of a model."""
    leaves = jax.tree.leaves(nnx.state(model) if isinstance(model, nnx.Module) else eqx.filter(model, eqx.is_array))
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [jax.random.key_data(leaf) if key else leaf for leaf, key in zip(leaves, keys)]


def same(found: Any, wanted: Any, check: Callable[[Any, Any], None] = equal) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        check(one, other)


def trained(model: Any, steps: int = 2) -> Any:
    """Train with Adam, in the way of the framework."""
    loss = lambda model: jnp.sin(call(model)).sum()
    if isinstance(model, nnx.Module):
        optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)

        @nnx.jit
        def step(model: Any, optimizer: Any) -> Any:
            value, slopes = nnx.value_and_grad(loss)(model)
            optimizer.update(model, slopes)
            return value

        for _ in range(steps):
            step(model, optimizer)
        return model

    @eqx.filter_jit
    def advance(model: Any, state: Any) -> Any:
        updates, state = ADAM.update(eqx.filter_grad(loss)(model), state)
        return eqx.apply_updates(model, updates), state

    state = ADAM.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(steps):
        model, state = advance(model, state)
    return model


@pytest.mark.slow
@frameworks
def test_values_and_training(make, library):
    model = small(make, library)
    grouped = library.group(model)
    same(parameters(library.ungroup(grouped)), parameters(model), np.testing.assert_array_equal)
    own, together = trained(model), trained(grouped)
    same(parameters(library.ungroup(together)), parameters(own))
    assert not np.allclose(parameters(own)[0], parameters(small(make, library))[0])
    equal(call(together), call(own))
    assert len(parameters(together)) < len(parameters(own)) / 2


@pytest.mark.few(1)
@frameworks
def test_groups(make, library):
    grouped = library.group(small(make, library), ignore=["layers.b"])
    found = sorted((each.network.shape, next(iter(each.stacks.values())).shape[0]) for each in grouped.groups)
    others = [((24, 8), 2)] if make is EquinoxNet else [((8, 8), 4)]
    convolutions = [((5, 5, 3), 2)] if make is EquinoxNet else [((8, 8, 3), 2)]
    assert found == sorted([((4, 8), 1), ((8, 8), 2), *others, *convolutions])
    assert grouped.model.layers["b"].cores.keys() == grouped.model.layers["b"].network.spec.param_shapes.keys()
    assert grouped.model.embed.cores.keys()  # a lookup
    wall = next(each for each in grouped.groups if each.network == grouped.model.layers["a"].network)
    assert {form: array.shape for form, array in wall.stacks.items()} == {
        "2x2": (2, 3, 2, 2),
        "2x2x2x2": (2, 7, 2, 2, 2, 2),
    }
    ungrouped = library.ungroup(grouped)
    equal(call(grouped), call(ungrouped))


@frameworks
def test_other_methods(make, library):
    model = small(make, library)
    grouped = library.group(model)
    if make is NNXNet:
        with grouped.decoded() as inside:
            found = inside.features(ROWS)
            equal(inside.layers["a"].kernel, model.layers["a"].kernel)
        equal(found, model.features(ROWS))
    else:
        inside = grouped.decoded()
        equal(inside.layers["a"].weight, model.layers["a"].weight)
        equal(jax.vmap(inside.features)(ROWS), jax.vmap(model.features)(ROWS))


@frameworks
def test_what_a_grouped_model_refuses(make, library, tmp_path):
    model = small(make, library)
    grouped = library.group(model)
    for refused in (
        lambda: library.save_model(grouped, tmp_path / "m"),
        lambda: library.fold(grouped),
        lambda: library.compress(grouped, {"*": "LowRank"}),
        lambda: library.load_model(grouped, tmp_path / "n"),
        lambda: library.group(grouped),
    ):
        library.save_model(model, tmp_path / "n")
        with pytest.raises(dtn.PlanError, match=r"ungroup\(grouped\)"):
            refused()
    for used in (lambda: grouped.model.layers["a"](jnp.ones(8)), lambda: grouped.model.layers["a"].to_dense()):
        with pytest.raises(dtn.SpecError, match=r"call the grouped model itself"):
            used()
    with pytest.raises(dtn.PlanError, match="expected a model from deeptn_jax"):
        library.ungroup(model)
    with pytest.raises(dtn.PlanError, match="no generated layer that can be grouped"):
        library.group(make())
    with pytest.raises(dtn.PlanError, match="matches none"):
        library.group(model, ignore=["tail"])


def test_an_error_leaves_no_weights_behind():
    grouped = tnx.group(small(NNXNet, tnx))
    with pytest.raises(Exception, match="integer"):
        grouped(jnp.ones((2, 5)))
    assert all("kernel" not in str(path) for path, _ in nnx.to_flat_state(nnx.state(grouped.model.layers)))


@pytest.mark.few(1)
@frameworks
def test_half_precision(make, library):
    model = small(make, library, dtype=jnp.bfloat16)
    grouped = library.group(model)
    assert {
        array.dtype.name
        for each in grouped.groups
        for array in jax.tree.leaves(nnx.state(each) if make is NNXNet else each)
    } == {"bfloat16"}
    equal(call(grouped), call(model))


def test_ties_of_cores():
    """Layers that share their cores keep them, and so do layers inside Shared."""
    rngs = nnx.Rngs(0)
    model: Any = nnx.Sequential(*(tnx.TNLinear(8, 8, WALL, rngs=rngs) for _ in range(4)))
    model.layers[1].cores = model.layers[0].cores
    grouped = tnx.group(model)
    assert grouped.model.layers[1].cores is grouped.model.layers[0].cores
    assert next(iter(grouped.groups[0].stacks.values())).shape[0] == 2
    equal(grouped(jnp.ones((3, 8))), model(jnp.ones((3, 8))))
    pair = [tne.TNLinear(8, 8, WALL, key=key) for key in jax.random.split(KEY)]
    shared = eqx.nn.Shared(pair, lambda pair: pair[1].cores, lambda pair: pair[0].cores)
    both = tne.group({"shared": shared, "own": pair[0]})
    first, second = both.model["shared"]()
    same(first.cores, second.cores, np.testing.assert_array_equal)
    assert len(both.groups) == 1


class GroupedCase(Case):
    """Three layers with equal networks in a grouped model; its twin is the ungrouped model."""

    @property
    def twin(self) -> Case:
        return self._replace(layer=(tnx if self.is_nnx else tne).ungroup(self.layer))


def _equinox(family: Any) -> Case:
    layers = [tne.TNLinear(12, 12, family, key=key) for key in jax.random.split(KEY, 3)]
    model = eqx.nn.Sequential([*layers, eqx.nn.Lambda(jnp.tanh), layers[0]])
    return GroupedCase(tne.group(model), NORMAL((5, 12)), lambda layer, x: jax.vmap(layer)(x))


def _nnx(family: Any) -> Case:
    rngs = nnx.Rngs(0)
    layers = [tnx.TNLinear(12, 12, family, rngs=rngs) for _ in range(3)]
    model = nnx.Sequential(*layers, jnp.tanh, layers[0])
    return GroupedCase(tnx.group(model), NORMAL((5, 12)), lambda layer, x: layer(x))


CASES: dict[str, Callable[[], Case]] = {
    "equinox, ReLU": lambda: _equinox(WALL),
    "equinox, linear": lambda: _equinox(TRAIN),
    "nnx, ReLU": lambda: _nnx(WALL),
    "nnx, linear": lambda: _nnx(TRAIN),
}


#: Run every time, each for one case.
FEW = {
    "train": "nnx, ReLU",
    'jax_numpy_rank_promotion="raise"': "nnx, linear",
    'jax_numpy_dtype_promotion="strict"': "equinox, ReLU",
    "checking_leaks": "equinox, linear",
    "jax_enable_x64": "nnx, linear",
    "filter_jit, nnx.jit": "nnx, ReLU",
    "remat": "nnx, linear",
    "vmap over layers": "equinox, linear",
    "scan over layers": "nnx, linear",
    "masks of optax": "equinox, linear",
    "pickle": "nnx, linear",
    "split, merge and files": "equinox, linear",
}


@pytest.mark.few(1)
@grid(
    lambda case, operation: FEW.get(operation) == case,
    case=CASES,
    operation={name: each for name, each in OPERATIONS.items() if name != "attributes"},
)
def test_a_grouped_model_does_what_the_ungrouped_one_does(case, operation):
    check(operation, case())
