"""Topologies by name: how they are registered, described, and converted to plain data."""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are checked at run time, whatever their annotations say.
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

from ..base import Registry, is_list, is_object
from ..errors import FormatError, SpecError, near_match
from .base import Topology

#: Installed packages list their families in this entry-point group, which is imported when a name is not found.
_REGISTRY: Registry[type[Topology]] = Registry("topology", group="deeptn.topologies")
T = TypeVar("T", bound="type[Topology]")

#: Most levels of lists and tables in the plain data of a topology.
DEPTH = 64


def register_topology(cls: T) -> T:
    """Class decorator: register a topology under its class name.

    Examples
    --------
    >>> topology("lowrank")
    LowRank(rank=8)
    """
    if not (isinstance(cls, type) and issubclass(cls, Topology) and "__dataclass_fields__" in vars(cls)):
        raise SpecError(f"{cls!r} is not a topology: derive from deeptn.Topology and decorate it as a frozen dataclass")
    if getattr(cls, "size_field", None) not in {field.name for field in fields(cls)}:
        raise SpecError(
            f"{cls.__name__}.size_field must name one of its fields, got {getattr(cls, 'size_field', None)!r}"
        )
    return _REGISTRY.add(cls.__name__, cls)


def topology(given: Topology | str) -> Topology:
    """Return a topology unchanged, or create one with default fields from its name."""
    if isinstance(given, Topology):
        return given
    if isinstance(given, type) and issubclass(given, Topology):
        raise SpecError(f"got the class {given.__name__}; write {given.__name__}()")
    if not isinstance(given, str):
        raise SpecError(
            f"expected a topology, for example deeptn.BrickWall(layers=2) or 'BrickWall'; got {given!r:.80}"
        )
    return _REGISTRY[given]()


def describe(given: Topology | None) -> str:
    """Return the name of a topology with its size and all non-default fields; ``"Graph"`` for None.

    Examples
    --------
    >>> from deeptn import BrickWall
    >>> describe(BrickWall(layers=2)), describe(BrickWall(layers=4, activation=None))
    ('BrickWall(layers=2)', 'BrickWall(layers=4, activation=None)')
    """
    if given is None:
        return "Graph"
    shown = [f for f in fields(given) if f.name == given.size_field or getattr(given, f.name) != f.default]
    return f"{type(given).__name__}({', '.join(f'{f.name}={_described(getattr(given, f.name))}' for f in shown)})"


def _described(value: Any) -> str:
    if isinstance(value, Topology):
        return describe(value)
    if is_list(value):
        return f"({', '.join(map(_described, value))}{',' * (len(value) == 1)})"
    return repr(value)


def topology_names() -> tuple[str, ...]:
    """Return the names of the registered topologies, including those of installed packages.

    Examples
    --------
    >>> topology_names()[:3]
    ('AugmentedTree', 'BlockTerm', 'BrickWall')
    """
    return tuple(sorted(_REGISTRY, key=str.lower))


def topology_to_dict(given: Topology) -> dict[str, Any]:
    """Return plain data for JSON: the class name and the fields."""
    return {"name": type(given).__name__} | {f.name: _plain(getattr(given, f.name)) for f in fields(given)}


def topology_from_dict(data: Any) -> Topology:
    """Inverse of `topology_to_dict` (lists become tuples); raises `FormatError` for malformed data."""
    level = [data]
    for _ in range(DEPTH):
        level = [part for whole in level for part in _inside(whole)]
    if level:
        raise FormatError(f"a topology is nested more than {DEPTH} levels deep")
    return _from_dict(data)


def _inside(data: Any) -> Iterable[Any]:
    return data.values() if is_object(data) else data if is_list(data) else ()


def _from_dict(data: Any) -> Topology:
    if not is_object(data) or not isinstance(data.get("name"), str):
        raise FormatError(f"a topology needs a 'name', got {data!r:.80}")
    try:
        values = {key: _tuples(value) for key, value in data.items() if key != "name"}
        cls = _REGISTRY[data["name"]]
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise SpecError(f"{cls.__name__} has no field {key!r}; {near_match(key, known)}")
        return cls(**values)
    except (SpecError, TypeError, RecursionError) as error:
        raise FormatError(f"bad topology: {error}") from error


def _plain(value: Any) -> Any:
    if is_list(value):
        return tuple(_plain(item) for item in value)
    return topology_to_dict(value) if isinstance(value, Topology) else value


def _tuples(value: Any) -> Any:
    if is_list(value):
        return tuple(_tuples(item) for item in value)
    return _from_dict(value) if is_object(value) else value
