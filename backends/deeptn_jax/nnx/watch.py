"""Read the inputs of the weights of a Flax NNX model while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
from flax import nnx

from deeptn.models import Batch, Receive, unfolding

from ..train import as_arrays
from ..watch import Watch, settled
from .graph import swap
from .layers import TNLayer


@contextmanager
def watched(model: Any, layers: Mapping[str, Any], receive: Receive) -> Iterator[tuple[Any, Callable[[Any], object]]]:
    """Change a model so that it passes on the inputs of layers, and return it with a function that runs it."""
    watch = Watch(receive)
    swap(model, {id(layer): watch.layer(layer, _read, {"": name}) for name, layer in layers.items()})
    model.eval()

    def run(batch: Any) -> object:
        args, kwargs, _ = Batch.of(as_arrays(batch))
        return settled(model(*args, **kwargs))

    with watch.ended():
        yield model, run


def _read(layer: Any, inputs: Any, *args: Any, **options: Any) -> Iterator[tuple[str, Any]]:
    """Yield the inputs of the weight of a layer."""
    dense, x = layer.dense if isinstance(layer, TNLayer) else layer, jnp.asarray(inputs)
    if isinstance(dense, nnx.Conv):
        shape = dense.out_features, dense.in_features // dense.feature_group_count, *dense.kernel_size
        weight = unfolding(shape, dense.feature_group_count)
        kernel = nnx.Param(jnp.asarray(weight.transpose(*range(2, weight.ndim), 1, 0)))
        unfold: Any = object.__new__(nnx.Conv)
        vars(unfold).update(vars(dense) | {"kernel": kernel, "bias": None, "use_bias": False, "mask": None})
        x = nnx.Conv.__call__(unfold, x).reshape(-1, weight[0].size)
    elif isinstance(dense, nnx.LinearGeneral):
        axes = tuple(axis % x.ndim for axis in dense.axis)
        rest = tuple(axis for axis in range(x.ndim) if axis not in axes)
        x = x.transpose(*rest, *axes).reshape(*(x.shape[axis] for axis in rest), -1)
    yield "", x
