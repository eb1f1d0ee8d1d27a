"""What a program does to arrays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from autoray import do

from ..base import Array
from ..spec import activations
from .tuning import Tuning
from .view import View

#: Added to a mean square before the root, so that an all-zero state stays zero. Below float32's smallest useful square.
TINY = 1e-36


class Operations(ABC):
    """The few operations that a program needs, on arrays of one library that lie on one kind of device.

    Attributes
    ----------
    tuning : Tuning
        The numbers for that device.
    buffers : bool
        Whether large results are written into buffers that are used again: `matmul` and `activate` take an `out`.
    """

    buffers: bool

    def __init__(self, tuning: Tuning):
        self.tuning = tuning

    @abstractmethod
    def permute(self, array: Array, axes: Sequence[int]) -> Array:
        """The axes in another order."""

    @abstractmethod
    def stack(self, arrays: Sequence[Array]) -> Array:
        """Arrays of one shape along a new first axis."""

    @abstractmethod
    def matmul(self, x: Array, y: Array, out: Array | None = None) -> Array:
        """``x @ y``; two matrices, two stacks, or a matrix that meets a batch of matrices."""

    @abstractmethod
    def empty(self, size: int, like: Array) -> Array:
        """A flat array beside `like`."""

    @abstractmethod
    def view(self, array: Array, view: View) -> Array:
        """An operand as the matrix that is multiplied."""

    @abstractmethod
    def crop(self, array: Array, axes: Sequence[int], shape: Sequence[int]) -> Array:
        """An array seen with some axes, the first entries along each, as many as `shape` says; -1 means all."""

    @abstractmethod
    def pad(self, array: Array, shape: Sequence[int]) -> Array:
        """Append zeros to every axis, but not to a first one of size -1."""

    @abstractmethod
    def settled(self, array: Array) -> Array:
        """A permuted array that keeps its entries when a buffer is written again."""

    @abstractmethod
    def inverse_rms(self, x: Array, in_pieces: bool = False) -> Array:
        """One divided by the root of the mean square of an array's entries."""

    @abstractmethod
    def activate(self, x: Array, activation: str | None, scale: Array | None, out: Array | None = None) -> Array:
        """An element-wise function of ``scale · x``. With `out`, which may be `x` itself, piece by piece."""

    def pieces(self, *arrays: Array) -> Iterator[Any]:
        """Walk through arrays of equal size in pieces that fit into a cache."""
        flat = [array.reshape(-1) for array in arrays]
        size = self.tuning.large
        for begin in range(0, flat[0].shape[0], size):
            part = [array[begin : begin + size] for array in flat] if len(flat[0]) > size else flat
            yield part[0] if len(part) == 1 else part


class PlainViews(Operations, ABC):
    """Views by the methods that arrays of most libraries have: indexing, `reshape`, `swapaxes`."""

    def view(self, array: Array, view: View) -> Array:
        if view.items is not None:
            array = array[view.items if isinstance(view.items, int) else slice(*view.items)]
        if view.perm is not None:
            array = self.permute(array.reshape(view.axes), view.perm)
        if array.shape != view.shape:
            array = array.reshape(view.shape)
        return array.swapaxes(-1, -2) if view.transposed else array

    def crop(self, array: Array, axes: Sequence[int], shape: Sequence[int]) -> Array:
        return array.reshape(axes)[tuple(slice(0, n) if n >= 0 else slice(None) for n in shape)]


class PlainActivations(Operations, ABC):
    """Activations as `deeptn.spec.activations` defines them, for every library that autoray knows."""

    @abstractmethod
    def sum_of_squares(self, x: Array) -> Array:
        """Sum of the squared absolute values of all entries."""

    def inverse_rms(self, x: Array, in_pieces: bool = False) -> Array:
        total = sum(map(squared_norm, self.pieces(x))) if in_pieces else self.sum_of_squares(x)
        return 1.0 / do("sqrt", total / math.prod(x.shape) + TINY)

    def activate(self, x: Array, activation: str | None, scale: Array | None, out: Array | None = None) -> Array:
        function = activations.resolve(activation) if activation is not None else None
        if out is None:
            y = x if scale is None else x * scale
            y = y if function is None else function(y)
            return x * 1 if y is x else y  # the two states have their own memory
        for part, place in self.pieces(x, out):
            part = part if scale is None else part * scale
            place[...] = part if function is None else function(part)
        return out


def squared_norm(vector: Array) -> Array:
    """Sum of the squared absolute values of the entries of a flat array."""
    return do("real", do("vdot", vector, vector))
