"""Repeated indices, and indices that one tensor alone has, as in an einsum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .nodes import ENTRIES, Node, count_nodes, unit_matrix


def identity(name: str, first: str, second: str, size: int) -> Node:
    """Return a constant node that makes two indices equal.

    Examples
    --------
    >>> identity("I", "a", "b", 2).constant
    (1.0, 0.0, 0.0, 1.0)
    """
    return Node(name, (first, second), constant=unit_matrix(size, size))


def separate(
    operands: Sequence[tuple[str, Sequence[str]]],
    entering: Iterable[str],
    output: Iterable[str],
    sizes: dict[str, int],
    stage: int = 0,
) -> tuple[list[tuple[str, ...]], list[Node]]:
    """Write a stage in the way that `NetworkSpec` wants it: no node repeats an index, and no index is alone.

    Where an operand repeats an index, the second one gets a new name, and an identity joins the two: the diagonal
    (of finite entries, because the others are multiplied by zero). An index that a single operand has and that is not
    open is joined to a vector of ones: the sum over it.

    Parameters
    ----------
    operands : sequence of (name, indices)
        The nodes of the stage.
    entering : iterable of str
        Indices of the results that enter the stage; an index as often as results have it.
    output : iterable of str
        Open indices.
    sizes : dict of str to int
        Sizes of all indices; the new ones are added.
    stage : int
        Number of the stage, for the names of the constant nodes.

    Returns
    -------
    indices : list of tuple of str
        The indices of each operand.
    constants : list of Node
        The identities and vectors to add to the stage.

    Examples
    --------
    >>> separate([("A", "aab"), ("B", "bc")], (), "b", {"a": 2, "b": 3, "c": 1})[0]
    [('a', 'A__1', 'b'), ('b', 'c')]
    """
    found: list[tuple[str, ...]] = []
    constants: list[Node] = []
    for name, indices in operands:
        own: list[str] = []
        seen: set[str] = set()
        for axis, ix in enumerate(indices):
            if ix not in seen:
                seen.add(ix)
                own.append(ix)
                continue
            own.append(f"{name}__{axis}")
            sizes[own[-1]] = sizes[ix]
            constants.append(identity(f"copy{stage}_{len(constants)}", ix, own[-1], sizes[ix]))
        found.append(tuple(own))
    held = (*found, *(node.indices for node in constants))
    count = Counter([*entering, *output, *(ix for indices in held for ix in indices)])
    for ix, times in count.items():
        if times == 1:
            count_nodes(sizes[ix] // ENTRIES)
            constants.append(Node(f"ones{stage}_{len(constants)}", (ix,), constant=(1.0,) * sizes[ix]))
    return found, constants
