"""Find the library of an array."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from autoray import infer_backend

from ..base import Array
from .array_library import ArrayLibrary
from .jax_arrays import JaxArrays
from .numpy_arrays import NumPyArrays
from .other_arrays import OtherArrays
from .torch_arrays import TorchArrays
from .tuning import CPU, GPU, Tuning

_CLASSES: dict[str, Callable[[Tuning], ArrayLibrary]] = {
    "numpy": NumPyArrays,
    "torch": TorchArrays,
    "jax": JaxArrays,
}

#: Names that ``like=`` accepts.
LIBRARIES = tuple(_CLASSES)


@cache
def library(name: str, tuning: Tuning = CPU) -> ArrayLibrary:
    """Return the library with a given name.

    Parameters
    ----------
    name : str
        Name of the library in autoray.
    tuning : Tuning
        Constants for the device that its arrays are on.

    Raises
    ------
    MissingBackendError
        If PyTorch or JAX is requested but not installed.

    Examples
    --------
    >>> library("numpy").dtypes
    ('float64', 'float32', 'float16', 'complex64', 'complex128')
    """
    known = _CLASSES.get(name)
    return OtherArrays(name, tuning) if known is None else known(tuning)


def library_of(array: Array) -> ArrayLibrary:
    """Return the library of an array, with the tuning for the device that it is on.

    Examples
    --------
    >>> import numpy as np
    >>> found = library_of(np.ones(3))
    >>> found.name, found.tuning.device
    ('numpy', 'cpu')
    """
    name = infer_backend(array)
    found = library(name)
    return found if found.on_cpu(array) else library(name, GPU)


def dtype_of(array: Array) -> str:
    """Return NumPy's name for the dtype of an array of any library.

    Examples
    --------
    >>> import numpy as np
    >>> dtype_of(np.ones(3))
    'float64'
    """
    return library(infer_backend(array)).dtype(array)
