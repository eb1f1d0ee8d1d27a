"""Tree tensor networks (TTN)."""

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

    Every stage splits each block of neighboring legs, so that the state widens from stage to stage, with activations in
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
        Maximum size of a bond. The bond above a block is never larger than the product of the block's leg sizes, nor
        than the product of all other leg sizes.
    activation : str or None
        As in `BrickWall`. None gives the ordinary (linear) tree tensor network.
    normalize : {"rms", None}
        As in `BrickWall`.
    arity : int
        Number of parts into which a node splits its block.
    balanced : bool
        Whether the parts have about equal length. Otherwise, each part is a single leg, except the last, which
        contains the rest (a caterpillar).

    Notes
    -----
    A node with a bond r above and bonds s, t below has r·s·t parameters, the top node s·t. All are marked as isometric.

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
