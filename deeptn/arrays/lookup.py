"""Which library an array is of."""

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

#: What ``like=`` may name.
LIBRARIES = tuple(_CLASSES)


@cache
def library(name: str, tuning: Tuning = CPU) -> ArrayLibrary:
    """The library of a name.

    Parameters
    ----------
    name : str
        As autoray names it.
    tuning : Tuning
        The numbers for the device on which its arrays lie.

    Raises
    ------
    MissingBackendError
        If PyTorch or JAX is asked for and not installed.

    Examples
    --------
    >>> library("numpy").dtypes
    ('float64', 'float32', 'float16', 'complex64', 'complex128')
    """
    known = _CLASSES.get(name)
    return OtherArrays(name, tuning) if known is None else known(tuning)


def library_of(array: Array) -> ArrayLibrary:
    """The library of an array, with the numbers for the device on which it lies.

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
    """Name of the dtype of an array of any library, as NumPy has it.

    Examples
    --------
    >>> import numpy as np
    >>> dtype_of(np.ones(3))
    'float64'
    """
    return library(infer_backend(array)).dtype(array)
