"""The kinds of layers whose weights networks can generate: those of Equinox, and registered ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax

from deeptn.network import Network

from .layers import TNConv1d, TNConv2d, TNConv3d, TNEmbedding, TNLayer, TNLinear


class Kind(NamedTuple):
    """How a layer of a class is generated: ``make(dense, network, cores)``; `base` computes what the result does."""

    name: str
    make: Callable[..., TNLayer]
    base: type | None = None


#: By classes of layers; a subclass is of the kind of its closest base.
KINDS: dict[type, Kind] = {
    made.like: Kind(made.kind, made._of, made.like) for made in (TNLinear, TNConv1d, TNConv2d, TNConv3d, TNEmbedding)
}


class TNRegistered(TNLayer):
    """A layer of a registered class, its weight generated; it is called as that layer is."""

    kind: str = eqx.field(static=True)  # type: ignore[misc]

    def __init__(self, dense: Any, network: Network, cores: Mapping[str, jax.Array], kind: str):
        self.cores, self.network, self.kind = dict(cores), network, kind  # type: ignore[misc]
        self.dense = eqx.tree_at(lambda dense: dense.weight, dense, None)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.to_dense()(*args, **options)


def register_layer(cls: type, kind: str = "linear") -> None:
    """Make known a class of layers of your own, so that `compress`, `load_model` and the others take them.

    Parameters
    ----------
    cls : type
        Of `equinox.Module`, with a ``weight`` of PyTorch's order of axes, ``(outputs, inputs, …)``.
    kind : str
        What it computes, as files name it: ``"linear"``, ``"conv2d"``, ``"embedding"``, …

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn_jax.equinox import compress
    >>> class Doubled(eqx.nn.Linear):
    ...     def __call__(self, x, *, key=None):
    ...         return 2 * super().__call__(x)
    >>> register_layer(Doubled)
    >>> small, report = compress({"fc": Doubled(12, 8, key=jax.random.key(0))}, {"fc": dtn.TTMatrix(rank=2)})
    >>> small["fc"](jax.numpy.ones(12)).shape, report.params_after
    ((8,), 96)
    """
    KINDS[cls] = Kind(kind, partial(TNRegistered, kind=kind))
