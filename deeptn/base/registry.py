"""Named registries whose failed look-ups say what exists."""

from __future__ import annotations

import importlib.metadata
import warnings
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
    group : str, optional
        Group of entry points in which installed packages name what they register. They are imported when a name is
        not found, or when all names are listed; one that fails is warned of and left out.

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

    def __init__(self, kind: str, group: str | None = None):
        self.kind = kind
        self._group = group
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
        group, self._group = self._group, None
        for entry in importlib.metadata.entry_points(group=group) if group else ():
            try:
                entry.load()
            except Exception as error:  # whatever it is, it need not stop those who use other names
                warnings.warn(
                    f"the {self.kind} {entry.name!r} ({entry.value}) cannot be imported: {error}", stacklevel=3
                )


def _origin(source: object) -> object:
    name = getattr(source, "__qualname__", None)
    return source if name is None or "<lambda>" in name else (getattr(source, "__module__", None), name)
