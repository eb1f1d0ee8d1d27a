"""Element-wise products of networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import SpecError
from ..spec import Leg, NetworkSpec, Stage
from .combined import Combined, parallel
from .lowrank import LowRank
from .registry import register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class Product(Combined):
    """The element-wise (Hadamard) product of several networks.

    ::

        LowRank ──┐
                  ⊙ ── W
        LowRank ──┘

    Parameters
    ----------
    terms : tuple of Topology
        At least one; the last cannot be a `Sum`. Layout, sizes and names work as in `Sum`.

    Notes
    -----
    The number of parameters is the sum over the terms; the rank of W is at most the product of their ranks. A product
    of linear networks is one linear network, whose legs are hyper-indices.

    Source: Hyeon-Woo, Ye-Bin & Oh, arXiv:2108.06098 (FedPara).

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Product(terms=(dtn.LowRank(rank=2), dtn.LowRank(rank=2))), (120, 400))
    >>> net.num_params, net.is_linear
    (2080, True)
    """

    terms: Any = (LowRank(), LowRank())
    equation: ClassVar[str] = r"W = W_1 \odot W_2 \odot \cdots"

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        stages, ends, sizes = parallel(self.terms, legs)
        if len(stages) == len(self.terms):  # every term is one stage: merge them into one network
            nodes = tuple(node for stage in stages for node in stage.nodes)
            return NetworkSpec(legs, (Stage(nodes, stages[-1].output),), sizes)
        if stages[-1].add:
            raise SpecError("the last term of a Product may not be a Sum; put another term last")
        stages[-1] = replace(stages[-1], multiply=(*stages[-1].multiply, *ends[:-1]))
        return NetworkSpec(legs, tuple(stages), sizes)
