"""Hierarchical Tucker: a balanced tree of transfer tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import positive_int
from ..spec import Leg, NetworkSpec, Node, Stage
from .base import Topology
from .blocks import Block, bond_above, split_block, tree_nodes
from .legs import names, need_legs
from .registry import register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class HierarchicalTucker(Topology):
    r"""A balanced tree of transfer tensors with a factor matrix on each leg (hierarchical Tucker, HT).

    ::

             B
            / \
           B   B
          /\   /\
         U  U U  U

    Parameters
    ----------
    rank : int
        Maximum size of a bond, limited as in `Tree`; next to a leg, at most the size of the leg.

    Notes
    -----
    Each ``U`` has ``n[k]·r[k]`` parameters, each ``B`` the product of its bonds. The default layout is `TensorTrain`'s.

    Source: Hackbusch & Kühn, J. Fourier Anal. Appl. 15, 706 (2009); Grasedyck, SIAM J. Matrix Anal. Appl. 31, 2029
    (2010).

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.HierarchicalTucker(rank=4), (16, 16)).num_params
    240
    """

    rank: int = 4
    size_field: ClassVar[str] = "rank"
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = \sum \prod_{\text{blocks}} B_{r,st} \prod_k U_k[x_k, r_k]"
    formula: ClassVar[str] = (
        "Q * d * bond(1) + sum(2**l * bond(Q // 2**l) * bond(Q // 2 ** (l+1)) ** 2 for l in range(log2(Q)))"
        "  # Q a power of 2"
    )

    def __post_init__(self):
        object.__setattr__(self, "rank", positive_int(self.rank, "HierarchicalTucker.rank"))

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        need_legs(legs, 2, "HierarchicalTucker")
        sizes: dict[str, int] = {}
        nodes: list[Node] = []

        def grow(block: Block) -> str:
            name = f"b{block[0]}_{block[1]}"
            sizes[name] = bond_above(legs, block, self.rank)
            above = () if block == (0, len(legs)) else (name,)
            if block[1] - block[0] == 1:
                nodes.append(Node(f"U{block[0]}", (legs[block[0]].name, name), above))
            else:
                place = len(nodes)  # before its children
                below = tuple(grow(part) for part in split_block(block, 2, True))
                nodes.insert(place, Node(f"B{block[0]}_{block[1]}", above + below, above))
            return name

        del sizes[grow((0, len(legs)))]
        return NetworkSpec(legs, (Stage(tuple(nodes), names(legs)),), tuple(sizes.items()))

    def closed_form(self, spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray]:
        return tree_nodes(spec, tensor)

    @property
    def closed_form_suffices(self) -> bool:
        return True
