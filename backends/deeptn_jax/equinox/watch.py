"""Read the inputs of the weights of an Equinox model while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from deeptn.models import Batch, Receive, kind_of, unfolding

from ..train import as_arrays
from ..watch import Watch, settled
from .layers import CELLS, TNLayer


@contextmanager
def watched(
    rebuilt: Callable[[Mapping[str, Any]], Any],
    layers: Mapping[str, Any],
    names: Mapping[str, Mapping[str, str]],
    receive: Receive,
) -> Iterator[tuple[Any, Callable[[Any], object]]]:
    """Return a model that passes on the inputs of layers, and a function that runs it.

    `rebuilt` makes a model with other layers at some paths; `names` are those of the weights of each.
    """
    watch = Watch(receive)
    model = rebuilt({path: watch.layer(layer, _read, names[path]) for path, layer in layers.items()})
    called = eqx.filter_jit(lambda args, kwargs: jax.vmap(lambda a, k: model(*a, **k))(args, kwargs))
    with watch.ended():
        yield model, lambda batch: settled(called(*Batch.of(as_arrays(batch))[:2]))


def _read(layer: Any, x: Any, *args: Any, **options: Any) -> Iterator[tuple[str, Any]]:
    """Yield the inputs of the weights of a layer or cell."""
    if kind_of(CELLS, layer) is not None:
        state = args[0] if args else options["hidden"]
        yield "weight_ih", x
        yield "weight_hh", state[0] if isinstance(state, tuple) else state
        return
    dense = layer.dense if isinstance(layer, TNLayer) else layer
    if isinstance(dense, eqx.nn.Conv):
        size = dense.in_channels // dense.groups
        weight = unfolding((dense.out_channels, size, *dense.kernel_size), dense.groups)
        unfold: Any = object.__new__(eqx.nn.Conv)
        for name, value in (vars(dense) | {"weight": jnp.asarray(weight, x.dtype), "use_bias": False}).items():
            object.__setattr__(unfold, name, value)
        x = jnp.moveaxis(eqx.nn.Conv.__call__(unfold, x), 0, -1).reshape(-1, weight[0].size)
    yield "weight", jnp.asarray(x)[None] if getattr(dense, "in_features", None) == "scalar" else jnp.asarray(x)
