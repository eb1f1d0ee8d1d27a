"""Find the library of an array."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

from autoray import infer_backend, register_backend

from ..base import Array
from ..errors import SpecError
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

_TENSOR = "torch", "Tensor"

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
    name = _backend(array)
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
    return library(_backend(array)).dtype(array)


def _backend(array: Array) -> str:
    """Return autoray's name for the library of an array, also of a user's subclass of torch.Tensor."""
    name = infer_backend(array)
    if name not in _CLASSES and any((base.__module__, base.__name__) == _TENSOR for base in type(array).__mro__):
        register_backend(type(array), name := "torch")
    return name


def check_alike(names: Iterable[str], arrays: Sequence[Array], devices: bool = False) -> None:
    """Raise `SpecError`, which names an array, unless all have the same library and dtype.

    Devices take longer to look up. They are compared only on request, when a call has failed: libraries do not combine
    arrays on different devices.

    Examples
    --------
    >>> import numpy as np
    >>> check_alike(["a", "b"], [np.ones(3), np.ones(2, "float32")])
    Traceback (most recent call last):
        ...
    deeptn.errors.SpecError: b is float32 in numpy, but a is float64 in numpy; convert one of them
    """
    kinds = {type(array): array for array in arrays}
    one_dtype = len({array.dtype for array in arrays}) == 1
    if not devices and one_dtype and (len(kinds) == 1 or len({*map(_backend, kinds.values())}) == 1):
        return
    names, first = [*names], _place(arrays[0])
    for name, array in zip(names, arrays):
        found = _place(array)
        if any(one is not None and other is not None and one != other for one, other in zip(found, first)):
            raise SpecError(f"{name} is {_said(found)}, but {names[0]} is {_said(first)}; convert one of them")


def _place(array: Array) -> tuple[str, str, str | None]:
    lib = library_of(array)
    return lib.dtype(array), lib.name, lib.place(array)


def _said(place: tuple[str, str, str | None]) -> str:
    dtype, name, device = place
    return f"{dtype} in {name}" + (f" on {device}" if device else "")
