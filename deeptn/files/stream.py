"""Read and write safetensors files tensor by tensor, so that memory holds the largest tensor and not the whole file."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays import numpy_dtype, to_raw
from ..base import Array, PathLike, write_atomically
from ..errors import FormatError, SpecError

#: NumPy's names for the dtypes of safetensors.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}

#: Their names in files.
CODES = {name: code for code, name in DTYPES.items()}


class Source(NamedTuple):
    """A tensor that is read when it is written.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
        NumPy's name of the dtype.
    read : callable
        Returns the array, in that shape and dtype.

    Examples
    --------
    >>> Source((2, 3), "float32", lambda: np.ones((2, 3), "float32")).nbytes
    24
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Array]

    @classmethod
    def of(cls, array: np.ndarray) -> Source:
        """Return an array as a source."""
        return cls(array.shape, array.dtype.name, lambda: array)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize


def write_stream(path: PathLike, tensors: Mapping[str, Source], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, one tensor at a time. An existing file is replaced completely or not at all."""
    order, header = _header(tensors, metadata)

    def write(new: Path) -> None:
        with new.open("wb") as file:
            file.write(header)
            for name in order:
                array = to_raw(tensors[name].read())
                if array.dtype.byteorder == ">":
                    array = array.astype(array.dtype.newbyteorder("<"))
                assert array.nbytes == tensors[name].nbytes, name
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                release(array)

    write_atomically(path, write)


def size_of_stream(tensors: Mapping[str, Source], metadata: Mapping[str, str]) -> int:
    """Return the bytes of the file that `write_stream` would write."""
    return len(_header(tensors, metadata)[1]) + sum(tensor.nbytes for tensor in tensors.values())


def _header(tensors: Mapping[str, Source], metadata: Mapping[str, str]) -> tuple[list[str], bytes]:
    """Return the order of the tensors, the largest dtypes first so that all are aligned, and the start of the file."""
    for name, tensor in tensors.items():
        if tensor.dtype not in CODES:
            raise SpecError(f"{name!r} has the dtype {tensor.dtype}, which safetensors files cannot store")
    order = sorted(tensors, key=lambda name: (-numpy_dtype(tensors[name].dtype).itemsize, name))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        entries[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return order, len(text).to_bytes(8, "little") + text


def mapped(path: Path) -> dict[str, np.ndarray]:
    """Map the tensors of a file whose header has been checked. They take no memory until they are read."""
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(start - 8))
    header.pop("__metadata__", None)
    whole = np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size > start else np.empty(start, np.uint8)
    found: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise FormatError(f"{str(path)!r}: tensor {name!r} has the dtype {entry['dtype']}, which NumPy lacks")
        first, last = entry["data_offsets"]
        dtype = numpy_dtype(DTYPES[entry["dtype"]])
        found[name] = whole[start + first : start + last].view(dtype).reshape(entry["shape"])
    return found


def is_mapped(array: np.ndarray) -> bool:
    """Return whether the memory of an array is mapped from a file.

    Examples
    --------
    >>> is_mapped(np.ones(3)[1:])
    False
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return isinstance(base, mmap.mmap)


def release(array: Array) -> None:
    """Let the system take back the memory of an array that is mapped from a file; it can still be used.

    Examples
    --------
    >>> release(np.ones(3))  # not mapped: nothing happens
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode != "r":
            return  # changes that are not in the file would be lost
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)
