"""Safetensors files: tensors of any dtype, and a JSON header."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import to_raw
from ..base import Array, PathLike, is_object
from ..errors import FormatError, SpecError
from .stream import DTYPES, Source, size_of_stream, write_stream

#: Key of deeptn's JSON in the metadata of a safetensors header.
HEADER = "deeptn"

#: What files of other formats contain, and what reads them.
READERS = {"deeptn.network": "a network; read it with deeptn.load", "deeptn.model": "a model; read it with load_model"}

COMPLEX = ("complex64", "complex128")

#: Version 1 widened half precision to float32 in network files, and did not store complex entries of models as pairs.
#: Version 2 stored a specification for every network, a tensor for every core, and a dtype for every tensor.
VERSION = 3


def parse_header(metadata: dict[str, str] | None, form: str) -> dict[str, Any]:
    """Return deeptn's JSON from a safetensors header, after checking its format and version."""
    text = (metadata or {}).get(HEADER)
    if text is None:
        raise FormatError(f"the file has no {HEADER!r} entry in its header; it was not written by deeptn")
    try:
        header: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the {HEADER!r} entry of the header is not JSON: {error}") from error
    if not is_object(header) or header.get("format") != form:
        came: Any = header.get("format") if is_object(header) else header
        other = READERS.get(str(came))
        hint = f"; the file contains {other}" if other else ""
        raise FormatError(f"expected a file of the format {form!r}, got {came!r:.60}{hint}")
    version = header.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION:
        raise FormatError(f"format version {version!r:.20}; this version of deeptn reads versions 1 to {VERSION}")
    return header


def form_of(path: PathLike) -> str:
    """Return the format that a file declares: ``"deeptn.network"``, ``"deeptn.model"``, or another deeptn format."""
    form = declared(path)
    if form is None:
        raise FormatError(f"{str(path)!r} was not written by deeptn: its header names no format")
    return form


def declared(path: PathLike) -> str | None:
    """Return the format that a file declares; None if deeptn did not write it."""
    with open_safetensors(path, "numpy") as file:
        metadata: dict[str, str] = file.metadata() or {}
    try:
        header: Any = json.loads(metadata.get(HEADER, "{}"))
    except (ValueError, RecursionError):
        header = None
    form = header.get("format") if is_object(header) else None
    return form if isinstance(form, str) else None


def write_tensors(path: PathLike, header: dict[str, Any], tensors: Mapping[str, Array]) -> None:
    """Write arrays of any library; complex ones become pairs and are listed in the header."""
    write_stream(path, *_contents(header, tensors))


def size_of_tensors(header: dict[str, Any], tensors: Mapping[str, Array]) -> int:
    """Return the bytes of the file that `write_tensors` would write."""
    return size_of_stream(*_contents(header, tensors))


def _contents(header: dict[str, Any], tensors: Mapping[str, Array]) -> tuple[dict[str, Source], dict[str, str]]:
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
    text = compact(header | {"version": VERSION} | ({"dtypes": dtypes} if dtypes else {}))
    return stored, {HEADER: text}


def _pairs(array: np.ndarray) -> np.ndarray:
    """Return complex numbers as pairs [real, imaginary]."""
    return np.stack([np.real(array), np.imag(array)], axis=-1)


def check_keys(data: dict[str, Any], known: Collection[str], what: str) -> None:
    """Raise `FormatError` for unknown keys. A later version added them, and they may change every number."""
    for key in data:
        if key not in known:
            raise FormatError(f"{what} has {key!r:.40}, unknown to this version of deeptn; a later one wrote it")


def compact(data: Any) -> str:
    """Return JSON without spaces."""
    return json.dumps(data, separators=(",", ":"))


def read_tensors(
    path: PathLike, form: str, read: Callable[[Path], dict[str, np.ndarray]] | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header, and every tensor in its original dtype; `read` may map them instead of reading them."""
    with open_safetensors(path, "numpy") as file:
        header = parse_header(file.metadata(), form)
        names = () if read else file.keys()
        tensors = {name: _tensor(file, name) for name in names}
    tensors = read(Path(path)) if read else tensors
    dtypes = header.get("dtypes", {})
    if not is_object(dtypes) or not all(isinstance(dtype, str) for dtype in dtypes.values()):
        raise FormatError(f"the header's 'dtypes' must map tensor names to dtypes, got {dtypes!r:.60}")
    for name, dtype in dtypes.items():
        array = tensors.get(name)
        if header["version"] > 2 and (dtype not in COMPLEX or array is None or array.shape[-1:] != (2,)):
            raise FormatError(f"the header gives {name!r} the dtype {dtype!r:.20}; expected a complex one, with pairs")
        if dtype in COMPLEX and array is not None and array.shape[-1:] == (2,):
            if array.dtype.name not in ("float32", "float64"):
                raise FormatError(f"tensor {name!r}: pairs of {array.dtype} are not complex numbers")
            tensors[name] = np.ascontiguousarray(array, f"float{int(dtype[7:]) // 2}").view(dtype)[..., 0]
        elif dtype in ("float16", "bfloat16") and array is not None and array.dtype.name == "float32":  # version 1
            with np.errstate(over="ignore"):
                tensors[name] = half = array.astype(dtype)
            if not np.array_equal(half.astype("float32"), array, equal_nan=True):
                raise FormatError(f"tensor {name!r} has entries that its dtype in the header, {dtype}, does not have")
    return header, tensors


def _tensor(file: Any, name: str) -> np.ndarray:
    dtype: str = file.get_slice(name).get_dtype()
    if dtype not in DTYPES or DTYPES[dtype].startswith("float8"):
        raise FormatError(f"tensor {name!r} has the dtype {dtype}, which files of deeptn cannot have")
    return file.get_tensor(name)


class open_safetensors:
    """Context manager around `safetensors.safe_open` that raises `FormatError` for every error in the file."""

    def __init__(self, path: PathLike, framework: str):
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {str(path)!r}")
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
