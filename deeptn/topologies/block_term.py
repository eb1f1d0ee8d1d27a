"""Block terms: sums of Tucker networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..base import positive_int, rank_field, ranks
from ..spec import Layout, Leg, NetworkSpec
from .base import Topology
from .legs import need_legs
from .registry import register_topology
from .tucker import tucker_network


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
        Size of all bonds, or of each bond; at most the size of the leg.

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
        need_legs(legs, 1, "BlockTerm")
        return tucker_network(legs, ranks(self.rank, len(legs), "BlockTerm.rank"), self.terms)
