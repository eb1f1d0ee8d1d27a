"""Common code of the views of Equinox and Flax NNX models."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeptn.arrays import from_raw
from deeptn.errors import PlanError, SpecError
from deeptn.models import Generated, ModelView, Weight, expect_model, naming
from deeptn.params import check_params

KEY = "is a jax.random key; store its jax.random.key_data instead"
TURNED = "belongs to a transposed convolution, whose kernel PyTorch stores in another form"


#: For each imported library, a test whether a model belongs to it, and its view; Equinox takes any pytree.
#: Changes do not modify the model that was passed in.
VIEWS: list[tuple[Callable[[Any], bool], Callable[[Any], ModelView]]] = []


@jax.tree_util.register_static
@dataclass(frozen=True)
class Slot:
    """What a layer in a grouped model has instead of cores: where they are stacked."""

    group: int
    item: int


def view_of(model: Any) -> ModelView:
    """Return the view of a model."""
    expect_model(model, "a model of Equinox or Flax NNX")
    for library, package in (("flax.nnx", "deeptn_jax.nnx"), ("equinox", "deeptn_jax.equinox")):
        if library in sys.modules:
            importlib.import_module(package)  # adds its view
    if not VIEWS or jax.tree_util.all_leaves([model]):
        raise PlanError(f"expected a model of Equinox or Flax NNX, got {type(model).__name__}")
    return next((view for fits, view in VIEWS if fits(model)), VIEWS[0][1])(model)


def outputs_of(model: Callable[..., Any], inputs: Any) -> np.ndarray:
    """Return all floating-point outputs of a model as one flat array; `inputs` as for `deeptn.plan`."""
    args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, Mapping) else (inputs,)
    found = model(*args, **(dict(inputs) if isinstance(inputs, Mapping) else {}))
    arrays = [leaf for leaf in jax.tree.leaves(found) if is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)]
    if not arrays:
        raise PlanError(f"the model returns a {type(found).__name__} without floating-point arrays")
    return np.concatenate([np.asarray(leaf, "float64").ravel() for leaf in arrays])


def seed_of(key: Any) -> int:
    """Make a seed from a key of `jax.random` or an integer; None gives a fresh one."""
    if key is None:
        return int(np.random.default_rng().integers(2**62))
    if isinstance(key, (int, np.integer)) and key >= 0:
        return int(key)
    try:
        bits = jax.random.bits(key, (), "uint32")
    except (TypeError, ValueError) as error:
        came = " ".join(repr(key).split())
        raise SpecError(
            f"key must be one key of jax.random (in NNX rngs.params()) or an integer of at least 0, got {came:.80}"
        ) from error
    return int(bits)


def checked(tree: Any) -> Any:
    """Return a pytree; raise `PlanError` if it has shapes but no data."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree)):
        raise PlanError("the model has shapes but no data (eval_shape); fill it with load_model, or draw its arrays")
    return tree


def is_array(leaf: Any) -> bool:
    """Return whether a leaf is an array or the shape of one."""
    return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic))


def is_key(leaf: Any) -> bool:
    """Return whether an array is a key of `jax.random`."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def array_like(array: np.ndarray, like: Any) -> Any:
    """Return a NumPy array as it is if `like` is one, else as a JAX array."""
    return array if isinstance(like, (np.ndarray, np.generic)) else from_raw(array, "jax")


def normalized(wrapper: Any) -> str:
    """Say why a layer inside a wrapper that normalizes its weight cannot be replaced."""
    return f"is normalized by the {type(wrapper).__name__} around it, which needs a dense weight; remove it first"


def generated(names: tuple[str, ...], layer: Any, refused: str | None = None, own: str = "weight") -> Weight:
    """Describe a generated layer as a `deeptn.models.Weight`."""
    if isinstance(layer.cores, Slot):
        raise PlanError(
            f"layer {names[0]!r} is in a grouped model and has no cores; first write model = ungroup(grouped)"
        )
    net, dtype = layer.network, jax.tree.leaves(layer.cores)[0].dtype.name

    def read() -> jax.Array:
        checked(layer.cores)
        return layer.decode()

    return Weight(names, layer.kind, net.shape, dtype, read, own, layer.bias is not None, net, refused)


def changed(kind: Any, name: str, layer: Any, change: Generated | None) -> Any:
    """Return the layer that replaces another: generated, or dense if `change` is None."""
    with naming(name):
        if change is None:
            checked((layer.cores, layer.bias))
            return layer.to_dense()
        check_params(change.network.spec, change.params)
        return kind.make(layer, change.network, change.arrays("jax"))


def called_by(layer: Any, call: Callable[..., Any]) -> Any:
    """Return an object like a layer, of a subclass with another ``__call__``."""
    base = type(layer)
    made: Any = type(base.__name__, (base,), {"__call__": call, "__module__": base.__module__})
    found = object.__new__(made)
    for name, value in vars(layer).items():
        object.__setattr__(found, name, value)
    return found
