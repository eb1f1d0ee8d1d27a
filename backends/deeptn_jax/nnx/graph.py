"""Walking through NNX models: their parts by path, and their variables as PyTorch names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.training.metrics import MetricState

from deeptn.errors import PlanError

from .layers import TNLayer

#: Variables that are no part of a trained model.
PASSING = (nnx.RngState, nnx.Cache, nnx.Intermediate, nnx.OptState, MetricState)

#: What holds no part of a model.
LEAVES = (str, bytes, int, float, complex, type(None), np.ndarray, np.generic, jax.Array)

#: PyTorch's names for the variables of modules.
NAMES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def parts(model: nnx.Module, kind: type, once: bool = False) -> dict[str, Any]:
    """Modules or variables by their paths, in the order in which they were set, generated layers taken as a whole.

    A module of several names is found under all of them; with `once`, or where references run in circles, under one.
    """
    found: dict[str, Any] = {}
    seen: dict[int, Any] = {}
    circles = False

    def walk(part: Any, path: str, above: tuple[int, ...], once: bool) -> None:
        nonlocal circles
        if isinstance(part, LEAVES):
            return
        circles = circles or id(part) in above
        if id(part) in above or (once and id(part) in seen):
            return
        if isinstance(part, kind):
            if path in found:
                raise PlanError(f"two parts of the model have the path {path!r}; rename a key")
            found[path] = part
        if not isinstance(part, (nnx.Variable, TNLayer)):
            seen[id(part)] = part
            for name, child in _children(part):
                walk(child, f"{path}.{name}" if path else str(name), (*above, id(part)), once)

    walk(model, "", (), True)
    if not once and not circles:
        found = {}
        walk(model, "", (), False)
    return found


def _children(part: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(part, nnx.Pytree):
        return [(name, child) for name, child in vars(part).items() if not name.startswith("_pytree__")]
    if isinstance(part, Mapping):
        return part.items()
    below = jax.tree_util.tree_flatten_with_path(part, is_leaf=lambda other: other is not part)[0]
    return [(jax.tree_util.keystr(path, simple=True), child) for path, child in below if path]


def variables(model: nnx.Module) -> dict[str, tuple[str, Any]]:
    """What a file holds of a model beside its generated layers, by PyTorch's names, with NNX's own."""
    for name in parts(model, nnx.ConvTranspose, once=True):
        raise PlanError(f"{name!r} is a transposed convolution, whose kernel PyTorch has in another form")
    held = [(path, value) for path, value in parts(model, nnx.Variable).items() if not isinstance(value, PASSING)]
    held.sort(key=lambda item: not isinstance(item[1], (nnx.Param, nnx.BatchStat)))  # these have PyTorch's names first
    found: dict[str, tuple[str, Any]] = {}
    for path, value in held:
        raw = value.get_raw_value()
        if raw is None:
            continue
        if not _is_array(raw):
            came = f"a {type(value).__name__} of type {type(raw).__name__}"
            raise PlanError(f"{path!r} is {came}; files hold arrays and numbers: keep it in a plain attribute")
        module, _, own = path.rpartition(".")
        theirs = NAMES.get(own, own)
        place = f"{module}.{theirs}" if module else theirs
        if place in found and not isinstance(value, (nnx.Param, nnx.BatchStat)):
            place = path
        if place in found:
            raise PlanError(f"two variables of {module!r} would both be stored as {theirs!r}; rename {own!r}")
        found[place] = own, value
    return found


def _is_array(raw: Any) -> bool:
    if isinstance(raw, (jax.Array, jax.ShapeDtypeStruct)):
        return not jnp.issubdtype(raw.dtype, jax.dtypes.prng_key)
    return isinstance(raw, (np.ndarray, np.generic, bool, int, float, complex))


def like(value: Any) -> Any:
    """What is read for a variable has the dtype and kind of this."""
    raw = value.get_raw_value()
    return np.asarray(raw) if isinstance(raw, (bool, int, float, complex)) else raw


def write(value: Any, array: Any) -> None:
    """Set a variable, past the hooks that it may have."""
    raw = value.get_raw_value()
    number = isinstance(raw, (bool, int, float, complex)) and not isinstance(raw, np.generic)
    value.set_raw_value(type(raw)(array.item()) if number else array)


def check_alone(model: nnx.Module, layers: Mapping[str, Any], remedy: str = "") -> None:
    """Refuse layers whose kernel or bias also stands elsewhere."""
    own = {
        id(value): (name, what, layer)
        for name, layer in layers.items()
        for what, value in vars(layer).items()
        if isinstance(value, nnx.Variable)
    }
    modules = parts(model, nnx.Module, once=True)
    for path, value in parts(model, nnx.Variable, once=True).items():
        name, what, layer = own.get(id(value), (None, None, None))
        if name is not None and modules.get(path.rpartition(".")[0]) is not layer:
            raise PlanError(f"layer {name!r} shares its {what} with {path!r}; untie them{remedy}")


def swap(model: nnx.Module, swaps: Mapping[Any, Any]) -> None:
    """Put other modules in the place of some, wherever they stand."""
    by_identity = {id(old): new for old, new in swaps.items()}
    for parent in parts(model, nnx.Pytree, once=True).values():
        for name, child in list(vars(parent).items()):
            if id(child) in by_identity:
                setattr(parent, name, by_identity[id(child)])
    for path, part in parts(model, nnx.Module, once=True).items():
        if id(part) in by_identity:
            raise PlanError(f"{path!r} stands in a plain container; use nnx.List or nnx.Dict")
