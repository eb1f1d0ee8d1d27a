"""Projected entangled pair states: cores on a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..base import positive_int
from ..spec import Leg, NetworkSpec, Node, Stage
from .base import Choices, Topology
from .legs import names, need_legs
from .registry import register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class PEPS(Topology):
    r"""One core per leg, on a rectangular grid (projected entangled pair state).

    ::

        A-A-A
        |\|\|\      every core has one leg
        A-A-A

    Parameters
    ----------
    rank : int
        Size of the bonds.
    columns : int, optional
        Number of cores in a row; by default, the smallest for which there are no more rows than columns. The last row
        gets the remaining cores.

    Notes
    -----
    ``sum_k n[k]·rank^(neighbors of k)`` parameters. The cost of contracting a grid is exponential in its shorter
    side. The default layout is `TensorTrain`'s.

    Source: Verstraete & Cirac, arXiv:cond-mat/0407066.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.PEPS(rank=2), (16, 16)).num_params
    104
    """

    rank: int = 2
    columns: int | None = None
    size_field: ClassVar[str] = "rank"
    choices: ClassVar[Choices] = {"columns": (None, 1, 2, 5)}
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = \sum_{\text{bonds}} \prod_{ij} A_{ij}[x_{ij};\,l,r,u,d]"
    formula: ClassVar[str] = (
        "d * (4 * rank**2 + 2 * (C-2 + R-2) * rank**3 + (C-2) * (R-2) * rank**4)  # R full rows of C columns, 2 or more"
    )

    def __post_init__(self):
        object.__setattr__(self, "rank", positive_int(self.rank, "PEPS.rank"))
        if self.columns is not None:
            object.__setattr__(self, "columns", positive_int(self.columns, "PEPS.columns"))

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        need_legs(legs, 1, "PEPS")
        count = len(legs)
        columns = math.ceil(math.sqrt(count)) if self.columns is None else self.columns
        sizes: dict[str, int] = {}
        nodes: list[Node] = []
        for k, leg in enumerate(legs):
            row, column = divmod(k, columns)
            left = [f"h{row}_{column}"] if column else []
            above = [f"v{row}_{column}"] if row else []
            right = [f"h{row}_{column + 1}"] if column + 1 < columns and k + 1 < count else []
            below = [f"v{row + 1}_{column}"] if k + columns < count else []
            sizes |= dict.fromkeys(right + below, self.rank)
            nodes.append(Node(f"core{row}_{column}", (*left, *above, leg.name, *right, *below), (*left, *above)))
        return NetworkSpec(legs, (Stage(tuple(nodes), names(legs)),), tuple(sizes.items()))
