"""Tensor trains: one core per leg, on a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import boolean, rank_field
from ..spec import Leg, NetworkSpec
from .base import Choices, Topology
from .chain import chain, chain_cores
from .legs import bond_names, need_legs
from .registry import register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class TensorTrain(Topology):
    """One core per leg, on a line (tensor train, matrix product state).

    ::

        A-A-A-A-A-A
        | | | | | |

    Parameters
    ----------
    rank : int or tuple of int
        Size of all bonds, or of each bond; at most the largest rank that the two sides of the bond allow.
    shared : bool
        Whether cores of the same shape share one parameter (the uniform train).

    Notes
    -----
    ``sum_k r[k-1]·n[k]·r[k]`` parameters with r[-1] = r[Q-1] = 1. The default layout, like that of
    `BrickWall`, pads to binary legs, rows first and then columns.

    Source: Oseledets, SIAM J. Sci. Comput. 33, 2295 (2011).

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.TensorTrain(rank=4), (120, 400)).num_params
    424
    """

    rank: int | tuple[int, ...] = 8
    shared: bool = False
    size_field: ClassVar[str] = "rank"
    choices: ClassVar[Choices] = {"shared": (False, True)}
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = A_1[x_1]\,A_2[x_2]\cdots A_Q[x_Q]"
    formula: ClassVar[str] = "sum(bond(k) * d * bond(k+1) for k in range(Q))"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "TensorTrain.rank"))
        boolean(self.shared, "TensorTrain.shared")

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        need_legs(legs, 1, "TensorTrain")
        return chain(legs, [(leg,) for leg in legs], self.rank, self.shared, "TensorTrain.rank")

    def bonds(self, spec: NetworkSpec) -> tuple[str, ...]:
        return () if self.shared else bond_names(spec)

    def closed_form(self, spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray] | None:
        return None if self.shared else chain_cores(spec, tensor)

    @property
    def closed_form_suffices(self) -> bool:
        return not self.shared
