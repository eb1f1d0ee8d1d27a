"""Checkpoints of other programs: dense tensors by name, mapped from disk, so that opening one takes no memory."""

from __future__ import annotations

import errno
import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..arrays import dtype_of, to_raw
from ..base import PathLike, is_object, optional, path_of
from ..errors import FormatError
from .model_file import MODEL, StoredModel, read_model
from .stream import Checked, Source, Sum, unread, write_stream
from .tensors import declared, map_any

#: Files that a folder may contain, in the order in which they are looked for.
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "*.safetensors.index.json",
    "*.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)

#: Arrays in unpacked files start at multiples of so many bytes.
ALIGNED = 64

#: Bytes that one byte in an archive can stand for.
RATIOS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}

#: What reads the headers of arrays, by format.
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

#: Names under which training programs keep the tensors of a model beside other things.
STATES = ("state_dict", "model_state_dict", "model", "module")


def load_checkpoint(path: PathLike) -> StoredModel:
    """Open a checkpoint of any program, without model code.

    Parameters
    ----------
    path : path
        A safetensors file, one part of a model or all of it; the index of a sharded model
        (``model.safetensors.index.json``), or a folder with it; a ``.npz``; a file of PyTorch (``.pt``, ``.pth``,
        ``.bin``), which is read by ``torch.load(weights_only=True)``. Files of `save_model` too.

    Returns
    -------
    StoredModel
        NumPy arrays that are mapped from the disk: memory is used only for what is read.

    Raises
    ------
    FormatError
        If the file is damaged, is of another format, or contains something other than tensors.
    OSError
        If it cannot be read, or a ``.npz`` is larger than what is left in the folder for temporary files.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.npz")
    >>> np.savez(path, **{"fc.weight": np.ones((4, 6)), "fc.bias": np.zeros(4)})
    >>> {name: array.shape for name, array in load_checkpoint(path).tensors.items()}
    {'fc.weight': (4, 6), 'fc.bias': (4,)}
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    if path.name.endswith(".index.json"):
        return StoredModel({}, _from_index(path))
    if path.suffix == ".safetensors" and declared(path) == MODEL:
        return read_model(path, lazy=True)
    return StoredModel({}, _reader(path)(path))


def save_checkpoint(model: StoredModel, path: PathLike) -> None:
    """Write dense tensors to a safetensors file that every program reads.

    Parameters
    ----------
    model : StoredModel
        Generated weights are decoded, one at a time. Tensors that share memory are stored under each of their names.
    path : path
        File to write. An existing file is replaced completely or not at all.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "back.safetensors")
    >>> save_checkpoint(StoredModel({}, {"fc.weight": np.ones((4, 6))}), path)
    >>> list(load_checkpoint(path).tensors)
    ['fc.weight']
    """
    tensors = model.tensors
    sources = {
        name: Source.of(to_raw(array))._replace(read=partial(tensors.__getitem__, name))
        for name, array in unread(tensors).items()
    }
    for name, layer in model.layers.items():
        dtype = dtype_of(next(iter(layer.params.values())))
        decode = partial(layer.network.materialize, layer.params)
        sources[layer.entry(name)] = Source(layer.network.shape, dtype, decode)
        if layer.bias is not None:
            sources[path_of(name, "bias")] = Source.of(to_raw(layer.bias))
    write_stream(path, sources, lambda sums: {"format": "pt"})


def _in_folder(folder: Path) -> Path:
    """Return the file of a model in a folder."""
    for pattern in FILES:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:4])
            raise FormatError(f"the folder {str(folder)!r} contains {len(found)} files ({names}, …); name one of them")
        if found:
            return found[0]
    raise FormatError(f"the folder {str(folder)!r} contains none of {', '.join(FILES)}")


def _reader(path: Path) -> Callable[[Path], Mapping[str, np.ndarray]]:
    if path.suffix == ".npz":
        return _from_npz
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return _from_torch
    if path.suffix == ".safetensors":
        return map_any
    raise FormatError(
        f"{str(path)!r}: expected a file that ends in .safetensors, .index.json, .npz, .pt, .pth, .bin or .ckpt"
    )


def _from_index(path: Path) -> Checked:
    try:
        index: Any = json.loads(path.read_text())
        files: Any = index["weight_map"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise FormatError(f"{str(path)!r} is not the index of a sharded model: {error!r}") from error
    if not is_object(files) or not all(isinstance(file, str) and Path(file).name == file for file in files.values()):
        raise FormatError(f"{str(path)!r}: 'weight_map' must map the names of tensors to files in the same folder")
    parts: dict[str, Mapping[str, np.ndarray]] = {}
    for file in dict.fromkeys(files.values()):
        part = path.parent / file
        if not part.is_file():
            raise FormatError(f"{str(path)!r} names the file {file!r}, which is not in its folder")
        parts[file] = _reader(part)(part)
    missing = [name for name, file in files.items() if name not in parts[file]]
    if missing:
        raise FormatError(f"the file {files[missing[0]]!r} has no tensor {missing[0]!r}, which {path.name!r} names")
    arrays = {file: unread(part) for file, part in parts.items()}
    sums = {file: part.sums if isinstance(part, Checked) else dict[str, Sum]() for file, part in parts.items()}
    return Checked(
        {name: arrays[file][name] for name, file in files.items()},
        {name: sums[file][name] for name, file in files.items() if name in sums[file]},
    )


def _from_npz(path: Path) -> dict[str, np.ndarray]:
    """Unpack all arrays into one temporary file, which is deleted at once; the mapping keeps its contents."""
    found: dict[str, np.ndarray] = {}
    places: dict[str, tuple[int, tuple[int, ...], bool, np.dtype[Any]]] = {}
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryFile() as target:
            for member in archive.infolist():
                if member.file_size > RATIOS.get(member.compress_type, math.inf) * (member.compress_size + 8):
                    raise FormatError(f"{member.filename!r} cannot have {member.file_size:,} bytes")
            need = sum(member.file_size for member in archive.infolist())
            free = shutil.disk_usage(tempfile.gettempdir()).free
            if need > free:
                what = f"unpacked, it takes {need:,} bytes, but {tempfile.gettempdir()!r} has {free:,} left"
                raise OSError(errno.ENOSPC, f"{what}; set TMPDIR to a folder on a larger disk", str(path))
            for member in archive.namelist():
                if not member.endswith(".npy"):
                    raise FormatError(f"it contains {member!r}, which is not an array")
                target.seek(-(-target.tell() // ALIGNED) * ALIGNED)
                with archive.open(member) as source:
                    places[member.removesuffix(".npy")] = target.tell(), *_unpack(member, source, target)
            target.flush()
            whole = np.asarray(np.memmap(target, np.uint8, "r")) if target.tell() else np.empty(0, np.uint8)
        for name, (start, shape, fortran, dtype) in places.items():
            array = whole[start : start + math.prod(shape) * dtype.itemsize].view(dtype)
            found[name] = array.reshape(shape, order="F" if fortran else "C")
    except MemoryError:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # from damaged data, and places before the start
            raise
        raise FormatError(f"{str(path)!r} is not a .npz file of arrays: {error}") from error
    except Exception as error:  # what NumPy and zipfile raise for damaged files, of many types
        raise FormatError(f"{str(path)!r} is not a .npz file of arrays: {error!s:.200}") from error
    return found


def _unpack(member: str, source: IO[bytes], target: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Copy the entries of an array in a .npz file; return its shape, whether columns come first, and the dtype."""
    version = np.lib.format.read_magic(source)
    if version not in HEADERS:
        raise FormatError(f"{member!r} has the format {version}")
    shape, fortran, dtype = HEADERS[version](source)
    if dtype.hasobject or dtype.itemsize == 0:
        raise FormatError(f"{member!r} contains {dtype}, not numbers")
    start = target.tell()
    shutil.copyfileobj(source, target, 2**24)
    if min(shape, default=0) < 0 or target.tell() - start != math.prod(shape) * dtype.itemsize:
        raise FormatError(f"{member!r} has {target.tell() - start:,} bytes for {dtype} of shape {shape!r:.80}")
    return shape, fortran, dtype


def _from_torch(path: Path) -> dict[str, np.ndarray]:
    torch = optional("torch", "torch")
    try:
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of the format before version 1.6 cannot be mapped
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise FormatError(
            f"{str(path)!r} cannot be read with weights_only=True: {reason:.200}; save model.state_dict() alone"
        ) from error
    for name in STATES:
        if is_object(state) and is_object(state.get(name)):
            state = state[name]
    if not is_object(state):
        raise FormatError(f"{str(path)!r} contains a {type(state).__name__}, not a state_dict")
    found: dict[str, np.ndarray] = {}
    entries: dict[Any, Any] = state
    for name, tensor in entries.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        try:
            if not isinstance(name, str):
                raise TypeError(f"the name is a {type(name).__name__}")
            if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                raise ValueError(f"its {tensor.numel():,} entries share memory; save a copy of it")
            found[name] = to_raw(tensor.detach())
        except (TypeError, ValueError, RuntimeError) as error:
            raise FormatError(f"{str(path)!r}: tensor {name!r:.80} cannot be read: {error!s:.200}") from error
    if not found:
        raise FormatError(f"{str(path)!r} contains no tensors; expected a state_dict, alone or as one of {STATES}")
    return found
