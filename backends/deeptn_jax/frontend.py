"""JAX for the laws of `deeptn.testing`: pure functions, Equinox and Flax NNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeptn.arrays import from_raw
from deeptn.files import StoredLayer, StoredModel
from deeptn.models import Entry, Generated, Weight
from deeptn.network import Network
from deeptn.testing import LAYER

from .fit import fit
from .functional import apply, init
from .models import seed_of


class StoredView:
    """Cores and biases by themselves, for pure functions, as a `deeptn.models.ModelView`.

    Examples
    --------
    >>> import deeptn as dtn
    >>> model = JaxFrontEnd().linear(dtn.network("LowRank", (4, 6)), bias=True, seed=0)
    >>> list(StoredView(model).entries())
    ['layer.cores.U', 'layer.cores.V', 'layer.bias']
    """

    fit, seed = staticmethod(fit), staticmethod(seed_of)

    def __init__(self, model: StoredModel):
        self.model = model

    def weights(self) -> list[Weight]:
        return [self._weight(name, *layer) for name, layer in self.model.layers.items()]

    def _weight(self, name: str, kind: str, net: Network, cores: Any, bias: Any) -> Weight:
        dtype, refused = next(iter(cores.values())).dtype.name, "is no layer but an array; write materialize"
        read = lambda: net.materialize(cores)  # noqa: E731
        return Weight((name,), kind, net.shape, dtype, read, bias=bias is not None, network=net, refused=refused)

    def entries(self) -> dict[str, Entry]:
        state = self.model.state()
        return {n: Entry(a.shape, a.dtype.name, n, lambda a=a: a) for n, a in state.items()}

    def replace(self, changes: Mapping[str, Generated | None]) -> None:
        assert not changes  # all are refused

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        new = self.model.state() | {name: from_raw(array, "jax") for name, array in arrays.items()}
        layers = {}
        for name, layer in self.model.layers.items():
            cores = {core: new[f"{name}.cores.{core}"] for core in layer.params}
            layers[name] = layer._replace(params=cores, bias=new.get(f"{name}.bias"))
        self.model = StoredModel(layers, {name: new[name] for name in self.model.tensors})


class JaxFrontEnd:
    """Pure functions, whose model is a `deeptn.files.StoredModel` of JAX arrays; the entry point ``jax``.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn.testing import check_front_end
    >>> check_front_end(JaxFrontEnd(), [dtn.network("TTMatrix", (6, 8))])
    """

    name = library = "jax"
    view = StoredView

    def linear(self, network: Network, bias: bool, seed: int) -> StoredModel:
        cores = init(network, jax.random.key(seed))
        layer = StoredLayer("linear", network, cores, jnp.zeros(network.shape[0]) if bias else None)
        return StoredModel({LAYER: layer}, {})

    def call(self, model: StoredModel, x: jax.Array) -> jax.Array:
        layer = model.layers[LAYER]
        y = apply(layer.network, layer.params, x)
        return y if layer.bias is None else y + layer.bias

    def gradient(self, model: StoredModel, x: jax.Array, dy: jax.Array) -> dict[str, jax.Array]:
        layer = model.layers[LAYER]
        return jax.grad(lambda cores: jnp.vdot(dy, apply(layer.network, cores, x)))(layer.params)


class EquinoxFrontEnd:
    """`deeptn_jax.equinox.TNLinear`; the entry point ``equinox``.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn.testing import check_front_end
    >>> check_front_end(EquinoxFrontEnd(), [dtn.network("TTMatrix", (6, 8))])
    """

    name, library = "equinox", "jax"

    def __init__(self):
        from .equinox import TNLinear
        from .equinox.view import EquinoxModel

        self.view, self._layer = EquinoxModel, TNLinear

    def linear(self, network: Network, bias: bool, seed: int) -> dict[str, Any]:
        rows, columns = network.shape
        return {LAYER: self._layer(columns, rows, network, bias, key=jax.random.key(seed))}

    def call(self, model: dict[str, Any], x: jax.Array) -> jax.Array:
        return jax.vmap(model[LAYER])(x)

    def gradient(self, model: dict[str, Any], x: jax.Array, dy: jax.Array) -> dict[str, jax.Array]:
        import equinox as eqx

        return eqx.filter_grad(lambda model: jnp.vdot(dy, self.call(model, x)))(model)[LAYER].cores


class NNXFrontEnd:
    """`deeptn_jax.nnx.TNLinear`; the entry point ``nnx``.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn.testing import check_front_end
    >>> check_front_end(NNXFrontEnd(), [dtn.network("TTMatrix", (6, 8))])
    """

    name, library = "nnx", "jax"

    def __init__(self):
        from flax import nnx

        from .nnx import TNLinear
        from .nnx.view import NNXModel

        self.view, self._layer, self._nnx = NNXModel, TNLinear, nnx

    def linear(self, network: Network, bias: bool, seed: int) -> Any:
        rows, columns = network.shape
        return self._nnx.Dict({LAYER: self._layer(columns, rows, network, rngs=self._nnx.Rngs(seed), use_bias=bias)})

    def call(self, model: Any, x: jax.Array) -> jax.Array:
        return model[LAYER](x)

    def gradient(self, model: Any, x: jax.Array, dy: jax.Array) -> dict[str, jax.Array]:
        found = self._nnx.grad(lambda model: jnp.vdot(dy, self.call(model, x)))(model)
        return {name: slope[...] for name, slope in found[LAYER]["cores"].items()}
