"""Binary trees, after the TTN generators of arXiv:2606.00130."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .._check import positive_int
from ..errors import SpecError
from ..layout import Leg
from ..spec import NetworkSpec, Node, check_between, stack
from .base import Topology, register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class Tree(Topology):
    r"""A balanced binary tree from one top tensor down to the legs (tree tensor network, TTN).

    Every stage splits each block of neighbouring legs in two, so the state widens from stage to stage, with an
    activation in between::

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

    Notes
    -----
    A node with bond r above and s, t below has r·s·t parameters, the top s·t.

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
    size_field: ClassVar[str] = "rank"

    def __post_init__(self):
        object.__setattr__(self, "rank", positive_int(self.rank, "Tree.rank"))
        check_between(self.activation, self.normalize)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        if len(legs) < 2:
            raise SpecError(f"a Tree needs at least 2 legs, got {len(legs)}; choose a layout with smaller factors")
        total = math.prod(leg.size for leg in legs)
        sizes: dict[str, int] = {}

        def index(start: int, stop: int) -> str:
            if stop - start == 1:
                return legs[start].name
            inside = math.prod(leg.size for leg in legs[start:stop])
            name = f"b{start}_{stop}"
            sizes[name] = min(self.rank, inside, total // inside)
            return name

        blocks = [(0, len(legs))]
        layers = []
        while any(stop - start > 1 for start, stop in blocks):
            nodes, below = [], []
            for start, stop in blocks:
                if stop - start == 1:
                    below.append((start, stop))
                    continue
                middle = (start + stop + 1) // 2
                halves = [(start, middle), (middle, stop)]
                inputs = () if stop - start == len(legs) else (index(start, stop),)
                outputs = tuple(index(*half) for half in halves)
                nodes.append(Node(f"L{len(layers) + 1}_t{len(nodes)}", inputs + outputs, inputs))
                below += halves
            blocks = below
            layers.append((nodes, [index(*block) for block in blocks]))
        return NetworkSpec(legs, stack(layers, self.activation, self.normalize), tuple(sizes.items()))
