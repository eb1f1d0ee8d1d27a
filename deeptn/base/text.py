"""Tables of plain text, and names."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Lines of cells in columns, the first row being the head."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows)


def path_of(*parts: str) -> str:
    """Name of a part of a part of a model.

    Examples
    --------
    >>> path_of("", "encoder", "weight")
    'encoder.weight'
    """
    return ".".join(part for part in parts if part)


def kilobytes(count: int) -> str:
    """A number of bytes with a unit.

    Examples
    --------
    >>> kilobytes(896), kilobytes(19_884), kilobytes(192_000_000)
    ('896 bytes', '19.9 KB', '192.0 MB')
    """
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
