"""Operations that a dense layer allows, carried out on a generated layer and on the dense layer of the same weight.

`test_twins.py` runs them all; `benchmarks/twins.py` writes what they say into a table in the documentation.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import deeptn as dtn

KEY = jax.random.key(0)
TRAIN, WALL = dtn.TTMatrix(rank=2), dtn.BrickWall(layers=2)


class Case(NamedTuple):
    """A layer, inputs for it, and how to call it: Equinox takes one example, and so does nnx.vmap."""

    layer: Any
    x: jax.Array
    call: Callable[[Any, Any], jax.Array]

    @property
    def is_nnx(self) -> bool:
        return isinstance(self.layer, nnx.Module)

    @property
    def twin(self) -> Case:
        """The dense layer of the same weight."""
        return self._replace(layer=self.layer.to_dense())


def _single(layer: Any, x: Any) -> jax.Array:
    return jax.vmap(layer)(x)


def _whole(layer: Any, x: Any) -> jax.Array:
    return layer(x)


NORMAL = partial(jax.random.normal, KEY)
CONVOLUTION: Any = tne.TNConv2d
ROWS = jnp.array([3, 11, 0, 3, -1])
#: Layers by name. Widths are equal, so that layers can be stacked under a scan.
LAYERS: dict[str, Callable[[], Case]] = {
    "equinox linear": lambda: Case(tne.TNLinear(12, 12, TRAIN, key=KEY), NORMAL((5, 12)), _single),
    "equinox linear, apply": lambda: Case(tne.TNLinear(12, 12, TRAIN, key=KEY, mode="apply"), NORMAL((5, 12)), _single),
    "equinox linear, ReLU": lambda: Case(tne.TNLinear(12, 12, WALL, key=KEY), NORMAL((5, 12)), _single),
    "equinox convolution": lambda: Case(CONVOLUTION(4, 4, 3, TRAIN, padding=1, key=KEY), NORMAL((2, 4, 5, 5)), _single),
    "equinox embedding": lambda: Case(tne.TNEmbedding(12, 10, TRAIN, key=KEY, mode="apply"), ROWS, _single),
    "nnx linear": lambda: Case(tnx.TNLinear(12, 12, TRAIN, rngs=nnx.Rngs(0)), NORMAL((5, 2, 12)), _whole),
    "nnx linear, apply": lambda: Case(
        tnx.TNLinear(12, 12, TRAIN, rngs=nnx.Rngs(0), mode="apply"), NORMAL((5, 2, 12)), _whole
    ),
    "nnx linear, ReLU": lambda: Case(tnx.TNLinear(12, 12, WALL, rngs=nnx.Rngs(0)), NORMAL((5, 2, 12)), _whole),
    "nnx general": lambda: Case(tnx.TNLinearGeneral(12, (3, 4), TRAIN, rngs=nnx.Rngs(0)), NORMAL((5, 12)), _whole),
    "nnx convolution": lambda: Case(tnx.TNConv(4, 4, (3, 3), TRAIN, rngs=nnx.Rngs(0)), NORMAL((2, 5, 5, 4)), _whole),
    "nnx embedding": lambda: Case(tnx.TNEmbed(12, 10, TRAIN, rngs=nnx.Rngs(0), mode="apply"), ROWS, _whole),
}


def train(case: Case) -> Any:
    """Return the loss, and its gradients with respect to the bias and to a factor of the outputs."""

    def loss(layer: Any, factor: Any) -> jax.Array:
        return jnp.sin(case.call(layer, case.x) * factor).sum()

    differentiate = nnx.value_and_grad if case.is_nnx else eqx.filter_value_and_grad
    value, slopes = differentiate(loss)(case.layer, 1.5)
    leaves = jax.tree_util.tree_leaves_with_path(slopes)
    assert all(bool(jnp.isfinite(leaf).all()) for _, leaf in leaves)
    assert all(bool(jnp.any(leaf != 0)) for _, leaf in leaves)
    return value, [leaf for path, leaf in leaves if is_bias(path)], jax.grad(loss, 1)(case.layer, 1.5)


def is_bias(path: Any) -> bool:
    """Return whether a path in a layer, or in a gradient of one, leads to the bias."""
    return "bias" in jax.tree_util.keystr(path)


def under(context: Callable[[], AbstractContextManager[Any]]) -> Callable[[Case], Any]:
    """Train in a context."""

    def run(case: Case) -> Any:
        with context():
            return train(case)

    return run


def _by_arrays(case: Case, transform: Callable[..., Any]) -> Any:
    """Transform a function of the layer's arrays and the input; the layer's structure is fixed."""
    if case.is_nnx:
        graph, state = nnx.split(case.layer)
        return transform(lambda state, x: case.call(nnx.merge(graph, state), x))(state, case.x)
    arrays, static = eqx.partition(case.layer, eqx.is_array)
    return transform(lambda arrays, x: case.call(eqx.combine(arrays, static), x))(arrays, case.x)


def donated(case: Case) -> Any:
    """Donate the buffers of a copy, which the next step receives again."""

    def twice(function: Callable[..., Any]) -> Callable[..., Any]:
        step = jax.jit(lambda arrays, x: (arrays, function(arrays, x)), donate_argnums=0)
        return lambda arrays, x: step(step(jax.tree.map(jnp.copy, arrays), x)[0], x)[1]

    return _by_arrays(case, twice)


def sharded(case: Case) -> Any:
    mesh, none = Mesh(np.array(jax.devices()[:1]), ("rows",)), PartitionSpec()
    rows = PartitionSpec("rows")
    return _by_arrays(case, lambda f: jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(none, rows), out_specs=rows)))


def _stack(arrays: Any) -> Any:
    """Return the arrays of three equal layers along a new first axis."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), arrays)


def _stacked(case: Case) -> Any:
    """Return three equal layers as one, with stacked arrays."""
    if case.is_nnx:
        graph, state = nnx.split(case.layer)
        return nnx.merge(graph, _stack(state))
    arrays, static = eqx.partition(case.layer, eqx.is_array)
    return eqx.combine(_stack(arrays), static)


def vmapped(case: Case) -> Any:
    """Map over stacked layers, with JAX's own transformation and with the library's."""
    by_jax = _by_arrays(case, lambda f: lambda arrays, x: jax.vmap(f, (0, None))(_stack(arrays), x))
    if case.is_nnx:
        return by_jax, nnx.vmap(case.call, in_axes=(0, None))(_stacked(case), case.x)
    return by_jax, eqx.filter_vmap(case.call, in_axes=(eqx.if_array(0), None))(_stacked(case), case.x)


def scanned(case: Case) -> Any:
    """Sum the outputs of stacked layers in a scan: of JAX, and of NNX."""

    def scan(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(arrays: Any, x: Any) -> Any:
            return jax.lax.scan(lambda total, one: (total + function(one, x).sum(), None), 0.0, _stack(arrays))[0]

        return run

    if not case.is_nnx:
        return _by_arrays(case, scan)
    add = nnx.scan(lambda total, one: total + case.call(one, case.x).sum(), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    return _by_arrays(case, scan), add(jnp.zeros(()), _stacked(case))


def remat(case: Case) -> Any:
    """Train, and recompute the layer in the backward pass."""
    call = nnx.remat(case.call) if case.is_nnx else eqx.filter_checkpoint(case.call)
    return train(case._replace(call=call))


def frozen(case: Case) -> Any:
    """Take a step of Adam in which only the bias is trained; return the outputs after it."""

    def step(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(arrays: Any, x: Any) -> Any:
            chosen = jax.tree_util.tree_map_with_path(lambda path, _: is_bias(path), arrays)
            optimizer = optax.chain(
                optax.masked(optax.adam(0.1), chosen),
                optax.masked(optax.set_to_zero(), jax.tree.map(lambda one: not one, chosen)),
            )
            slopes = jax.grad(lambda arrays: jnp.sin(function(arrays, x)).sum())(arrays)
            updates, _ = optimizer.update(slopes, optimizer.init(arrays), arrays)
            return function(optax.apply_updates(arrays, updates), x)

        return run

    return _by_arrays(case, step)


def copied(case: Case) -> Any:
    return case.call(copy.deepcopy(case.layer), case.x)


def pickled(case: Case) -> Any:
    return case.call(pickle.loads(pickle.dumps(case.layer)), case.x)


def filtered(case: Case) -> Any:
    """Compile with the library's own transformation."""
    compiled = nnx.jit(case.call) if case.is_nnx else eqx.filter_jit(case.call)
    return compiled(case.layer, case.x)


def stored(case: Case) -> Any:
    """Write the arrays in the library's own way, and read them into the same structure."""
    if case.is_nnx:
        graph, state = nnx.split(case.layer)
        return case.call(nnx.merge(graph, nnx.from_flat_state(nnx.to_flat_state(state))), case.x)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, case.layer)
    file.seek(0)
    return case.call(eqx.tree_deserialise_leaves(file, case.layer), case.x)


def with_bias(case: Case) -> Any:
    """Replace the bias."""
    if getattr(case.layer, "bias", None) is None:
        return case.call(case.layer, case.x)
    if case.is_nnx:
        layer = nnx.clone(case.layer)
        layer.bias[...] = layer.bias[...] + 1
        return case.call(layer, case.x)
    return case.call(eqx.tree_at(lambda one: one.bias, case.layer, case.layer.bias + 1), case.x)


def facts(case: Case) -> Any:
    """Read what the layer says of itself."""
    names = ("in_features", "out_features", "in_channels", "out_channels", "features", "num_embeddings", "use_bias")
    names += ("kernel_size", "strides", "stride", "padding", "embedding_size", "param_dtype", "axis")
    found = {name: getattr(case.layer, name) for name in names if hasattr(case.layer, name)}
    weight = next(getattr(case.layer, name) for name in ("weight", "kernel", "embedding") if hasattr(case.layer, name))
    return str(sorted(found)), weight.shape, weight[...]


def inputs_of(dtype: str) -> Callable[[Case], Any]:
    """Call a layer with inputs of another dtype."""
    return lambda case: case.call(case.layer, case.x.astype(dtype))


def no_rows(case: Case) -> Any:
    return case.call(case.layer, case.x[:0])


def numpy_inputs(case: Case) -> Any:
    return case.call(case.layer, np.asarray(case.x))


def abstract(case: Case) -> Any:
    """Compute shapes alone."""
    shape = jax.eval_shape(lambda x: case.call(case.layer, x), case.x)
    return jnp.zeros(shape.shape, shape.dtype)


#: Operations by name. Each takes a case and returns arrays, which have to be equal for a layer and its twin.
OPERATIONS: dict[str, Callable[[Case], Any]] = {
    "call": lambda case: case.call(case.layer, case.x),
    "train": train,
    'jax_numpy_rank_promotion="raise"': under(lambda: jax.numpy_rank_promotion("raise")),
    'jax_numpy_dtype_promotion="strict"': under(lambda: jax.numpy_dtype_promotion("strict")),
    "jax_debug_nans": under(lambda: jax.debug_nans(True)),
    "checking_leaks": under(jax.checking_leaks),
    "disable_jit": under(jax.disable_jit),
    "jax_enable_x64": under(lambda: jax.enable_x64(True)),
    "jit": lambda case: _by_arrays(case, jax.jit),
    "filter_jit, nnx.jit": filtered,
    "remat": remat,
    "vmap over layers": vmapped,
    "scan over layers": scanned,
    "shard_map": sharded,
    "donated buffers": donated,
    "masks of optax": frozen,
    "deepcopy": copied,
    "pickle": pickled,
    "split, merge and files": stored,
    "another bias": with_bias,
    "attributes": facts,
    "eval_shape": abstract,
    "no rows": no_rows,
    "NumPy inputs": numpy_inputs,
    **{f"{dtype} inputs": inputs_of(dtype) for dtype in ("bfloat16", "float16", "int32", "uint8", "bool", "complex64")},
}


def check(operation: Callable[[Case], Any], case: Case) -> str:
    """Return "works" or "both refuse"; raise what only the generated layer raises, or say how the results differ."""
    try:
        wanted = operation(case.twin)
    except Exception as refusal:  # libraries raise many types of errors
        try:
            operation(case)
        except Exception:
            return "both refuse"
        raise AssertionError(f"only the dense layer refuses this: {refusal}") from refusal
    found = operation(case)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        equal(one, other)
    return "works"


def equal(found: Any, wanted: Any) -> None:
    if not hasattr(wanted, "dtype"):
        assert found == wanted
        return
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    tolerance = 3e-2 if found.dtype.itemsize == 2 else 1e-4
    kind = "complex128" if np.iscomplexobj(wanted) else "float64"
    assert np.allclose(
        np.asarray(found, kind), np.asarray(wanted, kind), rtol=tolerance, atol=tolerance, equal_nan=True
    )
