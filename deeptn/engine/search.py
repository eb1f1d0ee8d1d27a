"""Search for a contraction order. Only this module uses cotengra."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import cotengra

from ..arrays import CPU, Tuning
from ..base import Cache, Owner, cache_folder, read_cache, write_cache
from .stacking import Path, is_schedule, merge_alike, schedule

# The search effort is set for the machine that compiles, wherever the arrays are.

#: Up to this many tensors, a search is faster than reading a file.
SMALL = 8

#: Sizes of the subtrees that are reoptimized exactly. Each gives its own candidate, because no size is always best. The
#: last one is slow, and is skipped for more than `MANY` tensors.
SUBTREES, MANY = (6, 7, 8), 128

#: Weights on how much larger a result is than its operands, in searches for levels of equal pairs.
GROWTHS = (0, 1, 4)

#: Paths of this process, up to 32 MiB. They depend on no names, so many networks share one.
PATHS, EVERYBODY = Cache(2**25), Owner()

#: Increased whenever the search changes; part of the file names in the cache.
VERSION = 3


def search(
    inputs: tuple[tuple[str, ...], ...],
    output: tuple[str, ...],
    sizes: tuple[tuple[str, int], ...],
    singles: int = 0,
    tuning: Tuning = CPU,
) -> Path:
    """Find an order in which to contract tensors pairwise. Deterministic, and cached in memory and on disk.

    Parameters
    ----------
    inputs : tuple of tuple of str
        Indices of each tensor.
    output : tuple of str
        Open indices.
    sizes : tuple of (str, int)
        Size of every index.
    singles : int
        Number of leading tensors that are not parameters and are never stacked.
    tuning : Tuning
        The weights of a written element and of a step, and the size limits of blocks and stacks.

    Returns
    -------
    tuple of tuple of (int, int)
        ``len(inputs) - 1`` pairs in SSA form; the pairs of a group look the same and can be one step: see
        `deeptn.engine.stacking`.

    Notes
    -----
    There are three kinds of candidates: a greedy tree (Gray & Kourtis, Quantum 5, 410 (2021)) whose subtrees are
    reoptimized exactly; if many small tensors act on a large one, a path that absorbs them in blocks; and paths that
    contract many equal pairs at a time. The candidate with the lowest cost (multiplications, weighted written elements
    and weighted steps) wins. Its file in `deeptn.base.cache_folder` is written to a temporary name and renamed, so that
    several processes can share the folder. Unless ``tuning.thorough``, there is only the greedy tree, and no file.

    Examples
    --------
    >>> search((("a", "b"), ("b", "c"), ("c", "d")), ("a", "d"), (("a", 2), ("b", 2), ("c", 2), ("d", 9)))
    (((0, 1),), ((2, 3),))
    """
    # Integer labels in order of appearance: the search must not depend on the order of hashed strings, and networks
    # that differ only in names share one result.
    labels: dict[str, int] = {}
    for indices in inputs:
        for ix in indices:
            labels.setdefault(ix, len(labels))
    known = dict(sizes)
    terms = tuple(tuple(labels[ix] for ix in indices) for indices in inputs)
    problem = terms, tuple(labels[ix] for ix in output), tuple(known[ix] for ix in labels), singles, tuning
    return PATHS.get(EVERYBODY, problem, lambda: _search(*problem))


def _search(
    inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...], sizes: tuple[int, ...], singles: int, tuning: Tuning
) -> Path:
    problem = (inputs, output, sizes, singles)
    if len(inputs) < 3:
        return (((0, 1),),) if len(inputs) == 2 else ()
    folder = cache_folder() if len(inputs) > SMALL and tuning.thorough else None
    if folder is None:
        return _search_anew(*problem, tuning)
    numbers = (tuning.write, tuning.step, tuning.block, tuning.stack)
    key = json.dumps([VERSION, cotengra.__version__, *numbers, *problem])
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    path = read_cache(file, tuple[tuple[tuple[int, int], ...], ...])
    if path is None or not is_schedule(path, *problem, tuning):
        path = _search_anew(*problem, tuning)
        write_cache(file, path)
    return path


def _search_anew(
    inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...], sizes: tuple[int, ...], singles: int, tuning: Tuning
) -> Path:
    symbols = [cotengra.get_symbol(label) for label in range(len(sizes))]
    terms = [tuple(symbols[ix] for ix in indices) for indices in inputs]
    known = dict(zip(symbols, sizes))

    def greedy() -> Any:
        return cotengra.array_contract_tree(terms, [symbols[ix] for ix in output], known, optimize="greedy")

    if not tuning.thorough:
        return schedule(greedy().get_ssa_path(), inputs, output, sizes, singles, tuning)[1]
    candidates = [_absorb_in_blocks(inputs, output, sizes, tuning.block)]
    for size in SUBTREES if len(inputs) <= MANY else SUBTREES[:-1]:
        tree = greedy()
        tree.subtree_reconfigure_(minimize=f"combo-{tuning.write}", subtree_size=size, seed=0)
        candidates.append(tree.get_ssa_path())
    candidates += [merge_alike(inputs, output, sizes, singles, growth, tuning) for growth in GROWTHS]
    scheduled = [schedule(pairs, inputs, output, sizes, singles, tuning) for pairs in candidates if pairs is not None]
    return min(scheduled, key=lambda found: found[0])[1]


def _absorb_in_blocks(
    inputs: Sequence[tuple[int, ...]], output: tuple[int, ...], sizes: Sequence[int], most: int
) -> list[tuple[int, int]] | None:
    """Return a path for many small tensors that act on a large one: fuse them into blocks, absorb block by block.

    A block grows in data-flow order by the node that adds the least volume to the indices that the block shares with
    the large tensor, up to a volume of `most`. Local improvements of a tree do not find this: on the way from single
    nodes to a block, each step looks worse. Return None if no tensor is large.
    """
    volumes = [_volume(indices, sizes) for indices in inputs]
    top = max(range(len(inputs)), key=volumes.__getitem__)
    rest = [k for k in range(len(inputs)) if k != top]
    if volumes[top] < most**2 or volumes[top] < most * max(volumes[k] for k in rest):
        return None
    path: list[tuple[int, int]] = []
    state = set(inputs[top])
    number = len(inputs)
    while rest:
        block: list[int] = []
        bound: set[int] = set()
        made: set[int] = set()
        while rest:
            known = state | made
            # The last block may be twice as large, so that no small remainder is left.
            remaining = state.intersection(ix for k in rest for ix in inputs[k])
            limit = 2 * most if _volume(bound | remaining, sizes) <= 2 * most else most
            first: dict[int, int] = {}
            for place, k in enumerate(rest):
                for ix in inputs[k]:
                    first.setdefault(ix, place)
            options = []
            for place, k in enumerate(rest):
                # If an earlier node has an index that neither the state nor the block has yet, that node comes first.
                if any(first[ix] < place and ix not in known for ix in inputs[k]):
                    continue
                volume = _volume(bound.union(ix for ix in inputs[k] if ix in state), sizes)
                if volume <= limit or not block:
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


def _volume(indices: Iterable[int], sizes: Sequence[int]) -> int:
    return math.prod(map(sizes.__getitem__, indices))
