"""JAX for the laws of `deeptn.testing`: pure functions, Equinox and Flax NNX."""

from __future__ import annotations

import importlib
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import deeptn
from deeptn.files import StoredLayer, StoredModel
from deeptn.network import Network
from deeptn.testing import LAYER

from .functional import apply, init


class JaxFrontEnd:
    """Pure functions, whose layer is a `deeptn.files.StoredLayer` of JAX arrays; the entry point ``jax``.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn.testing import check_front_end
    >>> check_front_end(JaxFrontEnd(), [dtn.network("TTMatrix", (6, 8))])
    """

    name = "jax"

    def array(self, x: np.ndarray) -> jax.Array:
        return jnp.asarray(x)

    def numpy(self, x: jax.Array) -> np.ndarray:
        return np.asarray(x)

    def linear(self, network: Network, bias: bool, seed: int) -> Any:
        cores = init(network, jax.random.key(seed))
        return StoredLayer("linear", network, cores, jnp.zeros(network.shape[0]) if bias else None)

    def cores(self, layer: Any) -> dict[str, jax.Array]:
        return layer.params

    def bias(self, layer: Any) -> jax.Array | None:
        return layer.bias

    def call(self, layer: Any, x: jax.Array) -> jax.Array:
        y = apply(layer.network, layer.params, x)
        return y if layer.bias is None else y + layer.bias

    def gradient(self, layer: Any, x: jax.Array, dy: jax.Array) -> dict[str, jax.Array]:
        """By `jax.vjp`, through whatever the layer does."""
        _, pull = jax.vjp(lambda cores: self.call(self._with_cores(layer, cores), x), self.cores(layer))
        return pull(dy)[0]

    def _with_cores(self, layer: Any, cores: dict[str, jax.Array]) -> Any:
        return layer._replace(params=cores)

    def save(self, layer: Any, path: str | os.PathLike[str]) -> None:
        deeptn.save_model(StoredModel({LAYER: layer}, {}), path)

    def load(self, path: str | os.PathLike[str]) -> Any:
        stored = deeptn.load_model(path).layers[LAYER]
        bias = None if stored.bias is None else jnp.asarray(stored.bias)
        return stored._replace(params={name: jnp.asarray(core) for name, core in stored.params.items()}, bias=bias)


class _Modules(JaxFrontEnd):
    """What the libraries of modules share; abstract."""

    library: str

    def __init__(self):
        self._library: Any = importlib.import_module(self.library)
        self._module: Any = importlib.import_module(f".{self.name}", __package__)

    def container(self, layers: dict[str, Any]) -> Any:
        """Make a model of layers by name."""
        return layers

    def _dense(self, rows: int, columns: int, bias: bool) -> Any:
        raise NotImplementedError

    def save(self, layer: Any, path: str | os.PathLike[str]) -> None:
        self._module.save_model(self.container({LAYER: layer}), path)

    def load(self, path: str | os.PathLike[str]) -> Any:
        stored = deeptn.load_model(path).layers[LAYER]
        rows, columns = stored.network.shape
        dense = self._dense(rows, columns, stored.bias is not None)
        return self._module.load_model(self.container({LAYER: dense}), path)[LAYER]


class EquinoxFrontEnd(_Modules):
    """`deeptn_jax.equinox.TNLinear`; the entry point ``equinox``.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn.testing import check_front_end
    >>> check_front_end(EquinoxFrontEnd(), [dtn.network("TTMatrix", (6, 8))])
    """

    name = library = "equinox"

    def linear(self, network: Network, bias: bool, seed: int) -> Any:
        rows, columns = network.shape
        return self._module.TNLinear(columns, rows, network, bias, key=jax.random.key(seed))

    def cores(self, layer: Any) -> dict[str, jax.Array]:
        return layer.cores

    def call(self, layer: Any, x: jax.Array) -> jax.Array:
        return jax.vmap(layer)(x)

    def _with_cores(self, layer: Any, cores: dict[str, jax.Array]) -> Any:
        return self._library.tree_at(lambda layer: layer.cores, layer, cores)

    def _dense(self, rows: int, columns: int, bias: bool) -> Any:
        return self._library.nn.Linear(columns, rows, bias, key=jax.random.key(0))


class NNXFrontEnd(_Modules):
    """`deeptn_jax.nnx.TNLinear`; the entry point ``nnx``.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn.testing import check_front_end
    >>> check_front_end(NNXFrontEnd(), [dtn.network("TTMatrix", (6, 8))])
    """

    name, library = "nnx", "flax.nnx"

    def container(self, layers: dict[str, Any]) -> Any:
        return self._library.Dict(layers)

    def linear(self, network: Network, bias: bool, seed: int) -> Any:
        rows, columns = network.shape
        return self._module.TNLinear(columns, rows, network, rngs=self._library.Rngs(seed), use_bias=bias)

    def cores(self, layer: Any) -> dict[str, jax.Array]:
        return layer.arrays

    def bias(self, layer: Any) -> jax.Array | None:
        return None if layer.bias is None else layer.bias[...]

    def call(self, layer: Any, x: jax.Array) -> jax.Array:
        return layer(x)

    def _with_cores(self, layer: Any, cores: dict[str, jax.Array]) -> Any:
        layer = self._library.clone(layer)
        for name, core in cores.items():
            layer.cores[name][...] = core
        return layer

    def _dense(self, rows: int, columns: int, bias: bool) -> Any:
        return self._library.Linear(columns, rows, use_bias=bias, rngs=self._library.Rngs(0))
