"""Tensor trains: vectors (MPS), matrices (MPO) and rings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..base import boolean, rank_field, ranks
from ..errors import SpecError
from ..spec import Layout, Leg, NetworkSpec, Node, Stage
from .base import Topology, matched, register_topology, sides


def _chain(
    legs: tuple[Leg, ...], groups: Sequence[tuple[Leg, ...]], rank: int | tuple[int, ...], shared: bool, what: str
) -> NetworkSpec:
    """Cores on a line, core k with the legs of group k; a bond is no larger than what stands on either side of it.

    With `shared` cores of one shape have one parameter.
    """
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
        shape = [*(sizes[b] for b in left), *(leg.size for leg in group), *(sizes[b] for b in right)]
        # Those at the two ends may be alike, but differ in what they are: a first core is no last one.
        param = "_".join(["core", "end" * (not left), *map(str, shape)]) if shared else None
        nodes.append(Node(f"core{k}", left + tuple(leg.name for leg in group) + right, left, param))
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
    shared : bool
        Cores of one shape have one parameter: the uniform train.

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
    shared: bool = False
    size_field: ClassVar[str] = "rank"
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = A_1[x_1]\,A_2[x_2]\cdots A_Q[x_Q]"
    formula: ClassVar[str] = "sum(bond(k) * d * bond(k+1) for k in range(Q))"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "TensorTrain.rank"))
        boolean(self.shared, "TensorTrain.shared")

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        if not legs:
            raise SpecError("a TensorTrain needs at least 1 leg, got none; a weight of one entry has none")
        return _chain(legs, [(leg,) for leg in legs], self.rank, self.shared, "TensorTrain.rank")


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
    shared : bool
        Cores of one shape have one parameter: the uniform train.

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
    shared: bool = False
    size_field: ClassVar[str] = "rank"
    equation: ClassVar[str] = r"W_{y_1\ldots y_K,\,x_1\ldots x_K} = A_1[y_1,x_1]\cdots A_K[y_K,x_K]"
    formula: ClassVar[str] = "sum(bond(2*k) * d**2 * bond(2*k + 2) for k in range(Q // 2))  # Q/2 row and column legs"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "TTMatrix.rank"))
        boolean(self.shared, "TTMatrix.shared")

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.balanced(shape, order="interleaved", even=True)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        rows, columns = sides(legs, "TTMatrix")
        groups = [row + column for row, column in matched(rows, columns)]
        return _chain(legs, groups, self.rank, self.shared, "TTMatrix.rank")


@register_topology
@dataclass(frozen=True, kw_only=True)
class TensorRing(Topology):
    """One core per leg, on a ring (tensor ring, matrix product state with periodic boundaries).

    ::

        ┌-A-A-A-A-A-A-┐
        | | | | | | | |
        └-------------┘

    Parameters
    ----------
    rank : int or tuple of int
        Size of the bonds, all or each; the last one closes the ring.
    shared : bool
        Cores of one shape have one parameter: the translation-invariant ring.

    Notes
    -----
    ``sum_k r[k-1]·n[k]·r[k]`` parameters with r[-1] = r[Q-1]. A single leg has no bond. The default layout is
    `TensorTrain`'s.

    Source: Zhao, Zhou, Xie, Zhang & Cichocki, arXiv:1606.05535.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.TensorRing(rank=4), (120, 400)).num_params
    512
    """

    rank: int | tuple[int, ...] = 4
    shared: bool = False
    size_field: ClassVar[str] = "rank"
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = \operatorname{tr} A_1[x_1]\,A_2[x_2]\cdots A_Q[x_Q]"
    formula: ClassVar[str] = "Q * d * rank**2"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "TensorRing.rank"))
        boolean(self.shared, "TensorRing.shared")

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        if len(legs) < 2:
            return TensorTrain(rank=1).build(legs)
        count = len(legs)
        sizes = {f"b{k}": rank for k, rank in enumerate(ranks(self.rank, count, "TensorRing.rank"))}
        nodes = []
        for k, leg in enumerate(legs):
            left, right = f"b{(k - 1) % count}", f"b{k}"
            param = f"core_{sizes[left]}_{leg.size}_{sizes[right]}" if self.shared else None
            nodes.append(Node(f"core{k}", (left, leg.name, right), (left,), param))
        return NetworkSpec(legs, (Stage(tuple(nodes), tuple(leg.name for leg in legs)),), tuple(sizes.items()))
