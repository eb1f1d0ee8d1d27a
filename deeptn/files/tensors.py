"""Safetensors files: tensors of any dtype, and a header of JSON."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import to_raw
from ..base import Array, PathLike, is_object, write_atomically
from ..errors import FormatError, SpecError

#: Key of deeptn's JSON in the metadata of a safetensors header.
HEADER = "deeptn"

#: 1: half precision was widened to float32 in files of networks, and complex entries of models were not pairs.
VERSION = 2


def parse_header(metadata: dict[str, str] | None, form: str) -> dict[str, Any]:
    """Return deeptn's JSON from a safetensors header, its form and version checked."""
    text = (metadata or {}).get(HEADER)
    if text is None:
        raise FormatError(f"the file has no {HEADER!r} entry in its header; it was not written by deeptn")
    try:
        header: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the {HEADER!r} entry of the header is no JSON: {error}") from error
    if not is_object(header) or header.get("format") != form:
        came: Any = header.get("format") if is_object(header) else header
        raise FormatError(f"expected a file of the format {form!r}, got {came!r:.60}")
    version = header.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION:
        raise FormatError(f"format version {version!r:.20}; this deeptn reads versions 1 to {VERSION}")
    return header


def write_tensors(path: PathLike, header: dict[str, Any], tensors: Mapping[str, Array]) -> None:
    """Arrays of any library with their dtypes in the header."""
    save_file = importlib.import_module("safetensors.numpy").save_file
    stored: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    for name, array in tensors.items():
        raw = to_raw(array)
        dtypes[name] = str(raw.dtype.name)
        if dtypes[name].startswith("float8"):
            raise SpecError(f"{name!r} is of {dtypes[name]}, which files of deeptn do not hold; convert it first")
        if raw.dtype.kind == "c":
            raw = np.stack([np.real(raw), np.imag(raw)], axis=-1)
        stored[name] = np.ascontiguousarray(raw).reshape(raw.shape)
    text = json.dumps(header | {"version": VERSION, "dtypes": dict(sorted(dtypes.items()))})
    write_atomically(path, lambda file: save_file(stored, file, metadata={HEADER: text}))


def read_tensors(path: PathLike, form: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header, and every tensor in the dtype that it was saved from."""
    with open_safetensors(path, "numpy") as file:
        header = parse_header(file.metadata(), form)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    dtypes = header.get("dtypes", {})
    if not is_object(dtypes) or not all(isinstance(dtype, str) for dtype in dtypes.values()):
        raise FormatError(f"the header's dtypes must name a dtype for every tensor, got {dtypes!r:.60}")
    for name, dtype in dtypes.items():
        array = tensors.get(name)
        if dtype in ("complex64", "complex128") and array is not None and array.shape[-1:] == (2,):
            if array.dtype.name not in ("float32", "float64"):
                raise FormatError(f"tensor {name!r}: pairs of {array.dtype} are no complex numbers")
            tensors[name] = np.ascontiguousarray(array, f"float{int(dtype[7:]) // 2}").view(dtype)[..., 0]
        elif dtype in ("float16", "bfloat16") and array is not None and array.dtype.name == "float32":  # version 1
            tensors[name] = array.astype(dtype)
    return header, tensors


class open_safetensors:
    """Context manager around `safetensors.safe_open` that turns every complaint about the file into `FormatError`."""

    def __init__(self, path: PathLike, framework: str):
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {str(path)!r}")
        importlib.import_module("ml_dtypes")  # by which NumPy knows the bfloat16 that safetensors asks it for
        from safetensors import SafetensorError, safe_open

        self.path = path
        self.bad = SafetensorError, TypeError
        try:
            self.file: Any = safe_open(path, framework=framework)
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise FormatError(f"{str(path)!r} is no safetensors file: {error}") from error

    def __enter__(self) -> Any:
        return self.file.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.file.__exit__(kind, error, trace)
        if isinstance(error, self.bad):
            raise FormatError(f"{str(self.path)!r} cannot be read: {error}") from error
