"""The search for a contraction order: the only module that knows cotengra."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import cotengra

#: Weight of an element written against a multiplication. With a state of 2^24 entries the time goes into moving it,
#: not into arithmetic; cotengra's "combo" objective with this factor fuses small tensors into blocks first.
WRITE_FACTOR = 64

#: Largest volume of the indices over which a block of small tensors is contracted with a large one. The product of a
#: 2^5 x 2^5 block with the state takes as long as moving the state; wider blocks cost more than they save.
BLOCK = 32

#: A pair of tensor numbers; every contraction appends its result at the next free number (static single assignment).
Path = tuple[tuple[int, int], ...]


@lru_cache(maxsize=4096)
def search(inputs: tuple[tuple[str, ...], ...], output: tuple[str, ...], sizes: tuple[tuple[str, int], ...]) -> Path:
    """Find the order in which to contract some tensors pairwise. Deterministic, and cached.

    Parameters
    ----------
    inputs : tuple of tuple of str
        Indices of each tensor.
    output : tuple of str
        Open indices.
    sizes : tuple of (str, int)
        Size of every index.

    Returns
    -------
    tuple of (int, int)
        ``len(inputs) - 1`` pairs in SSA form.

    Notes
    -----
    A greedy tree (Gray & Kourtis, Quantum 5, 410 (2021)), then exact reoptimisation of its subtrees for
    ``flops + WRITE_FACTOR · write``. Where one tensor is large and many small ones act on it, a path that absorbs
    blocks of them is the second candidate; the cheaper one is taken.

    Examples
    --------
    >>> search((("a", "b"), ("b", "c"), ("c", "d")), ("a", "d"), (("a", 2), ("b", 2), ("c", 2), ("d", 9)))
    ((0, 1), (2, 3))
    """
    if len(inputs) == 1:
        return ()
    if len(inputs) == 2:
        return ((0, 1),)
    # Integer labels in order of appearance: the search must not see the order of hashed strings.
    labels: dict[str, int] = {}
    for indices in inputs:
        for ix in indices:
            labels.setdefault(ix, len(labels))
    symbol = {ix: cotengra.get_symbol(label) for ix, label in labels.items()}
    problem = (
        [tuple(symbol[ix] for ix in indices) for indices in inputs],
        tuple(symbol[ix] for ix in output),
        {symbol[ix]: size for ix, size in sizes if ix in symbol},
    )
    tree: Any = cotengra.array_contract_tree(*problem, optimize="greedy")
    tree.subtree_reconfigure_(minimize=f"combo-{WRITE_FACTOR}", subtree_size=8, seed=0)
    blocks = _absorb_in_blocks(inputs, output, dict(sizes))
    if blocks is not None:
        other: Any = cotengra.ContractionTree.from_path(*problem, ssa_path=blocks)
        tree = min(tree, other, key=lambda tree: tree.combo_cost(factor=WRITE_FACTOR))
    return tuple((min(pair), max(pair)) for pair in tree.get_ssa_path())


def _absorb_in_blocks(
    inputs: Sequence[tuple[str, ...]], output: tuple[str, ...], sizes: Mapping[str, int]
) -> list[tuple[int, int]] | None:
    """A path for one large tensor on which many small ones act: fuse these into blocks, absorb block after block.

    A block grows in the order of the data flow by the node that adds the least to the indices that the block shares
    with the large tensor, up to a volume of `BLOCK`. Local improvements of a tree do not find this: on the way from
    single nodes to a block each step looks worse. None where no tensor is large.
    """
    volumes = [_volume(indices, sizes) for indices in inputs]
    top = max(range(len(inputs)), key=volumes.__getitem__)
    rest = [k for k in range(len(inputs)) if k != top]
    if volumes[top] < BLOCK**2 or volumes[top] < BLOCK * max(volumes[k] for k in rest):
        return None
    path: list[tuple[int, int]] = []
    state = set(inputs[top])
    number = len(inputs)
    while rest:
        block: list[int] = []
        bound: set[str] = set()
        made: set[str] = set()
        while rest:
            known = state | made
            # The last block may be twice as large, so that no short rest is left over.
            remaining = state.intersection(ix for k in rest for ix in inputs[k])
            limit = 2 * BLOCK if _volume(bound | remaining, sizes) <= 2 * BLOCK else BLOCK
            options = []
            for place, k in enumerate(rest):
                # An index that neither the state nor the block has, but an earlier node: that one comes first.
                waits = any(ix not in known and any(ix in inputs[j] for j in rest[:place]) for ix in inputs[k])
                volume = _volume(bound | (state & set(inputs[k])), sizes)
                if not waits and (volume <= limit or not block):
                    options.append((volume, k))
            if not options:
                break
            _, k = min(options)
            bound |= state & set(inputs[k])
            made |= set(inputs[k]) - state
            block.append(k)
            rest.remove(k)
        fused = block[0]
        for k in block[1:]:
            path.append((fused, k))
            fused, number = number, number + 1
        path.append((top, fused))
        top, number = number, number + 1
        needed = set(output).union(*(inputs[k] for k in rest))
        state = (state | made) & needed
    return path


def _volume(indices: Iterable[str], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[ix] for ix in indices)
