"""Trees (TTN)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..spec import Leg, NetworkSpec
from .base import BETWEEN, Choices, Topology
from .blocks import Widening, check_tree, tree_nodes
from .legs import need_legs
from .registry import register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class Tree(Topology):
    r"""A tree from one top tensor down to the legs (tree tensor network, TTN).

    Every stage splits each block of neighbouring legs, so the state widens from stage to stage, with an activation in
    between::

              t            stage 1: two indices
            σ/ \σ
            t   t          stage 2: four
          σ/ \ / \σ
          t  t  t  t       stage 3: eight legs
         /\ /\ /\ /\

    Parameters
    ----------
    rank : int
        Largest size of a bond. The bond above a block is never larger than the block's legs together, nor than
        all other legs together.
    activation : str or None
        As for `BrickWall`. None gives the ordinary (linear) tree tensor network.
    normalize : {"rms", None}
        As for `BrickWall`.
    arity : int
        Into how many parts a node splits its block.
    balanced : bool
        Whether the parts are of equal length. Otherwise each is a single leg but the last, which holds the rest (a
        caterpillar).

    Notes
    -----
    A node with bond r above and s, t below has r·s·t parameters, the top s·t. Nodes are marked as isometries.

    Source: arXiv:2606.00130 (deep TTN); Shi, Duan & Vidal, Phys. Rev. A 74, 022320 (2006) for the linear tree.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Tree(rank=4), (16, 16))
    >>> len(net.spec.stages), net.num_params
    (3, 208)
    """

    rank: int = 4
    activation: str | None = "relu"
    normalize: str | None = "rms"
    arity: int = 2
    balanced: bool = True
    size_field: ClassVar[str] = "rank"
    choices: ClassVar[Choices] = BETWEEN | {"arity": (2, 3, 4), "balanced": (True, False)}
    equation: ClassVar[str] = r"W = T_L\,\sigma(T_{L-1}\,\sigma(\cdots\sigma(t)))"
    formula: ClassVar[str] = (
        "sum(2**l * wire(Q // 2**l) * wire(Q // 2 ** (l+1)) ** 2 for l in range(log2(Q)))  # Q a power of 2"
    )

    def __post_init__(self):
        check_tree(self, "balanced")

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        need_legs(legs, 2, "Tree")
        net = Widening(legs, self.rank, self.arity, self.balanced)
        while not net.is_split:
            net.split("t")
            net.close(net.wires)
        return net.network(self.activation, self.normalize)

    def closed_form(self, spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray] | None:
        return tree_nodes(spec, tensor) if self.activation is None else None

    @property
    def closed_form_suffices(self) -> bool:
        return self.activation is None
