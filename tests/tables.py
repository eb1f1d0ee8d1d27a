"""Other tables of tuning constants, so that small networks are computed like large ones."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from deeptn.arrays import CPU, Tuning, library

#: Everything runs in torch, and nearly everything in buffers and pieces.
BUFFERED = replace(CPU, small=0, large=4)


def use(monkeypatch: pytest.MonkeyPatch, table: Tuning) -> None:
    """Make NumPy, and torch if it is installed, use another table on the CPU."""
    libraries = [library("numpy")]
    if importlib.util.find_spec("torch") is not None:
        from deeptn_torch.engine import HOST, TORCH

        libraries += [library("torch"), TORCH, HOST]
    for lib in libraries:
        monkeypatch.setattr(lib, "tuning", table)
