"""What a topology is: data plus one pure method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

from ..base import Registry
from ..errors import FormatError, SpecError, near_match
from ..spec import Layout, Leg, NetworkSpec

_REGISTRY: Registry[type[Topology]] = Registry("topology")
T = TypeVar("T", bound="type[Topology]")


@dataclass(frozen=True, kw_only=True)
class Topology(ABC):
    """A family of networks: a frozen keyword-only dataclass, every field with a usable default.

    A subclass writes `build`, names its `size_field`, and is registered with `register_topology`; JSON, hashing,
    budget search and the layers of both frameworks follow.

    Attributes
    ----------
    size_field : str
        Name of the integer field that `at_budget` turns up; the number of parameters never falls with it (where nodes
        share parameters, almost never).
    equation, formula : str
        For the gallery, if given: the weight in LaTeX, and the number of parameters on `Q` legs of size `d` as a Python
        expression of these and the fields (also ``rows`` and ``columns``, the sides of the matrix, and ``bond(k)``,
        the largest bond between k legs and the others, ``wire(k)``, the same but d for one leg). The tests evaluate it.

    Examples
    --------
    A cross: one core that holds all legs.

    >>> import deeptn as dtn
    >>> @dtn.register_topology
    ... @dataclass(frozen=True, kw_only=True)
    ... class Cross(dtn.Topology):
    ...     copies: int = 1
    ...     size_field: ClassVar[str] = "copies"
    ...
    ...     def build(self, legs):
    ...         names = tuple(leg.name for leg in legs)
    ...         cores = tuple(dtn.Node(f"core{k}", names) for k in range(self.copies))
    ...         return dtn.NetworkSpec(legs, (dtn.Stage(cores, names),))
    >>> dtn.network("Cross", (4, 4)).num_params
    16
    """

    size_field: ClassVar[str]
    equation: ClassVar[str] = ""
    formula: ClassVar[str] = ""

    @abstractmethod
    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        """Return the network that generates a tensor with these legs (`SpecError` where there is none)."""

    def default_layout(self, shape: Sequence[int]) -> Layout:
        """Return the layout to use when the caller names none: binary legs, padded."""
        return Layout.padded(shape)

    def resized(self, size: int) -> Topology:
        """Return the same topology with another size, for `at_budget`."""
        return replace(self, **{self.size_field: size})


def sides(legs: Sequence[Leg], what: str) -> tuple[list[Leg], list[Leg]]:
    """The legs of axis 0 (rows of the matrix) and all others (columns); `SpecError` where either has none."""
    rows, columns = [leg for leg in legs if leg.axis == 0], [leg for leg in legs if leg.axis != 0]
    if not rows or not columns:
        raise SpecError(
            f"a {what} needs row legs (axis 0) and column legs (other axes), got {len(rows)} and {len(columns)}"
        )
    return rows, columns


def matched(rows: Sequence[Leg], columns: Sequence[Leg]) -> list[tuple[tuple[Leg, ...], tuple[Leg, ...]]]:
    """The k-th row leg beside the k-th column leg; the longer side goes on alone."""
    return [(tuple(rows[k : k + 1]), tuple(columns[k : k + 1])) for k in range(max(len(rows), len(columns)))]


def register_topology(cls: T) -> T:
    """Class decorator: make a topology known by its class name.

    Examples
    --------
    >>> topology("lowrank")
    LowRank(rank=8)
    """
    if not (isinstance(cls, type) and issubclass(cls, Topology) and "__dataclass_fields__" in vars(cls)):
        raise SpecError(f"{cls!r} is no topology: derive from deeptn.Topology and decorate as a frozen dataclass")
    if getattr(cls, "size_field", None) not in {field.name for field in fields(cls)}:
        raise SpecError(
            f"{cls.__name__}.size_field must name one of its fields, got {getattr(cls, 'size_field', None)!r}"
        )
    return _REGISTRY.add(cls.__name__, cls)


def topology(given: Topology | str) -> Topology:
    """Return a topology as it is, or make one with its defaults from its name."""
    if isinstance(given, Topology):
        return given
    if isinstance(given, type) and issubclass(given, Topology):
        raise SpecError(f"got the class {given.__name__}; write {given.__name__}()")
    if not isinstance(given, str):
        raise SpecError(
            f"a topology is expected, for example deeptn.BrickWall(layers=2) or 'BrickWall'; got {given!r:.80}"
        )
    return _REGISTRY[given]()


def describe(given: Topology | None) -> str:
    """Name a topology with its size and what differs from its defaults; ``"Graph"`` for None.

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
    if isinstance(value, tuple):
        return f"({', '.join(map(_described, value))}{',' * (len(value) == 1)})"
    return repr(value)


def topology_names() -> tuple[str, ...]:
    """Names of the registered topologies.

    Examples
    --------
    >>> topology_names()[:3]
    ('BrickWall', 'LowRank', 'Tucker')
    """
    return tuple(_REGISTRY)


def topology_to_dict(given: Topology) -> dict[str, Any]:
    """Plain data for JSON: the class name and the fields."""
    return {"name": type(given).__name__} | {f.name: _plain(getattr(given, f.name)) for f in fields(given)}


def topology_from_dict(data: Any) -> Topology:
    """Inverse of `topology_to_dict` (lists become tuples); `FormatError` for data of another form."""
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise FormatError(f"a topology needs a 'name', got {data!r:.80}")
    values = {key: _tuples(value) for key, value in data.items() if key != "name"}
    try:
        cls = _REGISTRY[data["name"]]
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise SpecError(f"{cls.__name__} has no field {key!r}; {near_match(key, known)}")
        return cls(**values)
    except (SpecError, TypeError, RecursionError) as error:
        raise FormatError(f"bad topology: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return topology_to_dict(value) if isinstance(value, Topology) else value


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return topology_from_dict(value) if isinstance(value, dict) else value
