"""Trees with a layer of disentanglers below them (aTTN)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..spec import Leg, NetworkSpec
from .base import BETWEEN, Choices, Topology
from .blocks import Widening, check_tree
from .legs import need_legs
from .registry import register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class AugmentedTree(Topology):
    r"""A tree followed by one layer of disentanglers across the boundaries of its blocks (aTTN).

    ::

              t
             / \
            t   t
           / \ / \
           t t t t
          /\ /\ /\ /\
          | u  u  u |

    Parameters
    ----------
    rank, activation, normalize, arity
        As in `Tree`.
    cyclic : bool
        Whether the last leg is a neighbor of the first.

    Notes
    -----
    The parameters of the tree, plus ``n[k]²·n[k+1]²`` for each disentangler. Disentanglers act on neighboring legs that
    hang from different nodes, chosen from the left, with at most one per leg.

    Source: arXiv:2606.00130 (deep aTTN); Felser, Notarnicola & Montangero, Phys. Rev. Lett. 126, 170603 (2021).

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.AugmentedTree(rank=4), (16, 16))
    >>> len(net.spec.stages), net.num_params
    (4, 256)
    """

    rank: int = 4
    activation: str | None = "relu"
    normalize: str | None = "rms"
    arity: int = 2
    cyclic: bool = False
    size_field: ClassVar[str] = "rank"
    choices: ClassVar[Choices] = BETWEEN | {"arity": (2, 3, 4), "cyclic": (False, True)}
    equation: ClassVar[str] = r"W = U\,\sigma(T_L\,\sigma(\cdots\sigma(t)))"
    formula: ClassVar[str] = (
        "sum(2**l * wire(Q // 2**l) * wire(Q // 2 ** (l+1)) ** 2 for l in range(log2(Q))) + (Q//2 - 1) * d**4"
        "  # Q a power of 2"
    )

    def __post_init__(self):
        check_tree(self, "cyclic")

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        need_legs(legs, 2, "AugmentedTree")
        net = Widening(legs, self.rank, self.arity)
        while not net.is_split:
            net.split("t")
            net.close(net.wires)
        net.number += 1
        net.disentangle("u", self.cyclic)
        if len(legs) > self.arity:  # otherwise the tree is a single node without a boundary
            net.close(net.wires)
        return net.network(self.activation, self.normalize)
