"""Test the ``deeptn`` command itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

import deeptn as dtn


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["demo", "--help"], ["draw", "--help"]])
def test_help_imports_no_framework(arguments):
    code = (
        "import sys\n"
        "from deeptn.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit:\n"
        "    print('loaded', *sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    help_text, _, loaded = said.partition("loaded")
    assert ("deeptn" if arguments != ["--version"] else f"deeptn {dtn.__version__}") in help_text
    packages = {name.partition(".")[0] for name in loaded.split()}
    assert "deeptn" in packages
    assert not {"torch", "jax", "quimb", "matplotlib", "sklearn", "tensorly"} & packages
