"""Compare the lowest supported versions in pyproject.toml with the constraints under which the tests run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"^([\w.-]+)==([\w.]+)$", re.MULTILINE)


def bounds() -> dict[str, str]:
    """Return the lower bound of every package in the dependencies and the extras that have a lowest-version job."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [
        *project["dependencies"],
        *(line for name in ("draw", "jax", "equinox", "nnx", "test") for line in extras[name]),
    ]
    return dict(line.split(">=") for line in needed if ">=" in line)


def test_the_lowest_versions_are_those_of_the_project():
    pins = dict(PINNED.findall((ROOT / "tests" / "lowest.txt").read_text()))
    pins.pop("jaxlib")  # jax requires the same version
    assert pins.keys() == bounds().keys()
    for name, bound in bounds().items():
        assert f"{pins[name]}.".startswith(f"{bound}."), name


def test_the_tested_versions_are_no_older():
    tested = dict(PINNED.findall((ROOT / "constraints.txt").read_text()))
    as_numbers = lambda version: [int(part) for part in version.split(".") if part.isdigit()]
    for name, bound in bounds().items():
        assert as_numbers(tested[name]) >= as_numbers(bound), name
