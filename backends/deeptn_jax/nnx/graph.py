"""Find the parts of NNX models by path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from deeptn.errors import PlanError

from .layers import TNLayer

#: Types that contain no further parts of a model.
LEAVES = (str, bytes, int, float, complex, type(None), np.ndarray, np.generic, jax.Array)


def parts(model: Any, kind: type | tuple[type, ...], once: bool = False) -> dict[str, Any]:
    """Return modules or variables by path, in the order in which they were set.

    A module with several names appears under all of them; with `once`, or if references form a cycle, under one.
    Paths omit the ``dense`` part of generated layers.
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
        if not isinstance(part, nnx.Variable):
            seen[id(part)] = part
            for name, child in _children(part):
                walk(child, f"{path}.{name}" if path else str(name), (*above, id(part)), once)

    walk(model, "", (), True)
    if not once and not circles:
        found = {}
        walk(model, "", (), False)
    return found


def _children(part: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(part, TNLayer):
        return [("cores", part.cores), *_children(part.dense)]
    if isinstance(part, nnx.Pytree):
        return [(name, child) for name, child in vars(part).items() if not name.startswith("_pytree__")]
    if isinstance(part, Mapping):
        return part.items()
    below = jax.tree_util.tree_flatten_with_path(part, is_leaf=lambda other: other is not part)[0]
    return [(jax.tree_util.keystr(path, simple=True), child) for path, child in below if path]


def swap(model: Any, swaps: Mapping[int, Any]) -> None:
    """Replace modules of a model, by their identities."""
    for parent in parts(model, nnx.Pytree, once=True).values():
        for name, child in list(vars(parent).items()):
            if id(child) in swaps:
                setattr(parent, name, swaps[id(child)])
