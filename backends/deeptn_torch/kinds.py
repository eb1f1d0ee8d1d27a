"""The kinds of layers whose weights networks can generate: those of PyTorch, and registered ones."""

from __future__ import annotations

from torch import nn

from deeptn.models import Kind

from .layers import CONVOLUTIONS, TNEmbedding, TNLinear, TNWeight

#: By classes of layers. What has no `make` stays, and its weight is generated inside of it.
KINDS: dict[type, Kind] = {
    made.dense: Kind(made.kind, made.like, made.dense) for made in (TNLinear, TNEmbedding, *CONVOLUTIONS)
}
#: Of one weight of several in a module.
SINGLE = Kind(TNWeight.kind)


def register_layer(cls: type[nn.Module], kind: str = "linear", axes: tuple[int, ...] | None = None) -> None:
    """Make known a class of layers of your own, so that `compress`, `load_model` and the others take them.

    A layer of this class stays what it is; its parameter ``weight`` is generated inside of it. `kind` is what it
    computes, as files name it: ``"linear"``, ``"conv2d"``, ``"embedding"``, …; `axes` is where the axes of PyTorch's
    weight, ``(outputs, inputs, …)``, are in yours.

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
    KINDS[cls] = Kind(kind, axes=axes)
