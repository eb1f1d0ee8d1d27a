"""Chains of cores: building trains, and decomposing a tensor into a train."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..base import ranks, track
from ..spec import Leg, NetworkSpec, Node, Stage
from .legs import names
from .svd import leading_svd


def chain(
    legs: tuple[Leg, ...], groups: Sequence[tuple[Leg, ...]], rank: int | tuple[int, ...], shared: bool, what: str
) -> NetworkSpec:
    """Build a line of cores, core k with the legs of group k; a bond is no larger than either of its sides.

    With `shared`, cores of the same shape share one parameter.
    """
    volumes = [math.prod(leg.size for leg in group) for group in groups]
    bonds = list(ranks(rank, len(groups) - 1, what))
    for k in range(len(bonds)):
        bonds[k] = min(bonds[k], volumes[k] * (bonds[k - 1] if k else 1))
    for k in reversed(range(len(bonds))):
        bonds[k] = min(bonds[k], volumes[k + 1] * (bonds[k + 1] if k + 1 < len(bonds) else 1))
    sizes = {f"b{k}": bond for k, bond in enumerate(bonds)}
    nodes: list[Node] = []
    for k, group in enumerate(groups):
        left = (f"b{k - 1}",) if k else ()
        right = (f"b{k}",) if k < len(bonds) else ()
        shape = [*(sizes[b] for b in left), *(leg.size for leg in group), *(sizes[b] for b in right)]
        # The first and the last core may have the same shape, but must not share a parameter.
        param = "_".join(["core", "end" * (not left), *map(str, shape)]) if shared else None
        nodes.append(Node(f"core{k}", (*left, *names(group), *right), left, param))
    stage = Stage(tuple(nodes), names(legs))
    return NetworkSpec(legs, (stage,), tuple(sizes.items()))


def chain_cores(spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray]:
    """Decompose a tensor with one axis per leg into a `chain` without shared cores (TT-SVD)."""
    places = {leg.name: k for k, leg in enumerate(spec.legs)}
    groups = [[places[ix] for ix in node.indices if ix in places] for node in spec.nodes]
    bonds = [spec.node_shape(node)[-1] for node in spec.nodes[:-1]]
    cores = train(tensor, groups, bonds)
    return {node.name: core.reshape(spec.node_shape(node)) for node, core in zip(spec.nodes, cores)}


def train(tensor: np.ndarray, groups: Sequence[Sequence[int]], bonds: Sequence[int]) -> list[np.ndarray]:
    """Split a tensor into a train of cores with one SVD per bond that truncates; the singular values go to the right.

    Parameters
    ----------
    tensor : array
    groups : sequence of sequence of int
        Axes of the tensor in each core; every axis appears exactly once.
    bonds : sequence of int
        Maximum sizes of the bonds, one fewer than the groups.

    Returns
    -------
    list of array
        Cores of shape (left bond, *axes of the group, right bond); the outer bonds have size 1.
    """
    sizes = [tuple(tensor.shape[axis] for axis in group) for group in groups]
    rest = tensor.transpose([axis for group in groups for axis in group]).reshape(1, -1)
    cores: list[np.ndarray] = []
    for size, bond in track(list(zip(sizes, bonds)), "singular value decompositions"):
        left = len(rest)
        rest = rest.reshape(left * math.prod(size), -1)
        if len(rest) <= bond:  # nothing to truncate
            u = np.eye(len(rest), dtype=rest.dtype)
        else:
            u, s, v = leading_svd(rest, bond)
            rest = s[:, None] * v
        cores.append(u.reshape(left, *size, -1))
    return [*cores, rest.reshape(len(rest), *sizes[-1], 1)]
