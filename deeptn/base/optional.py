"""Import optional packages when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import MissingBackendError


def optional(module: str, extra: str) -> Any:
    """Import a package; if it is missing, `MissingBackendError` says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingBackendError(module.partition(".")[0], extra) from error
