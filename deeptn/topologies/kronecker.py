"""Sums of Kronecker products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..base import positive_int
from ..spec import Layout, Leg, NetworkSpec
from .base import Topology
from .common_index import joined
from .legs import matched, names, sides
from .registry import register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class Kronecker(Topology):
    """A sum of Kronecker products of small matrices.

    ::

        | | | |    rows (axis 0 of the weight)
        A A A A
        | | | |    columns (all other axes)
        └-┴-┴-┘ t

    Parameters
    ----------
    terms : int
        Number of products in the sum.

    Notes
    -----
    ``terms·sum_k m[k]·n[k]`` parameters. The default layout is `TTMatrix`'s.

    Source: Van Loan & Pitsianis, "Approximation with Kronecker products" (1993); Thakker et al., arXiv:1906.02876.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.Kronecker(terms=4), (120, 400)).num_params
    480
    """

    terms: int = 4
    size_field: ClassVar[str] = "terms"
    equation: ClassVar[str] = r"W = \sum_t A^{(t)}_1 \otimes A^{(t)}_2 \otimes \cdots \otimes A^{(t)}_K"
    formula: ClassVar[str] = "(terms if Q > 2 else 1) * (Q//2) * d**2  # Q/2 row and column legs"

    def __post_init__(self):
        object.__setattr__(self, "terms", positive_int(self.terms, "Kronecker.terms"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.balanced(shape, order="interleaved", even=True, pad=True)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        groups = [(names(row), names(column)) for row, column in matched(*sides(legs, "Kronecker"))]
        return joined(legs, groups, self.terms, "A")
