"""Butterfly and Monarch matrices: products of sparse factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..base import positive_int
from ..spec import Layout, Leg, NetworkSpec, balanced_factors
from .base import Choices, Topology
from .common_index import joined
from .legs import names, sides
from .registry import register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class Butterfly(Topology):
    r"""A product of sparse factors, each mixing one digit of the index (butterfly matrix; Monarch with two levels).

    Factor k replaces the k-th column digit with the k-th row digit; all other digits number its blocks::

        W[y1 y2 y3, x1 x2 x3] = B1[y1, x1 x2 x3] · B2[y1 y2, x2 x3] · B3[y1 y2 y3, x3]

    Parameters
    ----------
    terms : int
        Number of such products in the sum.
    levels : int, optional
        Number of digits into which the default layout splits each axis. For a matrix, this is the number of factors,
        and 2 gives the Monarch matrix. By default, every prime factor is a digit.

    Notes
    -----
    ``terms·sum_k m[1]⋯m[k]·n[k]⋯n[K]`` parameters. The digits are hyper-indices, so the sparse factors
    store no zeros.

    Source: Dao, Gu, Eichhorn, Rudra & Ré, arXiv:1903.05895 (butterfly); Dao et al., arXiv:2204.00595 (Monarch).

    Examples
    --------
    >>> import deeptn as dtn
    >>> [dtn.network(dtn.Butterfly(levels=levels), (64, 64)).num_params for levels in (None, 2)]
    [768, 1024]
    """

    terms: int = 1
    levels: int | None = None
    size_field: ClassVar[str] = "terms"
    choices: ClassVar[Choices] = {"levels": (None, 1, 2)}
    equation: ClassVar[str] = r"W_{y,x} = \prod_k B_k[y_1\ldots y_k,\,x_k\ldots x_K]"
    formula: ClassVar[str] = "(terms if Q > 2 else 1) * (Q//2) * d ** (Q//2 + 1)  # Q/2 row and column legs"

    def __post_init__(self):
        object.__setattr__(self, "terms", positive_int(self.terms, "Butterfly.terms"))
        if self.levels is not None:
            object.__setattr__(self, "levels", positive_int(self.levels, "Butterfly.levels"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        if self.levels is None:
            return Layout(tuple(shape))
        sizes = Layout.single(shape).shape
        return Layout(sizes, tuple(balanced_factors(n, self.levels) for n in sizes))

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        rows, columns = sides(legs, "Butterfly")
        count = max(len(rows), len(columns))
        groups = [(names(rows[: k + 1]), names(columns[k:])) for k in range(count)]
        return joined(legs, groups, self.terms, "B")
