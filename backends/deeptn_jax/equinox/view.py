"""The view through which deeptn reads and changes Equinox models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from deeptn.base import Shape
from deeptn.errors import PlanError
from deeptn.models import Entry, Generated, Kind, Receive, Weight, kind_of, path_of, refuse

from ..fit import fit
from ..view import (
    KEY,
    TURNED,
    array_like,
    changed,
    checked,
    generated,
    is_array,
    is_key,
    normalized,
    outputs_of,
    seed_of,
)
from .layers import CELLS, KINDS, SINGLE, TNLayer, TNWeight
from .watch import watched

#: Modules that replace the weight of the layer inside them by a normalized one.
WRAPPERS = (eqx.nn.WeightNorm, eqx.nn.SpectralNorm)


class EquinoxModel:
    """A pytree of Equinox modules as a `deeptn.models.ModelView`; every change creates a new pytree.

    Examples
    --------
    >>> mlp = eqx.nn.MLP(6, 4, 8, 1, key=jax.random.key(0))
    >>> [(weight.name, weight.shape) for weight in EquinoxModel(mlp).weights()]
    [('layers.0', (8, 6)), ('layers.1', (4, 8))]
    """

    fit, seed = staticmethod(fit), staticmethod(seed_of)

    def __init__(self, model: Any):
        self.model = model

    def _layers(self) -> dict[str, tuple[Any, Kind | None]]:
        """Return what is generated (kind None) or can be, except where `equinox.nn.Shared` left a hole."""
        found: dict[str, tuple[Any, Kind | None]] = {}
        for name, part in parts(self.model, (TNLayer, *KINDS, *CELLS)).items():
            kind = kind_of(KINDS, part)
            if isinstance(part, TNLayer):
                found[name] = part, None
            elif kind is not None and is_array(part.weight):
                found[name] = part, kind
            for own in kind_of(CELLS, part) or ():
                array = getattr(part, own)
                if isinstance(array, TNWeight) or is_array(array):
                    found[path_of(name, own)] = array, None if isinstance(array, TNWeight) else SINGLE
        return found

    def weights(self) -> list[Weight]:
        layers, found = self._layers(), []
        cells = {name: own_call(part) for name, part in parts(self.model, tuple(CELLS)).items()}
        around = {path: part for path, part in parts(self.model, WRAPPERS).items() if isinstance(part, WRAPPERS)}
        for name, (layer, kind) in layers.items():
            wrapper = next((part for path, part in around.items() if name.startswith(path_of(path, "layer"))), None)
            why = None if wrapper is None else normalized(wrapper)
            why = why or (cells[name.rpartition(".")[0]] if kind is SINGLE else None)
            found.append(self._weight(name, layer, kind, why))
        shared = parts(self.model, (eqx.nn.Shared,)).items()
        tied = tuple(path_of(path, "") for path, part in shared if isinstance(part, eqx.nn.Shared))
        return [replace(one, affine=one.affine and not one.name.startswith(tied)) for one in found]

    def _weight(self, name: str, layer: Any, kind: Kind | None, refused: str | None) -> Weight:
        if kind is None:
            return generated((name,), layer, refused, "" if isinstance(layer, TNWeight) else "weight")
        weight, own = (layer, "") if kind is SINGLE else (layer.weight, "weight")
        shape = tuple(weight.shape)
        if kind.base is not None or kind is SINGLE:
            refused = refused or kind.differs(layer, "__call__")
            if len(shape) != 2 + getattr(layer, "num_spatial_dims", 0):
                refused = f"has a stack of weights of shape {shape} (filter_vmap); compress single layers"
        read, bias = partial(checked, weight), getattr(layer, "bias", None) is not None
        name_of_kind, affine = kind.name(shape), kind.adds_bias(layer)
        return Weight((name,), name_of_kind, shape, weight.dtype.name, read, own, bias, None, refused, affine)

    def _slots(self) -> dict[str, tuple[str, Any]]:
        """Map names of entries to paths and arrays; names omit the ``dense`` part of generated layers."""
        dense = {f"{path_of(name, 'dense')}.": name for name, place in self._layers().items() if place[1] is None}
        found = {}
        for path, leaf in parts(self.model).items():
            start = next((start for start in dense if path.startswith(start)), None)
            if is_array(leaf):
                found[path if start is None else path_of(dense[start], path.removeprefix(start))] = path, leaf
        return found

    def entries(self) -> dict[str, Entry]:
        transposed = parts(self.model, (eqx.nn.ConvTranspose,)).items()
        turned = tuple(path_of(name, "") + "." for name, part in transposed if isinstance(part, eqx.nn.ConvTranspose))
        convolutions = (eqx.nn.Conv, *(cls for cls, kind in KINDS.items() if kind.form.startswith("conv")))
        around = parts(self.model, convolutions).items()
        flat = {path_of(name, "bias") for name, part in around if isinstance(part, convolutions)}  # it has other axes
        found = {}
        for name, (path, leaf) in self._slots().items():
            refused = KEY if is_key(leaf) else TURNED if path.startswith(turned) else None
            shape = (leaf.size,) if path in flat else tuple(leaf.shape)
            read = partial(refuse, name, refused) if refused else partial(_read, leaf, shape)
            trained = bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
            found[name] = Entry(shape, leaf.dtype.name, name, read, trained, refused)
        return found

    def replace(self, changes: Mapping[str, Generated | None]) -> None:
        places = self._layers()
        swaps = {name: changed(places[name][1], name, places[name][0], change) for name, change in changes.items()}
        self.model = swapped(self.model, swaps, (TNLayer, *KINDS))

    def evaluated(self) -> Any:
        """Return the model in inference mode."""
        return eqx.nn.inference_mode(self.model)

    def outputs(self, inputs: Any, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        changed = EquinoxModel(self.model)
        entries = {weight.name: weight.entry(weight.own) for weight in self.weights()}
        changed.write({entries[name]: array for name, array in weights.items()})
        model = eqx.nn.inference_mode(changed.model)
        return outputs_of(lambda *args, **kwargs: jax.vmap(lambda a, k: model(*a, **k))(args, kwargs), inputs)

    def watched(self, names: Iterable[str], receive: Receive) -> AbstractContextManager[Any]:
        own: dict[str, dict[str, str]] = {}
        for name, (_, kind) in self._layers().items():
            if name in set(names):
                path, _, array = name.rpartition(".") if kind is SINGLE else (name, "", "weight")
                own.setdefault(path, {})[array] = name
        model, kinds = eqx.nn.inference_mode(self.model), (TNLayer, *KINDS, *CELLS)
        layers = {path: part for path, part in parts(model, kinds).items() if path in own}
        return watched(lambda swaps: swapped(model, swaps, kinds), layers, own, receive)

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        slots = {name: place for name, place in self._slots().items() if name in arrays}
        new = {path: array_like(arrays[name].reshape(like.shape), like) for name, (path, like) in slots.items()}
        self.model = swapped(self.model, new)


def own_call(cell: Any) -> str | None:
    """Say why the arrays of a cell of the user's class cannot be replaced; None if it computes what its base does."""
    base: Any = next((base for base in type(cell).__mro__ if base in CELLS), None)
    if base is None or type(cell).__call__ is base.__call__:
        return None
    return (
        f"belongs to a {type(cell).__name__} with its own __call__, which may need a plain array; if it does not, put "
        "a deeptn_jax.equinox.TNWeight there with equinox.tree_at"
    )


def _read(leaf: Any, shape: Shape) -> Any:
    return checked(leaf).reshape(shape)


def parts(model: Any, kinds: tuple[type, ...] = ()) -> dict[str, Any]:
    """Return leaves by path; modules of the given classes count as leaves."""
    found: dict[str, Any] = {}
    for path, part in jax.tree_util.tree_leaves_with_path(model, is_leaf=lambda part: isinstance(part, kinds)):
        if _name(path) in found:
            raise PlanError(f"two parts of the model have the path {_name(path)!r}; rename a key")
        found[_name(path)] = part
    return found


def swapped(model: Any, swaps: Mapping[str, Any], kinds: tuple[type, ...] = ()) -> Any:
    """Return a model with other parts at some paths; modules of the given classes count as one part."""
    is_leaf = lambda part: isinstance(part, kinds)  # noqa: E731
    return jax.tree_util.tree_map_with_path(lambda path, part: swaps.get(_name(path), part), model, is_leaf=is_leaf)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
