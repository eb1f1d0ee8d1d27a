"""Safetensors files: tensors of any dtype, and a JSON header."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import msgspec
import numpy as np

from ..arrays import to_raw
from ..base import Array, Part, PathLike, decoded
from ..errors import FormatError, SpecError
from .stream import (
    DIGITS,
    Checked,
    Metadata,
    Source,
    Sum,
    mapped,
    ordered,
    size_of_header,
    size_of_stream,
    write_stream,
)

#: Key of deeptn's JSON in the metadata of a safetensors header.
HEADER = "deeptn"

#: Dtypes that are stored as pairs of real numbers.
Complex: TypeAlias = Literal["complex64", "complex128"]

#: Largest header of a file of deeptn, in bytes. It is read and checked as a whole.
LARGEST = 2**22

#: What files of other formats contain, and what reads them.
READERS = {"deeptn.network": "a network; read it with deeptn.load", "deeptn.model": "a model; read it with load_model"}

#: Version 1 widened half precision to float32 in network files, and did not store complex entries of models as pairs.
#: Version 2 stored a specification for every network, a tensor for every core, and a dtype for every tensor.
#: Version 3 had no checksums.
VERSION = 4


class Start(msgspec.Struct, frozen=True):
    """What all headers have; the checksums since version 4."""

    format: str
    version: int
    checksums: str = ""


class Header(Part, frozen=True):
    """The header of a file since version 3.

    Attributes
    ----------
    format : str
    version : int
    dtypes : dict
        Dtypes of tensors that are stored as pairs of real numbers.
    checksums : str
        One after the other, in the order of `deeptn.files.stream.ordered`.
    """

    format: str
    version: int
    dtypes: dict[str, Literal["complex64", "complex128"]] = msgspec.field(
        default_factory=dict[str, Literal["complex64", "complex128"]]
    )
    checksums: str = ""


class OldHeader(msgspec.Struct, frozen=True):
    """The header of a file of version 1 or 2."""

    format: str
    version: int
    dtypes: dict[str, str] = msgspec.field(default_factory=dict[str, str])


#: Types of headers.
New = TypeVar("New", bound=Header)
Old = TypeVar("Old", bound=OldHeader)
T = TypeVar("T")


def parse_header(metadata: Mapping[str, str] | None, form: str, new: type[New], old: type[Old]) -> New | Old:
    """Return deeptn's part of a safetensors header, after checking its format and version."""
    text = (metadata or {}).get(HEADER)
    if text is None:
        raise FormatError(f"the file has no {HEADER!r} entry in its header; it was not written by deeptn")
    start = _parse_start(text)
    if start.format != form:
        hint = f"; the file contains {READERS[start.format]}" if start.format in READERS else ""
        raise FormatError(f"expected a file of the format {form!r}, got {start.format!r:.60}{hint}")
    return decoded(text, new if start.version > 2 else old, "the header")


def _parse_start(text: str) -> Start:
    """Return what all headers have; raise `FormatError` unless this version of deeptn reads the file."""
    start = decoded(text, Start, "the header")
    if not 1 <= start.version <= VERSION:
        raise FormatError(f"format version {start.version}; this version of deeptn reads versions 1 to {VERSION}")
    if start.version < 4 and start.checksums:
        raise FormatError(f"a file of the format version {start.version} has no checksums")
    return start


def form_of(path: PathLike) -> str:
    """Return the format that a file declares: ``"deeptn.network"``, ``"deeptn.model"``, or another deeptn format."""
    form = declared(path)
    if form is None:
        raise FormatError(f"{str(path)!r} was not written by deeptn: its header names no format")
    return form


def declared(path: PathLike) -> str | None:
    """Return the format that a file declares; None if deeptn did not write it.

    Raises
    ------
    FormatError
        If deeptn wrote it, and its header is damaged or of a later version.
    """
    need_file(path)
    if LARGEST < _size_of_header(path) < Path(path).stat().st_size:
        return None
    start = _start(path)
    return start.format if start else None


def _start(path: PathLike) -> Start | None:
    """Return what all headers have; None if deeptn did not write the file. Its header is checked as safetensors."""
    with open_safetensors(path, "numpy") as file:
        metadata: dict[str, str] = file.metadata() or {}
    return _parse_start(metadata[HEADER]) if HEADER in metadata else None


def write_tensors(path: PathLike, header: dict[str, Any], tensors: Mapping[str, Array], keep: bool = False) -> None:
    """Write arrays of any library; complex ones become pairs and are listed in the header.

    If `keep`, an old file stays as `deeptn.base.previous`.
    """
    stored, metadata = _contents(header, tensors)
    size = size_of_header(stored, metadata)
    if size > LARGEST:
        raise SpecError(f"the header of the file would have {size:,} bytes; files of deeptn have at most {LARGEST:,}")
    write_stream(path, stored, metadata, keep)


def size_of_tensors(header: dict[str, Any], tensors: Mapping[str, Array]) -> int:
    """Return the bytes of the file that `write_tensors` would write."""
    return size_of_stream(*_contents(header, tensors))


def _contents(header: dict[str, Any], tensors: Mapping[str, Array]) -> tuple[dict[str, Source], Metadata]:
    """Return the tensors and the metadata of a file."""
    stored: dict[str, Source] = {}
    dtypes: dict[str, str] = {}
    for name, array in tensors.items():
        raw = to_raw(array)
        stored[name] = Source.of(raw)
        if raw.dtype.name.startswith("float8"):
            raise SpecError(f"{name!r} has the dtype {raw.dtype}, which deeptn files cannot store; convert it first")
        if raw.dtype.kind == "c":
            dtypes[name] = str(raw.dtype.name)
            stored[name] = Source((*raw.shape, 2), np.real(raw).dtype.name, partial(_pairs, raw))

    def metadata(sums: str) -> dict[str, str]:
        whole = header | {"version": VERSION} | ({"dtypes": dtypes} if dtypes else {})
        return {HEADER: compact(whole | {"checksums": sums})}

    return stored, metadata


def _pairs(array: np.ndarray) -> np.ndarray:
    """Return complex numbers as pairs [real, imaginary]."""
    return np.stack([np.real(array), np.imag(array)], axis=-1)


def compact(data: Any) -> str:
    """Return JSON without spaces."""
    return msgspec.json.encode(data, enc_hook=_plain).decode()


def _plain(value: Any) -> Any:
    """Return numbers and texts of NumPy, and of subclasses, as those of Python."""
    if isinstance(value, np.generic):
        return cast(Any, value).item()
    if isinstance(value, str):
        return f"{value}"
    raise TypeError(f"cannot be stored as JSON: {type(value).__name__}")


def map_tensors(path: PathLike, form: str, new: type[New], old: type[Old]) -> tuple[New | Old, Checked]:
    """Return the header of a file, and its tensors in their original dtypes, mapped."""
    return _as_one_file(path, lambda: _map_tensors(path, form, new, old))


def map_any(path: PathLike) -> Checked:
    """Return the tensors of any safetensors file, mapped, as they are stored; files of deeptn have checksums."""

    def read() -> Checked:
        start = _start(path)
        tensors = mapped(Path(path))
        return Checked(tensors, {} if start is None else _checksums(path, start, tensors))

    return _as_one_file(path, read)


def _as_one_file(path: PathLike, read: Callable[[], T]) -> T:
    """Read again if another process replaces the file meanwhile."""
    need_file(path)
    while True:
        before = _identity(path)
        try:
            found = read()
        except FormatError:
            if _identity(path) == before:
                raise
            continue
        if _identity(path) == before:
            return found


def _identity(path: PathLike) -> tuple[int, ...]:
    """Return what changes if a file is replaced."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _map_tensors(path: PathLike, form: str, new: type[New], old: type[Old]) -> tuple[New | Old, Checked]:
    size = _size_of_header(path)
    if LARGEST < size < Path(path).stat().st_size:
        raise FormatError(f"{str(path)!r} has a header of {size:,} bytes; files of deeptn have at most {LARGEST:,}")
    with open_safetensors(path, "numpy") as file:
        header = parse_header(file.metadata(), form, new, old)
    tensors = mapped(Path(path))
    for name, array in tensors.items():
        if array.dtype.itemsize == 1 and array.dtype.kind not in "iub":
            raise FormatError(f"tensor {name!r} has the dtype {array.dtype}, which files of deeptn cannot have")
    sums = _checksums(path, header, tensors)
    for name, dtype in header.dtypes.items():
        if isinstance(header, Header) and (name not in tensors or tensors[name].shape[-1:] != (2,)):
            raise FormatError(f"the header gives {name!r} the dtype {dtype}, but the file has no such pairs")
        if name in tensors:
            tensors[name] = _in_dtype(name, tensors[name], dtype)
    return header, Checked(tensors, sums)


def _checksums(path: PathLike, header: Start | Header | OldHeader, tensors: Mapping[str, np.ndarray]) -> dict[str, Sum]:
    """Return the checksums that a header names; none before version 4."""
    if isinstance(header, OldHeader) or header.version < 4:
        return {}
    order = ordered({name: array.dtype for name, array in tensors.items()})
    if len(header.checksums) != DIGITS * len(order):
        raise FormatError(f"{len(header.checksums)} digits of checksums for {len(order)} tensors")
    places = range(0, len(header.checksums), DIGITS)
    return {name: Sum(header.checksums[place : place + DIGITS], path) for name, place in zip(order, places)}


def _size_of_header(path: PathLike) -> int:
    with Path(path).open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _in_dtype(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """Return a tensor in its original dtype."""
    if dtype in ("complex64", "complex128") and array.shape[-1:] == (2,):
        if array.dtype.name not in ("float32", "float64"):
            raise FormatError(f"tensor {name!r}: pairs of {array.dtype} are not complex numbers")
        return np.ascontiguousarray(array, f"float{int(dtype[7:]) // 2}").view(dtype)[..., 0]
    if dtype in ("float16", "bfloat16") and array.dtype.name == "float32":  # version 1
        with np.errstate(over="ignore"):
            half = array.astype(dtype)
        if not np.array_equal(half.astype("float32"), array, equal_nan=True):
            raise FormatError(f"tensor {name!r} has entries that its dtype in the header, {dtype}, does not have")
        return half
    return array


def read_tensors(path: PathLike, form: str, new: type[New], old: type[Old]) -> tuple[New | Old, dict[str, np.ndarray]]:
    """Return the header of a file, and its tensors in their original dtypes."""
    header, tensors = map_tensors(path, form, new, old)
    return header, tensors.read()


def need_file(path: PathLike) -> None:
    """Raise `FileNotFoundError` unless there is a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")


class open_safetensors:
    """Context manager around `safetensors.safe_open` that raises `FormatError` for every error in the file."""

    def __init__(self, path: PathLike, framework: str):
        need_file(path)
        importlib.import_module("ml_dtypes")  # registers bfloat16 with NumPy, as safetensors needs it
        from safetensors import SafetensorError, safe_open

        self.path = path
        self.bad = SafetensorError, TypeError
        try:
            self.file: Any = safe_open(path, framework=framework)
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise FormatError(f"{str(path)!r} is not a safetensors file: {error}") from error

    def __enter__(self) -> Any:
        return self.file.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.file.__exit__(kind, error, trace)
        if isinstance(error, self.bad):
            raise FormatError(f"{str(self.path)!r} cannot be read: {error}") from error
