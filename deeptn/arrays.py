"""Arrays of NumPy, PyTorch and JAX: their dtypes, and how they are moved between libraries."""

from __future__ import annotations

import importlib
import importlib.util
import math
from typing import Any

import numpy as np
from autoray import do, get_dtype_name, infer_backend

from .base import Array, Params
from .errors import FormatError, MissingBackendError, SpecError, near_match

DTYPES = ("float64", "float32", "float16", "bfloat16", "complex64", "complex128")
LIBRARIES = ("numpy", "torch", "jax")


def target(like: Any, dtype: Any, device: Any) -> tuple[str, str, Any]:
    """Resolve ``like=, dtype=, device=`` to a library, a dtype name and a device.

    Parameters
    ----------
    like : str or array
        ``"numpy"``, ``"torch"``, ``"jax"``, or an array whose library, dtype and device are taken.
    dtype : str or dtype, optional
        By default that of the array, or float32.
    device : optional
        By default that of the array, or the library's own.

    Raises
    ------
    SpecError
        For an unknown library or dtype.
    MissingBackendError
        If the library is not installed.
    """
    if isinstance(like, str):
        library = like
    else:
        library = infer_backend(like)
        dtype = get_dtype_name(like) if dtype is None and hasattr(like, "dtype") else dtype
        device = getattr(like, "device", None) if device is None and library == "torch" else device
    if library not in LIBRARIES:
        raise SpecError(f"like = {like!r:.60}; expected an array or {near_match(library, LIBRARIES)}")
    if importlib.util.find_spec(library) is None:
        raise MissingBackendError(library, library)
    if dtype is None:
        name = "float32"
    elif isinstance(dtype, str):
        name = dtype
    else:
        name = np.dtype(dtype).name if isinstance(dtype, type) else str(dtype).rpartition(".")[2]
    if name not in DTYPES:
        raise SpecError(f"dtype = {dtype!r}; {near_match(name, DTYPES)}")
    if name == "bfloat16" and library == "numpy":
        raise SpecError("dtype = 'bfloat16', which NumPy does not have; write like='torch' or like='jax'")
    if library == "numpy" and device not in (None, "cpu"):
        raise SpecError(f"device = {device!r}; NumPy arrays live on the CPU, leave device out")
    return library, name, device


def convert(array: np.ndarray, like: Any, dtype: Any = None, device: Any = None) -> Array:
    """Move a NumPy array to another library, dtype and device (see `target`); the result is a copy."""
    library, name, device = target(like, dtype, device)
    array = array.astype("float32") if array.dtype.kind == "V" else array  # bfloat16, exactly
    if library == "numpy":
        return np.array(array, dtype=name)  # an array for scalars too
    if library == "torch":
        # A device that is named counts, whatever the default device is.
        tensor = do("tensor", np.asarray(array, order="C"), device=device, like="torch")
        return tensor.to(device=device, dtype=getattr(_module("torch"), name))
    if name in ("float64", "complex128") and not _module("jax").config.jax_enable_x64:
        raise SpecError(f"dtype = {name!r}: first switch it on with jax.config.update('jax_enable_x64', True)")
    return _module("jax.numpy").asarray(array, dtype=name, device=device)


def to_numpy(array: Array) -> np.ndarray:
    """Return a NumPy copy in float64 or complex128, from any library and dtype."""
    if infer_backend(array) == "torch":
        array = array.detach()
        array = array.to(
            device="cpu", dtype=getattr(_module("torch"), "complex128" if array.is_complex() else "float64")
        )
    array = do("to_numpy", array)
    return array.astype("complex128" if np.iscomplexobj(array) else "float64")


def relative_error(found: Array, weight: Array) -> float:
    """``‖weight - found‖ / ‖weight‖``; 0 for two zeros."""
    dense = to_numpy(weight)
    norm = float(np.linalg.norm(dense))
    gap = float(np.linalg.norm(dense - to_numpy(found)))
    return gap / norm if norm else (0.0 if gap == 0.0 else math.inf)


def to_raw(array: Array) -> np.ndarray:
    """A NumPy array of the very bits, from any library; bfloat16 and float8 are those of the package ml_dtypes."""
    if infer_backend(array) != "torch":
        return do("to_numpy", array)
    array = array.detach().resolve_conj().resolve_neg().cpu().contiguous()
    name = get_dtype_name(array)
    if name != "bfloat16" and not name.startswith("float8"):
        return array.numpy()
    raw = array.reshape(-1).view(_module("torch").uint8).numpy()
    return raw.view(numpy_dtype(name)).reshape(tuple(array.shape))


def numpy_dtype(name: str) -> np.dtype:
    """The dtype of a name. NumPy knows bfloat16 and float8 once ml_dtypes is imported, which is done on use."""
    return np.dtype(getattr(_module("ml_dtypes"), name) if name.startswith(("bfloat", "float8")) else name)


#: What arrays of files can be converted to, and how much that holds.
KINDS = {"bool": 0} | {f"{sign}int{bits}": 1 for sign in ("", "u") for bits in (8, 16, 32, 64)}
KINDS |= {name: 3 if name.startswith("complex") else 2 for name in DTYPES}


def cast(array: np.ndarray, dtype: str, what: str) -> np.ndarray:
    """An array of a file in the dtype of the model that reads it, rounded as ``load_state_dict`` does.

    Raises
    ------
    FormatError
        If the model cannot hold it: an imaginary part, a fraction, an integer out of range, a float that would
        overflow, or a dtype that files do not have.
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
    raise FormatError(f"{what} is of {array.dtype} in the file, of {dtype} in the model, which cannot hold it")


def from_raw(array: np.ndarray, like: str) -> Array:
    """Inverse of `to_raw`, on the CPU; `SpecError` where JAX without x64 would narrow it."""
    if like == "jax":
        wide = array.dtype.name in ("float64", "complex128") or (array.dtype.kind in "iu" and array.itemsize == 8)
        if wide and not _module("jax").config.jax_enable_x64:
            narrow = array.dtype.kind in "iu" and (array == array.astype(f"{array.dtype.kind}4")).all()
            if not narrow:
                raise SpecError(
                    f"JAX would narrow {array.dtype}; switch it on with jax.config.update('jax_enable_x64', True)"
                )
        return _module("jax.numpy").asarray(array)
    torch = _module("torch")
    if array.dtype.kind != "V":
        return torch.from_numpy(np.array(array, order="C"))
    flat = torch.from_numpy(np.array(array, order="C").reshape(-1).view("uint8"))
    return flat.view(getattr(torch, array.dtype.name)).reshape(array.shape)


def convert_params(params: dict[str, np.ndarray], like: Any, dtype: Any = None, device: Any = None) -> Params:
    """`convert` for each entry."""
    return {name: convert(array, like, dtype, device) for name, array in params.items()}


def constant(values: tuple[float, ...], shape: tuple[int, ...], like: Array) -> Array:
    """Make an array of fixed entries beside `like`: same library, dtype and device."""
    if infer_backend(like) == "torch":
        return like.new_tensor(values).reshape(shape)
    return do("asarray", np.asarray(values, dtype=get_dtype_name(like)).reshape(shape), like=like)


def _module(name: str) -> Any:
    """Import an optional library on use."""
    return importlib.import_module(name)
