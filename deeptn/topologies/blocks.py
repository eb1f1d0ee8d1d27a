"""Blocks of neighboring legs, split layer by layer: the basis of trees and MERA."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..base import boolean, positive_int, track
from ..errors import SpecError
from ..spec import Leg, NetworkSpec, Node, check_between, pad_axes
from .svd import leading_svd
from .wires import Wires

#: A half-open range ``(start, stop)`` of neighboring legs.
Block: TypeAlias = tuple[int, int]


def split_block(block: Block, arity: int, balanced: bool) -> list[Block]:
    """Split a block into parts of about equal length, the longer ones first, or into single legs and the rest."""
    start, stop = block
    count = min(arity, stop - start)
    if not balanced:
        return [(k, k + 1) for k in range(start, start + count - 1)] + [(start + count - 1, stop)]
    short, more = divmod(stop - start, count)
    ends = [start + k * short + min(k, more) for k in range(count + 1)]
    return list(itertools.pairwise(ends))


def bond_above(legs: Sequence[Leg], block: Block, rank: int) -> int:
    """Return the size of the bond above a block: at most the product of its legs, and of all other legs."""
    inside = math.prod(leg.size for leg in legs[slice(*block)])
    return min(rank, inside, math.prod(leg.size for leg in legs) // inside)


def wire_of(legs: Sequence[Leg], block: Block, rank: int) -> tuple[str, int]:
    """Return the name and size of a block's wire; the wire of a single leg has the size of the leg."""
    start, stop = block
    if stop - start == 1:
        return f"s{start}", legs[start].size
    return f"b{start}_{stop}", bond_above(legs, block, rank)


class Widening(Wires):
    """A state that starts at the top as one block; every layer splits its blocks."""

    def __init__(self, legs: tuple[Leg, ...], rank: int, arity: int, balanced: bool = True):
        super().__init__(legs)
        self.legs, self.rank, self.arity, self.balanced = legs, rank, arity, balanced
        self.blocks: list[Block] = [(0, len(legs))]
        self.wires: list[str] = []
        self.number = 0
        #: For each block, the block that it was split from.
        self.parents = list(self.blocks)

    @property
    def is_split(self) -> bool:
        """Whether every block is a single leg."""
        return all(stop - start == 1 for start, stop in self.blocks)

    def split(self, kind: str, shared: bool = False) -> None:
        """Split every block of several legs with one isometry."""
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
            # A single leg still hangs from the node that split it off.
            parents += [block] * len(parts) if len(parts) > 1 else [self.parents[k]]
        self.blocks, self.wires, self.parents = blocks, wires, parents

    def disentangle(self, kind: str, cyclic: bool = False, shared: bool = False, only_new: bool = False) -> None:
        """Add a node on every two neighbors that come from different blocks, at most one node per wire.

        With `only_new`, only on pairs of which the last split made at least one.
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
    """Check the fields that all trees share, and that the fields named in `flags` are True or False."""
    what = type(family).__name__
    for field in flags:
        boolean(getattr(family, field), f"{what}.{field}")
    for field in ("rank", "arity"):
        object.__setattr__(family, field, positive_int(getattr(family, field), f"{what}.{field}"))
    if family.arity < 2:
        raise SpecError(f"{what}.arity = {family.arity}; a node splits its block into at least 2 parts")
    check_between(family.activation, family.normalize)


def tree_nodes(spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray]:
    """Decompose a tensor with one axis per leg into a linear tree, with an SVD at every node from the legs to the root.

    A node has one input, the bond above it; the root has none.
    """
    axes = [leg.name for leg in spec.legs]
    params: dict[str, np.ndarray] = {}
    makers = {ix: node for node in spec.nodes for ix in node.outputs}

    def depth(node: Node) -> int:
        return 1 + depth(makers[node.inputs[0]]) if node.inputs else 0

    below_first = sorted(spec.nodes, key=depth, reverse=True)
    for node in track(below_first, "singular value decompositions"):
        shape = dict(zip(node.indices, spec.node_shape(node)))
        outputs = [shape[ix] for ix in node.outputs]
        if not node.inputs:
            found = tensor.transpose([axes.index(ix) for ix in node.outputs])
        else:
            (bond,) = node.inputs
            size, volume = shape[bond], math.prod(outputs)
            place = min(axes.index(ix) for ix in node.outputs)
            rest = [ix for ix in axes if ix not in node.outputs]
            order = [*rest[:place], *node.outputs, *rest[place:]]
            tensor, axes = tensor.transpose([axes.index(ix) for ix in order]), [*rest[:place], bond, *rest[place:]]
            before, after = tensor.shape[:place], tensor.shape[place + len(outputs) :]
            if size >= volume:  # nothing to truncate
                u = np.eye(volume, size, dtype=tensor.dtype)
                tensor = tensor.reshape(*before, volume, *after)
                tensor = pad_axes(tensor, (*before, size, *after))
            else:
                matrix = np.moveaxis(tensor.reshape(math.prod(before), volume, -1), 1, 0).reshape(volume, -1)
                u, s, v = leading_svd(matrix, size)
                u = pad_axes(u, (volume, size))
                matrix = pad_axes(s[:, None] * v, (size, v.shape[1]))
                tensor = np.moveaxis(matrix.reshape(size, math.prod(before), -1), 0, 1).reshape(*before, size, *after)
            found = u.reshape(*outputs, size)
        own = [*node.outputs, *node.inputs]
        params[node.name] = found.transpose([own.index(ix) for ix in node.indices])
    return params
