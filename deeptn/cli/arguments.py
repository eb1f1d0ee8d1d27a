"""Arguments that several commands share, and JSON as their output."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..base import is_list, is_object


def budget_of(text: str) -> int | str:
    """Parse ``5%`` or a number of parameters, in which ``_`` and ``,`` may separate groups of digits."""
    number = text.replace(",", "").replace("_", "")
    return int(number) if number.isdigit() else text


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint."""
    text = "safetensors file, index of a sharded model or its folder, .npz, or .pt (read by weights_only)"
    parser.add_argument("model", type=Path, help=text)


def add_choices(parser: argparse.ArgumentParser, families: Iterable[str], verb: str, ignored: str) -> None:
    """Add the choice of layers and families, and how to carry out the work."""
    parser.add_argument("--ignore", action="append", default=[], metavar="PATTERN", help=ignored)
    parser.add_argument("--targets", action="append", metavar="PATTERN", help=f"layers to {verb} (default: all)")
    names = ",".join(families)
    parser.add_argument("--topologies", default=names, help=f"families to try, separated by commas (default {names})")
    parser.add_argument("--jobs", type=int, help="number of processes (default: the number of cores)")
    add_seed(parser)


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add the seed of fits."""
    parser.add_argument("--seed", type=int, default=0, help="seed of fits by gradient (default 0)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the switch for JSON."""
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def print_json(data: Any) -> None:
    """Print plain data as one JSON document; numbers that are not finite become null, because JSON has none.

    Examples
    --------
    >>> print_json({"error": float("inf"), "params": (1, 2)})
    {
     "error": null,
     "params": [
      1,
      2
     ]
    }
    """
    print(json.dumps(_finite(data), indent=1, allow_nan=False))


def _finite(data: Any) -> Any:
    if is_object(data):
        return {key: _finite(value) for key, value in data.items()}
    if is_list(data):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
