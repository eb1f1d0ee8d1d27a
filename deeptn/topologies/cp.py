"""CP: a factor on each leg, joined by one index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..base import positive_int
from ..spec import Layout, Leg, NetworkSpec
from .base import Topology
from .common_index import joined
from .legs import need_legs
from .registry import register_topology


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
    ``rank·sum_k n[k]`` parameters. The default layout splits the axes into factors near 8; it pads an axis only if that
    has a large prime factor.

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
        return Layout.balanced(shape, pad=True)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        need_legs(legs, 1, "CP")
        return joined(legs, [((leg.name,), ()) for leg in legs], self.rank, "U")
