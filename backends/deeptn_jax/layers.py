"""What the layers of all JAX libraries share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from deeptn.models import as_network, is_faster
from deeptn.network import Network
from deeptn.spec import Layout
from deeptn.topologies import Topology

from .fit import find_params

Cores = Mapping[str, jax.Array]


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
        cls,
        dense: Any,
        topology: Topology | Network | str,
        fit: Any = "auto",
        layout: Layout | None = None,
        key: Any = None,
    ) -> Any:
        """Replace a trained layer.

        Parameters
        ----------
        dense : object
            Of the class that this one stands for; left as it is.
        topology : deeptn.Topology, deeptn.Network or str
        fit : {"auto"}, deeptn.fitting.Fit or None
            How the cores are found; see `compress`.
        layout : deeptn.Layout, optional
        key : jax.Array or int, optional
            For random cores, as for `compress`.
        """
        weight = cls._weight_of(dense)
        net = as_network(topology, tuple(weight.shape), layout)
        return cls._of(dense, net, find_params(net, weight, fit, key))

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
