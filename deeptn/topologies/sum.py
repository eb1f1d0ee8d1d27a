"""Sums of networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..spec import Leg, NetworkSpec
from .combined import Combined, parallel
from .registry import register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class Sum(Combined):
    """The sum of several networks, for example a low-rank matrix and what a brick wall adds to it.

    ::

        LowRank ──┐
                  + ── W
        BrickWall ┘

    Parameters
    ----------
    terms : tuple of Topology
        At least one. The default layout is that of the last, which is also the one that `at_budget` varies; the
        others keep their sizes. Nodes and parameters of term k are named ``T{k}_…``.

    Notes
    -----
    The parameters of all terms together. A sum of linear networks can be applied without forming W.

    Source: for a residual of low rank, Candès, Li, Ma & Wright, arXiv:0912.3599.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.BrickWall(layers=2))), (128, 512))
    >>> net.num_params, net.is_linear
    (1024, False)
    """

    equation: ClassVar[str] = r"W = \sum_k W_k"

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        stages, ends, sizes = parallel(self.terms, legs)
        stages[-1] = replace(stages[-1], add=(*stages[-1].add, *ends[:-1]))
        return NetworkSpec(legs, tuple(stages), sizes)
