"""Arrays of any library that autoray supports or that is registered with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
from autoray import astype, do

from ..base import Array, Params, Shape
from ..errors import SpecError
from .array_library import ArrayLibrary
from .tuning import Tuning

#: Types from `__dlpack_device__` for memory that a CPU can access: its own, and memory pinned by CUDA or ROCm.
HOST_MEMORY = (1, 3, 11)


@final
class OtherArrays(ArrayLibrary):
    """CuPy, TensorFlow, Dask, …: autoray finds each operation, so these libraries need no class of their own.

    Parameters
    ----------
    name : str
        Name of the library in autoray.
    tuning : Tuning
    """

    buffers = False

    def __init__(self, name: str, tuning: Tuning):
        super().__init__(tuning)
        self.name = name

    def permute(self, array: Array, axes: Sequence[int]) -> Array:
        return do("transpose", array, axes, like=self.name)

    def stack(self, arrays: Sequence[Array]) -> Array:
        return do("stack", arrays, like=self.name)

    def matmul(self, x: Array, y: Array, out: Array | None = None) -> Array:
        return do("matmul", x, y, like=self.name)

    def empty(self, size: int, like: Array) -> Array:
        return do("empty", size, dtype=like.dtype, like=self.name)

    def settled(self, array: Array) -> Array:
        return array

    def on_cpu(self, array: Array) -> bool:
        where = getattr(array, "__dlpack_device__", None)
        return where is None or int(where()[0]) in HOST_MEMORY

    def device(self, array: Array) -> None:
        return None

    def from_numpy(self, array: np.ndarray, dtype: str, device: Any) -> Array:
        return do("asarray", array.astype(dtype), like=self.name)

    def from_raw(self, array: np.ndarray) -> Array:
        return do("asarray", array, like=self.name)

    def to_raw(self, array: Array) -> np.ndarray:
        return do("to_numpy", array)

    def constant(self, values: tuple[float, ...], shape: Shape, like: Array) -> Array:
        return do("asarray", np.asarray(values, dtype=self.dtype(like)).reshape(shape), like=like)

    def astype(self, array: Array, dtype: str) -> Array:
        return astype(array, dtype)

    def threads(self) -> int | None:
        return os.cpu_count()

    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        return function

    def wait(self, array: Array) -> None:
        self.to_raw(array.reshape(-1)[:1])

    def pull_back(
        self, function: Callable[[Params], Array], params: Mapping[str, Array], cotangent: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        raise SpecError(f"deeptn cannot compute derivatives with {self.name}; use PyTorch or JAX")
