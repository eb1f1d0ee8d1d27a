"""The kinds of layers whose weights networks can generate: those of Flax NNX, and registered ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import nnx

from deeptn.network import Network

from .layers import TNConv, TNEmbed, TNLayer, TNLinear, to_kernel


class Kind(NamedTuple):
    """How a layer of a class is generated: ``make(dense, network, cores)``; `base` computes what the result does."""

    name: str
    attribute: str
    make: Callable[..., TNLayer]
    base: type | None = None


#: By classes of layers; a subclass is of the kind of its closest base.
KINDS: dict[type, Kind] = {
    nnx.Linear: Kind("linear", "kernel", TNLinear._of, nnx.Linear),
    nnx.Conv: Kind("conv{}d", "kernel", TNConv._of, nnx.Conv),
    nnx.Embed: Kind("embedding", "embedding", TNEmbed._of, nnx.Embed),
}


class TNRegistered(TNLayer):
    """A layer of a registered class, its weight generated; it is called as that layer is."""

    def __init__(self, dense: Any, network: Network, cores: Mapping[str, jax.Array], kind: str, attribute: str):
        self.own_kind, self.attribute = kind, attribute  # type: ignore[misc]
        super().__init__(nnx.clone(dense), network, cores)

    @property
    def kind(self) -> str:
        return self.own_kind

    @property
    def kernel(self) -> jax.Array:
        weight = self.network.materialize(self.arrays)
        return to_kernel(weight) if self.attribute == "kernel" else weight

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.to_dense()(*args, **options)


def register_layer(cls: type[nnx.Module], kind: str = "linear", attribute: str = "kernel") -> None:
    """Make known a class of layers of your own, so that `compress`, `load_model` and the others take them.

    Parameters
    ----------
    cls : type
    kind : str
        What it computes, as files name it: ``"linear"``, ``"conv2d"``, ``"embedding"``, …
    attribute : str
        The variable that holds the weight: a ``"kernel"`` in NNX's order of axes, ``(…, inputs, outputs)``, any other
        in PyTorch's, ``(outputs, inputs, …)``.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn_jax.nnx import compress
    >>> class Doubled(nnx.Linear):
    ...     def __call__(self, x):
    ...         return 2 * super().__call__(x)
    >>> register_layer(Doubled)
    >>> model = nnx.Sequential(Doubled(12, 8, rngs=nnx.Rngs(0)))
    >>> small, report = compress(model, {"layers.0": dtn.TTMatrix(rank=2)})
    >>> small(jax.numpy.ones((3, 12))).shape, report.params_after
    ((3, 8), 96)
    """
    KINDS[cls] = Kind(kind, attribute, partial(TNRegistered, kind=kind, attribute=attribute))
