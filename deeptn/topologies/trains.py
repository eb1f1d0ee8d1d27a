"""Tensor trains: vectors (MPS) and matrices (MPO)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .._check import rank_field, ranks
from ..errors import SpecError
from ..layout import Layout, Leg
from ..spec import NetworkSpec, Node, Stage
from .base import Topology, register_topology


def _chain(
    legs: tuple[Leg, ...], groups: Sequence[tuple[Leg, ...]], rank: int | tuple[int, ...], what: str
) -> NetworkSpec:
    """Cores on a line, core k with the legs of group k; a bond is no larger than what stands on either side of it."""
    volumes = [math.prod(leg.size for leg in group) for group in groups]
    bonds = list(ranks(rank, len(groups) - 1, what))
    for k in range(len(bonds)):
        bonds[k] = min(bonds[k], volumes[k] * (bonds[k - 1] if k else 1))
    for k in reversed(range(len(bonds))):
        bonds[k] = min(bonds[k], volumes[k + 1] * (bonds[k + 1] if k + 1 < len(bonds) else 1))
    sizes = {f"b{k}": bond for k, bond in enumerate(bonds)}
    nodes = []
    for k, group in enumerate(groups):
        left = (f"b{k - 1}",) if k else ()
        right = (f"b{k}",) if k < len(bonds) else ()
        nodes.append(Node(f"core{k}", left + tuple(leg.name for leg in group) + right, left))
    stage = Stage(tuple(nodes), tuple(leg.name for leg in legs))
    return NetworkSpec(legs, (stage,), tuple(sizes.items()))


@register_topology
@dataclass(frozen=True, kw_only=True)
class TensorTrain(Topology):
    """One core per leg, on a line (tensor train, matrix product state).

    ::

        A-A-A-A-A-A
        | | | | | |

    Parameters
    ----------
    rank : int or tuple of int
        Size of the bonds, all or each. A bond is cut to the largest rank that its two sides allow.

    Notes
    -----
    ``sum_k r[k-1]·n[k]·r[k]`` parameters with r[-1] = r[Q-1] = 1. The default layout pads to binary legs, like
    `BrickWall`'s, in the order rows, columns.

    Source: Oseledets, SIAM J. Sci. Comput. 33, 2295 (2011).

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.TensorTrain(rank=4), (120, 400)).num_params
    424
    """

    rank: int | tuple[int, ...] = 8
    size_field: ClassVar[str] = "rank"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "TensorTrain.rank"))

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        if not legs:
            raise SpecError("a TensorTrain needs at least 1 leg, got none; a weight of one entry has none")
        return _chain(legs, [(leg,) for leg in legs], self.rank, "TensorTrain.rank")


@register_topology
@dataclass(frozen=True, kw_only=True)
class TTMatrix(Topology):
    """Core k carries the k-th row leg and the k-th column leg (TT-matrix, matrix product operator).

    ::

        | | | |    rows (axis 0 of the weight)
        A-A-A-A
        | | | |    columns (all other axes)

    Parameters
    ----------
    rank : int or tuple of int
        Size of the bonds, all or each. A bond is cut to the largest rank that its two sides allow.

    Notes
    -----
    ``sum_k r[k-1]·m[k]·n[k]·r[k]`` parameters. If one side has fewer legs, its cores at the end have one leg only.
    The default layout cuts the axes into exact factors near 8, interleaved.

    Source: Novikov, Podoprikhin, Osokin & Vetrov, arXiv:1509.06569, section 4.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.TTMatrix(rank=8), (4096, 4096)).num_params
    9216
    """

    rank: int | tuple[int, ...] = 8
    size_field: ClassVar[str] = "rank"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "TTMatrix.rank"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.balanced(shape, order="interleaved", even=True)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        rows = [leg for leg in legs if leg.axis == 0]
        columns = [leg for leg in legs if leg.axis != 0]
        if not rows or not columns:
            raise SpecError(
                f"a TTMatrix needs row legs (axis 0) and column legs (other axes), got {len(rows)} and {len(columns)}"
            )
        count = max(len(rows), len(columns))
        groups = [tuple(rows[k : k + 1] + columns[k : k + 1]) for k in range(count)]
        return _chain(legs, groups, self.rank, "TTMatrix.rank")
