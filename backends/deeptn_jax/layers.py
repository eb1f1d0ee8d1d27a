"""What the layers of all JAX libraries share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from deeptn.arrays import cast, from_raw
from deeptn.errors import PlanError
from deeptn.models import LayerReport, as_network, is_faster, layer_report
from deeptn.network import Network
from deeptn.spec import Layout
from deeptn.topologies import Topology

from .fit import find_params

Cores = Mapping[str, jax.Array]


def read(array: np.ndarray, like: Any, what: str) -> Any:
    """An array of a file with the dtype of `like`; a NumPy array if that is one."""
    made = cast(array, like.dtype.name, what)
    return made if isinstance(like, (np.ndarray, np.generic)) else from_raw(made, "jax")


def check_data(model: Any) -> None:
    """Refuse a pytree of shapes."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(model)):
        raise PlanError("the model has shapes, but no data (eval_shape); load_model fills it, or draw its arrays")


def applies(net: Network, mode: str, rows: int, way: Literal["apply", "gather"] = "apply") -> bool:
    """Whether a network is to be used itself for rows of an input (``"apply"``) or of its weight (``"gather"``).

    Where there is a choice: if that is expected to be faster.
    """
    if mode == "materialize" or not net.is_linear or len(net.shape) == 1:
        return False
    if mode == "apply":
        return True
    with jax.ensure_compile_time_eval():
        return is_faster(net, way, rows, "jax")


def wide(indices: jax.Array) -> jax.Array:
    """Indices of a type that the size of the table fits into."""
    if jnp.issubdtype(indices.dtype, jnp.unsignedinteger):  # beyond every table stays beyond it
        indices = jnp.minimum(indices, jnp.iinfo(jnp.int32).max)
    return indices.astype(jnp.promote_types(jnp.int32, indices.dtype) if indices.dtype.kind == "i" else jnp.int32)


def look_up(net: Network, cores: Cores, indices: jax.Array) -> jax.Array:
    """Rows of a table that is not formed; negative indices count from the end, those beyond it are that of the end."""
    indices = wide(indices)
    rows = jnp.where(indices < 0, indices + net.shape[0], indices)
    return net.gather(cores, jnp.clip(rows, 0, net.shape[0] - 1))


class FromDense:
    """How a layer of any JAX library is made of a trained dense one."""

    @classmethod
    def from_dense(
        cls, dense: Any, topology: Topology | Network | str, fit: Any = "auto", layout: Layout | None = None
    ) -> Any:
        """Replace a trained layer.

        Parameters
        ----------
        dense : object
            Of the class that this one stands for; left as it is.
        topology : deeptn.Topology, deeptn.Network or str
        fit : {"auto"}, deeptn.Fit or None
            How the cores are found; see `compress`.
        layout : deeptn.Layout, optional
        """
        weight = cls._weight_of(dense)
        net = as_network(topology, tuple(weight.shape), layout)
        (made,) = fitted({"layer": net}, {"layer": weight}, fit, 0)[0].values()
        return cls._of(dense, *made)

    @classmethod
    def _weight_of(cls, dense: Any) -> jax.Array:
        """The weight of a dense layer, in PyTorch's order of axes."""
        raise NotImplementedError

    @classmethod
    def _of(cls, dense: Any, net: Network, cores: Mapping[str, jax.Array]) -> Any:
        """A layer with the options of a dense one, and these cores."""
        raise NotImplementedError


def bias_like(net: Network, bias: Any, key: Any) -> jax.Array:
    """Uniform entries, as those of dense layers, of the shape and dtype of `bias`."""
    bound = 1 / math.sqrt(math.prod(net.shape[1:]))
    return jax.random.uniform(key, bias.shape, bias.dtype, -bound, bound)


def fitted(
    plan: Mapping[str, Network], weights: Mapping[str, jax.Array], fit: Any, seed: int
) -> tuple[dict[str, tuple[Network, dict[str, jax.Array]]], list[LayerReport]]:
    """Networks and cores for the layers of a plan, from their dense weights, and a row for each."""
    made, rows = {}, []
    for number, (name, net) in enumerate(plan.items()):
        cores = find_params(net, weights[name], fit, seed + number)
        made[name] = net, cores
        rows.append(layer_report(name, net, weights[name], net.materialize(cores)))
    return made, rows
