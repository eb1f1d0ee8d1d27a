"""The view through which deeptn reads and changes Flax NNX models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.nnx.training.metrics import MetricState

from deeptn.models import Entry, Generated, Kind, Weight, kind_of, path_of, refuse, tied

from ..fit import fit
from ..view import TURNED, array_like, changed, checked, generated, is_array, is_key, outputs_of, seed_of
from .graph import parts
from .layers import KINDS, TNLayer, from_weight, to_weight, torch_axes

#: Variables that do not belong to a trained model.
PASSING = (nnx.RngState, nnx.Cache, nnx.Intermediate, nnx.OptState, MetricState)
#: PyTorch's names for NNX variables.
NAMES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
NUMBERS = (bool, int, float, complex)
ABSTRACT = "has a shape but no data, and files do not store it"


class NNXModel:
    """A Flax NNX model as a `deeptn.models.ModelView`, changed in place.

    Parameters
    ----------
    model : nnx.Module
    order : tuple of str
        Paths in the order that decides which name comes first if a module has several.

    Examples
    --------
    >>> model = nnx.Sequential(nnx.Linear(6, 4, rngs=nnx.Rngs(0)), nnx.relu)
    >>> [(weight.name, weight.shape) for weight in NNXModel(model).weights()]
    [('layers.0', (4, 6))]
    """

    fit, seed = staticmethod(fit), staticmethod(seed_of)

    def __init__(self, model: Any, order: tuple[str, ...] = ()):
        self.model, self.order = model, order

    @classmethod
    def of_copy(cls, model: nnx.Module) -> NNXModel:
        """View a copy of a model, and remember the order in which its parts were set, which the copy loses."""
        return cls(nnx.clone(model), tuple(parts(model, nnx.Module, once=True)))

    def _places(self) -> dict[str, tuple[Any, tuple[str, ...]]]:
        """Return layers, generated or not, with all of their names, by the first name."""
        everywhere = parts(self.model, (TNLayer, *KINDS))
        names: dict[int, list[str]] = {}
        for name in dict.fromkeys((*self.order, *everywhere)):
            if name in everywhere:
                names.setdefault(id(everywhere[name]), []).append(name)
        return {own[0]: (everywhere[own[0]], tuple(own)) for own in names.values()}

    def weights(self) -> list[Weight]:
        places = self._places().values()
        users: dict[int, list[str]] = {}
        for path, value in parts(self.model, nnx.Variable).items():
            users.setdefault(id(value), []).append(path)
        above = parts(self.model, nnx.Pytree, once=True).values()
        held = {id(self.model)} | {id(child) for parent in above for child in vars(parent).values()}
        return [self._weight(layer, names, users, held) for layer, names in places]

    def _weight(self, layer: Any, names: tuple[str, ...], users: Mapping[int, list[str]], held: set[int]) -> Weight:
        refused = None if id(layer) in held else "is in a plain container; use nnx.List or nnx.Dict"
        kind: Kind | None = kind_of(KINDS, layer)
        if kind is None:
            return generated(names, layer, refused)
        own = {key: value for key, value in vars(layer).items() if isinstance(value, nnx.Variable)}
        variable = own[kind.attribute]
        if kind.base is not None:
            more = next((key for key in own if key not in (kind.attribute, "bias")), None)
            refused = kind.differs(layer, "__call__") or refused
            refused = refused or (more and f"has {more!r} besides weight and bias, which would be lost")
        for what in (kind.attribute, "bias"):
            places = {path_of(name, what) for name in names}
            for path in users.get(id(own.get(what)), ()):
                refused = refused if path in places else tied(what, path)
        shape = _shape(kind.attribute, _raw(variable))
        read, bias = partial(_read, kind.attribute, variable), getattr(layer, "bias", None) is not None
        dtype, stored = _raw(variable).dtype.name, NAMES.get(kind.attribute, kind.attribute)
        return Weight(names, kind.name(shape), shape, dtype, read, stored, bias, None, refused)

    def _slots(self) -> dict[str, tuple[str, Any, str | None]]:
        """Map names of entries to names in NNX, variables, and why files cannot store them (None if they can)."""
        turned = tuple(f"{name}." for name in parts(self.model, nnx.ConvTranspose, once=True))
        held = [item for item in parts(self.model, nnx.Variable).items() if not isinstance(item[1], PASSING)]
        held.sort(key=lambda item: not isinstance(item[1], (nnx.Param, nnx.BatchStat)))  # they get PyTorch's names
        found: dict[str, tuple[str, Any, str | None]] = {}
        for path, value in held:
            raw = value.get_raw_value()
            if raw is None:
                continue
            module, _, own = path.rpartition(".")
            place, refused = path_of(module, NAMES.get(own, own)), None
            if place in found and not isinstance(value, (nnx.Param, nnx.BatchStat)):
                place = path
            if place in found:
                place, refused = path, f"and another variable would both be stored as {place!r}; rename {own!r}"
            elif not isinstance(raw, NUMBERS) and (not is_array(raw) or is_key(raw)):
                refused = f"is a {type(value).__name__} of type {type(raw).__name__}; files store arrays and numbers"
            elif path.startswith(turned):
                refused = TURNED
            found[place] = own, value, refused
        return found

    def entries(self) -> dict[str, Entry]:
        found, slots = {}, self._slots()
        for name, (own, value, refused) in slots.items():
            raw = _raw(value)
            read = partial(refuse, name, refused) if refused else partial(_read, own, value)
            shape, dtype = ((0,), None) if refused else (_shape(own, raw), raw.dtype.name)
            found[name] = Entry(shape, dtype, id(value), read, isinstance(value, nnx.Param), refused)
        held = {id(value) for _, value, _ in slots.values()}
        for path, value in parts(self.model, nnx.Variable, once=True).items():
            if id(value) not in held and isinstance(value.get_raw_value(), jax.ShapeDtypeStruct):
                found[path] = Entry((0,), None, id(value), partial(refuse, path, ABSTRACT), False, ABSTRACT)
        return found

    def replace(self, changes: Mapping[str, Generated | None]) -> None:
        layers = {name: layer for name, (layer, _) in self._places().items()}
        swaps = {id(layers[name]): changed(KINDS, name, layers[name], change) for name, change in changes.items()}
        for parent in parts(self.model, nnx.Pytree, once=True).values():
            for name, child in list(vars(parent).items()):
                if id(child) in swaps:
                    setattr(parent, name, swaps[id(child)])

    def outputs(self, inputs: Any, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        changed = NNXModel(nnx.clone(self.model), self.order)
        entries = {weight.name: weight.entry(weight.own) for weight in self.weights()}
        changed.write({entries[name]: array for name, array in weights.items()})
        changed.model.eval()
        return outputs_of(changed.model, inputs)

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        slots = self._slots()
        for name, array in arrays.items():
            own, value, _ = slots[name]
            raw = value.get_raw_value()
            made = from_weight(own, array_like(array, _raw(value)))
            number = isinstance(raw, NUMBERS) and not isinstance(raw, np.generic)
            value.set_raw_value(type(raw)(made.item()) if number else made)  # bypasses any hooks


def _raw(value: Any) -> Any:
    """Return the array of a variable; a number becomes a NumPy array."""
    raw = value.get_raw_value()
    return np.asarray(raw) if isinstance(raw, NUMBERS) else raw


def _shape(own: str, raw: Any) -> tuple[int, ...]:
    """Return a shape in PyTorch's order of axes."""
    return tuple(raw.shape[axis] for axis in torch_axes(own, len(raw.shape)))


def _read(own: str, value: Any) -> Any:
    return to_weight(own, checked(_raw(value)))
