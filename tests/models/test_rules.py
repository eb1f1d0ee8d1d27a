"""Test rules that choose layers."""

from __future__ import annotations

import deeptn as dtn
from deeptn.models import resolve


def test_plan_rules():
    shapes = {"conv": (8, 4, 3, 3), "fc.0": (12, 10), "fc.1": (12, 10), "head": (4, 12)}
    plan = resolve(shapes, {r"re:fc\.\d": "Tree", "fc.1": dtn.LowRank(rank=1), "*": "BrickWall"}, ignore=["head"])
    assert {name: type(net.topology).__name__ for name, net in plan.items()} == {
        "conv": "BrickWall",
        "fc.0": "Tree",
        "fc.1": "LowRank",
    }
