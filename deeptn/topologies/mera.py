"""MERA: isometries and disentanglers, layer by layer."""

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
class MERA(Topology):
    r"""Layers of isometries and disentanglers (multi-scale entanglement renormalization ansatz), from the top down.

    Every stage splits each block with an isometry w; disentanglers u then act across the boundaries of the blocks::

              w            stage 1
             / \
            w   w          stage 2
           / \ / \
           |  u  |
           w w w w         stage 3
          /\ /\ /\ /\
          | u  u  u |

    Parameters
    ----------
    rank, activation, normalize
        As in `Tree`.
    arity : int
        2 for the binary MERA, 3 for the ternary MERA.
    cyclic : bool
        Whether the last leg is a neighbor of the first.
    shared : bool
        Whether nodes of the same kind and shape share one parameter (the scale-invariant MERA).

    Notes
    -----
    An isometry with a bond r above and bonds s and t below has r·s·t parameters; a disentangler on bonds s and t has
    s²·t². Both are marked as isometric.

    Source: Vidal, Phys. Rev. Lett. 101, 110501 (2008); Evenbly & Vidal, Phys. Rev. B 79, 144108 (2009);
    arXiv:2606.00130 (deep MERA).

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.MERA(rank=4), (16, 16))
    >>> len(net.spec.stages), net.num_params
    (3, 512)
    """

    rank: int = 4
    activation: str | None = "relu"
    normalize: str | None = "rms"
    arity: int = 2
    cyclic: bool = False
    shared: bool = False
    size_field: ClassVar[str] = "rank"
    choices: ClassVar[Choices] = BETWEEN | {"arity": (2, 3, 4), "cyclic": (False, True), "shared": (False, True)}
    equation: ClassVar[str] = r"W = U_L W_L\,\sigma(U_{L-1} W_{L-1}\,\sigma(\cdots\sigma(W_1)))"
    formula: ClassVar[str] = (
        "sum(2**l * wire(Q // 2**l) * wire(Q // 2 ** (l+1)) ** 2 + (2**l - 1) * wire(Q // 2 ** (l+1)) ** 4"
        " for l in range(log2(Q)))  # Q a power of 2"
    )

    def __post_init__(self):
        check_tree(self, "cyclic", "shared")

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        need_legs(legs, 2, "MERA")
        net = Widening(legs, self.rank, self.arity)
        while not net.is_split:
            net.split("w", self.shared)
            net.disentangle("u", self.cyclic, self.shared, only_new=True)
            net.close(net.wires)
        return net.network(self.activation, self.normalize)
