"""Format tables, names and sizes as plain text."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of cells in columns; the first row is the header.

    Examples
    --------
    >>> print(text_table([("name", "size"), ("a", "12"), ("longer", "3")]))
    name    size
    a       12
    longer  3
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows)


def path_of(*parts: str) -> str:
    """Join the names of nested parts of a model with dots.

    Examples
    --------
    >>> path_of("", "encoder", "weight")
    'encoder.weight'
    """
    return ".".join(part for part in parts if part)


def kilobytes(count: int) -> str:
    """Format a number of bytes with a unit.

    Examples
    --------
    >>> kilobytes(896), kilobytes(19_884), kilobytes(192_000_000)
    ('896 bytes', '19.9 KB', '192.0 MB')
    """
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def shortened(data: Any) -> str:
    """Return the start of what data looks like, however deep it is.

    Examples
    --------
    >>> shortened([[[[[[[[1]]]]]]]]), shortened("x" * 100)
    ('[[[[[[[...]]]]]]]', "'xxxxxxxxxxxx...xxxxxxxxxxxxx'")
    """
    try:
        return reprlib.repr(data)
    except ValueError:  # an integer of thousands of digits
        return f"something of the type {type(data).__name__}"
