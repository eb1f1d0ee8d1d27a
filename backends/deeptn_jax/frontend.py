"""The JAX front-ends, as the laws of `deeptn.testing` see them: pure functions, Equinox and Flax NNX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from deeptn.network import Network
from deeptn.testing import LAYER, PureFunctions

from .functional import init
from .view import view_of


def pure_functions() -> PureFunctions:
    """Return the front-end of bare networks, drawn with `init`; registered as the entry point ``jax``."""
    return PureFunctions("jax", lambda net, seed: init(net, jax.random.key(seed)))


class EquinoxFrontEnd:
    """Lets the laws test `deeptn_jax.equinox.TNLinear`; registered as the entry point ``equinox``."""

    name, library, view = "equinox", "jax", staticmethod(view_of)

    def __init__(self):
        from .equinox import TNLinear

        self._layer = TNLinear

    def linear(self, network: Network, bias: bool, seed: int) -> dict[str, Any]:
        rows, columns = network.shape
        return {LAYER: self._layer(columns, rows, network, bias, key=jax.random.key(seed))}

    def call(self, model: dict[str, Any], x: jax.Array) -> jax.Array:
        return jax.vmap(model[LAYER])(x)

    def gradient(self, model: dict[str, Any], x: jax.Array, dy: jax.Array) -> dict[str, jax.Array]:
        return jax.grad(lambda model: jnp.vdot(dy, self.call(model, x)))(model)[LAYER].arrays


class NNXFrontEnd:
    """Lets the laws test `deeptn_jax.nnx.TNLinear`; registered as the entry point ``nnx``."""

    name, library, view = "nnx", "jax", staticmethod(view_of)

    def __init__(self):
        from flax import nnx

        from .nnx import TNLinear

        self._layer, self._nnx = TNLinear, nnx

    def linear(self, network: Network, bias: bool, seed: int) -> Any:
        rows, columns = network.shape
        return self._nnx.Dict({LAYER: self._layer(columns, rows, network, rngs=self._nnx.Rngs(seed), use_bias=bias)})

    def call(self, model: Any, x: jax.Array) -> jax.Array:
        return model[LAYER](x)

    def gradient(self, model: Any, x: jax.Array, dy: jax.Array) -> dict[str, jax.Array]:
        found = self._nnx.grad(lambda model: jnp.vdot(dy, self.call(model, x)))(model)
        return {name: slope[...] for name, slope in found[LAYER]["cores"].items()}
