"""Nodes joined by one common index."""

from __future__ import annotations

from collections.abc import Sequence

from ..spec import Leg, NetworkSpec, Node, Stage
from .legs import names


def joined(
    legs: tuple[Leg, ...], groups: Sequence[tuple[tuple[str, ...], tuple[str, ...]]], size: int, name: str
) -> NetworkSpec:
    """Build one node per group of indices (outputs, inputs), plus one index that all nodes share."""
    sizes = {"t": size} if size > 1 and len(groups) > 1 else {}
    nodes = tuple(Node(f"{name}{k}", (*out, *into, *sizes), (*into, *sizes)) for k, (out, into) in enumerate(groups))
    return NetworkSpec(legs, (Stage(nodes, names(legs)),), tuple(sizes.items()))
