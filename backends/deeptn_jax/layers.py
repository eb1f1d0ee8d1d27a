"""What the layers of all JAX libraries share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from deeptn.base import positive_int
from deeptn.engine import seconds
from deeptn.engine.machine import machine
from deeptn.errors import SpecError, near_match
from deeptn.network import Network

MODES = ("auto", "materialize", "apply")
Cores = Mapping[str, jax.Array]


def applies(net: Network, mode: str, batch: int) -> bool:
    """Whether a network is to be applied to `batch` rows; where there is a choice: if that is expected to be faster."""
    if mode == "materialize" or not net.is_linear or len(net.shape) == 1:
        return False
    if mode == "apply":
        return True
    with jax.ensure_compile_time_eval():
        return net.choose(batch, like="jax").mode == "apply"


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


def looks_up(net: Network, mode: str, rows: int) -> bool:
    """Whether `rows` rows of a table are to be generated alone; as for `applies`."""
    if mode == "materialize" or not net.is_linear:
        return False
    if mode == "apply":
        return True
    with jax.ensure_compile_time_eval():
        figures = machine("jax")
    return seconds(net.cost("gather", rows), figures) < seconds(net.cost(), figures)


def entry(mode: str, batch_hint: int) -> tuple[str, int]:
    """The two options of layers that have a choice, checked."""
    if mode not in MODES:
        raise SpecError(f"mode = {mode!r}; {near_match(str(mode), MODES)}")
    return mode, positive_int(batch_hint, "batch_hint")


def bias_like(net: Network, bias: Any, key: Any) -> jax.Array:
    """Uniform entries, as those of dense layers, of the shape and dtype of `bias`."""
    bound = 1 / math.sqrt(math.prod(net.shape[1:]))
    return jax.random.uniform(key, bias.shape, bias.dtype, -bound, bound)
