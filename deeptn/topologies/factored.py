"""Low rank and Tucker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .._check import positive_int, rank_field, ranks
from ..errors import SpecError
from ..layout import Layout, Leg
from ..spec import NetworkSpec, Node, Stage
from .base import Topology, register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class LowRank(Topology):
    """A product of two matrices, rows times rank and rank times columns.

    ::

        rows =U=-V= columns

    Parameters
    ----------
    rank : int
        Size of the bond, cut to the smaller side of the matrix.

    Notes
    -----
    ``rank·(rows + columns)`` parameters, columns being all axes but the first.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.LowRank(rank=2), (120, 400)).num_params
    1040
    """

    rank: int = 8
    size_field: ClassVar[str] = "rank"

    def __post_init__(self):
        object.__setattr__(self, "rank", positive_int(self.rank, "LowRank.rank"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.single(shape)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        rows = [leg for leg in legs if leg.axis == 0]
        columns = [leg for leg in legs if leg.axis != 0]
        if not rows or not columns:
            raise SpecError(
                f"a LowRank needs row legs (axis 0) and column legs (other axes), got {len(rows)} and {len(columns)}"
            )
        volume = min(math.prod(leg.size for leg in side) for side in (rows, columns))
        nodes = (
            Node("U", tuple(leg.name for leg in rows) + ("b0",), ("b0",)),
            Node("V", ("b0",) + tuple(leg.name for leg in columns), ()),
        )
        stage = Stage(nodes, tuple(leg.name for leg in legs))
        return NetworkSpec(legs, (stage,), (("b0", min(self.rank, volume)),))


@register_topology
@dataclass(frozen=True, kw_only=True)
class Tucker(Topology):
    r"""A core with one bond per leg, and a factor matrix on each (Tucker decomposition).

    ::

        U U U
         \|/
          G

    Parameters
    ----------
    rank : int or tuple of int
        Size of the bonds, all or each, cut to the size of the leg.

    Notes
    -----
    ``prod_k r[k] + sum_k n[k]·r[k]`` parameters. The default layout cuts the axes into exact factors near 8.

    Source: Tucker, Psychometrika 31, 279 (1966); De Lathauwer, De Moor & Vandewalle, SIAM J. Matrix Anal. Appl. 21,
    1253 (2000).

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Tucker(rank=3), (120, 400))
    >>> net.layout.leg_sizes, net.num_params
    ((12, 10, 10, 8, 5), 378)
    """

    rank: int | tuple[int, ...] = 4
    size_field: ClassVar[str] = "rank"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "Tucker.rank"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.balanced(shape)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        if not legs:
            raise SpecError("a Tucker network needs at least 1 leg, got none; a weight of one entry has none")
        sizes = {
            f"b{k}": min(rank, leg.size)
            for k, (rank, leg) in enumerate(zip(ranks(self.rank, len(legs), "Tucker.rank"), legs))
        }
        nodes = [Node("core", tuple(sizes))]
        nodes += [Node(f"U{k}", (leg.name, f"b{k}"), (f"b{k}",)) for k, leg in enumerate(legs)]
        stage = Stage(tuple(nodes), tuple(leg.name for leg in legs))
        return NetworkSpec(legs, (stage,), tuple(sizes.items()))
