"""A stand-in for CuPy: its arrays are not NumPy arrays, do not mix with them, and only `asnumpy` converts them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import autoray
import numpy as np


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    def __init__(self, held: np.ndarray):
        self._held = held

    shape = property(lambda self: self._held.shape)
    dtype = property(lambda self: self._held.dtype)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> ndarray:
        return _lift(getattr(ufunc, method))(*inputs, **options)

    def __getitem__(self, key: Any) -> ndarray:
        return ndarray(self._held[_lower(key)])

    def reshape(self, *shape: Any) -> ndarray:
        return ndarray(self._held.reshape(*shape))

    def swapaxes(self, *axes: int) -> ndarray:
        return ndarray(self._held.swapaxes(*axes))

    def astype(self, dtype: Any) -> ndarray:
        return ndarray(self._held.astype(dtype))


def _lower(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_lower, value))
    if isinstance(value, np.ndarray):
        raise TypeError("arrays of the stand-in do not mix with NumPy arrays")
    return value._held if isinstance(value, ndarray) else value


def _lift(function: Callable[..., Any]) -> Callable[..., ndarray]:
    @functools.wraps(function)
    def lifted(*values: Any, **options: Any) -> ndarray:
        return ndarray(np.asarray(function(*_lower(values), **options)))

    return lifted


def asarray(array: np.ndarray | ndarray) -> ndarray:
    return array if isinstance(array, ndarray) else ndarray(np.array(array))


def asnumpy(array: ndarray) -> np.ndarray:
    return array._held.copy()


zeros = _lift(np.zeros)

# For programs; reshape, swapaxes, indexing and operators are methods of the arrays.
transpose, stack, matmul, pad = _lift(np.transpose), _lift(np.stack), _lift(np.matmul), _lift(np.pad)
# For activations and their normalization.
where, zeros_like, tanh, sin = _lift(np.where), _lift(np.zeros_like), _lift(np.tanh), _lift(np.sin)
vdot, real, sqrt = _lift(np.vdot), _lift(np.real), _lift(np.sqrt)
abs, max = _lift(np.abs), _lift(np.max)
# For single rows of a weight.
concatenate, broadcast_to, reshape = _lift(np.concatenate), _lift(np.broadcast_to), _lift(np.reshape)

# Where the functions are, and how to convert to NumPy; for CuPy, autoray already knows both.
autoray.register_backend(ndarray, __name__)
autoray.register_function(__name__, "to_numpy", asnumpy)
