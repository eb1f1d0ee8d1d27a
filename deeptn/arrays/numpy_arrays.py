"""NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np

from ..base import Array, Params, Shape
from ..errors import SpecError
from .array_library import DTYPES, ArrayLibrary
from .operations import inverse_rms, squared_norm


@final
class NumPyArrays(ArrayLibrary):
    """NumPy: always on the CPU, always eager, without bfloat16."""

    name = "numpy"
    dtypes = tuple(name for name in DTYPES if name != "bfloat16")
    on_cpu_only = True
    is_eager = True
    buffers = True

    def permute(self, array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        return array.transpose(axes)

    def stack(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(arrays)

    def matmul(self, x: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        return np.matmul(x, y) if out is None else np.matmul(x, y, out=out)

    def empty(self, size: int, like: np.ndarray) -> np.ndarray:
        return np.empty(size, like.dtype)

    def settled(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def normalizer(self, x: np.ndarray, in_pieces: bool = False) -> tuple[np.ndarray, float, float]:
        parts = self.pieces(x) if in_pieces else [x.reshape(-1)]
        scale, lift = inverse_rms(sum(float(squared_norm(part)) for part in parts), x)
        return x if lift == 1 else x * x.dtype.type(lift), scale, lift

    def on_cpu(self, array: np.ndarray) -> bool:
        return True

    def device(self, array: np.ndarray) -> None:
        return None

    def from_numpy(self, array: np.ndarray, dtype: str, device: Any) -> np.ndarray:
        return np.array(array, dtype=dtype)  # scalars become arrays too

    def from_raw(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def to_raw(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array)

    def constant(self, values: tuple[float, ...], shape: Shape, like: np.ndarray) -> np.ndarray:
        return np.asarray(values, dtype=like.dtype).reshape(shape)

    def astype(self, array: np.ndarray, dtype: str) -> np.ndarray:
        return array.astype(dtype)

    def threads(self) -> int | None:
        return os.cpu_count()

    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        return function

    def wait(self, array: np.ndarray) -> None:
        pass

    def pull_back(
        self, function: Callable[[Params], Array], params: Mapping[str, Array], cotangent: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        raise SpecError("NumPy cannot compute derivatives; use PyTorch or JAX")
