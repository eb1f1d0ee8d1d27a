"""Trees and what is made of them: TTN, aTTN, MERA (the generators of arXiv:2606.00130) and hierarchical Tucker."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from ..base import boolean, positive_int
from ..errors import SpecError
from ..spec import Leg, NetworkSpec, Node, Stage, check_between
from .base import Topology, register_topology
from .wires import Wires

#: Neighbouring legs, from the first to before the last.
Block: TypeAlias = tuple[int, int]


def _need_two(legs: tuple[Leg, ...], what: str) -> None:
    if len(legs) < 2:
        raise SpecError(f"a {what} needs at least 2 legs, got {len(legs)}; choose a layout with smaller factors")


def _split(block: Block, arity: int, balanced: bool) -> list[Block]:
    """The parts of a block: of equal lengths, the longer ones first, or single legs and one rest."""
    start, stop = block
    count = min(arity, stop - start)
    if not balanced:
        return [(k, k + 1) for k in range(start, start + count - 1)] + [(start + count - 1, stop)]
    short, more = divmod(stop - start, count)
    ends = [start + k * short + min(k, more) for k in range(count + 1)]
    return list(itertools.pairwise(ends))


def _bond(legs: Sequence[Leg], block: Block, rank: int) -> int:
    """Size of the bond above a block: no larger than its legs together, nor than all others together."""
    inside = math.prod(leg.size for leg in legs[slice(*block)])
    return min(rank, inside, math.prod(leg.size for leg in legs) // inside)


def _wire(legs: Sequence[Leg], block: Block, rank: int) -> tuple[str, int]:
    """Name and size of the wire of a block; a single leg has its own size."""
    start, stop = block
    if stop - start == 1:
        return f"s{start}", legs[start].size
    return f"b{start}_{stop}", _bond(legs, block, rank)


class _Widening(Wires):
    """A state that starts at the top as one block, and of which every layer splits the blocks."""

    def __init__(self, legs: tuple[Leg, ...], rank: int, arity: int, balanced: bool = True):
        super().__init__(legs)
        self.legs, self.rank, self.arity, self.balanced = legs, rank, arity, balanced
        self.blocks: list[Block] = [(0, len(legs))]
        self.wires: list[str] = []
        self.number = 0
        #: For each block the one that it was split from.
        self.parents = list(self.blocks)

    @property
    def is_split(self) -> bool:
        """Whether every block is a leg."""
        return all(stop - start == 1 for start, stop in self.blocks)

    def split(self, kind: str, shared: bool = False) -> None:
        """Split every block that has several legs, by one isometry each."""
        self.number += 1
        blocks, wires, parents, node = [], [], [], 0
        self.new: list[bool] = []
        for k, block in enumerate(self.blocks):
            parts = _split(block, self.arity, self.balanced) if block[1] - block[0] > 1 else [block]
            if len(parts) == 1:
                wires.append(self.wires[k])
            else:
                outputs = [_wire(self.legs, part, self.rank) for part in parts]
                wires += self.act(f"L{self.number}_{kind}{node}", self.wires[k : k + 1], outputs, True, shared)
                node += 1
            blocks += parts
            self.new += [len(parts) > 1] * len(parts)
            # A single leg still hangs on the node that it was split off by.
            parents += [block] * len(parts) if len(parts) > 1 else [self.parents[k]]
        self.blocks, self.wires, self.parents = blocks, wires, parents

    def disentangle(self, kind: str, cyclic: bool = False, shared: bool = False, only_new: bool = False) -> None:
        """Act on every pair of neighbours that come from different blocks, a wire at most once.

        With `only_new` on those of which one at least was made by the last split.
        """
        count = len(self.blocks)
        pairs = [(k, k + 1) for k in range(count - 1)] + [(count - 1, 0)] * (cyclic and count > 2)
        used: set[int] = set()
        node = 0
        for a, b in pairs:
            if self.parents[a] == self.parents[b] or used & {a, b} or (only_new and not (self.new[a] or self.new[b])):
                continue
            used |= {a, b}
            outputs = [(f"L{self.number}_{self.wires[k]}", self._sizes[self.wires[k]]) for k in (a, b)]
            name = f"L{self.number}_{kind}{node}"
            self.wires[a], self.wires[b] = self.act(name, [self.wires[a], self.wires[b]], outputs, True, shared)
            node += 1


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
    equation: ClassVar[str] = r"W = T_L\,\sigma(T_{L-1}\,\sigma(\cdots\sigma(t)))"
    formula: ClassVar[str] = (
        "sum(2**l * wire(Q // 2**l) * wire(Q // 2 ** (l+1)) ** 2 for l in range(log2(Q)))  # Q a power of 2"
    )

    def __post_init__(self):
        _check_tree(self)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        _need_two(legs, "Tree")
        net = _Widening(legs, self.rank, self.arity, self.balanced)
        while not net.is_split:
            net.split("t")
            net.close(net.wires)
        return net.network(self.activation, self.normalize)


@register_topology
@dataclass(frozen=True, kw_only=True)
class AugmentedTree(Topology):
    r"""A tree whose legs pass one layer of disentanglers across the boundaries of its blocks (aTTN).

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
        As for `Tree`.
    cyclic : bool
        Whether the last leg is a neighbour of the first.

    Notes
    -----
    Those of the tree, and ``n[k]²·n[k+1]²`` for each disentangler, which acts on neighbouring legs that hang on
    different nodes; from the left, and on a leg at most once.

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
    equation: ClassVar[str] = r"W = U\,\sigma(T_L\,\sigma(\cdots\sigma(t)))"
    formula: ClassVar[str] = (
        "sum(2**l * wire(Q // 2**l) * wire(Q // 2 ** (l+1)) ** 2 for l in range(log2(Q))) + (Q//2 - 1) * d**4"
        "  # Q a power of 2"
    )

    def __post_init__(self):
        _check_tree(self)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        _need_two(legs, "AugmentedTree")
        net = _Widening(legs, self.rank, self.arity)
        while not net.is_split:
            net.split("t")
            net.close(net.wires)
        net.number += 1
        net.disentangle("u", self.cyclic)
        if len(legs) > self.arity:  # otherwise there is one node, and no boundary
            net.close(net.wires)
        return net.network(self.activation, self.normalize)


@register_topology
@dataclass(frozen=True, kw_only=True)
class MERA(Topology):
    r"""Layers of isometries and disentanglers (multi-scale entanglement renormalisation ansatz), from the top down.

    Every stage splits each block by an isometry w; disentanglers u then act across the boundaries of the blocks::

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
        As for `Tree`.
    arity : int
        2 for the binary, 3 for the ternary MERA.
    cyclic : bool
        Whether the last leg is a neighbour of the first.
    shared : bool
        Nodes of one kind and shape have one parameter: the scale-invariant MERA.

    Notes
    -----
    An isometry with bond r above and s, t below has r·s·t parameters, a disentangler on bonds s and t has s²·t². Both
    are marked as isometric.

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
    equation: ClassVar[str] = r"W = U_L W_L\,\sigma(U_{L-1} W_{L-1}\,\sigma(\cdots\sigma(W_1)))"
    formula: ClassVar[str] = (
        "sum(2**l * wire(Q // 2**l) * wire(Q // 2 ** (l+1)) ** 2 + (2**l - 1) * wire(Q // 2 ** (l+1)) ** 4"
        " for l in range(log2(Q)))  # Q a power of 2"
    )

    def __post_init__(self):
        _check_tree(self)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        _need_two(legs, "MERA")
        net = _Widening(legs, self.rank, self.arity)
        while not net.is_split:
            net.split("w", self.shared)
            net.disentangle("u", self.cyclic, self.shared, only_new=True)
            net.close(net.wires)
        return net.network(self.activation, self.normalize)


@register_topology
@dataclass(frozen=True, kw_only=True)
class HierarchicalTucker(Topology):
    r"""A balanced tree of transfer tensors with a factor matrix on each leg (hierarchical Tucker, HT).

    ::

             B
            / \
           B   B
          /\   /\
         U  U U  U

    Parameters
    ----------
    rank : int
        Largest size of a bond, cut as for `Tree`; at a leg to the size of the leg.

    Notes
    -----
    ``sum_k n[k]·r[k]`` and, for each transfer tensor, the product of its bonds. The default layout is `TensorTrain`'s.

    Source: Hackbusch & Kühn, J. Fourier Anal. Appl. 15, 706 (2009); Grasedyck, SIAM J. Matrix Anal. Appl. 31, 2029
    (2010).

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.HierarchicalTucker(rank=4), (16, 16)).num_params
    240
    """

    rank: int = 4
    size_field: ClassVar[str] = "rank"
    equation: ClassVar[str] = r"W_{x_1\ldots x_Q} = \sum \prod_{\text{blocks}} B_{r,st} \prod_k U_k[x_k, r_k]"
    formula: ClassVar[str] = (
        "Q * d * bond(1) + sum(2**l * bond(Q // 2**l) * bond(Q // 2 ** (l+1)) ** 2 for l in range(log2(Q)))"
        "  # Q a power of 2"
    )

    def __post_init__(self):
        object.__setattr__(self, "rank", positive_int(self.rank, "HierarchicalTucker.rank"))

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        _need_two(legs, "HierarchicalTucker")
        sizes: dict[str, int] = {}
        nodes: list[Node] = []

        def grow(block: Block) -> str:
            name = f"b{block[0]}_{block[1]}"
            sizes[name] = _bond(legs, block, self.rank)
            above = () if block == (0, len(legs)) else (name,)
            if block[1] - block[0] == 1:
                nodes.append(Node(f"U{block[0]}", (legs[block[0]].name, name), above))
            else:
                place = len(nodes)  # before its children
                below = tuple(grow(part) for part in _split(block, 2, True))
                nodes.insert(place, Node(f"B{block[0]}_{block[1]}", above + below, above))
            return name

        del sizes[grow((0, len(legs)))]
        return NetworkSpec(legs, (Stage(tuple(nodes), tuple(leg.name for leg in legs)),), tuple(sizes.items()))


def _check_tree(family: Tree | AugmentedTree | MERA) -> None:
    what = type(family).__name__
    for field in ("balanced", "cyclic", "shared"):
        boolean(getattr(family, field, False), f"{what}.{field}")
    for field in ("rank", "arity"):
        object.__setattr__(family, field, positive_int(getattr(family, field), f"{what}.{field}"))
    if family.arity < 2:
        raise SpecError(f"{what}.arity = {family.arity}; a node splits its block into at least 2 parts")
    check_between(family.activation, family.normalize)
