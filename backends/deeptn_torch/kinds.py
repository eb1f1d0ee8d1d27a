"""The kinds of layers whose weights networks can generate: those of PyTorch, and registered ones."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from .layers import CONVOLUTIONS, TNEmbedding, TNLayer, TNLinear, TNWeight


class Kind(NamedTuple):
    """How the weight of a class of layers is generated: by a layer in its place or, without one, inside of it."""

    name: str
    made: type[TNLayer] | None = None
    axes: tuple[int, ...] | None = None


#: By classes of layers; a subclass is of the kind of its closest base.
KINDS: dict[type, Kind] = {made.dense: Kind(made.kind, made) for made in (TNLinear, TNEmbedding, *CONVOLUTIONS)}
#: Of one weight of several in a module.
SINGLE = Kind(TNWeight.kind)


def register_layer(cls: type[nn.Module], kind: str = "linear", axes: tuple[int, ...] | None = None) -> None:
    """Make known a class of layers of your own, so that `compress`, `load_model` and the others take them.

    A layer of this class stays what it is; its parameter ``weight`` is generated inside of it.

    Parameters
    ----------
    cls : type
    kind : str
        What it computes, as files name it; see `deeptn.models.Weight`.
    axes : tuple of int, optional
        Where the axes of PyTorch's weight, ``(outputs, inputs, …)``, stand in yours.

    Examples
    --------
    >>> import torch, deeptn as dtn
    >>> from deeptn_torch import compress
    >>> class Doubled(nn.Linear):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> register_layer(Doubled)
    >>> small, report = compress(nn.Sequential(Doubled(12, 8)), {"0": dtn.TTMatrix(rank=2)})
    >>> type(small[0]).forward is Doubled.forward, report.params_after
    (True, 96)
    """
    KINDS[cls] = Kind(kind, None, axes)
