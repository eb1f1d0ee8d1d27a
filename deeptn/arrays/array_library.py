"""The interface that deeptn needs from an array library."""

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
    """Return NumPy's name for a dtype of any library."""
    return dtype.name if hasattr(dtype, "name") else str(dtype).rpartition(".")[2]


def numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy dtype with a given name. bfloat16 and float8 come from ml_dtypes, which is imported on use.

    Examples
    --------
    >>> numpy_dtype("bfloat16").itemsize
    2
    """
    special = name.startswith(("bfloat", "float8"))
    return np.dtype(getattr(importlib.import_module("ml_dtypes"), name) if special else name)


class ArrayLibrary(PlainViews, PlainActivations, ABC):
    """An array library, for arrays on one kind of device: a program's operations, and conversion from and to NumPy.

    Get one with `library` or `library_of`. NumPy, PyTorch and JAX have their own classes; `OtherArrays` is for every
    other library that autoray supports.

    Parameters
    ----------
    tuning : Tuning
        Constants for the device.

    Attributes
    ----------
    name : str
        Name of the library in autoray.
    dtypes : tuple of str
        The names in `DTYPES` that the library supports.
    on_cpu_only : bool
        Whether the CPU is the only device.
    is_eager : bool
        Whether every array has concrete values that Python can branch on: no tracers, no arrays without data.
    has_gradients : bool
        Whether `pull_back` works.
    home : str or None
        The device to measure on if none is given; None means wherever the library puts an array.
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
        """Return NumPy's name for the dtype of an array."""
        return dtype_name(array.dtype)

    @property
    def integers(self) -> str:
        """The widest signed integers."""
        return "int64"

    @abstractmethod
    def on_cpu(self, array: Array) -> bool:
        """Return whether an array is on the CPU or, for a tracer, would be."""

    @abstractmethod
    def device(self, array: Array) -> Any:
        """Return the device for new arrays that should be where this one is; None leaves the choice to the library."""

    def place(self, array: Array) -> str | None:
        """Return where an array is, as text; None if it may be combined with arrays anywhere."""
        return None

    # From and to NumPy.

    @abstractmethod
    def from_numpy(self, array: np.ndarray, dtype: str, device: Any) -> Array:
        """Return a copy in this library, with a dtype from `dtypes`."""

    @abstractmethod
    def from_raw(self, array: np.ndarray) -> Array:
        """Return an array on the CPU with exactly the same bits; also accepts bfloat16 and float8 from ml_dtypes."""

    @abstractmethod
    def to_raw(self, array: Array) -> np.ndarray:
        """Return a NumPy array with exactly the same bits, from any device; the inverse of `from_raw`."""

    @abstractmethod
    def constant(self, values: tuple[float, ...], shape: Shape, like: Array) -> Array:
        """Return an array of fixed entries, with the dtype and device of `like`."""

    @abstractmethod
    def astype(self, array: Array, dtype: str) -> Array:
        """Convert an array to another dtype."""

    # Timing, and derivatives.

    @abstractmethod
    def threads(self) -> int | None:
        """Return how many threads an operation may use."""

    @abstractmethod
    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Return a function compiled the way users of the library would run it."""

    @abstractmethod
    def wait(self, array: Array) -> None:
        """Wait until an array has been computed."""

    @abstractmethod
    def pull_back(
        self, function: Callable[[Params], Array], params: Mapping[str, Array], cotangent: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return a function's value, and the gradients of ``(value * cotangent).sum()`` with respect to `params`."""
