"""Replace files safely, and find the folder for caches."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ..errors import FormatError
from .schema import decoded
from .types import PathLike
from .warn import warn

T = TypeVar("T")

#: Most files in the folder for caches; when there are more, those that were used least recently go.
FILES = 4096

#: Their names: a hash.
OURS = re.compile(r"(machine-)?[0-9a-f]{64}\.json")

#: Largest size of a file in it, in bytes.
LARGEST = 2**22

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

#: End of the names of temporary files.
TEMPORARY = ".deeptn.tmp"

#: Where files cannot be locked, temporary files that are older [s] belong to no process.
FORGOTTEN = 24 * 3600


def write_atomically(path: PathLike, write: Callable[[Path], Any], keep: bool = False) -> None:
    """Let `write` fill a temporary file in the folder of `path`, then rename it.

    An existing file is replaced completely or not at all; if `keep`, it stays as `previous`. The new one has its mode
    and, where that is permitted, its owner.
    If it is a symbolic link, its target is replaced. File and folder are written through to the disk. Temporary files
    that a killed process left for this path are removed.

    Raises
    ------
    OSError
        If `path` is a device, a FIFO or a folder, its folder is missing, or the disk is full. The error names `path`.
    """
    path = Path(path)
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not real.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(real.parent)!r} to write {path.name!r} into")
    old = real.stat() if real.exists() else None
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(f"{str(path)!r} is a folder; name a file in it")
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise OSError(f"{str(path)!r} is a device, FIFO or socket, which cannot be replaced; name a regular file")
    remove_temporary(real.parent, _start(real))
    try:
        with _temporary(real, 0o666 if old is None else 0o600) as (new, handle):
            write(new)
            if old is not None:
                _keep(handle, old)
            os.fsync(handle)
            if fcntl is None:
                os.close(handle)  # Windows does not rename open files
            if old is not None and keep:
                _keep_previous(real)
            os.replace(new, real)
        _sync(real.parent)
    except OSError as error:
        named = None if error.filename is None else Path(str(error.filename)).name
        if error.errno is None or not (named is None or named.startswith(_start(real))):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_temporary(folder: Path, start: str = ".") -> None:
    """Remove the temporary files whose names start like this, unless a process is writing them."""
    for file in folder.glob(f"{start}*{TEMPORARY}"):
        with suppress(OSError):  # it may be gone, or belong to another user
            _remove_forgotten(file)


@contextmanager
def _temporary(real: Path, mode: int) -> Iterator[tuple[Path, int]]:
    """Create a file with a lock, which shows that a process is writing it; delete it at the end, unless renamed."""
    while True:
        new = real.with_name(f"{_start(real)}{secrets.token_hex(4)}{TEMPORARY}")
        handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        if _lock(handle) is not False and new.exists():  # nobody has removed it, or is about to
            break
        os.close(handle)
        new.unlink(missing_ok=True)
    try:
        yield new, handle
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        with suppress(OSError):
            os.close(handle)


def _start(real: Path) -> str:
    """Return the start of the names of temporary files for a path; short, because its own name may be a long one."""
    return f".{hashlib.sha256(os.fsencode(real.name)).hexdigest()[:16]}."


def _lock(handle: int) -> bool | None:
    """Lock an open file; return whether that worked, None where files cannot be locked."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _remove_forgotten(file: Path) -> None:
    """Remove a temporary file that no process is writing."""
    handle = os.open(file, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        locked = _lock(handle)
        if time.time() - file.stat().st_mtime > FORGOTTEN if locked is None else locked:
            file.unlink()
    finally:
        os.close(handle)


def _keep(handle: int, old: os.stat_result) -> None:
    """Give a file the owner and the mode of another one."""
    if not hasattr(os, "fchown"):
        return
    own = os.fstat(handle)
    mode = stat.S_IMODE(old.st_mode)
    if (old.st_uid, old.st_gid) != (own.st_uid, own.st_gid):
        try:
            os.fchown(handle, old.st_uid, old.st_gid)
        except PermissionError:
            with suppress(PermissionError):  # members of the group may keep it
                os.fchown(handle, -1, old.st_gid)
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they would give away rights of another user
    os.fchmod(handle, mode)


def previous(path: PathLike) -> Path:
    """Return where the file is kept that was at a path before.

    Examples
    --------
    >>> previous("heal.safetensors").name
    'heal.safetensors.previous'
    """
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}.previous")


def _keep_previous(real: Path) -> None:
    """Give a file that is about to be replaced a second name; if that fails, say so and go on."""
    link = real.with_name(f"{_start(real)}{secrets.token_hex(4)}{TEMPORARY}")
    try:
        try:
            os.link(real, link)
        except OSError:  # no links in this file system
            shutil.copy2(real, link)
        os.replace(link, previous(real))
    except OSError as error:
        warn(f"the file before {real.name!r} could not be kept: {error}")
    finally:
        link.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Write the entries of a folder through to the disk, where that is possible."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cache_folder() -> Path | None:
    """Return the folder for cached search results and measurements.

    It is ``$DEEPTN_CACHE``, else ``$XDG_CACHE_HOME/deeptn``, else ``~/.cache/deeptn``.
    None if ``DEEPTN_CACHE`` is ``off`` or empty, or if no home directory is found.
    """
    chosen = os.environ.get("DEEPTN_CACHE")
    if chosen is not None:
        return None if chosen in ("", "off") else Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeptn"
    except RuntimeError:  # no home directory
        return None


def read_cache(file: Path, kind: type[T]) -> T | None:
    """Return the JSON in a file of the folder for caches; None if there is none, or it has other types."""
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a FIFO would wait for a writer
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
                return None
            with open(handle, "rb", closefd=False) as stream:
                data = decoded(stream.read(LARGEST), kind, file.name)
        finally:
            os.close(handle)
        with suppress(OSError):
            os.utime(file)  # used now
        return data
    except (OSError, FormatError):
        return None


def write_cache(file: Path, data: Any) -> None:
    """Write JSON into the folder for caches; if that fails, the next process has to compute it again."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda new: new.write_text(json.dumps(data), encoding="utf-8"))
        _prune(file.parent)


def _prune(folder: Path) -> None:
    """If there are too many files in the folder for caches, delete a quarter of them."""
    with os.scandir(folder) as entries:
        files = [entry for entry in entries if OURS.fullmatch(entry.name)]
    if len(files) <= FILES:
        return
    used = sorted((entry.stat(follow_symlinks=False).st_mtime, entry.path) for entry in files)
    for _, path in used[: len(files) - 3 * FILES // 4]:
        Path(path).unlink(missing_ok=True)
