"""Tensor rings: tensor trains whose ends are joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..base import boolean, rank_field, ranks
from ..spec import Leg, NetworkSpec, Node, Stage
from .base import Choices, Topology
from .legs import bond_names, names
from .registry import register_topology
from .tensor_train import TensorTrain


@register_topology
@dataclass(frozen=True, kw_only=True)
class TensorRing(Topology):
    """One core per leg, on a ring (tensor ring, matrix product state with periodic boundaries).

    ::

        ┌-A-A-A-A-A-A-┐
        | | | | | | | |
        └-------------┘

    Parameters
    ----------
    rank : int or tuple of int
        Size of all bonds, or of each bond; the last one closes the ring.
    shared : bool
        Whether cores of the same shape share one parameter (the translation-invariant ring).

    Notes
    -----
    ``sum_k r[k-1]·n[k]·r[k]`` parameters with r[-1] = r[Q-1]. A single leg has no bond. The default layout is
    `TensorTrain`'s.

    Source: Zhao, Zhou, Xie, Zhang & Cichocki, arXiv:1606.05535.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.TensorRing(rank=4), (120, 400)).num_params
    512
    """

    rank: int | tuple[int, ...] = 4
    shared: bool = False
    size_field: ClassVar[str] = "rank"
    choices: ClassVar[Choices] = {"shared": (False, True)}
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = \operatorname{tr} A_1[x_1]\,A_2[x_2]\cdots A_Q[x_Q]"
    formula: ClassVar[str] = "Q * d * rank**2"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "TensorRing.rank"))
        boolean(self.shared, "TensorRing.shared")

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        if len(legs) < 2:
            return TensorTrain(rank=1).build(legs)
        count = len(legs)
        sizes = {f"b{k}": rank for k, rank in enumerate(ranks(self.rank, count, "TensorRing.rank"))}
        nodes: list[Node] = []
        for k, leg in enumerate(legs):
            left, right = f"b{(k - 1) % count}", f"b{k}"
            param = f"core_{sizes[left]}_{leg.size}_{sizes[right]}" if self.shared else None
            nodes.append(Node(f"core{k}", (left, leg.name, right), (left,), param))
        return NetworkSpec(legs, (Stage(tuple(nodes), names(legs)),), tuple(sizes.items()))

    def bonds(self, spec: NetworkSpec) -> tuple[str, ...]:
        return () if self.shared else bond_names(spec)
