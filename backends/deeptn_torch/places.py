"""Where the weights of a PyTorch model are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import nn
from torch.nn.parameter import is_lazy

from deeptn.models import Generated, Kind, path_of

from .kinds import SINGLE, kind_for
from .layers import Cores, TNLayer, TNWeight
from .layers.embedding import PADDED
from .layers.inside import generated_inside, weights_of


class Place(NamedTuple):
    """Where a weight is: its module, the names of the module, its own name there, and the kind of the layer."""

    module: Any
    owners: tuple[str, ...]
    key: str
    kind: Kind

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(path_of(owner, self.key) for owner in self.owners) if self.kind is SINGLE else self.owners

    @property
    def made(self) -> Any:
        """The generated layer, or None if the weight is dense."""
        if isinstance(self.module, TNLayer):
            return self.module
        return self.module.parametrizations[self.key][0] if self.key in generated_inside(self.module) else None

    @property
    def on_top(self) -> list[Any]:
        """The parametrizations on top of a weight that is generated inside its module."""
        inside = self.made is not None and self.made is not self.module
        return [*self.module.parametrizations[self.key]][1:] if inside else []

    def filled(self, weight: np.ndarray) -> tuple[str, np.ndarray]:
        """Return the name of the dense parameter in the model, and a weight in its order of axes."""
        axes = range(weight.ndim) if self.kind.axes is None else np.argsort(self.kind.axes)
        return path_of(self.owners[0], self.key), weight.transpose(axes)

    def generate(self, change: Generated) -> TNLayer:
        """Create a generated layer for this place with given cores."""
        old = self.module._parameters[self.key]
        params = change.arrays("torch")
        # A file says whether the row of padding is that of its network or zero.
        as_generated = change.kind not in (None, PADDED) and getattr(self.module, "padding_idx", None) is not None
        if self.kind.make is not None and not as_generated:
            return self.kind.make(self.module, change.network, params)
        made = TNWeight(change.network.shape, change.network, "meta", old.dtype, axes=self.kind.axes)
        return made.filled(self.module, old, params)


def places_of(model: nn.Module) -> dict[str, Place]:
    """Return the places of all weights that are or can be generated, by their first names."""
    owners: dict[Any, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if ".parametrizations." not in f".{name}":
            owners.setdefault(module, []).append(name)
    found: list[Place] = []
    for module, names in owners.items():
        keys = dict.fromkeys((*weights_of(module), *generated_inside(module)), SINGLE)
        if (kind := kind_for(module)) is not None:
            keys["weight"] = kind
        found += [Place(module, tuple(names), key, kind) for key, kind in keys.items()]
    return {place.names[0]: place for place in found}


def lone_place(model: nn.Module, name: str) -> Place | None:
    """Return the place of any other parameter with at least two axes; None if there is none of this name."""
    owner, _, key = name.rpartition(".")
    modules = dict(model.named_modules(remove_duplicate=False))
    module: Any = modules.get(owner)
    weight = None if isinstance(module, (TNLayer, Cores, type(None))) else module._parameters.get(key)
    if weight is None or is_lazy(weight) or weight.ndim < 2:
        return None
    return Place(module, tuple(other for other, same in modules.items() if same is module), key, SINGLE)
