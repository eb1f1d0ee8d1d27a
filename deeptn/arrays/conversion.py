"""Move arrays between libraries, dtypes and devices."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
from autoray import infer_backend

from ..base import Array, Params, Shape
from ..errors import FormatError, MissingBackendError, SpecError, near_match
from .array_library import DTYPES, ArrayLibrary, numpy_dtype
from .lookup import LIBRARIES, library, library_of


def target(like: Any, dtype: Any, device: Any) -> tuple[ArrayLibrary, str, Any]:
    """Resolve ``like=, dtype=, device=`` to a library, a dtype name and a device.

    Parameters
    ----------
    like : str or array
        ``"numpy"``, ``"torch"``, ``"jax"``, or an array whose library, dtype and device are used.
    dtype : str or dtype, optional
        By default the dtype of the array, or float32.
    device : optional
        By default the device of the array, or the library's default device.

    Raises
    ------
    SpecError
        For an unknown library or dtype, or a device that the library does not have.
    MissingBackendError
        If the library is not installed.
    """
    chosen = like if isinstance(like, str) else infer_backend(like)
    if chosen not in LIBRARIES:
        raise SpecError(f"like = {like!r:.60} is not a supported library or array; {near_match(chosen, LIBRARIES)}")
    if importlib.util.find_spec(chosen) is None:
        raise MissingBackendError(chosen, chosen)
    found = library(chosen)
    if not isinstance(like, str):
        dtype = found.dtype(like) if dtype is None and hasattr(like, "dtype") else dtype
        device = found.device(like) if device is None else device
    if dtype is None:
        name = "float32"
    elif isinstance(dtype, str):
        name = dtype
    else:
        name = np.dtype(dtype).name if isinstance(dtype, type) else str(dtype).rpartition(".")[2]
    if name not in DTYPES:
        raise SpecError(f"dtype = {dtype!r}; {near_match(name, DTYPES)}")
    if name not in found.dtypes:
        raise SpecError(f"dtype = {name!r}, which NumPy does not have; write like='torch' or like='jax'")
    if found.on_cpu_only and device not in (None, "cpu"):
        raise SpecError(f"device = {device!r}; NumPy arrays are always on the CPU, so leave device out")
    return found, name, device


def convert(array: np.ndarray, like: Any, dtype: Any = None, device: Any = None) -> Array:
    """Move a NumPy array to another library, dtype and device (see `target`); the result is a copy."""
    found, name, device = target(like, dtype, device)
    array = array.astype("float32") if array.dtype.kind == "V" else array  # bfloat16, exactly
    return found.from_numpy(array, name, device)


def convert_params(params: dict[str, np.ndarray], like: Any, dtype: Any = None, device: Any = None) -> Params:
    """Apply `convert` to each entry."""
    return {name: convert(array, like, dtype, device) for name, array in params.items()}


def to_numpy(array: Array) -> np.ndarray:
    """Return a NumPy copy in float64 or complex128, from any library and dtype."""
    raw = to_raw(array)
    return raw.astype("complex128" if np.iscomplexobj(raw) else "float64")


def to_raw(array: Array) -> np.ndarray:
    """Return a NumPy array with exactly the same bits, from any library; bfloat16 and float8 use ml_dtypes."""
    return library_of(array).to_raw(array)


def from_raw(array: np.ndarray, like: str) -> Array:
    """Invert `to_raw`, on the CPU; raise `SpecError` if JAX without x64 would narrow the values."""
    return library(like).from_raw(array)


def constant(values: tuple[float, ...], shape: Shape, like: Array) -> Array:
    """Make an array of fixed entries with the library, dtype and device of `like`."""
    return library_of(like).constant(values, shape, like)


def relative_error(found: Array, weight: Array) -> float:
    """Return ``‖weight - found‖ / ‖weight‖``; 0 if both are zero."""
    dense = to_numpy(weight)
    norm, gap = norm_of(dense), norm_of(dense - to_numpy(found))
    return gap / norm if norm else (0.0 if gap == 0.0 else math.inf)


def norm_of(array: np.ndarray) -> float:
    """Return the Frobenius norm of a float64 or complex128 array, even if squares of its entries over- or underflow.

    Examples
    --------
    >>> norm_of(np.full(4, 1e-200)), norm_of(np.zeros(3))
    (2e-200, 0.0)
    """
    peak = float(np.abs(array).max())
    if not 0 < peak < math.inf:
        return peak
    return peak * float(np.linalg.norm(array / peak))


#: Dtypes that an array from a file can be converted to, ranked: bool, integers, floats, complex numbers.
KINDS = {"bool": 0} | {f"{sign}int{bits}": 1 for sign in ("", "u") for bits in (8, 16, 32, 64)}
KINDS |= {name: 3 if name.startswith("complex") else 2 for name in DTYPES}


def cast(array: np.ndarray, dtype: str, what: str) -> np.ndarray:
    """Convert an array from a file to the dtype of the model that reads it, rounding as ``load_state_dict`` does.

    Raises
    ------
    FormatError
        If the dtype of the model cannot represent it: an imaginary part, a fraction, an integer out of range, a float
        that would overflow, or a dtype that files do not have.
    """
    if array.dtype.name == dtype:
        return array
    fits = KINDS.get(array.dtype.name, 4) <= KINDS.get(dtype, -1)
    if fits:
        with np.errstate(all="ignore"):
            result = array.astype(numpy_dtype(dtype))
            if KINDS[dtype] == 1:
                fits = bool((result == array).all())
            elif KINDS[dtype] > 1:
                fits = not bool((np.isfinite(array) & ~np.isfinite(result)).any())
        if fits:
            return result
    raise FormatError(f"{what} is {array.dtype} in the file but {dtype} in the model, which cannot hold its values")
