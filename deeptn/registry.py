"""Named registries whose failed look-ups say what exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from .errors import SpecError, near_match

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from names to objects; names are compared without regard to case.

    Parameters
    ----------
    kind : str
        What is registered, for messages.

    Examples
    --------
    >>> colours = Registry("colour")
    >>> _ = colours.add("Red", 1)
    >>> colours["red"], list(colours)
    (1, ['Red'])
    >>> colours["rde"]
    Traceback (most recent call last):
    deeptn.errors.SpecError: unknown colour 'rde'; expected one of 'Red'; did you mean 'Red'?
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._names: dict[str, str] = {}
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register `entry`; `SpecError` if the name is taken by something else."""
        taken = self._entries.get(self._names.get(name.lower(), name))
        if taken is not None and _origin(taken) != _origin(entry):
            raise SpecError(f"the {self.kind} {name!r} is already registered; choose another name")
        self._names[name.lower()] = name
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: object) -> T:
        key = self._names.get(name.lower()) if isinstance(name, str) else None
        if key is None:
            raise SpecError(f"unknown {self.kind} {name!r}; {near_match(str(name), self._entries)}")
        return self._entries[key]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def _origin(entry: object) -> tuple[object, object]:
    """Where an object was defined: a module that is run again may register its own names again."""
    return getattr(entry, "__module__", None), getattr(entry, "__qualname__", repr(entry))
