"""Read and write safetensors files tensor by tensor, so that memory holds the largest tensor and not the whole file."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np

from ..arrays import numpy_dtype, to_raw
from ..base import Array, PathLike, decoded, write_atomically
from ..errors import FormatError, SpecError

#: Hexadecimal digits of a checksum: the lower half of XXH3, which takes less time than reading from memory.
DIGITS = 8

#: Mapped arrays of so many bytes are released as soon as they have been read.
RELEASED = 2**20

#: Bytes that are hashed and written at a time; few enough for the cache of a core.
CHUNK = 2**19

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


#: What a file says in its header, for the checksums of its tensors.
Metadata = Callable[[str], Mapping[str, str]]


def write_stream(path: PathLike, tensors: Mapping[str, Source], metadata: Metadata, keep: bool = False) -> None:
    """Write a safetensors file, one tensor at a time. An existing file is replaced completely or not at all.

    If `keep`, it stays as `deeptn.base.previous`.
    """
    order = ordered({name: numpy_dtype(_known(name, tensor.dtype)) for name, tensor in tensors.items()})
    start = _header(order, tensors, metadata, "0" * DIGITS * len(order))

    def write(new: Path) -> None:
        sums: list[str] = []
        with new.open("wb") as file:
            file.write(start)
            for name in order:
                array = to_raw(tensors[name].read())
                if array.dtype.byteorder == ">":
                    array = array.astype(array.dtype.newbyteorder("<"))
                assert array.nbytes == tensors[name].nbytes, name
                sums.append(_write(file, _bytes(array).data))
                release(array)
            file.seek(0)
            file.write(_header(order, tensors, metadata, "".join(sums)))

    write_atomically(path, write, keep)


def _write(file: BinaryIO, data: memoryview) -> str:
    """Write bytes, and return their checksum: that of what is written, also if another thread changes the array."""
    import xxhash

    engine = xxhash.xxh3_64()
    buffer = memoryview(bytearray(min(CHUNK, len(data))))
    for place in range(0, len(data), CHUNK):
        piece = buffer[: len(data) - place]
        piece[:] = data[place : place + CHUNK]
        engine.update(piece)
        file.write(piece)
    return _digits(engine.intdigest())


def _digits(number: int) -> str:
    return f"{number & 0xFFFFFFFF:0{DIGITS}x}"


def checksum(array: np.ndarray) -> str:
    """Return the checksum of the bytes of an array.

    Examples
    --------
    >>> checksum(np.arange(3, dtype="int32"))
    '91d9c911'
    """
    import xxhash

    return _digits(xxhash.xxh3_64_intdigest(_bytes(array).data))


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def size_of_header(tensors: Mapping[str, Source], metadata: Metadata) -> int:
    """Return the bytes before the tensors in the file that `write_stream` would write."""
    order = ordered({name: numpy_dtype(_known(name, tensor.dtype)) for name, tensor in tensors.items()})
    return len(_header(order, tensors, metadata, "0" * DIGITS * len(tensors)))


def size_of_stream(tensors: Mapping[str, Source], metadata: Metadata) -> int:
    """Return the bytes of the file that `write_stream` would write."""
    return size_of_header(tensors, metadata) + sum(tensor.nbytes for tensor in tensors.values())


def ordered(dtypes: Mapping[str, np.dtype[Any]]) -> list[str]:
    """Return the order of tensors in a file: the largest dtypes first, so that all are aligned; then by name."""
    return sorted(dtypes, key=lambda name: (-dtypes[name].itemsize, name))


def _known(name: str, dtype: str) -> str:
    if name == "__metadata__":
        raise SpecError(f"no tensor can be named {name!r}: safetensors files keep their header there; rename it")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise SpecError(f"the name {name!r} of a tensor is not valid Unicode; rename it") from error
    if dtype not in CODES:
        raise SpecError(f"{name!r} has the dtype {dtype}, which safetensors files cannot store")
    return dtype


def _header(order: Iterable[str], tensors: Mapping[str, Source], metadata: Metadata, sums: str) -> bytes:
    """Return the start of the file."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata(sums))}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        entries[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class Entry(msgspec.Struct, frozen=True):
    """A tensor in the table of a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def mapped(path: Path) -> dict[str, np.ndarray]:
    """Map the tensors of a file whose header has been checked. They take no memory until they are read."""
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        table = decoded(file.read(start - 8), dict[str, msgspec.Raw], f"{str(path)!r}")
    table.pop("__metadata__", None)
    whole = np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size > start else np.empty(start, np.uint8)
    dtypes = {code: numpy_dtype(name) for code, name in DTYPES.items()}
    found: dict[str, np.ndarray] = {}
    for name, part in table.items():
        entry = decoded(part, Entry, f"{str(path)!r}: tensor {name!r}")
        if entry.dtype not in dtypes:
            raise FormatError(f"{str(path)!r}: tensor {name!r} has the dtype {entry.dtype}, which NumPy lacks")
        first, last = entry.data_offsets
        try:
            found[name] = whole[start + first : start + last].view(dtypes[entry.dtype]).reshape(entry.shape)
        except (ValueError, OverflowError, MemoryError) as error:  # empty ones may have any sizes, or too many axes
            raise FormatError(f"{str(path)!r}: tensor {name!r} has the shape {entry.shape!r:.80}: {error}") from error
    return found


class Sum(NamedTuple):
    """The checksum of a tensor, and the file that says so."""

    digits: str
    path: PathLike


class Checked(Mapping[str, np.ndarray]):
    """Tensors that are mapped from files. The first time that one is read, its checksum is compared.

    Parameters
    ----------
    tensors : dict of str to array
    sums : dict of str to Sum
        Empty for files without them. Those that have been compared are removed.

    Examples
    --------
    >>> good = Checked({"a": np.arange(3, dtype="int32")}, {"a": Sum("91d9c911", "model")})
    >>> good["a"].tolist(), good.unread()["a"].shape
    ([0, 1, 2], (3,))
    """

    def __init__(self, tensors: dict[str, np.ndarray], sums: dict[str, Sum]):
        self.tensors = tensors
        self.sums = sums

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.tensors[name]
        if name in self.sums:
            self._compare(name, array)
            self.sums.pop(name, None)  # another thread may have done it
            if array.nbytes >= RELEASED:
                release(array)
        return array

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def unread(self) -> dict[str, np.ndarray]:
        """Return the tensors without comparing checksums."""
        return dict(self.tensors)

    def renamed(self, rename: Callable[[str], str]) -> Checked:
        """Return the tensors with other names."""
        return Checked(
            {rename(name): array for name, array in self.tensors.items()},
            {rename(name): known for name, known in self.sums.copy().items()},
        )

    def read(self) -> dict[str, np.ndarray]:
        """Return copies of all tensors in memory."""
        found = {name: in_memory(array) for name, array in self.tensors.items()}
        for name, array in found.items():
            self._compare(name, array)
        return found

    def _compare(self, name: str, array: np.ndarray) -> None:
        known = self.sums.get(name)
        if known is not None and checksum(array) != known.digits:
            raise FormatError(f"{str(known.path)!r} is damaged: tensor {name!r} does not have its checksum")

    def only(self, tensors: dict[str, np.ndarray], aliases: Mapping[str, str]) -> Checked:
        """Return some of the tensors, with further names that stand for others."""
        sums = {name: self.sums[aliases.get(name, name)] for name in tensors if aliases.get(name, name) in self.sums}
        return Checked(tensors, sums)

    def check(self, names: Iterable[str]) -> None:
        """Compare the checksums of some tensors; raise `FormatError` if one differs."""
        for name in names:
            self[name]


def unread(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return tensors whose shapes and dtypes are wanted: without comparing the checksums of those in a file."""
    return tensors.unread() if isinstance(tensors, Checked) else tensors


def as_read(tensors: dict[str, Any], before: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return tensors of which some are those before: if these are in a file, they are checked when they are read."""
    if not isinstance(before, Checked):
        return tensors
    known = before.sums.copy()  # another thread may read meanwhile
    sums = {name: found for name, found in known.items() if tensors.get(name) is before.tensors[name]}
    return Checked(tensors, sums)


def in_memory(array: np.ndarray) -> np.ndarray:
    """Return a copy of an array that may be mapped; a large one is released."""
    copy = np.array(array)
    if copy.nbytes >= RELEASED:
        release(array)
    return copy


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
