"""Record the machine and the package versions behind a result."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "deeptn",
    "numpy",
    "torch",
    "jax",
    "equinox",
    "flax",
    "onnxruntime",
    "autoray",
    "cotengra",
    "quimb",
    "tensorly",
    "scikit-learn",
)


def environment() -> dict[str, Any]:
    """Return versions, CPU, threads and date as plain data."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "system": platform.system(),
        "versions": versions,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
