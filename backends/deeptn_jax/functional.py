"""`init`, `materialize` and `apply` for JAX."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from deeptn.arrays import DTYPES, library_of
from deeptn.errors import SpecError
from deeptn.init import check_scheme, initialize
from deeptn.network import Network
from deeptn.params import check_activations


def init(
    net: Network, key: jax.Array, dtype: Any = "float32", scheme: str = "orthogonal", std: float | None = None
) -> dict[str, jax.Array]:
    """Draw parameters with `jax.random`; works under jit, and under vmap over keys.

    Parameters
    ----------
    net : deeptn.Network
    key : jax.Array
    dtype : str or dtype
        A floating-point or complex type; `deeptn.SpecError` for others, and for 64-bit types without x64. Half
        precision is drawn in float32 and rounded.
    scheme, std
        As for `deeptn.Network.init`.

    Examples
    --------
    >>> import jax, deeptn as dtn
    >>> net = dtn.network("BrickWall", (8, 8))
    >>> many = jax.vmap(lambda key: init(net, key))(jax.random.split(jax.random.key(0), 3))
    >>> many["L1_g0"].shape
    (3, 2, 2)
    """
    dtype = jax.numpy.dtype(dtype)
    if dtype.name not in DTYPES:
        raise SpecError(f"dtype = {dtype}; expected one of {', '.join(DTYPES)}")
    if dtype.name in ("float64", "complex128") and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise SpecError(f"dtype = {dtype}: first enable it with jax.config.update('jax_enable_x64', True)")
    check_activations(net.spec, dtype.name)
    check_scheme(scheme, std)
    draw = _init_compiled if len(net.spec.param_shapes) <= library_of(key).tuning.compiled else _init
    return draw(net, key, dtype, scheme, std)


def _init(net: Network, key: jax.Array, dtype: np.dtype, scheme: str, std: float | None) -> dict[str, jax.Array]:
    drawn = dtype if dtype.itemsize >= 4 else jax.numpy.dtype("float32")
    shapes = net.spec.param_shapes
    flat = jax.random.normal(key, (sum(math.prod(shape) for shape in shapes.values()),), drawn)
    normal: dict[str, jax.Array] = {}
    # One slice for all parameters of a shape, because every slice and every draw is compiled.
    for shape in dict.fromkeys(shapes.values()):
        names = [name for name, own in shapes.items() if own == shape]
        here, flat = jax.numpy.split(flat, [len(names) * math.prod(shape)])
        normal |= zip(names, here.reshape(-1, *shape))
    params = initialize(net.spec, net.layout, normal, scheme, std)
    return {name: array.astype(dtype) for name, array in params.items()}


_init_compiled = jax.jit(_init, static_argnums=(0, 2, 3, 4))


def materialize(net: Network, params: Any) -> jax.Array:
    """Decode the weight, of shape ``net.shape``; see `deeptn.Network.materialize`.

    Examples
    --------
    >>> import functools, jax, deeptn as dtn
    >>> net = dtn.network("BrickWall", (8, 8))
    >>> decode = jax.jit(functools.partial(materialize, net))
    >>> decode(init(net, jax.random.key(0))).shape
    (8, 8)
    """
    return net.materialize(params)


def apply(net: Network, params: Any, x: jax.Array) -> jax.Array:
    """Return ``x @ W.T`` for ``x`` of shape ``(..., prod(net.shape[1:]))``; see `deeptn.Network.apply`.

    Examples
    --------
    >>> import jax, deeptn as dtn
    >>> net = dtn.network("TensorTrain", (8, 16))
    >>> apply(net, init(net, jax.random.key(0)), jax.numpy.ones((5, 16))).shape
    (5, 8)
    """
    return net.apply(params, x)
