"""Import optional packages, and what installed packages declare, when they are used."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from ..errors import MissingBackendError
from .warn import warn

#: deeptn's own packages.
OURS = ("deeptn", "deeptn_torch", "deeptn_jax", "deeptn_demo")


def optional(module: str, extra: str) -> Any:
    """Import a package; if it is missing, `MissingBackendError` says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingBackendError(module.partition(".")[0], extra) from error


def loaded(entry: importlib.metadata.EntryPoint, what: str) -> Any:
    """Return what an entry point of an installed package names; None if it cannot be imported.

    Whatever is wrong with the package of somebody else, others must not be affected: a warning names it. Entry points
    of deeptn are skipped without one if their library is missing; other errors in them are raised.
    """
    try:
        return entry.load()
    except Exception as error:
        place = getattr(entry, "value", "")
        if place.partition(":")[0].partition(".")[0] in OURS:
            missing = getattr(error, "package", None) or getattr(error, "name", None) or ""
            if isinstance(error, ImportError) and missing.partition(".")[0] not in ("", *OURS):
                return None
            raise
        dist = getattr(entry, "dist", None)
        package = "" if dist is None else f" of the package {dist.name!r}"
        warn(f"the {what} {entry.name!r} ({place}){package} cannot be imported: {error}")
        return None
