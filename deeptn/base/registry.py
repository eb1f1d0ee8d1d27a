"""Named registries whose failed look-ups say what exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from ..errors import SpecError, near_match

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
        self._origins: dict[str, object] = {}
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T, source: object = None) -> T:
        """Register `entry`; `SpecError` if the name is taken by something else.

        A definition that is run again (a notebook cell, a reloaded module) may take its own name again: `source`, by
        default the entry, is compared by the place where it was defined.
        """
        origin = _origin(entry if source is None else source)
        if name.lower() in self._names and self._origins[name.lower()] != origin:
            raise SpecError(f"the {self.kind} {name!r} is already registered; choose another name")
        self._entries.pop(self._names.get(name.lower(), name), None)
        self._names[name.lower()], self._origins[name.lower()] = name, origin
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


def _origin(source: object) -> object:
    name = getattr(source, "__qualname__", None)
    return source if name is None or "<lambda>" in name else (getattr(source, "__module__", None), name)
