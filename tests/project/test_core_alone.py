"""Check that the core tests run without any framework installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FOLDERS = ("spec", "topologies", "engine", "fitting", "convert", "analysis", "files", "testing", "cli")

#: Runs pytest; imports of frameworks fail as if they were not installed.
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("torch", "jax", "jaxlib", "flax", "equinox", "optax")))
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def run(config: pytest.Config, *options: str) -> str:
    """Run the core tests without frameworks; return the last line of pytest's output."""
    paths = [*(TESTS / folder for folder in FOLDERS), *sorted(TESTS.glob("test_*.py"))]
    warnings = [part for filter in config.getoption("pythonwarnings") or () for part in ("-W", filter)]
    command = [sys.executable, "-c", WITHOUT, "-q", "-p", "no:cacheprovider", *warnings, *options, *map(str, paths)]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_the_core_is_collected_without_frameworks(pytestconfig):
    found = re.search(r"(\d+)/\d+ tests collected", run(pytestconfig, "--collect-only"))
    assert found is not None
    assert int(found[1]) > 1000


@pytest.mark.slow
def test_the_core_is_tested_without_frameworks(pytestconfig):
    said = run(pytestconfig)
    found = re.search(r"(\d+) passed, (\d+) skipped", said)
    assert found is not None, said
    passed, skipped = map(int, found.groups())
    assert passed > 2 * skipped > 0, said
