"""Matrices as tensor trains: each core has a row leg and a column leg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import boolean, rank_field
from ..spec import Layout, Leg, NetworkSpec
from .base import Choices, Topology
from .chain import chain, chain_cores
from .legs import bond_names, matched, sides
from .registry import register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class TTMatrix(Topology):
    """A train whose core k has the k-th row leg and the k-th column leg (TT-matrix, matrix product operator).

    ::

        | | | |    rows (axis 0 of the weight)
        A-A-A-A
        | | | |    columns (all other axes)

    Parameters
    ----------
    rank : int or tuple of int
        Size of all bonds, or of each bond; at most the largest rank that the two sides of the bond allow.
    shared : bool
        Whether cores of the same shape share one parameter (the uniform train).

    Notes
    -----
    ``sum_k r[k-1]·m[k]·n[k]·r[k]`` parameters. If one side has fewer legs, the last cores have only one leg.
    The default layout splits the axes into factors near 8, interleaved;
    it pads an axis only if that has a large prime factor.

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
    choices: ClassVar[Choices] = {"shared": (False, True)}
    equation: ClassVar[str] = r"W_{y_1\ldots y_K,\,x_1\ldots x_K} = A_1[y_1,x_1]\cdots A_K[y_K,x_K]"
    formula: ClassVar[str] = "sum(bond(2*k) * d**2 * bond(2*k + 2) for k in range(Q // 2))  # Q/2 row and column legs"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "TTMatrix.rank"))
        boolean(self.shared, "TTMatrix.shared")

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.balanced(shape, order="interleaved", even=True, pad=True)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        rows, columns = sides(legs, "TTMatrix")
        groups = [row + column for row, column in matched(rows, columns)]
        return chain(legs, groups, self.rank, self.shared, "TTMatrix.rank")

    def bonds(self, spec: NetworkSpec) -> tuple[str, ...]:
        return () if self.shared else bond_names(spec)

    def closed_form(self, spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray] | None:
        return None if self.shared else chain_cores(spec, tensor)

    @property
    def closed_form_suffices(self) -> bool:
        return not self.shared
