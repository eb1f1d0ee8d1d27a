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
    """The sum of several networks, for example a low-rank matrix plus a brick wall.

    ::

        LowRank ──┐
                  + ── W
        BrickWall ┘

    Parameters
    ----------
    terms : tuple of Topology
        At least one. The last term defines the default layout; `at_budget` varies only its size. Nodes and parameters
        of term k are named ``T{k}_…``.

    Notes
    -----
    The number of parameters is the sum over the terms. A sum of linear networks can be applied without forming W.

    Source: Candès, Li, Ma & Wright, arXiv:0912.3599 (for a low-rank matrix plus a residual).

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
