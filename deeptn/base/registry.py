"""Registries of named objects. The error of a failed lookup lists the known names."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

from ..errors import SpecError, near_match
from .optional import loaded

T = TypeVar("T")

#: Held while entry points are imported, so that other threads wait. What is imported may look names up itself.
IMPORTS = threading.RLock()


class Registry(Generic[T]):
    """A table that maps names to objects; names are case-insensitive.

    Parameters
    ----------
    kind : str
        What is registered, as messages should call it.
    group : str, optional
        Entry-point group in which installed packages declare what they register. These are imported when a name is
        not found, or when all names are listed; one that fails to import is skipped with a warning.

    Examples
    --------
    >>> colors = Registry("color")
    >>> _ = colors.add("Red", 1)
    >>> colors["red"], list(colors)
    (1, ['Red'])
    >>> colors["rde"]
    Traceback (most recent call last):
    deeptn.errors.SpecError: unknown color 'rde'; expected one of 'Red'; did you mean 'Red'?
    """

    def __init__(self, kind: str, group: str | None = None):
        self.kind = kind
        self._group = group
        self._importing = False
        self._names: dict[str, str] = {}
        self._origins: dict[str, object] = {}
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T, source: object = None) -> T:
        """Register `entry`; raise `SpecError` if the name is already taken by something else.

        A definition that runs again (a notebook cell, a reloaded module) may reuse its own name: `source` (default: the
        entry) is compared by the place where it was defined.
        """
        origin = _origin(entry if source is None else source)
        if name.lower() in self._names and self._origins[name.lower()] != origin:
            raise SpecError(f"the {self.kind} {name!r} is already registered; choose another name")
        self._entries.pop(self._names.get(name.lower(), name), None)
        self._names[name.lower()], self._origins[name.lower()] = name, origin
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: object) -> T:
        if name not in self:
            raise SpecError(f"unknown {self.kind} {name!r}; {near_match(str(name), self._entries)}")
        return self._entries[self._names[str(name).lower()]]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name.lower() not in self._names:
            self._import_group()
        return name.lower() in self._names

    def __iter__(self) -> Iterator[str]:
        self._import_group()
        return iter(self._entries)

    def _import_group(self) -> None:
        """Import what installed packages register, once."""
        if self._group is None:
            return
        with IMPORTS:
            group, self._importing = (None if self._importing else self._group), True
            for entry in importlib.metadata.entry_points(group=group) if group else ():
                loaded(entry, self.kind)
            self._group = None


def _origin(source: object) -> object:
    name = getattr(source, "__qualname__", None)
    return source if name is None or "<lambda>" in name else (getattr(source, "__module__", None), name)
