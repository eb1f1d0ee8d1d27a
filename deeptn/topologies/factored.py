"""Low rank, Tucker, CP, block terms, Kronecker products and butterflies: cores around a hub or a common index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..base import positive_int, rank_field, ranks
from ..errors import SpecError
from ..spec import Layout, Leg, NetworkSpec, Node, Stage, balanced_factors
from .base import Topology, matched, register_topology, sides


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
    equation: ClassVar[str] = r"W = U V"
    formula: ClassVar[str] = "min(rank, rows, columns) * (rows + columns)"

    def __post_init__(self):
        object.__setattr__(self, "rank", positive_int(self.rank, "LowRank.rank"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.single(shape)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        rows, columns = sides(legs, "LowRank")
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
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = \sum_{r} G_{r_1\ldots r_Q} \prod_k U_k[x_k, r_k]"
    formula: ClassVar[str] = "min(rank, d)**Q + Q * d * min(rank, d)"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "Tucker.rank"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.balanced(shape)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        _need_one(legs, "Tucker")
        bonds = ranks(self.rank, len(legs), "Tucker.rank")
        return _tucker(legs, bonds, 1)


@register_topology
@dataclass(frozen=True, kw_only=True)
class BlockTerm(Topology):
    r"""A sum of Tucker networks, with a hyper-index that numbers the terms (block-term decomposition).

    ::

        U U U
         \|/
          G     × terms

    Parameters
    ----------
    terms : int
        Number of terms.
    rank : int or tuple of int
        Size of the bonds, all or each, cut to the size of the leg.

    Notes
    -----
    ``terms·(prod_k r[k] + sum_k n[k]·r[k])`` parameters. The default layout is `Tucker`'s.

    Source: De Lathauwer, SIAM J. Matrix Anal. Appl. 30, 1033 (2008); Ye et al., arXiv:1712.05134.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.BlockTerm(terms=2, rank=2), (120, 400)).num_params
    244
    """

    terms: int = 2
    rank: int | tuple[int, ...] = 2
    size_field: ClassVar[str] = "terms"
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = \sum_{t,r} G^{(t)}_{r_1\ldots r_Q} \prod_k U^{(t)}_k[x_k, r_k]"
    formula: ClassVar[str] = "terms * (min(rank, d)**Q + Q * d * min(rank, d))"

    def __post_init__(self):
        object.__setattr__(self, "terms", positive_int(self.terms, "BlockTerm.terms"))
        object.__setattr__(self, "rank", rank_field(self.rank, "BlockTerm.rank"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.balanced(shape)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        _need_one(legs, "BlockTerm")
        return _tucker(legs, ranks(self.rank, len(legs), "BlockTerm.rank"), self.terms)


@register_topology
@dataclass(frozen=True, kw_only=True)
class CP(Topology):
    """One factor matrix per leg, all joined by one hyper-index (canonical polyadic decomposition).

    ::

        U U U U
        └-┴-┴-┘ r

    Parameters
    ----------
    rank : int
        Size of the common index.

    Notes
    -----
    ``rank·sum_k n[k]`` parameters. The default layout cuts the axes into exact factors near 8.

    Source: Hitchcock, J. Math. Phys. 6, 164 (1927); Lebedev et al., arXiv:1412.6553.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.CP(rank=8), (120, 400)).num_params
    360
    """

    rank: int = 8
    size_field: ClassVar[str] = "rank"
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = \sum_r \prod_k U_k[x_k, r]"
    formula: ClassVar[str] = "rank * Q * d"

    def __post_init__(self):
        object.__setattr__(self, "rank", positive_int(self.rank, "CP.rank"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.balanced(shape)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        _need_one(legs, "CP")
        return _common(legs, [((leg.name,), ()) for leg in legs], self.rank, "U")


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
        return Layout.balanced(shape, order="interleaved", even=True)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        groups = [(_names(row), _names(column)) for row, column in matched(*sides(legs, "Kronecker"))]
        return _common(legs, groups, self.terms, "A")


@register_topology
@dataclass(frozen=True, kw_only=True)
class Butterfly(Topology):
    r"""A product of sparse factors, each mixing one digit of the index (butterfly matrix; with two levels: Monarch).

    Factor k turns the k-th column digit into the k-th row digit; all other digits number its blocks::

        W[y1 y2 y3, x1 x2 x3] = B1[y1, x1 x2 x3] · B2[y1 y2, x2 x3] · B3[y1 y2 y3, x3]

    Parameters
    ----------
    terms : int
        Number of such products that are added.
    levels : int, optional
        Into how many digits the default layout cuts each axis; of a matrix that is the number of factors, and 2 makes
        the Monarch matrix. By default every prime factor is a digit.

    Notes
    -----
    ``terms·sum_k m[1]⋯m[k]·n[k]⋯n[K]`` parameters. The digits are hyper-indices: that a factor is sparse needs no
    zeros.

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
        groups = [(_names(rows[: k + 1]), _names(columns[k:])) for k in range(count)]
        return _common(legs, groups, self.terms, "B")


def _need_one(legs: tuple[Leg, ...], what: str) -> None:
    if not legs:
        raise SpecError(f"a {what} network needs at least 1 leg, got none; a weight of one entry has none")


def _names(legs: Sequence[Leg]) -> tuple[str, ...]:
    return tuple(leg.name for leg in legs)


def _common(
    legs: tuple[Leg, ...], groups: Sequence[tuple[tuple[str, ...], tuple[str, ...]]], size: int, name: str
) -> NetworkSpec:
    """One node per group of indices (outputs, inputs), and one index that all of them share."""
    sizes = {"t": size} if size > 1 and len(groups) > 1 else {}
    nodes = tuple(Node(f"{name}{k}", (*out, *into, *sizes), (*into, *sizes)) for k, (out, into) in enumerate(groups))
    return NetworkSpec(legs, (Stage(nodes, _names(legs)),), tuple(sizes.items()))


def _tucker(legs: tuple[Leg, ...], bonds: Sequence[int], terms: int) -> NetworkSpec:
    """A core with a factor on each leg; with several terms all of them share an index."""
    sizes = {f"b{k}": min(rank, leg.size) for k, (rank, leg) in enumerate(zip(bonds, legs))}
    term = {"t": terms} if terms > 1 else {}
    nodes = [Node("core", (*sizes, *term))]
    nodes += [Node(f"U{k}", (leg.name, f"b{k}", *term), (f"b{k}", *term)) for k, leg in enumerate(legs)]
    return NetworkSpec(legs, (Stage(tuple(nodes), _names(legs)),), tuple((sizes | term).items()))
