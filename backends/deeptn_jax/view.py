"""What the views of models of all JAX libraries share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeptn.arrays import from_raw
from deeptn.errors import PlanError
from deeptn.models import Generated, Kind, ModelView, Weight, kind_of
from deeptn.params import check_params

KEY = "is a key of jax.random; store jax.random.key_data of it"
TURNED = "belongs to a transposed convolution, whose kernel PyTorch has in another form"


#: Whether a library's model is meant, and its view, for the libraries that are imported; Equinox takes any pytree.
#: Changes leave the model that was given as it is.
VIEWS: list[tuple[Callable[[Any], bool], Callable[[Any], ModelView]]] = []


def view_of(model: Any) -> ModelView:
    """The view of a model."""
    return next((view for fits, view in VIEWS if fits(model)), VIEWS[0][1])(model)


def seed_of(key: Any) -> int:
    """A seed of a key of `jax.random` or an integer; a fresh one of None."""
    if key is None:
        return int(np.random.default_rng().integers(2**62))
    return key if isinstance(key, int) else int(jax.random.bits(key, (), "uint32"))


def checked(tree: Any) -> Any:
    """A pytree, if it has data."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree)):
        raise PlanError("the model has shapes, but no data (eval_shape); load_model fills it, or draw its arrays")
    return tree


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, or the shape of one."""
    return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic))


def is_key(leaf: Any) -> bool:
    """Whether an array is a key of `jax.random`."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def array_like(array: np.ndarray, like: Any) -> Any:
    """A NumPy array where there was one, else one of JAX."""
    return array if isinstance(like, (np.ndarray, np.generic)) else from_raw(array, "jax")


def generated(names: tuple[str, ...], layer: Any, refused: str | None = None) -> Weight:
    """What a view shows of a generated layer."""
    net, dtype = layer.network, jax.tree.leaves(layer.cores)[0].dtype.name

    def read() -> jax.Array:
        checked(layer.cores)
        return layer.decode()

    return Weight(names, layer.kind, net.shape, dtype, read, "weight", layer.bias is not None, net, refused)


def changed(kinds: Mapping[type, Kind], layer: Any, change: Generated | None) -> Any:
    """What replaces a layer."""
    if change is None:
        checked((layer.cores, layer.bias))
        return layer.to_dense()
    check_params(change.network.spec, change.params)
    kind: Any = kind_of(kinds, layer)
    return kind.make(layer, change.network, change.arrays("jax"))
