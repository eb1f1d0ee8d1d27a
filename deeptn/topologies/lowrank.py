"""Low rank: the product of two matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import positive_int
from ..spec import Layout, Leg, NetworkSpec, Node, Stage
from .base import Topology
from .legs import names, sides
from .registry import register_topology
from .svd import leading_svd


@register_topology
@dataclass(frozen=True, kw_only=True)
class LowRank(Topology):
    """A product of two matrices, of shapes (rows, rank) and (rank, columns).

    ::

        rows =U=-V= columns

    Parameters
    ----------
    rank : int
        Size of the bond, at most the smaller side of the matrix.

    Notes
    -----
    ``rank·(rows + columns)`` parameters; the columns are all axes except the first.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.LowRank(rank=2), (120, 400)).num_params
    1040
    """

    rank: int = 8
    size_field: ClassVar[str] = "rank"
    equation: ClassVar[str] = r"W = U V"
    formula: ClassVar[str] = "min(rank, rows, columns) * (rows + columns)"

    def __post_init__(self):
        object.__setattr__(self, "rank", positive_int(self.rank, "LowRank.rank"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.single(shape)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        rows, columns = sides(legs, "LowRank")
        volume = min(math.prod(leg.size for leg in side) for side in (rows, columns))
        nodes = (
            Node("U", (*names(rows), "b0"), ("b0",)),
            Node("V", ("b0", *names(columns)), ()),
        )
        stage = Stage(nodes, names(legs))
        return NetworkSpec(legs, (stage,), (("b0", min(self.rank, volume)),))

    def closed_form(self, spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray]:
        rows = [k for k, leg in enumerate(spec.legs) if leg.axis == 0]
        columns = [k for k, leg in enumerate(spec.legs) if leg.axis != 0]
        left, right = spec.param_shapes["U"], spec.param_shapes["V"]
        u, s, v = leading_svd(tensor.transpose(rows + columns).reshape(math.prod(left[:-1]), -1), right[0])
        root = np.sqrt(s)
        return {"U": (u * root).reshape(left), "V": (root[:, None] * v).reshape(right)}

    @property
    def closed_form_suffices(self) -> bool:
        return True
