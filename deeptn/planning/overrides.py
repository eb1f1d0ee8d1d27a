"""Settings of a plan that differ from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PlanError, near_match
from ..models import select
from ..topologies import Topology
from ..topologies import topology as as_topology

#: What an override may contain.
KEYS = ("topologies", "max_error", "importance")


@dataclass(frozen=True)
class Settings:
    """How a plan treats one layer.

    Attributes
    ----------
    topologies : tuple of Topology
        Families to try.
    max_error : float or None
        Largest relative error of the weight; above it, the layer stays dense.
    importance : float
        Factor of its squared error in the sum that a plan minimizes.

    Examples
    --------
    >>> Settings((), max_error=0.1).importance
    1.0
    """

    topologies: tuple[Topology, ...]
    max_error: float | None = None
    importance: float = 1.0


def settings(
    names: Sequence[str], topologies: Iterable[Topology | str], overrides: Mapping[str, Mapping[str, Any]]
) -> dict[str, Settings]:
    """Return the settings of every layer. If several patterns select a layer, its own name wins, then the first one.

    Parameters
    ----------
    names : sequence of str
    topologies : iterable of Topology or str
        Where no override says otherwise.
    overrides : mapping of str to mapping
        Settings by pattern.

    Raises
    ------
    PlanError
        For a pattern that selects nothing, or a value that is not one.

    Examples
    --------
    >>> found = settings(["fc1", "fc2"], ["LowRank"], {"fc*": {"max_error": 0.2}, "fc2": {"importance": 4}})
    >>> [(one.max_error, one.importance) for one in found.values()]
    [(0.2, 1.0), (None, 4.0)]
    """
    if isinstance(topologies, str):
        raise PlanError(f"topologies must be a list, got the string {topologies!r}; write [{topologies!r}]")
    if not isinstance(overrides, Mapping):
        raise PlanError(f"overrides must map patterns to settings, got {overrides!r:.60}")
    common = Settings(tuple(map(as_topology, topologies)))
    chosen: dict[str, Settings] = {}
    for pattern, found in select(overrides, names, "overrides").items():
        made = _settings(pattern, overrides[pattern], common)
        for name in found:
            if name not in chosen or pattern == name:
                chosen[name] = made
    return {name: chosen.get(name, common) for name in names}


def _settings(pattern: str, given: Any, common: Settings) -> Settings:
    where = f"overrides: {pattern!r}"
    if not isinstance(given, Mapping):
        raise PlanError(f"{where} has {given!r:.60}; expected settings such as {{'max_error': 0.1}}")
    for key in given:
        if key not in KEYS:
            raise PlanError(f"{where} has the key {key!r:.40}; {near_match(str(key), KEYS)}")
    topologies: Any = given.get("topologies")
    if topologies is None:
        families = common.topologies
    elif isinstance(topologies, str) or not isinstance(topologies, Iterable):
        raise PlanError(f"{where}: 'topologies' is {topologies!r:.40}; expected a list of families")
    else:
        families = tuple(map(as_topology, topologies))
    return Settings(
        families, _positive(where, given, "max_error", None), _positive(where, given, "importance", 1.0) or 1.0
    )


def _positive(where: str, given: Mapping[str, Any], key: str, default: float | None) -> float | None:
    value = given.get(key, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise PlanError(f"{where}: {key!r} is {value!r:.40}; expected a positive number")
    return float(value)
