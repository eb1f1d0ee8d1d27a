"""Find, download and read IDX files, the format of MNIST and Fashion-MNIST. Needs no framework."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeptn.base import PathLike, write_atomically
from deeptn.errors import DeepTNError, FormatError


@dataclass(frozen=True)
class Source:
    """Source of IDX files: a URL, the MD5 sums stated by the publisher, and a system folder."""

    url: str
    md5: tuple[str, str, str, str]
    system: Path | None = None


FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SOURCES = {
    "fashion-mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        Path("/usr/share/datasets/fashion-mnist"),  # Debian's package dataset-fashion-mnist
    ),
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb89873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
}

#: Names that `load_images` accepts.
DATASETS = ("digits", *SOURCES)


def read_idx(path: PathLike) -> np.ndarray:
    """Read an IDX file of unsigned bytes (the format of MNIST), gzipped if its name ends in ``.gz``.

    Raises
    ------
    FormatError
        If the magic number or the length is wrong, or the gzip stream is damaged.

    Notes
    -----
    Format: two zero bytes, 0x08 for unsigned bytes, number of axes, their sizes as big-endian 32-bit integers, data.
    """
    path = Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(f"{path.name}: damaged gzip stream ({error})") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise FormatError(f"{path.name}: not an IDX file of unsigned bytes; it starts with {data[:4].hex()}")
    axes = data[3]
    start = 4 + 4 * axes
    if len(data) < start:
        raise FormatError(f"{path.name}: the IDX header is cut off")
    shape = struct.unpack(f">{axes}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise FormatError(f"{path.name}: the header says {shape}, but {len(data) - start} bytes follow")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def find_files(name: str, folder: PathLike | None) -> list[Path]:
    """Return the four files of a data set: from `folder`, the system or the cache, downloading if needed.

    Raises
    ------
    FileNotFoundError
        If `folder` lacks a file.
    """
    return _find_or_download(name, SOURCES[name]) if folder is None else _folder_files(Path(folder))


def _folder_files(folder: Path) -> list[Path]:
    paths = []
    for file in FILES:
        found = [path for path in (folder / f"{file}.gz", folder / file) if path.is_file()]
        if not found:
            raise FileNotFoundError(f"no file {file}.gz or {file} in the folder {str(folder)!r}")
        paths.append(found[0])
    return paths


def _find_or_download(name: str, source: Source) -> list[Path]:
    if source.system is not None and source.system.is_dir():
        return _folder_files(source.system)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeptn" / name
    cache.mkdir(parents=True, exist_ok=True)
    for file, md5 in zip(FILES, source.md5):
        path = cache / f"{file}.gz"
        if not path.is_file():
            download(f"{source.url}{file}.gz", path, md5)
    return _folder_files(cache)


def download(url: str, path: Path, md5: str) -> None:
    """Download a file; write it to `path` only if its MD5 sum is right.

    Raises
    ------
    FormatError
        If the MD5 sum is wrong.
    DeepTNError
        If the URL cannot be reached.
    """
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            data = answer.read()
    except OSError as error:
        raise DeepTNError(f"cannot download {url} ({error}); put the file into a folder and pass --data-dir") from error
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise FormatError(f"{url}: MD5 {found}, expected {md5}; nothing was kept")
    write_atomically(path, lambda file: file.write_bytes(data))
