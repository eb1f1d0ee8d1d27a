"""Helpers for all result pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def about(environment: dict[str, Any], packages: Sequence[str] = ()) -> str:
    """Describe where and with which versions something was measured."""
    versions = environment["versions"]
    shown = ", ".join(
        f"{name} {versions[name]}" for name in ("python", "torch", "numpy", "cotengra", *packages) if name in versions
    )
    return f"{environment['date']}, {environment['cpu']}, {environment['torch_threads']} torch thread(s), {shown}"


def table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table; all columns except the first are aligned to the right."""
    lines = ["| " + " | ".join(headings) + " |", "| --- |" + " ---: |" * (len(headings) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
