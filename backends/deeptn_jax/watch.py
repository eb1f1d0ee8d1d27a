"""Read the inputs of the weights of a JAX model while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from deeptn.models import Receive

from .view import called_by

#: Yields the names of a layer's weights and their inputs; takes the layer and the arguments of a call.
Read = Callable[..., Iterator[tuple[str, Any]]]


class Watch:
    """Passes on what layers are called with, also inside transformations of JAX."""

    def __init__(self, receive: Receive):
        self.receive, self.error = receive, None

    def layer(self, layer: Any, read: Read, names: Mapping[str, str]) -> Any:
        """Return an object like a layer that passes on the inputs of its weights.

        `names` are the names of the weights in the model, by their names in the layer; others are not passed on.
        """

        def call(like: Any, *args: Any, **options: Any) -> Any:
            for own, inputs in read(like, *args, **options):
                if own in names:
                    self._show(names[own], inputs)
            return type(layer).__call__(like, *args, **options)

        return called_by(layer, call)

    def _show(self, name: str, array: Any) -> None:
        @jax.custom_batching.custom_vmap
        def show(array: Any) -> tuple[()]:
            jax.debug.callback(self._take(name), array)
            return ()

        @show.def_vmap
        def _(size: int, batched: Any, array: Any) -> tuple[tuple[()], tuple[()]]:  # all examples in one callback
            return show(array), ()

        show(array) if isinstance(array, Tracer) else self._take(name)(array)

    def _take(self, name: str) -> Callable[[Any], None]:
        def take(values: Any) -> None:
            if self.error is None:
                try:
                    array = np.asarray(values)
                    self.receive(name, array, axis=0 if array.dtype.kind in "iu" else 1)
                except Exception as error:  # JAX would replace it by its own
                    self.error = error

        return take

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Wait for all callbacks at the end, and raise the first error of one."""
        yield
        jax.effects_barrier()
        if self.error is not None:
            raise self.error


def settled(outputs: Any) -> Any:
    """Return outputs of a model once all callbacks of its call are done."""
    jax.block_until_ready(outputs)
    jax.effects_barrier()
    return outputs
