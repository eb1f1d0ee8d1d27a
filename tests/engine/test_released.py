"""Test in a process of its own what networks leave behind: other tests keep networks, and compiled code, alive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_in_a_process_of_its_own():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).with_name("released.py")),
    ]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert found.returncode == 0, found.stdout
    assert " passed" in found.stdout
