"""Checkpoints of other programs: dense tensors by name, mapped from disk, so that opening one takes no memory."""

from __future__ import annotations

import errno
import json
import lzma
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import dtype_of, to_raw
from ..base import PathLike, is_object, optional, path_of
from ..errors import FormatError
from .model_file import MODEL, StoredModel, read_model
from .stream import Checked, Source, unread, write_stream
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

#: What damaged archives raise.
BAD_ZIP = zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error

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
        found = [file for pattern in FILES for file in sorted(path.glob(pattern))]
        if not found:
            raise FormatError(f"the folder {str(path)!r} contains none of {', '.join(FILES)}")
        path = found[0]
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
    tensors = {name: unread(parts[file])[name] for name, file in files.items()}
    sums = {file: part.sums if isinstance(part, Checked) else dict[str, str]() for file, part in parts.items()}
    return Checked(path, tensors, {name: sums[file][name] for name, file in files.items() if name in sums[file]})


def _from_npz(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            need, free = sum(member.file_size for member in archive.infolist()), shutil.disk_usage(folder).free
            if need > free:
                what = f"unpacked, it takes {need:,} bytes, but {tempfile.gettempdir()!r} has {free:,} left"
                raise OSError(errno.ENOSPC, f"{what}; set TMPDIR to a folder on a larger disk", str(path))
            for number, member in enumerate(archive.namelist()):
                if not member.endswith(".npy"):
                    raise FormatError(f"{str(path)!r} contains {member!r}, which is not an array")
                copy = Path(folder, f"{number}.npy")
                with archive.open(member) as source, copy.open("wb") as target:
                    while block := source.read(2**24):
                        target.write(block)
                # The file is deleted at the end; the mapping keeps its contents.
                array = np.load(copy, mmap_mode="r", allow_pickle=False)
                found[member.removesuffix(".npy")] = np.asarray(array)
    except (*BAD_ZIP, ValueError, EOFError, ArithmeticError, NotImplementedError, RuntimeError) as error:
        raise FormatError(f"{str(path)!r} is not a .npz file of arrays: {error}") from error
    return found


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
    found = {name: to_raw(tensor.detach()) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    if not found:
        raise FormatError(f"{str(path)!r} contains no tensors; expected a state_dict, alone or as one of {STATES}")
    return found
