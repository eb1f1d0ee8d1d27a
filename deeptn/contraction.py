"""The search for a contraction order: the only module that knows cotengra."""

from __future__ import annotations

from functools import lru_cache

import cotengra

#: Weight of an element written against a multiplication. With a state of 2^24 entries the time goes into moving it,
#: not into arithmetic; cotengra's "combo" objective with this factor fuses small tensors into blocks first.
WRITE_FACTOR = 64

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
    ``flops + WRITE_FACTOR · write``.

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
    tree = cotengra.array_contract_tree(
        [tuple(symbol[ix] for ix in indices) for indices in inputs],
        tuple(symbol[ix] for ix in output),
        {symbol[ix]: size for ix, size in sizes if ix in symbol},
        optimize="greedy",
    )
    tree.subtree_reconfigure_(minimize=f"combo-{WRITE_FACTOR}", subtree_size=8, seed=0)
    return tuple((min(pair), max(pair)) for pair in tree.get_ssa_path())
