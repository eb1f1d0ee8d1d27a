"""JAX arrays. JAX is imported when it is first needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np

from ..base import Array, Params, Shape, optional
from ..errors import SpecError
from .array_library import ArrayLibrary
from .tuning import Tuning

_X64 = "jax.config.update('jax_enable_x64', True)"


@final
class JaxArrays(ArrayLibrary):
    """JAX, including tracers of any transformation."""

    name = "jax"
    has_gradients = True
    buffers = False

    def __init__(self, tuning: Tuning):
        super().__init__(tuning)
        self._jax: Any = optional("jax", "jax")
        self._numpy: Any = self._jax.numpy

    def permute(self, array: Array, axes: Sequence[int]) -> Array:
        return self._numpy.transpose(array, axes)

    def stack(self, arrays: Sequence[Array]) -> Array:
        return self._numpy.stack(arrays)

    def matmul(self, x: Array, y: Array, out: Array | None = None) -> Array:
        if x.ndim < y.ndim:
            if y.shape[2] < self.tuning.wide:
                return self._numpy.einsum("ij,ajc->aic", x, y)
            x = self._numpy.broadcast_to(x, (y.shape[0], *x.shape))
        return self._numpy.matmul(x, y)

    def empty(self, size: int, like: Array) -> Array:
        return self._numpy.empty(size, like.dtype)

    def settled(self, array: Array) -> Array:
        return array

    def peak(self, x: Array) -> Array:
        return super().peak(self._jax.lax.stop_gradient(x))

    def on_cpu(self, array: Array) -> bool:
        if isinstance(array, self._jax.core.Tracer):
            return self._jax.default_backend() == "cpu"
        return all(device.platform == "cpu" for device in array.devices())

    def device(self, array: Array) -> None:
        return None

    def place(self, array: Array) -> str | None:
        if isinstance(array, self._jax.core.Tracer) or not array.committed:
            return None
        return ", ".join(sorted(map(str, array.devices())))

    def from_numpy(self, array: np.ndarray, dtype: str, device: Any) -> Array:
        if dtype in ("float64", "complex128") and not self._jax.config.jax_enable_x64:
            raise SpecError(f"dtype = {dtype!r} needs 64-bit mode in JAX; first write {_X64}")
        return self._numpy.asarray(array, dtype=dtype, device=device)

    @property
    def integers(self) -> str:
        return "int64" if self._jax.config.jax_enable_x64 else "int32"

    def from_raw(self, array: np.ndarray) -> Array:
        wide = array.dtype.name in ("float64", "complex128") or (array.dtype.kind in "iu" and array.itemsize == 8)
        if wide and not self._jax.config.jax_enable_x64:
            narrow = array.dtype.kind in "iu" and (array == array.astype(f"{array.dtype.kind}4")).all()
            if not narrow:
                raise SpecError(f"JAX would narrow {array.dtype} without 64-bit mode; first write {_X64}")
        return self._numpy.asarray(array)

    def to_raw(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def constant(self, values: tuple[float, ...], shape: Shape, like: Array) -> Array:
        return self._numpy.asarray(np.asarray(values, dtype=like.dtype).reshape(shape))

    def astype(self, array: Array, dtype: str) -> Array:
        return array.astype(dtype)

    def threads(self) -> int | None:
        return os.cpu_count()

    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        return self._jax.jit(function)

    def wait(self, array: Array) -> None:
        np.asarray(array.reshape(-1)[:1])

    def pull_back(
        self, function: Callable[[Params], Array], params: Mapping[str, Array], cotangent: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        def loss(some: Any) -> Any:
            found = function(some)
            return (found * cotangent).sum(), found

        (_, found), grads = self._jax.jit(self._jax.value_and_grad(loss, has_aux=True))(dict(params))
        return self.to_raw(found), {name: self.to_raw(grad) for name, grad in grads.items()}
