"""Blocks of neighbouring legs that layers split: what trees and MERA are made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..base import boolean, positive_int
from ..errors import SpecError
from ..spec import Leg, NetworkSpec, Node, check_between, pad_axes
from .wires import Wires

#: Neighbouring legs, from the first to before the last.
Block: TypeAlias = tuple[int, int]


def split_block(block: Block, arity: int, balanced: bool) -> list[Block]:
    """The parts of a block: of equal lengths, the longer ones first, or single legs and one rest."""
    start, stop = block
    count = min(arity, stop - start)
    if not balanced:
        return [(k, k + 1) for k in range(start, start + count - 1)] + [(start + count - 1, stop)]
    short, more = divmod(stop - start, count)
    ends = [start + k * short + min(k, more) for k in range(count + 1)]
    return list(itertools.pairwise(ends))


def bond_above(legs: Sequence[Leg], block: Block, rank: int) -> int:
    """Size of the bond above a block: no larger than its legs together, nor than all others together."""
    inside = math.prod(leg.size for leg in legs[slice(*block)])
    return min(rank, inside, math.prod(leg.size for leg in legs) // inside)


def wire_of(legs: Sequence[Leg], block: Block, rank: int) -> tuple[str, int]:
    """Name and size of the wire of a block; a single leg has its own size."""
    start, stop = block
    if stop - start == 1:
        return f"s{start}", legs[start].size
    return f"b{start}_{stop}", bond_above(legs, block, rank)


class Widening(Wires):
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
        blocks: list[Block] = []
        wires: list[str] = []
        parents: list[Block] = []
        node = 0
        self.new: list[bool] = []
        for k, block in enumerate(self.blocks):
            parts = split_block(block, self.arity, self.balanced) if block[1] - block[0] > 1 else [block]
            if len(parts) == 1:
                wires.append(self.wires[k])
            else:
                outputs = [wire_of(self.legs, part, self.rank) for part in parts]
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


def check_tree(family: Any, *flags: str) -> None:
    """Check the fields that trees share, and those that are True or False, by name."""
    what = type(family).__name__
    for field in flags:
        boolean(getattr(family, field), f"{what}.{field}")
    for field in ("rank", "arity"):
        object.__setattr__(family, field, positive_int(getattr(family, field), f"{what}.{field}"))
    if family.arity < 2:
        raise SpecError(f"{what}.arity = {family.arity}; a node splits its block into at least 2 parts")
    check_between(family.activation, family.normalize)


def tree_nodes(spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters of a linear tree, from a tensor with an axis per leg: an SVD at every node, from the legs to the root.

    A node's inputs are the one bond above it; the root has none.
    """
    axes = [leg.name for leg in spec.legs]
    params: dict[str, np.ndarray] = {}
    makers = {ix: node for node in spec.nodes for ix in node.outputs}

    def depth(node: Node) -> int:
        return 1 + depth(makers[node.inputs[0]]) if node.inputs else 0

    for node in sorted(spec.nodes, key=depth, reverse=True):  # every node after those that hang on it
        order = [*node.outputs, *(ix for ix in axes if ix not in node.outputs)]
        tensor, axes = tensor.transpose([axes.index(ix) for ix in order]), order
        shape = dict(zip(node.indices, spec.node_shape(node)))
        outputs, rest = [shape[ix] for ix in node.outputs], tensor.shape[len(node.outputs) :]
        found = tensor
        for bond in node.inputs:
            u, s, v = np.linalg.svd(tensor.reshape(math.prod(outputs), -1), full_matrices=False)
            size = shape[bond]
            tensor = pad_axes(s[:size, None] * v[:size], (size, v.shape[1])).reshape(size, *rest)
            axes = [bond, *axes[len(outputs) :]]
            found = pad_axes(u[:, :size], (len(u), size)).reshape(*outputs, size)
        own = [*node.outputs, *node.inputs]
        params[node.name] = found.transpose([own.index(ix) for ix in node.indices])
    return params
