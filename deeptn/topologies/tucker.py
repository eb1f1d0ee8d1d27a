"""Tucker: a core with a factor on each leg."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..base import rank_field, ranks
from ..spec import Layout, Leg, NetworkSpec, Node, Stage, pad_axes
from .base import Topology
from .legs import bond_names, names, need_legs
from .registry import register_topology


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
        tensorly, tucker = map(importlib.import_module, ("tensorly", "tensorly.decomposition"))
        shapes = spec.param_shapes
        spare = (1,) * (tensor.ndim == 1)  # TensorLy needs two axes
        with tensorly.backend.backend_context("numpy", local_threadsafe=True), warnings.catch_warnings():
            # If a rank is above what the others allow, TensorLy warns and returns fewer columns; they are padded below.
            warnings.simplefilter("ignore", UserWarning)
            how: dict[str, Any] = {"init": "svd", "n_iter_max": 50, "tol": 1e-6, "random_state": 0}
            core, factors = tucker.tucker(tensor.reshape(*tensor.shape, *spare), [*shapes["core"], *spare], **how)
        if spare:
            core = core[:, 0] * factors.pop()[0, 0]
        found: dict[str, np.ndarray] = {"core": core} | {f"U{k}": factor for k, factor in enumerate(factors)}
        return {name: pad_axes(np.asarray(array), shapes[name]) for name, array in found.items()}

    @property
    def closed_form_suffices(self) -> bool:
        return True


def tucker_network(legs: tuple[Leg, ...], bonds: Sequence[int], terms: int) -> NetworkSpec:
    """Build a core with a factor on each leg; with several terms, all nodes share an index that numbers the terms."""
    sizes = {f"b{k}": min(rank, leg.size) for k, (rank, leg) in enumerate(zip(bonds, legs))}
    term = {"t": terms} if terms > 1 else {}
    nodes = [Node("core", (*sizes, *term))]
    nodes += [Node(f"U{k}", (leg.name, f"b{k}", *term), (f"b{k}", *term)) for k, leg in enumerate(legs)]
    return NetworkSpec(legs, (Stage(tuple(nodes), names(legs)),), tuple((sizes | term).items()))
