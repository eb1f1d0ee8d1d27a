"""Tucker: a core with a factor on each leg."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import rank_field, ranks
from ..spec import Layout, Leg, NetworkSpec, Node, Stage, pad_axes
from .base import Topology
from .legs import bond_names, names, need_legs
from .registry import register_topology
from .svd import leading_svd

#: Sweeps of the iteration at most.
SWEEPS = 50

#: The iteration stops when the relative error falls by less than this; for tensors with more than so many entries, by
#: less than the second number.
TOLERANCE, LARGE, LOOSE = 1e-8, 2**20, 1e-5


@register_topology
@dataclass(frozen=True, kw_only=True)
class Tucker(Topology):
    r"""A core with one bond per leg, and a factor matrix on each bond (Tucker decomposition).

    ::

        U U U
         \|/
          G

    Parameters
    ----------
    rank : int or tuple of int
        Size of all bonds, or of each bond; at most the size of the leg.

    Notes
    -----
    ``prod_k r[k] + sum_k n[k]·r[k]`` parameters. The default layout splits the axes exactly into factors near 8.

    Source: Tucker, Psychometrika 31, 279 (1966); De Lathauwer, De Moor & Vandewalle, SIAM J. Matrix Anal. Appl. 21,
    1253 (2000).

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Tucker(rank=3), (120, 400))
    >>> net.layout.leg_sizes, net.num_params
    ((12, 10, 10, 8, 5), 378)
    """

    rank: int | tuple[int, ...] = 4
    size_field: ClassVar[str] = "rank"
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = \sum_{r} G_{r_1\ldots r_Q} \prod_k U_k[x_k, r_k]"
    formula: ClassVar[str] = "min(rank, d)**Q + Q * d * min(rank, d)"

    def __post_init__(self):
        object.__setattr__(self, "rank", rank_field(self.rank, "Tucker.rank"))

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.balanced(shape)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        need_legs(legs, 1, "Tucker")
        bonds = ranks(self.rank, len(legs), "Tucker.rank")
        return tucker_network(legs, bonds, 1)

    def bonds(self, spec: NetworkSpec) -> tuple[str, ...]:
        return bond_names(spec)

    def closed_form(self, spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray]:
        shapes = spec.param_shapes
        core, factors = hooi(tensor, shapes["core"])
        found: dict[str, np.ndarray] = {"core": core} | {f"U{k}": factor for k, factor in enumerate(factors)}
        return {name: pad_axes(array, shapes[name]) for name, array in found.items()}

    @property
    def closed_form_suffices(self) -> bool:
        return True


def hooi(tensor: np.ndarray, ranks: Sequence[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a core and factors with orthonormal columns: higher-order orthogonal iteration, from the HOSVD on.

    If a rank is more than the other ones allow, its factor has fewer columns.

    Source: De Lathauwer, De Moor & Vandewalle, SIAM J. Matrix Anal. Appl. 21, 1324 (2000).

    Examples
    --------
    >>> tensor = np.multiply.outer([3.0, 4.0], np.ones((2, 2)))
    >>> core, factors = hooi(tensor, (1, 1, 1))
    >>> core.shape, [factor.shape for factor in factors], round(abs(core.item()), 6)
    ((1, 1, 1), [(2, 1), (2, 1), (2, 1)], 10.0)
    """
    axes = range(tensor.ndim)
    factors = [_leading(tensor, axis, ranks[axis]) for axis in axes]
    norm, before, core = float(np.linalg.norm(tensor)), math.inf, tensor
    for _ in range(SWEEPS):
        for axis in axes:
            # What reduces the tensor most comes first.
            others = sorted((k for k in axes if k != axis), key=lambda k: factors[k].shape[1] / tensor.shape[k])
            part = tensor
            for other in others:
                part = _projected(part, other, factors[other])
            factors[axis] = _leading(part, axis, ranks[axis])
            core = _projected(part, axis, factors[axis])
        error = math.sqrt(max(norm**2 - float(np.linalg.norm(core)) ** 2, 0.0))
        if before - error <= (TOLERANCE if tensor.size <= LARGE else LOOSE) * norm:
            break
        before = error
    return core, factors


def _leading(tensor: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Return the leading singular vectors of one axis."""
    return leading_svd(np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1), rank).left


def _projected(tensor: np.ndarray, axis: int, factor: np.ndarray) -> np.ndarray:
    """Contract an axis with the conjugate of a factor."""
    return np.moveaxis(np.tensordot(factor.conj(), tensor, ((0,), (axis,))), 0, axis)


def tucker_network(legs: tuple[Leg, ...], bonds: Sequence[int], terms: int) -> NetworkSpec:
    """Build a core with a factor on each leg; with several terms, all nodes share an index that numbers the terms."""
    sizes = {f"b{k}": min(rank, leg.size) for k, (rank, leg) in enumerate(zip(bonds, legs))}
    term = {"t": terms} if terms > 1 else {}
    nodes = [Node("core", (*sizes, *term))]
    nodes += [Node(f"U{k}", (leg.name, f"b{k}", *term), (f"b{k}", *term)) for k, leg in enumerate(legs)]
    return NetworkSpec(legs, (Stage(tuple(nodes), names(legs)),), tuple((sizes | term).items()))
