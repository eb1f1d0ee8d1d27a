"""What deeptn asks of an array library."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..base import Array, Params, Shape
from ..spec import pad_axes
from .operations import PlainActivations, PlainViews

#: Dtypes that parameters may have.
DTYPES = ("float64", "float32", "float16", "bfloat16", "complex64", "complex128")


@cache
def dtype_name(dtype: Any) -> str:
    """Name of a dtype of any library, as NumPy has it."""
    return dtype.name if hasattr(dtype, "name") else str(dtype).rpartition(".")[2]


def numpy_dtype(name: str) -> np.dtype:
    """The dtype of a name. NumPy knows bfloat16 and float8 once ml_dtypes is imported, which is done on use.

    Examples
    --------
    >>> numpy_dtype("bfloat16").itemsize
    2
    """
    special = name.startswith(("bfloat", "float8"))
    return np.dtype(getattr(importlib.import_module("ml_dtypes"), name) if special else name)


class ArrayLibrary(PlainViews, PlainActivations, ABC):
    """An array library, for arrays on one kind of device: the operations of a program, and the way from and to NumPy.

    Get one with `library` or `library_of`. NumPy, PyTorch and JAX have a class of their own; `OtherArrays` serves every
    other library that autoray knows.

    Parameters
    ----------
    tuning : Tuning
        The numbers for the device.

    Attributes
    ----------
    name : str
        As autoray names it.
    dtypes : tuple of str
        Those of `DTYPES` that the library has.
    on_cpu_only : bool
        Whether there is no other device.
    is_eager : bool
        Whether every array holds its entries, so that Python may decide by them: no tracers, no arrays without data.
    has_gradients : bool
        Whether `pull_back` works.
    home : str or None
        The device for figures of this machine where none is named; None: wherever the library puts an array.
    """

    name: str
    dtypes: tuple[str, ...] = DTYPES
    on_cpu_only: bool = False
    is_eager: bool = False
    has_gradients: bool = False
    home: str | None = None

    def pad(self, array: Array, shape: Sequence[int]) -> Array:
        return pad_axes(array, shape[shape[0] < 0 :])

    # Facts about an array.

    def dtype(self, array: Array) -> str:
        """Name of the dtype, as NumPy has it."""
        return dtype_name(array.dtype)

    @abstractmethod
    def on_cpu(self, array: Array) -> bool:
        """Whether an array lies on the CPU, or would, if it is a tracer."""

    @abstractmethod
    def device(self, array: Array) -> Any:
        """The device that an array lends to others; None: they go wherever the library puts them."""

    # From and to NumPy.

    @abstractmethod
    def from_numpy(self, array: np.ndarray, dtype: str, device: Any) -> Array:
        """A copy in this library, in one of `dtypes`."""

    @abstractmethod
    def from_raw(self, array: np.ndarray) -> Array:
        """The very bits, on the CPU; also of bfloat16 and float8 as ml_dtypes has them."""

    @abstractmethod
    def to_raw(self, array: Array) -> np.ndarray:
        """Inverse of `from_raw`, from any device."""

    @abstractmethod
    def constant(self, values: tuple[float, ...], shape: Shape, like: Array) -> Array:
        """An array of fixed entries beside `like`, of its dtype."""

    @abstractmethod
    def astype(self, array: Array, dtype: str) -> Array:
        """An array in another dtype."""

    # Figures of this machine, and derivatives.

    @abstractmethod
    def threads(self) -> int | None:
        """How many threads an operation may use."""

    @abstractmethod
    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """A function as its users would run it."""

    @abstractmethod
    def wait(self, array: Array) -> None:
        """Return once an array is there."""

    @abstractmethod
    def pull_back(
        self, function: Callable[[Params], Array], params: Mapping[str, Array], cotangent: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A function's value, and the gradient of ``(value * cotangent).sum()`` towards each parameter."""
