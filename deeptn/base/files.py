"""Write files atomically, and find the folder for cached results."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .types import PathLike


def write_atomically(path: PathLike, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file next to `path`, then rename it: a failure leaves the old file untouched."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(path.parent)!r} to write {path.name!r} into")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        mode = os.umask(0)
        os.umask(mode)
        write(Path(name))
        os.chmod(name, 0o666 & ~mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
