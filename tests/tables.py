"""Other tables of tuning constants, so that small networks go the ways of large ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from deeptn_torch.engine import HOST, TORCH

from deeptn.arrays import CPU, Tuning, library

#: Everything runs in torch, and nearly everything in buffers and pieces.
BUFFERED = replace(CPU, small=0, large=4)


def use(monkeypatch: pytest.MonkeyPatch, table: Tuning) -> None:
    """Let NumPy and torch go by another table on the CPU."""
    for lib in (library("numpy"), library("torch"), TORCH, HOST):
        monkeypatch.setattr(lib, "tuning", table)
