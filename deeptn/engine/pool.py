"""Buffers that one run uses again and again."""

from __future__ import annotations

import math
from typing import Any

from ..arrays import Operations
from ..base import Array, Shape


class Pool:
    """Buffers of one call. A key holds one until it is given back; the next key that asks for that size gets it."""

    def __init__(self, lib: Operations):
        self._lib = lib
        self._large = lib.tuning.large
        self._held: dict[Any, Array] = {}
        self._free: dict[int, list[Array]] = {}

    def take(self, key: Any, shape: Shape, like: Array) -> Array | None:
        """A buffer of this shape, or None where the result is small or its size unknown."""
        size = math.prod(shape)
        if size < self._large:  # -1 among the axes included
            return None
        free = self._free.get(size)
        buffer = self._held[key] = free.pop() if free else self._lib.empty(size, like)
        return buffer.reshape(shape)

    def give(self, key: Any) -> bool:
        """Take back what `key` holds, if anything."""
        buffer = self._held.pop(key, None)
        if buffer is not None:
            self._free.setdefault(math.prod(buffer.shape), []).append(buffer)
        return buffer is not None

    def adopt(self, matrix: Array) -> None:
        """Take a matrix, or its transpose, that lies in one piece and that nobody needs any more."""
        size = math.prod(matrix.shape)
        if size >= self._large:
            whole = matrix if matrix.is_contiguous() else matrix.swapaxes(-1, -2)
            if whole.is_contiguous():
                self._free.setdefault(size, []).append(whole.reshape(-1))

    def move(self, old: Any, new: Any) -> bool:
        """Hand a buffer on; whether there was one."""
        if old not in self._held:
            return False
        self._held[new] = self._held.pop(old)
        return True
