"""A cache whose entries live as long as the objects that they belong to, and take a bounded number of bytes."""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

#: Largest size of all entries, in bytes; the ones that were used least recently go first.
MOST = 2**28


_SERIAL = itertools.count()


class Owner:
    """What entries of the cache belong to: equal objects share one. When the last of them is gone, so are its entries.

    Attributes
    ----------
    key : hashable
        Equal for equal objects.
    pinned : dict
        What has to stay as long as the owner does, whatever the cache drops.
    """

    def __init__(self, key: Hashable = None):
        self.key = key
        self.serial = next(_SERIAL)  # unlike id, never used again
        self.pinned: dict[Hashable, Any] = {}

    def __deepcopy__(self, memo: Any) -> Owner:
        return self

    def __reduce__(self):
        return owner_of, (self.key,)


class Owned(Protocol):
    """An object with an owner."""

    @property
    def owner(self) -> Owner: ...


class _Entry:
    """A value, its size, and when it was last used."""

    __slots__ = ("size", "used", "value")

    def __init__(self, value: Any, size: int, used: int):
        self.value, self.size, self.used = value, size, used


class Cache:
    """Values by owner and key. All methods can be called from several threads.

    Parameters
    ----------
    most : int
        Largest size of all entries, in bytes. When they exceed it, those that were used least recently are dropped.

    Attributes
    ----------
    misses : int
        How many values were made.

    Examples
    --------
    >>> cache, owner = Cache(), Owner()
    >>> cache.get(owner, "a", lambda: 1), cache.get(owner, "a", lambda: 2), len(cache)
    (1, 1, 1)
    >>> del owner
    >>> len(cache)
    0
    """

    def __init__(self, most: int = MOST):
        self.most = most
        self._entries: dict[int, dict[Hashable, _Entry]] = {}
        self._bytes = 0
        self.misses = 0
        self._clock = itertools.count()
        self._lock = threading.Lock()
        self._gone: deque[int] = deque()  # owners that finalizers, which may run anywhere, have reported

    def __len__(self) -> int:
        """Return the number of entries."""
        self._release()
        return sum(map(len, list(self._entries.values())))

    @property
    def nbytes(self) -> int:
        """Size of all entries, estimated."""
        self._release()
        return self._bytes

    def get(self, owner: Owner, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the value of a key, which is made if there is none."""
        own = self._entries.get(owner.serial)
        found = None if own is None else own.get(key)
        if found is None:
            value = make()
            size = 2 * size_of(value) + size_of(key)  # programs compute further facts about themselves later
            with self._lock:
                self.misses += 1
                if owner.serial not in self._entries:
                    weakref.finalize(owner, self._report, owner.serial).atexit = False
                own = self._entries.setdefault(owner.serial, {})
                found = own.get(key)  # another thread may have been faster
                if found is None:
                    found = own[key] = _Entry(value, size, 0)
                    self._bytes += size
                    self._shrink(found)
            self._release()
        found.used = next(self._clock)
        return found.value

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._entries, self._bytes = {}, 0

    def _report(self, owner: int) -> None:
        """Note that an owner is gone; a finalizer, which may interrupt any other method, calls this."""
        self._gone.append(owner)
        self._release()

    def _release(self) -> None:
        """Drop the entries of owners that are gone, unless that or another method is under way."""
        while self._gone and self._lock.acquire(blocking=False):
            try:
                while self._gone:
                    size = sum(entry.size for entry in self._entries.pop(self._gone.popleft(), {}).values())
                    self._bytes -= size
            finally:
                self._lock.release()

    def _shrink(self, newest: _Entry) -> None:
        """Drop the entries that were used least recently, until a quarter of the space is free."""
        if self._bytes <= self.most:
            return
        entries = [(e.used, own, key, e) for own in self._entries.values() for key, e in own.items() if e is not newest]
        for _, own, key, entry in sorted(entries, key=lambda found: found[0]):
            if self._bytes <= 0.75 * self.most:
                break
            del own[key]
            self._bytes -= entry.size


#: Everything that is compiled for networks.
CACHE = Cache()

_OWNERS: weakref.WeakValueDictionary[Hashable, Owner] = weakref.WeakValueDictionary()

#: The last owners, so that a network that a loop rebuilds every time is compiled once.
RECENT: deque[Owner] = deque(maxlen=16)

_LOCK = threading.RLock()


def owner_of(key: Hashable) -> Owner:
    """Return the owner of all objects with a key that is the same for equal ones.

    Examples
    --------
    >>> one = owner_of("some key")
    >>> owner_of("some key") is one
    True
    """
    with _LOCK:
        found = _OWNERS.get(key)
        if found is None:
            found = _OWNERS[key] = Owner(key)
        if not RECENT or RECENT[-1] is not found:
            RECENT.append(found)
        return found


def cached(function: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Keep results of a function as long as something that equals its first argument, an `Owned`, is alive."""

    @wraps(function)
    def call(owned: Any, *args: P.args, **options: P.kwargs) -> T:
        key = (function, args, tuple(options.items())) if options else (function, args)
        return CACHE.get(owned.owner, key, lambda: function(owned, *args, **options))

    return call


def size_of(value: Any) -> int:
    """Return about how many bytes an object and what it refers to take, without types, functions and modules.

    Examples
    --------
    >>> size_of("a" * 1000) > 1000, size_of(["a" * 1000] * 3) < 2000
    (True, True)
    """
    total, seen, rest = 0, set[int](), [value]
    while rest:
        one = rest.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one, 0)
        if isinstance(one, dict):
            rest += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            rest += one
        elif not isinstance(one, (str, bytes, int, float)):
            rest += getattr(one, "__dict__", {}).values()
            slots = [getattr(base, "__slots__", ()) for base in type(one).__mro__]
            rest += [getattr(one, name) for names in slots for name in names if hasattr(one, name)]
    return total
