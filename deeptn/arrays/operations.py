"""The operations that a program performs on arrays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from autoray import astype, do, get_dtype_name

from ..base import Array
from ..spec import activations
from .tuning import Tuning
from .view import View


class Operations(ABC):
    """The few operations that a program needs, for arrays of one library on one kind of device.

    Attributes
    ----------
    tuning : Tuning
        Constants for that device.
    buffers : bool
        Whether large results are written into reused buffers: `matmul` and `activate` take an `out`.
    """

    buffers: bool

    def __init__(self, tuning: Tuning):
        self.tuning = tuning

    @abstractmethod
    def permute(self, array: Array, axes: Sequence[int]) -> Array:
        """Permute the axes."""

    @abstractmethod
    def stack(self, arrays: Sequence[Array]) -> Array:
        """Stack arrays of one shape along a new first axis."""

    @abstractmethod
    def matmul(self, x: Array, y: Array, out: Array | None = None) -> Array:
        """Return ``x @ y`` for two matrices, two stacks, or a matrix and a batch of matrices."""

    @abstractmethod
    def empty(self, size: int, like: Array) -> Array:
        """Return an uninitialized flat array with the dtype and device of `like`."""

    @abstractmethod
    def view(self, array: Array, view: View) -> Array:
        """Return an operand as the matrix to be multiplied."""

    @abstractmethod
    def crop(self, array: Array, axes: Sequence[int], shape: Sequence[int]) -> Array:
        """Reshape an array to `axes`, then crop each axis to its first entries, as `shape` says; -1 keeps all."""

    @abstractmethod
    def pad(self, array: Array, shape: Sequence[int]) -> Array:
        """Append zeros along every axis up to `shape`, except along a first axis of size -1."""

    @abstractmethod
    def settled(self, array: Array) -> Array:
        """Return a permuted array that keeps its values when the buffer it came from is overwritten."""

    @abstractmethod
    def normalizer(self, x: Array, in_pieces: bool = False) -> tuple[Array, Any, float]:
        """Return ``(y, scale, lift)``: `y` is proportional to `x`, and the root mean square of ``scale · y`` is 1.

        This holds for all numbers of the dtype, however small or large. If all entries are zero, the scale is zero; if
        one is infinite or NaN, the scale is NaN. A gradient with respect to `y` times `lift` is one with respect to `x`
        if `scale` is taken for a function of `y`.
        """

    @abstractmethod
    def activate(self, x: Array, activation: str | None, scale: Array | None, out: Array | None = None) -> Array:
        """Apply an element-wise function to ``scale · x``, piece by piece if `out` is given (it may be `x` itself)."""

    def pieces(self, *arrays: Array) -> Iterator[Any]:
        """Iterate over arrays of equal size in pieces that fit into a cache."""
        flat = [array.reshape(-1) for array in arrays]
        size = self.tuning.large
        for begin in range(0, flat[0].shape[0], size):
            part = [array[begin : begin + size] for array in flat] if len(flat[0]) > size else flat
            yield part[0] if len(part) == 1 else part


class PlainViews(Operations, ABC):
    """Views that use only methods that arrays of most libraries have: indexing, `reshape`, `swapaxes`."""

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
    """Activations as `deeptn.spec.activations` defines them, for every library that autoray supports."""

    def sum_of_squares(self, x: Array) -> Array:
        """Return the sum of the squared absolute values of all entries."""
        return squared_norm(x.reshape(-1))

    def peak(self, x: Array) -> Array:
        """Return the largest absolute value of all real and imaginary parts. A gradient takes it for a constant."""
        if "complex" in get_dtype_name(x):  # an absolute value may not fit into the dtype
            return do("max", do("maximum", do("abs", do("real", x)), do("abs", do("imag", x))))
        return do("max", do("abs", x))

    def normalizer(self, x: Array, in_pieces: bool = False) -> tuple[Array, Any, float]:
        # No branches, for tracers. The largest entry divides first, so that no square overflows or vanishes. Its square
        # root does so twice, because the inverse of the entry may not be a normal number. A gradient may take it for a
        # constant, because a factor of x has no effect on the result. (A Python number divided by a scalar tensor is
        # float64 under torch.func.jvp of a gradient.)
        peak = self.peak(x)
        one, is_zero = do("zeros_like", peak) + 1, peak == 0
        factor = cast_like(one / do("sqrt", do("where", is_zero, one, peak)), x)
        x = x * factor * factor
        mean = self.sum_of_squares(x) / math.prod(x.shape)
        scale = do("where", is_zero, do("zeros_like", peak), one / do("sqrt", do("where", is_zero, one, mean)))
        return x, scale, 1.0

    def activate(self, x: Array, activation: str | None, scale: Array | None, out: Array | None = None) -> Array:
        function = activations.resolve(activation) if activation is not None else None
        if out is None:
            y = x if scale is None else x * cast_like(scale, x)
            y = y if function is None else function(y)
            return x * 1 if y is x else y  # the two states must not share memory
        for part, place in self.pieces(x, out):
            part = part if scale is None else part * scale
            place[...] = part if function is None else function(part)
        return out


def inverse_rms(total: float, x: np.ndarray) -> tuple[float, float]:
    """Return ``(scale, lift)``, whose product is one divided by the root mean square of an array.

    The lift is 1, or a power of two if one number of the dtype cannot hold the product.

    Parameters
    ----------
    total : float
        The sum of the squared absolute values, computed in the array's own dtype. If it overflowed, or if squares may
        have vanished in it, it is computed again from scaled entries.
    x : array
        The array, in NumPy.

    Examples
    --------
    >>> x = np.full(4, 1e-30, dtype="float32")
    >>> scale, lift = inverse_rms(float(np.vdot(x, x)), x)
    >>> round(scale * 1e-30, 6), lift
    (1.0, 1.0)
    """
    limits = np.finfo(x.dtype)
    if 1e8 * float(limits.tiny) * x.size <= total < math.inf:
        return 1.0 / math.sqrt(total / x.size), 1.0
    sizes = np.abs(np.ascontiguousarray(x).view(limits.dtype)).astype("float64")  # complex: real and imaginary parts
    peak = float(sizes.max())
    if peak == 0 or not math.isfinite(peak):
        return (0.0 if peak == 0 else math.nan), 1.0
    root = math.sqrt(float(np.sum((sizes / peak) ** 2)) / x.size)
    lift = 1.0 if 1 / float(limits.max) < peak * root else 2.0 ** (limits.maxexp // 2)
    return 1.0 / (peak * lift) / root, lift


def squared_norm(vector: Array) -> Array:
    """Return the sum of the squared absolute values of the entries of a flat array."""
    return do("real", do("vdot", vector, vector))


def cast_like(array: Array, like: Array) -> Array:
    """Return a real array in the dtype of another one, for libraries that refuse products of two dtypes.

    Python's numbers stay as they are, because they take the dtype of what they are multiplied by.

    Examples
    --------
    >>> cast_like(np.ones(2), np.ones(2, "complex64")).dtype
    dtype('complex64')
    """
    same = isinstance(array, (int, float)) or get_dtype_name(array) == get_dtype_name(like)
    return array if same else astype(array, get_dtype_name(like))
