"""Buffers that are reused within one run."""

from __future__ import annotations

import math
from typing import Any

from ..arrays import Operations
from ..base import Array, Shape


class Pool:
    """Buffers of one call. A key owns its buffer until it is given back; the next key that needs this size gets it."""

    def __init__(self, lib: Operations):
        self._lib = lib
        self._large = lib.tuning.large
        self._held: dict[Any, Array] = {}
        self._free: dict[int, list[Array]] = {}

    def take(self, key: Any, shape: Shape, like: Array) -> Array | None:
        """Return a buffer of this shape, or None if the result is small or its size unknown."""
        size = math.prod(shape)
        if size < self._large:  # also if one of the axes is -1
            return None
        free = self._free.get(size)
        buffer = self._held[key] = free.pop() if free else self._lib.empty(size, like)
        return buffer.reshape(shape)

    def give(self, key: Any) -> bool:
        """Take back the buffer of `key`; return whether it had one."""
        buffer = self._held.pop(key, None)
        if buffer is not None:
            self._free.setdefault(math.prod(buffer.shape), []).append(buffer)
        return buffer is not None

    def adopt(self, matrix: Array) -> None:
        """Take over the memory of a large matrix that is no longer needed, if it or its transpose is contiguous."""
        size = math.prod(matrix.shape)
        if size >= self._large:
            whole = matrix if matrix.is_contiguous() else matrix.swapaxes(-1, -2)
            if whole.is_contiguous():
                self._free.setdefault(size, []).append(whole.reshape(-1))

    def move(self, old: Any, new: Any) -> bool:
        """Pass the buffer of `old` on to `new`; return whether `old` had one."""
        if old not in self._held:
            return False
        self._held[new] = self._held.pop(old)
        return True
