"""Cores in fewer bytes: half precision, or 8-bit integers with a scale for each core."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from ..arrays import numpy_dtype, to_raw
from ..errors import FormatError, SpecError, near_match

#: Dtypes in which files can store cores.
Cores: TypeAlias = Literal["float16", "bfloat16", "int8"]
CORES: tuple[Cores, ...] = ("float16", "bfloat16", "int8")

#: Largest number of 8 bits; -128 is not used, so that numbers are symmetric.
LARGEST = 127

#: Dtypes that rounded cores had, and get back.
FLOATS = ("float16", "bfloat16", "float32", "float64")


def check_cores(dtype: Any) -> None:
    """Raise `SpecError` unless files can store cores in a dtype.

    Examples
    --------
    >>> check_cores("int8")
    """
    if dtype not in CORES:
        raise SpecError(f"cores = {dtype!r}; {near_match(str(dtype), CORES)}")


def rounded(core: Any, dtype: Cores) -> tuple[np.ndarray, float]:
    """Return a core in another dtype, and the scale by which it has to be multiplied.

    Examples
    --------
    >>> numbers, scale = rounded(np.array([0.5, -1.0, 0.0]), "int8")
    >>> numbers.tolist(), round(scale, 4)
    ([64, -127, 0], 0.0079)
    """
    array = to_raw(core)
    if array.dtype.name not in FLOATS:
        raise SpecError(f"cores of {array.dtype} cannot be stored as {dtype}; leave out cores=")
    wide = array.astype("float64")
    if not np.isfinite(wide).all():
        raise SpecError("cores have entries that are not finite (nan or inf)")
    if dtype != "int8":
        with np.errstate(over="ignore"):
            narrow = wide.astype(numpy_dtype(dtype))
        if not np.isfinite(narrow.astype("float64")).all():
            raise SpecError(
                f"cores have entries up to {np.abs(wide).max():g}, too large for {dtype}; use bfloat16 or int8"
            )
        return narrow, 1.0
    largest = np.abs(wide).max(initial=0.0)
    if largest > np.finfo("float32").max:
        raise SpecError(f"cores have entries up to {largest:g}, too large for a scale in float32; leave out cores=")
    scale = float(np.float32(largest / LARGEST)) or 1.0
    return np.clip(np.rint(wide / scale), -LARGEST, LARGEST).astype("int8"), scale


def restored(stored: np.ndarray, scale: float, dtype: str) -> np.ndarray:
    """Undo `rounded`, up to rounding."""
    exact = stored if scale == 1.0 else stored.astype("float64") * scale
    with np.errstate(over="ignore"):
        return exact.astype(numpy_dtype(dtype))


def restore(layer: str, dtype: str, names: list[str], tensors: dict[str, np.ndarray], done: dict[Any, Any]) -> None:
    """Restore the rounded cores of a layer of a file in place; `done` has those that others share, before and after."""
    scales = tensors.get(f"{layer}.scales")
    if scales is not None and (
        scales.dtype.name != "float32" or scales.shape != (len(names),) or not np.isfinite(scales).all()
    ):
        raise FormatError(
            f"layer {layer!r}: expected {len(names)} scales in float32, got {scales.dtype} {scales.shape}"
        )
    for number, name in enumerate(names):
        core = tensors.get(name)
        if core is None or core.dtype.name not in CORES or (core.dtype.name == "int8") != (scales is not None):
            came = "nothing" if core is None else str(core.dtype)
            raise FormatError(f"{name!r} is {came} in the file; expected a rounded core, with scales if it is int8")
        key = core.ctypes.data, core.shape, dtype
        if key not in done:
            done[key] = core, restored(core, 1.0 if scales is None else float(scales[number]), dtype)
            if not np.isfinite(done[key][1].astype("float64")).all():
                raise FormatError(f"{name!r} has entries that are too large for its dtype before rounding, {dtype}")
        tensors[name] = done[key][1]
    tensors.pop(f"{layer}.scales", None)
