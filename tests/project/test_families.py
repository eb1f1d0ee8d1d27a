"""Check that every family of deeptn is in all lists of families: exports, tests, documentation."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import deeptn as dtn
from deeptn.topologies import topology, topology_names

from ..fitting.test_growth import COMBINED
from ..fitting.test_growth import FAMILIES as GROWING
from ..market import FAMILIES, NETWORKS

ROOT = Path(__file__).parents[2]
CLASSES = {name: type(topology(name)) for name in topology_names()}
OURS = {name: cls for name, cls in CLASSES.items() if cls.__module__.startswith("deeptn.")}

#: A graph has no example without nodes, and a wall grows by layers: `test_growth` has other tests for both.
NO_EXAMPLE = {"Graph"}
GROWS_OTHERWISE = {"Graph", "BrickWall"}


@pytest.mark.parametrize("name", OURS)
def test_a_family_is_in_every_list(name):
    cls = OURS[name]
    assert name in dtn.__all__
    assert any(type(net.topology) is cls for net in NETWORKS.values()), "add it to NETWORKS in tests/market.py"
    assert name in NO_EXAMPLE or any(type(family) is cls for family in FAMILIES.values()), "add it to tests/market.py"
    growing = [family for family, _ in (*GROWING.values(), *COMBINED.values())]
    assert name in GROWS_OTHERWISE or any(type(family) is cls for family in growing), "add it to test_growth.py"
    assert f"{{class}}`~deeptn.{name}`" in (ROOT / "docs" / "topologies.md").read_text()
    assert f"`{name}`" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_number_of_families(page):
    assert re.findall(r"(\d+) families", (ROOT / page).read_text()) == [str(len(OURS))]


def test_every_class_is_registered():
    found = set()
    waiting = [dtn.Topology]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls.__module__.startswith("deeptn.topologies.") and not inspect.isabstract(cls):
            found.add(cls)
    assert found == set(OURS.values())
