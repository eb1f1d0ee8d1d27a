"""The kinds of layers whose weights networks can generate: PyTorch's own and registered ones."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from deeptn.models import Kind, kind_of

from .layers import CONVOLUTIONS, TNEmbedding, TNLayer, TNLinear, TNWeight
from .layers.embedding import PADDED, has_padding, unsupported

#: Kinds by layer class or its full name. A layer whose kind has no `make` stays; its weight is generated inside it.
KINDS: dict[type | str, Kind] = {
    made.dense: Kind(made.kind, made.like, made.dense) for made in (TNLinear, TNEmbedding, *CONVOLUTIONS)
}
KINDS[nn.EmbeddingBag] = Kind("embedding")
KINDS["transformers.pytorch_utils.Conv1D"] = Kind("linear", axes=(1, 0), affine=True)
#: The kind of a single weight in a module that has several.
SINGLE = Kind(TNWeight.kind)


def register_layer(cls: type[nn.Module], kind: str = "linear", axes: tuple[int, ...] | None = None) -> None:
    """Register your own layer class, so that `compress`, `load_model` and the other functions support it.

    Layers of this class are not replaced; their parameter ``weight`` is generated inside them. `kind` says what the
    layer computes, by its name in files: ``"linear"``, ``"conv2d"``, ``"embedding"``, …; `axes` lists the positions
    of the axes of PyTorch's weight, ``(outputs, inputs, …)``, in yours.

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


def kind_for(module: nn.Module) -> Kind | None:
    """Return the kind of a module whose parameter ``weight`` is or can be generated; None for other modules."""
    if isinstance(module, TNLayer):
        return Kind(PADDED if isinstance(module, TNEmbedding) and module.padding_idx is not None else module.kind)
    kind, weight = kind_of(KINDS, module), module._parameters.get("weight")
    if kind is None or (weight is not None and is_lazy(weight)):
        return None
    if kind.base is nn.Embedding and isinstance(module, nn.Embedding) and weight is not None and has_padding(module):
        return Kind(kind.form)  # inside it: nn.Embedding gives such a row no gradient, while TNEmbedding returns zeros
    return kind


def replaceable(module: nn.Module, kind: Kind) -> str | None:
    """Return why a layer cannot be replaced: another computation, further tensors or modules, hooks. Else None."""
    parts = [key for key in (*module._parameters, *module._buffers, *module._modules) if key not in ("weight", "bias")]
    more = f"has {parts[0]!r} besides weight and bias, which would be lost; register its class" if parts else None
    options = unsupported(module) if isinstance(module, nn.Embedding) else None
    return kind.differs(module, "forward") or options or more or hooks(module)


def lost_when_dense(module: nn.Module, key: str) -> str | None:
    """Return why a generated weight cannot become dense, by itself or with its layer; None if it can."""
    if isinstance(module, TNWeight):
        return "is a TNWeight in your own module, where no dense weight can replace it"
    if isinstance(module, TNLayer):
        parts = [part for part in (*module._parameters, *module._buffers, *module._modules) if part not in _OWN]
        return f"has {parts[0]!r} besides cores and bias, which would be lost; remove it first" if parts else None
    if key not in vars(type(module)):  # where PyTorch looks it up
        return "is in a module whose class was changed later (fully_shard does that); fold it before"
    parametrizations: Any = module.parametrizations
    _, *others = parametrizations[key]
    return f"has a {type(others[0]).__name__} on top, which would be lost; remove it first" if others else None


_OWN = ("cores", "bias")


def hooks(module: nn.Module) -> str | None:
    """Return why a layer with hooks cannot be replaced; None without hooks."""
    if "forward" in vars(module):
        return "has a forward of its own, set on the instance, which would be lost; remove it first"
    found = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return "has hooks, which would be lost; remove them first" if any(found) else None
