"""The view through which deeptn reads and changes Flax NNX models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.nnx.training.metrics import MetricState

from deeptn.models import Entry, Generated, Kind, Receive, Weight, kind_of, path_of, refuse, tied

from ..fit import fit
from ..view import TURNED, array_like, changed, checked, generated, is_array, is_key, normalized, outputs_of, seed_of
from .graph import parts, swap
from .layers import KINDS, Form, TNLayer, TNLinearGeneral
from .watch import watched

#: Modules that normalize the kernels of the layers inside them, in place.
WRAPPERS = (nnx.WeightNorm, nnx.SpectralNorm)
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
        users: dict[int, list[str]] = {}
        for path, value in parts(self.model, nnx.Variable).items():
            users.setdefault(id(value), []).append(path)
        above = parts(self.model, nnx.Pytree, once=True).values()
        held = {id(self.model)} | {id(child) for parent in above for child in vars(parent).values()}
        around = {
            id(layer): normalized(wrapper)
            for wrapper in parts(self.model, WRAPPERS, once=True).values()
            for layer in parts(wrapper, (TNLayer, *KINDS), once=True).values()
        }
        found = []
        for layer, names in self._places().values():
            loose = None if id(layer) in held else "is in a plain container; use nnx.List or nnx.Dict"
            found.append(self._weight(layer, names, users, loose or around.get(id(layer))))
        return found

    def _weight(
        self, layer: Any, names: tuple[str, ...], users: Mapping[int, list[str]], refused: str | None
    ) -> Weight:
        kind: Kind | None = kind_of(KINDS, layer)
        if kind is None:
            return generated(names, layer, refused)
        own = {key: value for key, value in vars(layer).items() if isinstance(value, nnx.Variable)}
        variable = own[kind.attribute]
        if kind.base is not None:
            more = next((key for key in own if key not in (kind.attribute, "bias")), None)
            refused = kind.differs(layer, "__call__") or refused
            refused = refused or (more and f"has {more!r} besides weight and bias, which would be lost")
            if len(_raw(variable).shape) != _ndim(layer):
                why = f"has a stack of weights of shape {_raw(variable).shape} (nnx.vmap, batch_axis)"
                refused = refused or f"{why}; compress single layers"
        for what in (kind.attribute, "bias"):
            places = {path_of(name, what) for name in names}
            for path in users.get(id(own.get(what)), ()):
                refused = refused if path in places else tied(what, path)
        form = Form.of(kind.attribute, _raw(variable).shape, layer)
        shape, read, bias = form.weight, partial(_read, form, variable), getattr(layer, "bias", None) is not None
        dtype, stored = _raw(variable).dtype.name, NAMES.get(kind.attribute, kind.attribute)
        affine = kind.adds_bias(layer)
        return Weight(names, kind.name(shape), shape, dtype, read, stored, bias, None, refused, affine)

    def _slots(self) -> dict[str, tuple[Form, Any, str | None]]:
        """Map names of entries to forms, variables, and why files cannot store them (None if they can)."""
        general = parts(self.model, (nnx.LinearGeneral, TNLinearGeneral))
        turned = tuple(f"{name}." for name in parts(self.model, nnx.ConvTranspose, once=True))
        cores = tuple(f"{path_of(name, 'cores')}." for name in parts(self.model, TNLayer))
        held = [item for item in parts(self.model, nnx.Variable).items() if not isinstance(item[1], PASSING)]
        held.sort(key=lambda item: not isinstance(item[1], (nnx.Param, nnx.BatchStat)))  # they get PyTorch's names
        found: dict[str, tuple[Form, Any, str | None]] = {}
        for path, value in held:
            raw = value.get_raw_value()
            if raw is None:
                continue
            module, _, own = path.rpartition(".")
            own = "" if path.startswith(cores) else own  # a core keeps its name and its axes
            place, refused = path_of(module, NAMES.get(own, own)) if own else path, None
            if place in found and not isinstance(value, (nnx.Param, nnx.BatchStat)):
                place = path
            if place in found:
                place, refused = path, f"and another variable would both be stored as {place!r}; rename {own!r}"
            elif not isinstance(raw, NUMBERS) and (not is_array(raw) or is_key(raw)):
                refused = f"is a {type(value).__name__} of type {type(raw).__name__}; files store arrays and numbers"
            elif path.startswith(turned):
                refused = TURNED
            form = Form.of(own, (0,) if refused else _raw(value).shape, general.get(module))
            found[place] = form, value, refused
        return found

    def entries(self) -> dict[str, Entry]:
        found, slots = {}, self._slots()
        for name, (form, value, refused) in slots.items():
            read = partial(refuse, name, refused) if refused else partial(_read, form, value)
            shape, dtype = ((0,), None) if refused else (form.weight, _raw(value).dtype.name)
            found[name] = Entry(shape, dtype, id(value), read, isinstance(value, nnx.Param), refused)
        held = {id(value) for _, value, _ in slots.values()}
        for path, value in parts(self.model, nnx.Variable, once=True).items():
            if id(value) not in held and isinstance(value.get_raw_value(), jax.ShapeDtypeStruct):
                found[path] = Entry((0,), None, id(value), partial(refuse, path, ABSTRACT), False, ABSTRACT)
        return found

    def replace(self, changes: Mapping[str, Generated | None]) -> None:
        layers = {name: layer for name, (layer, _) in self._places().items()}
        swaps = {
            id(layer): changed(kind_of(KINDS, layer), name, layer, changes[name])
            for name, layer in layers.items()
            if name in changes
        }
        swap(self.model, swaps)

    def evaluated(self) -> Any:
        """Return a copy of the model in evaluation mode."""
        model = nnx.clone(self.model)
        model.eval()
        return model

    def outputs(self, inputs: Any, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        changed = NNXModel(nnx.clone(self.model), self.order)
        entries = {weight.name: weight.entry(weight.own) for weight in self.weights()}
        changed.write({entries[name]: array for name, array in weights.items()})
        changed.model.eval()
        return outputs_of(changed.model, inputs)

    def watched(self, names: Iterable[str], receive: Receive) -> AbstractContextManager[Any]:
        view = NNXModel(nnx.clone(self.model), self.order)
        layers = {name: layer for name, (layer, _) in view._places().items() if name in set(names)}
        return watched(view.model, layers, receive)

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        slots = self._slots()
        for name, array in arrays.items():
            form, value, _ = slots[name]
            raw = value.get_raw_value()
            made = form.from_weight(array_like(array, _raw(value)))
            number = isinstance(raw, NUMBERS) and not isinstance(raw, np.generic)
            value.set_raw_value(type(raw)(made.item()) if number else made)  # bypasses any hooks


def _raw(value: Any) -> Any:
    """Return the array of a variable; a number becomes a NumPy array."""
    raw = value.get_raw_value()
    return np.asarray(raw) if isinstance(raw, NUMBERS) else raw


def _ndim(layer: Any) -> int:
    """Return how many axes the kernel of a single dense layer has."""
    if isinstance(layer, nnx.LinearGeneral):
        return len(layer.in_features) + len(layer.out_features)
    return 2 + len(getattr(layer, "kernel_size", ()))


def _read(form: Form, value: Any) -> Any:
    return form.to_weight(checked(_raw(value)))
